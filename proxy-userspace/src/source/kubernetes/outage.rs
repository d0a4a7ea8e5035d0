//! Says once that the server is lost, and once that it is back, however many watches and attempts there are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::cluster::change::Kind;

/// Which watches are without a server, and since when.
#[derive(Debug, Default)]
pub(super) struct Outage {
    lost: Mutex<BTreeMap<Kind, Instant>>,
}

impl Outage {
    /// A watch has failed.
    pub(super) fn begin(&self, kind: Kind, problem: &str) {
        let mut lost = self.lost();
        if lost.is_empty() {
            tracing::warn!(%kind, problem, "lost the API server; what is known stays in force, trying again");
        } else {
            tracing::debug!(%kind, problem, "no API server yet");
        }
        lost.entry(kind).or_insert_with(Instant::now);
    }

    /// A watch works.
    pub(super) fn end(&self, kind: Kind) {
        let mut lost = self.lost();
        if let Some(since) = lost.remove(&kind)
            && lost.is_empty()
        {
            tracing::info!(seconds = since.elapsed().as_secs(), "the API server is back");
        }
    }

    fn lost(&self) -> MutexGuard<'_, BTreeMap<Kind, Instant>> {
        // Every state of the map is a valid one, also the one a panic left.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
