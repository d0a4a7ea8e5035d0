//! The pin folder: where maps and links live when no process holds them.
//!
//! ```text
//! <bpffs-root>/            0700
//!   links/connect4 ...     of all versions: whoever comes next replaces the program behind them
//!   devices/7-ingress ...  links of devices, by interface index
//!   maps-5-1/FRONTENDS ... of one ABI version and generation, see [`super::generations`]
//! ```

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::fd::AsFd as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use proxy_common::layout::ABI_VERSION;

use super::{devices::Direction, kernel};

/// Paths below a bpffs root.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    /// Of which generation the maps are; `None` for the newest, whenever one is asked for.
    generation: Option<u32>,
}

/// Another process has the lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another kubeshunt works on {}: stop it, or give this one folders of its own with --bpffs-root and --cgroup-root",
    .0.display()
)]
pub struct Taken(PathBuf);

/// Keeps other processes from writing to the same maps, for as long as it lives. The kernel drops it with the
/// process.
pub struct Lock(Flock<File>);

impl Lock {
    /// Whether it is the lock of what has that name now: the folder may have been replaced.
    fn is_of(&self, root: &Path) -> bool {
        let identity = |of: std::io::Result<fs::Metadata>| of.ok().map(|of| (of.dev(), of.ino()));
        identity(self.0.metadata()).is_some_and(|ours| identity(fs::metadata(root)) == Some(ours))
    }
}

impl Pins {
    /// Below `root`; touches nothing.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), generation: None }
    }

    /// The same, with the maps of a generation.
    pub(super) fn of_generation(&self, number: u32) -> Self {
        Self { root: self.root.clone(), generation: Some(number) }
    }

    /// The folder that is ours alone.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The pin of a program's link.
    #[must_use]
    pub fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// The pin of the link between a device and a program.
    pub(super) fn device(&self, index: u32, direction: Direction) -> PathBuf {
        self.devices().join(format!("{index}-{}", direction.name()))
    }

    /// The interface indexes that links are pinned for.
    pub(super) fn pinned_devices(&self) -> BTreeSet<u32> {
        let entries = fs::read_dir(self.devices()).into_iter().flatten().flatten();
        let index = |name: &str| name.split_once('-')?.0.parse().ok();
        entries.filter_map(|entry| index(&entry.file_name().to_string_lossy())).collect()
    }

    fn devices(&self) -> PathBuf {
        self.root.join("devices")
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The folder of the maps.
    pub(super) fn maps(&self) -> PathBuf {
        let newest = || self.generations().last().copied().unwrap_or(1);
        self.root.join(format!("{}{}", own(), self.generation.unwrap_or_else(newest)))
    }

    /// The same while the maps are being filled: nobody looks for them there.
    pub(super) fn unfinished(&self) -> Self {
        Self { root: self.root.join(UNFINISHED), generation: self.generation }
    }

    /// Removes the folder of [`Pins::unfinished`], which is empty.
    pub(super) fn remove_unfinished(&self) -> Result<()> {
        remove_folder(&self.root)
    }

    /// The generations of this ABI version that there are, in their order.
    pub(super) fn generations(&self) -> Vec<u32> {
        let names = self.folders_of_maps().into_iter();
        let mut numbers: Vec<u32> = names
            .filter_map(|folder| folder.file_name()?.to_str()?.strip_prefix(&own())?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// The folders of maps of all generations and ABI versions.
    pub(super) fn folders_of_maps(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let is_of_maps = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(MAPS);
        entries.filter(is_of_maps).map(|entry| entry.path()).collect()
    }

    /// Makes the folders.
    ///
    /// # Errors
    /// When the parent is not on a bpffs, or may not be written.
    pub fn create(&self) -> Result<()> {
        let parent = self.root.parent().unwrap_or(&self.root);
        let existing = if self.root.exists() { self.root.as_path() } else { parent };
        let is_bpffs = statfs(existing).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
        if !is_bpffs {
            bail!(
                "{} is not on a bpffs; mount one (`mount -t bpf bpf /sys/fs/bpf`) or name another folder with \
                 --bpffs-root",
                self.root.display()
            );
        }
        for folder in [self.links(), self.devices()] {
            create_folder(&folder)?;
        }
        Ok(())
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// When another process has it.
    pub fn lock(&self) -> Result<Lock> {
        let folder =
            File::open(&self.root).with_context(|| format!("cannot open {}", self.root.display()))?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, Errno::EAGAIN)) => Err(Taken(self.root.clone()).into()),
            Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", self.root.display())),
        }
    }

    /// Sees to it that the folders are there and `lock` is theirs; says whether it is a new one. A folder in place of the
    /// one that was locked may be another process' by now.
    ///
    /// # Errors
    /// [`Taken`] when it is; see [`Pins::create`].
    pub fn restore(&self, lock: &mut Lock) -> Result<bool> {
        self.create()?;
        let is_new = !lock.is_of(&self.root);
        if is_new {
            *lock = self.lock()?;
        }
        Ok(is_new)
    }

    /// Removes links first, which detaches the programs, then maps, then folders; of all versions. Returns how
    /// many pins there were.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self) -> Result<usize> {
        let mut removed = 0;
        for folder in [self.devices(), self.links()] {
            let mut pins = entries(&folder)?;
            // What translates goes before what undoes it.
            pins.sort_by_key(|pin| !pin.to_string_lossy().ends_with(Direction::Ingress.name()));
            for pin in &pins {
                unpin(pin)?;
            }
            removed += pins.len();
            remove_folder(&folder)?;
        }
        for folder in self.unfinished().folders_of_maps().into_iter().chain(self.folders_of_maps()) {
            removed += remove_maps(&folder)?;
        }
        remove_folder(&self.root.join(UNFINISHED))?;
        remove_folder(&self.root)?;
        Ok(removed)
    }
}

/// Folders of maps have names that begin like this.
const MAPS: &str = "maps-";

/// Beside them, the folder of those that are being filled.
const UNFINISHED: &str = "unfinished";

/// How the names of folders of this ABI version begin.
fn own() -> String {
    format!("{MAPS}{ABI_VERSION}-")
}

/// Makes a folder that is for its owner only.
pub(super) fn create_folder(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot create {}", folder.display()))
}

/// Removes a folder of pinned maps; says how many there were.
pub(super) fn remove_maps(folder: &Path) -> Result<usize> {
    let pins = entries(folder)?;
    for pin in &pins {
        fs::remove_file(pin).with_context(|| format!("cannot remove {}", pin.display()))?;
    }
    remove_folder(folder)?;
    Ok(pins.len())
}

/// What is in a folder; nothing, if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder).into_iter().flatten().map(|entry| Ok(entry?.path())).collect()
}

/// Detaches the program of a pinned link and removes the pin.
pub(super) fn unpin(pin: &Path) -> Result<()> {
    detach(pin);
    fs::remove_file(pin).with_context(|| format!("cannot remove {}", pin.display()))
}

/// Detaches the program of a pinned link now. Removing the pin does so too, but only after an RCU grace period
/// (`bpf_free_inode` in `kernel/bpf/inode.c`), and whoever was told "detached" may rely on it. Where the kernel
/// has no such call, that delay is all that remains.
fn detach(pin: &Path) {
    if let Ok(Some(link)) = kernel::open_pin(pin)
        && let Err(error) = kernel::detach_link(link.as_fd())
    {
        tracing::debug!(pin = %pin.display(), %error, "cannot detach at once");
    }
}

/// Removes an empty folder; one that is gone already is fine, and one with something else in it is left.
fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", folder.display())),
    }
}

/// The id of a cgroup v2 folder, as links tell it: its inode number.
///
/// # Errors
/// When it is no cgroup v2 folder.
pub fn cgroup_id(folder: &Path) -> Result<u64> {
    let is_cgroup2 =
        statfs(folder).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC);
    if !is_cgroup2 {
        bail!(
            "{} is no cgroup v2 folder; name one with --cgroup-root (`grep cgroup2 /proc/mounts` shows where it is)",
            folder.display()
        );
    }
    Ok(fs::metadata(folder).with_context(|| format!("cannot read {}", folder.display()))?.ino())
}
