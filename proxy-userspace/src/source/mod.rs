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

use crate::cluster::change::Change;

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
    /// No client could be made of the settings.
    #[error("cannot set up access to the API server: {0}")]
    Access(#[from] kubernetes::AccessError),
}

/// Nobody reads the changes any more; the source should end quietly.
#[derive(Debug, PartialEq, Eq)]
struct Closed;

async fn send(changes: &Sender<Change>, change: Change) -> Result<(), Closed> {
    changes.send(change).await.map_err(|_| Closed)
}
