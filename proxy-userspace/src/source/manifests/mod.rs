//! A folder of manifests: Services, EndpointSlices and Nodes in YAML or JSON, without any cluster.
//!
//! Input: the files `*.yaml`, `*.yml` and `*.json` of one folder (not of its subfolders; hidden files are left
//! alone), with any number of documents, plain or in lists. Output: [`Change`]s.
//!
//! Invariants:
//! - A file counts when its writer closes it or renames it into place, so that nothing half-written is read;
//!   then it counts at once. A file being written for long is read when it has been quiet for a second.
//! - While a file does not parse, everything it said before stays in force. The same holds for all files while
//!   the folder is missing, for folders are replaced by renaming.
//! - A file that disappears may be about to be replaced (editors and `git checkout` do so), so its objects
//!   stay for `DISAPPEARANCE_GRACE` and are deleted only then.
//! - inotify makes it quick, polling makes it certain: every `POLL` all files are compared with what was read.

mod document;
mod folder;
mod ledger;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use self::folder::Folder;
use self::watch::{Touched, Watch};
use super::{Closed, Outlet, SourceError};
use crate::cluster::change::{Change, Object};
use crate::cluster::reject::Reject;

/// How often all files are looked at, whatever inotify says.
const POLL: Duration = Duration::from_secs(10);
/// The same while inotify is not to be had.
const POLL_WITHOUT_WATCH: Duration = Duration::from_secs(1);
/// How long a vanished file may take to come back.
const DISAPPEARANCE_GRACE: Duration = Duration::from_millis(50);
/// How long a file that is open for writing must be left unchanged to be read anyway.
const QUIET: Duration = Duration::from_secs(1);

/// Reads the text of one manifest, without any folder: its objects, in order, and what is wrong with the rest.
/// `file` is its name, by which JSON is told from YAML.
#[must_use]
pub fn objects(file: &str, text: &str) -> (Vec<Object>, Vec<Reject>) {
    let reading = document::read(file, text);
    (reading.objects.into_iter().map(|(object, _)| object).collect(), reading.rejects)
}

/// The source. See the module's documentation.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    /// A source that reads this folder.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Whether the folder can be read, for those who want to know before they set anything else up.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn check(&self) -> Result<(), SourceError> {
        let folder = || self.folder.clone();
        std::fs::read_dir(&self.folder)
            .map(drop)
            .map_err(|source| SourceError::Folder { folder: folder(), source })
    }

    /// Sends the lists, then what changes, until nobody reads any more.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read at the beginning. What happens to it later is reported as a reject.
    pub async fn run(self, changes: impl Into<Outlet>) -> Result<(), SourceError> {
        let changes = changes.into();
        let path = std::path::absolute(&self.folder)
            .map_err(|source| SourceError::Folder { folder: self.folder.clone(), source })?;
        // The watch comes before the first look, so that nothing falls between the two.
        let mut watch = Watch::open(&path);
        let mut folder = Folder::new(path.clone());
        let first = folder.scan(false).map_err(|source| SourceError::Folder { folder: path, source })?;
        let mut whole = folder.is_whole();
        for change in std::iter::once(Change::Whole(whole)).chain(ledger::lists(first)) {
            if changes.send(change).await == Err(Closed) {
                return Ok(());
            }
        }
        loop {
            let patience =
                folder.next_deadline().unwrap_or(if watch.works() { POLL } else { POLL_WITHOUT_WATCH });
            let touched = tokio::select! {
                touched = watch.touched() => touched,
                () = tokio::time::sleep(patience) => Touched::routine(),
                () = changes.closed() => return Ok(()),
            };
            // Large files take a while to parse, and others share this thread.
            let work = tokio::task::spawn_blocking(move || {
                if touched.moved {
                    watch.reopen();
                } else if touched.all {
                    watch.reopen_if_moved();
                }
                let found = folder.catch_up(&touched);
                (watch, folder, found)
            });
            let found;
            (watch, folder, found) = work.await.expect("reading manifests does not panic");
            let news = (folder.is_whole() != whole).then(|| Change::Whole(folder.is_whole()));
            whole = folder.is_whole();
            for change in found.into_iter().chain(news) {
                if changes.send(change).await == Err(Closed) {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

/// What reads a file, for tests of all readers.
#[cfg(test)]
pub(super) mod fuzzed {
    use crate::cluster::change::Object;

    pub(in super::super) fn objects(name: &str, text: &str) -> Vec<Object> {
        super::document::read(name, text).objects.into_iter().map(|(object, _)| object).collect()
    }
}
