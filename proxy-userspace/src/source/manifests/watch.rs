//! What inotify says about the folder, condensed to "look at these files" or "look at everything".
//!
//! The folder's parent is watched as well, because a folder that is replaced by renaming takes its watch along.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, CreateKind, Event, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::folder::manifest_name;

/// Events waiting to be looked at; more than that and everything is looked at.
const QUEUE: usize = 1024;

/// What should be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// Compare the whole folder with what was read.
    pub(super) all: bool,
    /// The folder itself was moved, removed or made, and the watch on it may have ended with that.
    pub(super) moved: bool,
    /// Nothing happened that we know of; it is only time to make sure.
    pub(super) routine: bool,
    /// These files are complete.
    pub(super) settled: BTreeSet<String>,
    /// These are gone. One of that name may be there again, but nothing says that it is complete.
    pub(super) gone: BTreeSet<String>,
    /// These are being written.
    pub(super) writing: BTreeSet<String>,
}

impl Touched {
    /// Nothing is known, so look at everything.
    pub(super) fn routine() -> Self {
        Self { all: true, routine: true, ..Self::default() }
    }

    fn add(&mut self, sign: Sign) {
        // The last word about a file counts.
        if let Sign::Settled(name) | Sign::Gone(name) | Sign::Writing(name) = &sign {
            for set in [&mut self.settled, &mut self.gone, &mut self.writing] {
                set.remove(name);
            }
        }
        match sign {
            Sign::Everything => self.all = true,
            Sign::Moved => (self.all, self.moved) = (true, true),
            Sign::Settled(name) => drop(self.settled.insert(name)),
            Sign::Gone(name) => drop(self.gone.insert(name)),
            Sign::Writing(name) => drop(self.writing.insert(name)),
        }
    }
}

/// What one event means.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    Everything,
    Moved,
    Settled(String),
    Gone(String),
    Writing(String),
}

/// The watch on the folder.
#[derive(Debug)]
pub(super) struct Watch {
    folder: PathBuf,
    signs: mpsc::Receiver<Sign>,
    /// Signs were lost because the queue was full.
    lost: Arc<AtomicBool>,
    /// Keeps the watch alive, and remembers which folder it is on.
    watcher: Option<(RecommendedWatcher, Option<FolderId>)>,
    complained: bool,
}

type FolderId = (u64, u64);

impl Watch {
    /// Watches the folder as well as it can; see [`Self::works`].
    pub(super) fn open(folder: &Path) -> Self {
        let mut watch = Self {
            folder: folder.to_owned(),
            signs: mpsc::channel(1).1,
            lost: Arc::default(),
            watcher: None,
            complained: false,
        };
        watch.reopen_if_moved();
        watch
    }

    /// Whether changes will be noticed without polling.
    pub(super) fn works(&self) -> bool {
        self.watcher.is_some()
    }

    /// Waits for something to happen and takes everything that already has.
    pub(super) async fn touched(&mut self) -> Touched {
        let mut touched = Touched::default();
        match self.signs.recv().await {
            Some(sign) => touched.add(sign),
            // There is no watch; whoever waits for it has a timeout.
            None => std::future::pending().await,
        }
        while let Ok(sign) = self.signs.try_recv() {
            touched.add(sign);
        }
        touched.all |= self.lost.swap(false, Ordering::Relaxed);
        touched
    }

    /// Watches anew, even if it is the same folder: one that is moved away and back has lost its watch.
    pub(super) fn reopen(&mut self) {
        if let Some((_, watched)) = &mut self.watcher {
            *watched = None;
        }
        self.reopen_if_moved();
    }

    /// Follows the path to the folder that is there now. The caller then looks at everything.
    pub(super) fn reopen_if_moved(&mut self) {
        let Ok(metadata) = std::fs::metadata(&self.folder) else {
            // The watch on its parent tells when it is back; until then the path leads to no folder.
            if let Some((_, watched)) = &mut self.watcher {
                *watched = None;
            }
            return;
        };
        let id = (metadata.dev(), metadata.ino());
        if self.watcher.as_ref().is_some_and(|(_, watched)| *watched == Some(id)) {
            return;
        }
        match self.start() {
            Ok(watcher) => {
                self.watcher = Some((watcher, Some(id)));
                self.complained = false;
            }
            Err(error) => {
                self.watcher = None;
                if !self.complained {
                    tracing::warn!(
                        folder = %self.folder.display(), %error,
                        "cannot watch the manifests folder, so it is polled every second; \
                         raising fs.inotify.max_user_instances or max_user_watches usually helps"
                    );
                    self.complained = true;
                }
            }
        }
    }

    fn start(&mut self) -> notify::Result<RecommendedWatcher> {
        let (sender, signs) = mpsc::channel(QUEUE);
        let lost = Arc::clone(&self.lost);
        let folder = self.folder.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let signs = event.map_or_else(|_| vec![Sign::Everything], |event| read_event(&folder, &event));
            for sign in signs {
                if sender.try_send(sign).is_err() {
                    // The queue is full, so somebody will look; and then at everything.
                    lost.store(true, Ordering::Relaxed);
                }
            }
        })?;
        watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
        if let Some(parent) = self.folder.parent() {
            watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
        self.signs = signs;
        Ok(watcher)
    }
}

fn read_event(folder: &Path, event: &Event) -> Vec<Sign> {
    if event.need_rescan() {
        return vec![Sign::Everything];
    }
    if event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::Both)) {
        return Vec::new(); // A summary of two events that came before.
    }
    let in_folder = |path: &PathBuf| {
        if path == folder {
            return Some(Sign::Moved);
        }
        if path.parent() != Some(folder) {
            return None; // A neighbour of the folder.
        }
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| manifest_name(name))
        else {
            // Mounted ConfigMaps change all their files by renaming a hidden link.
            return Some(Sign::Everything);
        };
        Some(match event.kind {
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => {
                Sign::Writing(name.to_owned())
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                Sign::Gone(name.to_owned())
            }
            _ => Sign::Settled(name.to_owned()),
        })
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(_)
        | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Name(_))
        | EventKind::Remove(_)
        | EventKind::Any
        | EventKind::Other => event.paths.iter().filter_map(in_folder).collect(),
        // Opening and reading, which we do ourselves all the time, and changes of mode and owner.
        EventKind::Access(_) | EventKind::Modify(_) => Vec::new(),
    }
}
