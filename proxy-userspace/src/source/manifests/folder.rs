//! The files of the folder: which ones to read, and when.
//!
//! Input: what the watch says was touched, and the file system. Output: [`Change`]s.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::document::{self, Reading};
use super::ledger::Ledger;
use super::watch::Touched;
use super::{DISAPPEARANCE_GRACE, QUIET};
use crate::cluster::change::{Change, Kind, ObjectRef};
use crate::cluster::reject::{Problem, Reject};

/// No manifest is larger; it would be a mistake, or somebody's attempt at our memory.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Whether a file of that name is read.
pub(super) fn manifest_name(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The folder and what was read of it.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    ledger: Ledger,
    /// Files as they were when read.
    read: BTreeMap<String, Stamp>,
    /// Files being written, since when.
    writing: BTreeMap<String, Instant>,
    /// Files that are gone, since when.
    vanished: BTreeMap<String, Instant>,
    /// Files of which part could not be read.
    broken: BTreeSet<String>,
    /// The folder itself was missing or unreadable the last time.
    missing: bool,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            ledger: Ledger::default(),
            read: BTreeMap::new(),
            writing: BTreeMap::new(),
            vanished: BTreeMap::new(),
            broken: BTreeSet::new(),
            missing: false,
        }
    }

    /// Whether every file could be read to the end.
    pub(super) fn is_whole(&self) -> bool {
        self.broken.is_empty()
    }

    /// After how long [`Self::catch_up`] has something to do without a new event.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let vanished = self.vanished.values().map(|since| *since + DISAPPEARANCE_GRACE);
        let writing = self.writing.values().map(|since| *since + QUIET);
        // A little later than needed, so that waking up always finds the time to have come.
        let next = vanished.chain(writing).min()? + Duration::from_millis(1);
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Looks at what was touched and at what has been waiting long enough.
    pub(super) fn catch_up(&mut self, touched: &Touched) -> Vec<Change> {
        let now = Instant::now();
        let mut changes = Vec::new();
        for name in &touched.gone {
            self.writing.remove(name);
            self.vanish(name);
        }
        for name in &touched.writing {
            self.vanished.remove(name);
            if self.path.join(name).is_symlink() {
                self.look_at(name, &mut changes); // A new link; nobody writes to that.
            } else {
                self.writing.insert(name.clone(), now);
            }
        }
        for name in &touched.settled {
            self.writing.remove(name);
            // Two writes within one tick of the file system's clock leave the same stamp.
            self.read.remove(name);
            self.look_at(name, &mut changes);
        }
        if touched.all {
            match self.scan(touched.routine) {
                Ok(found) => changes.extend(found),
                Err(error) if !self.missing => {
                    self.missing = true;
                    let problem = Problem::Manifest(format!(
                        "the folder cannot be read: {error}; all it said before stays in force until it is back"
                    ));
                    let object = ObjectRef::new(Kind::Manifest, "", &self.path.to_string_lossy());
                    changes.push(Change::Unreadable(Reject { object, field: String::new(), problem }));
                }
                Err(_) => {}
            }
        }
        let quiet: Vec<String> = expired(&self.writing, QUIET, now);
        for name in quiet {
            self.writing.remove(&name);
            self.look_at(&name, &mut changes);
        }
        if !self.path.exists() {
            // Not the files are gone but the folder; once it is back, everything is looked at anyway.
            self.vanished.clear();
        }
        for name in expired(&self.vanished, DISAPPEARANCE_GRACE, now) {
            self.vanished.remove(&name);
            if self.path.join(&name).exists() {
                self.look_at(&name, &mut changes);
            } else {
                self.broken.remove(&name);
                let effects = self.ledger.remove(&name);
                changes.extend(effects.changes);
                self.reread(effects.reread, &mut changes);
            }
        }
        changes
    }

    /// Compares the folder with what was read. When careful, a file that was changed just now is taken for one
    /// that is still being written.
    pub(super) fn scan(&mut self, careful: bool) -> io::Result<Vec<Change>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 cannot be reported well, and no tool writes one.
            names.extend(entry?.file_name().into_string().ok().filter(|name| manifest_name(name)));
        }
        self.missing = false;
        names.extend(self.ledger.files().map(str::to_owned));
        let mut changes = Vec::new();
        for name in names {
            if self.writing.contains_key(&name) {
                continue;
            }
            if careful && self.changed_just_now(&name) {
                self.writing.insert(name, Instant::now());
            } else {
                self.look_at(&name, &mut changes);
            }
        }
        Ok(changes)
    }

    /// Whether a file differs from what was read by a change less than [`QUIET`] old.
    fn changed_just_now(&self, name: &str) -> bool {
        let Ok(metadata) = fs::metadata(self.path.join(name)) else { return false };
        let fresh = metadata
            .modified()
            .ok()
            .and_then(|modified| modified.elapsed().ok())
            .is_some_and(|age| age < QUIET);
        fresh && self.read.get(name) != Some(&Stamp::of(&metadata))
    }

    /// Reads a file if it is not as it was when last read.
    fn look_at(&mut self, name: &str, changes: &mut Vec<Change>) {
        let path = self.path.join(name);
        let reading = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                self.vanished.remove(name);
                let stamp = Stamp::of(&metadata);
                if self.read.insert(name.to_owned(), stamp) == Some(stamp) {
                    return;
                }
                match read_text(&path) {
                    Ok(text) => document::read(name, &text),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return self.vanish(name),
                    Err(error) => {
                        if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge) {
                            // Not the file's fault, so the next look may find it well.
                            self.read.remove(name);
                        }
                        Reading::unreadable_file(name, &format!("cannot be read: {error}"))
                    }
                }
            }
            Ok(_) => return self.vanish(name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.vanish(name),
            Err(error) => Reading::unreadable_file(name, &format!("cannot be read: {error}")),
        };
        if reading.broken || !reading.unreadable.is_empty() {
            self.broken.insert(name.to_owned());
        } else {
            self.broken.remove(name);
        }
        let effects = self.ledger.update(name, reading);
        changes.extend(effects.changes);
        self.reread(effects.reread, changes);
    }

    fn vanish(&mut self, name: &str) {
        self.read.remove(name);
        if self.ledger.files().any(|known| known == name) {
            self.vanished.entry(name.to_owned()).or_insert_with(Instant::now);
        }
    }

    fn reread(&mut self, names: BTreeSet<String>, changes: &mut Vec<Change>) {
        for name in names {
            self.read.remove(&name);
            self.look_at(&name, changes);
        }
    }
}

fn expired(since: &BTreeMap<String, Instant>, after: Duration, now: Instant) -> Vec<String> {
    since
        .iter()
        .filter(|(_, since)| now.duration_since(**since) >= after)
        .map(|(name, _)| name.clone())
        .collect()
}

fn read_text(path: &std::path::Path) -> io::Result<String> {
    // What is a file now may be a pipe by then, or lead to a file of the kernel's that has nothing to say yet: nobody waits.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        let message = format!("it is larger than {} MiB; split it", MAX_FILE_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}
