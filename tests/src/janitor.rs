//! Cleaning up however the harness ends.
//!
//! A janitor is a process in a session of its own that blocks on a pipe. Only the harness holds the
//! writing end, close-on-exec, so the kernel closes it when the harness drops the testbed, returns,
//! panics, or is killed by whatever signal. At end of file the janitor removes everything.
//!
//! Invariant: the janitor runs before the first thing it would have to remove exists, and an orderly
//! end takes the very same path, only that the harness waits for it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::{bpffs, cgroup};

/// What a testbed leaves in the machine outside its processes and namespaces.
#[derive(Clone, Debug, clap::Args)]
pub struct Estate {
    /// The cgroup folder whose processes are killed and which is removed.
    #[arg(long)]
    pub cgroup: PathBuf,
    /// The bpffs to unmount.
    #[arg(long)]
    pub bpffs: PathBuf,
    /// The folder of files to remove, the bpffs's mount point among them.
    #[arg(long)]
    pub folder: PathBuf,
}

/// The harness's end of a janitor: dropping it means "clean up now".
#[derive(Debug)]
pub struct Janitor {
    process: Child,
    lifeline: Option<ChildStdin>,
}

impl Janitor {
    /// Starts a janitor for `estate`, of which nothing may exist yet.
    ///
    /// # Errors
    /// When the probe program cannot be run.
    pub fn start(probe: &Path, estate: &Estate) -> Result<Self> {
        let mut command = Command::new(probe);
        command.arg("janitor");
        command.arg("--cgroup").arg(&estate.cgroup);
        command.arg("--bpffs").arg(&estate.bpffs);
        command.arg("--folder").arg(&estate.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: setsid is a plain system call.
        unsafe {
            command.pre_exec(|| {
                // Out of reach of Ctrl-C, and deliberately without a parent-death signal.
                nix::unistd::setsid()?;
                Ok(())
            });
        }
        let mut process =
            command.spawn().with_context(|| format!("cannot start the janitor {}", probe.display()))?;
        let mut ready = String::new();
        let stdout = process.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut ready).context("cannot read from the janitor")?;
        if ready.trim() != "ready" {
            bail!("the janitor {} does not start", probe.display());
        }
        let lifeline = process.stdin.take();
        Ok(Self { process, lifeline })
    }

    /// Has everything removed and waits for it.
    ///
    /// # Errors
    /// When something could not be removed; the janitor printed what.
    pub fn finish(&mut self) -> Result<()> {
        if self.lifeline.take().is_none() {
            return Ok(());
        }
        let status = self.process.wait().context("cannot wait for the janitor")?;
        if !status.success() {
            bail!("the janitor could not remove everything ({status}); it printed what is left");
        }
        Ok(())
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            eprintln!("{error:#}");
        }
    }
}

/// The janitor's own life: says it is ready, waits for end of file, removes everything.
///
/// # Errors
/// When something is left.
pub fn serve(estate: &Estate) -> Result<()> {
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler that could run.
        unsafe { signal(ignored, SigHandler::SigIgn) }.context("cannot ignore signals")?;
    }
    println!("ready");
    std::io::stdout().flush().context("cannot report readiness")?;
    // Nobody ever writes; this returns when the last writing end is closed.
    let _ = std::io::stdin().read(&mut [0; 1]);
    clean_up(estate)
}

/// Removes the estate: processes first, then what they may still use.
fn clean_up(estate: &Estate) -> Result<()> {
    let processes = cgroup::remove_tree(&estate.cgroup);
    let mount = bpffs::unmount(&estate.bpffs);
    // Never walk into something that is still mounted.
    let folder = match bpffs::is_mounted(&estate.bpffs) {
        Ok(false) if estate.folder.exists() => fs::remove_dir_all(&estate.folder)
            .with_context(|| format!("cannot remove {}", estate.folder.display())),
        Ok(false) => Ok(()),
        Ok(true) => Err(anyhow::anyhow!("{} is still mounted", estate.bpffs.display())),
        Err(error) => Err(error),
    };
    let mut failed = false;
    for error in [processes, mount, folder].into_iter().filter_map(Result::err) {
        eprintln!("kubeshunt test janitor: {error:#}");
        failed = true;
    }
    if failed {
        bail!("not everything could be removed");
    }
    Ok(())
}
