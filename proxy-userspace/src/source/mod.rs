//! Where objects come from: the I/O stage before [`crate::cluster`].
//!
//! Input: a Kubernetes API server, or a folder of manifests. Output: [`Change`]s, sent in order through a bounded
//! channel; when its reader is slow the source waits, and what happens meanwhile reaches it later, condensed.
//!
//! Each source is a value with a method `run`, which first sends one [`Change::Listed`] per kind and then what
//! changes. It ends when nobody reads the channel any more, or with an error when it cannot even begin.
//! Invariant: what cannot be read is reported as [`Change::Unreadable`] and never taken for deleted.

mod decode;
pub mod kubernetes;

pub mod manifests;

use std::path::PathBuf;

use tokio::sync::mpsc::Sender;

use self::kubernetes::Kubernetes;
use self::manifests::Manifests;
use crate::cluster::change::Change;
use crate::trace::Trace;

/// One of the sources.
#[derive(Debug)]
pub enum Source {
    /// A folder.
    Manifests(Manifests),
    /// An API server.
    Kubernetes(Kubernetes),
}

impl Source {
    /// Sends what there is, then what changes, until nobody reads any more.
    ///
    /// # Errors
    /// When it cannot even begin.
    pub async fn run(self, changes: Outlet) -> Result<(), SourceError> {
        match self {
            Self::Manifests(folder) => folder.run(changes).await,
            Self::Kubernetes(server) => {
                server.run(changes).await;
                Ok(())
            }
        }
    }
}

/// Why a source could not begin. Later troubles are logged and retried instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The folder of manifests cannot be read.
    #[error("cannot read the manifests folder {folder}: {source}; create it, or name another one")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Nobody reads the changes any more; the source should end quietly.
#[derive(Debug, PartialEq, Eq)]
struct Closed;

/// Where a source's changes go. Each is followed from here on, if somebody wants that.
#[derive(Clone, Debug)]
pub struct Outlet {
    changes: Sender<Change>,
    trace: Trace,
}

impl Outlet {
    /// To this channel.
    #[must_use]
    pub fn new(changes: Sender<Change>, trace: Trace) -> Self {
        Self { changes, trace }
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        self.trace.received(&change);
        self.changes.send(change).await.map_err(|_| Closed)
    }

    /// Waits until nobody reads any more.
    async fn closed(&self) {
        self.changes.closed().await;
    }
}

impl From<Sender<Change>> for Outlet {
    fn from(changes: Sender<Change>) -> Self {
        Self::new(changes, Trace::default())
    }
}

#[cfg(test)]
mod fuzz_tests;
