//! cgroup v2 folders for the processes of a testbed.
//!
//! Invariant: every folder made here lies below one folder per testbed, whose name starts with
//! [`NAME_PREFIX`]; removing that tree (see [`remove_tree`]) leaves nothing.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// Starts the name of every testbed's folders, so that leftovers can be told apart.
pub const NAME_PREFIX: &str = "kubeshunt-test-";

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// One cgroup v2 folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Where cgroup v2 is mounted: alone on /sys/fs/cgroup, or beside v1 in a folder of it.
    ///
    /// # Errors
    /// When it is mounted nowhere.
    pub fn mount_point() -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
        let found = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let place = fields.nth(1)?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
        });
        found.context(
            "cgroup v2 is mounted nowhere; mount it with: \
             mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified",
        )
    }

    /// Makes the folder at `path`, which must not exist yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        fs::create_dir(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Makes a folder below this one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::create(self.path.join(name))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that moves a process in here when the process writes `0` to it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn entrance(&self) -> Result<File> {
        let file = self.path.join("cgroup.procs");
        OpenOptions::new().write(true).open(&file).with_context(|| format!("cannot open {}", file.display()))
    }

    /// The processes in this folder itself.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let file = self.path.join("cgroup.procs");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Processor time used in this folder and below, since it was made.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn cpu_time(&self) -> Result<Duration> {
        let file = self.path.join("cpu.stat");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        micros.map(Duration::from_micros).with_context(|| format!("no usage_usec in {}", file.display()))
    }

    /// Kills every process in this folder and below, and waits until they are gone.
    ///
    /// # Errors
    /// When they are still there after a while.
    pub fn kill(&self) -> Result<()> {
        let file = self.path.join("cgroup.kill");
        let at_once = file.exists();
        if at_once {
            fs::write(&file, "1").with_context(|| format!("cannot write {}", file.display()))?;
        }
        let events = self.path.join("cgroup.events");
        wait::until_true(&format!("{} is empty", self.path.display()), PATIENCE, || {
            if !at_once {
                kill_each(&self.path)?;
            }
            Ok(fs::read_to_string(&events)?.lines().any(|line| line == "populated 0"))
        })
    }
}

/// Kills the processes that are in this folder and below right now, one by one: `cgroup.kill` came with Linux 5.14.
fn kill_each(folder: &Path) -> Result<()> {
    let processes = folder.join("cgroup.procs");
    let list =
        fs::read_to_string(&processes).with_context(|| format!("cannot read {}", processes.display()))?;
    for process in list.lines().filter_map(|line| line.parse().ok()) {
        // 0 is one that cannot be seen from here; one that has ended meanwhile is gone as it should be.
        if process > 0 {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            kill_each(&path)?;
        }
    }
    Ok(())
}

/// Kills everything in the tree and removes it, leaves first. A tree that is not there is fine.
///
/// # Errors
/// When a process or a folder cannot be got rid of.
pub fn remove_tree(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if !path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(NAME_PREFIX)) {
        bail!("{} is no test cgroup and stays", path.display());
    }
    Cgroup { path: path.to_owned() }.kill()?;
    remove_folders(path)
}

fn remove_folders(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    // Right after the last process has gone the kernel may still answer EBUSY.
    wait::until_true(&format!("{} can be removed", path.display()), PATIENCE, || match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(false),
        Err(error) => Err(error.into()),
    })
}
