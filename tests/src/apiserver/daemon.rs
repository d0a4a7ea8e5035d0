//! Processes that die with their server, and with us.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;

use anyhow::{Context, Result, bail};

use super::{lock, tail};

/// A thread that lives as long as its server, in the network namespace where that was started.
///
/// The kernel kills our children when the *thread* that forked them ends, and the thread of a test ends
/// long before a server that several tests share. It is also the one way to be in that namespace again.
#[derive(Debug)]
pub(super) struct Keeper {
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Keeper {
    pub(super) fn new() -> Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let body = move || received.into_iter().for_each(|job| job());
        thread::Builder::new().name("apiserver-keeper".into()).spawn(body)?;
        Ok(Self { jobs })
    }

    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::channel();
        let job = move || {
            // Nobody listens any more if the caller's thread has panicked.
            let _ = done.send(job());
        };
        self.jobs.send(Box::new(job)).ok().context("the keeper thread has ended")?;
        result.recv().context("the keeper thread has panicked")
    }
}

/// A child process that is killed when dropped, or when its keeper or this process is gone.
#[derive(Debug)]
pub(super) struct Daemon {
    name: &'static str,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Daemon {
    pub(super) fn spawn(
        keeper: &Keeper,
        name: &'static str,
        mut command: Command,
        dir: &Path,
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let us = std::process::id().cast_signed();
        let bind_to_parent = move || {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // Too late for the signal if the parent has gone since the fork.
            if nix::unistd::getppid().as_raw() != us {
                return Err(io::Error::from(ErrorKind::BrokenPipe));
            }
            Ok(())
        };
        // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
        unsafe { command.pre_exec(bind_to_parent) };
        let program = command.get_program().display().to_string();
        let child = keeper.run(move || command.spawn())?.with_context(|| format!("cannot run {program}"))?;
        Ok(Self { name, child: Mutex::new(child), log })
    }

    /// Fails if the process has ended.
    pub(super) fn check(&self) -> Result<()> {
        match lock(&self.child).try_wait()? {
            Some(status) => bail!("{} ended ({status})", self.name),
            None => Ok(()),
        }
    }

    /// The end of the log, for an error message.
    pub(super) fn story(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        format!("--- end of {}'s log ---\n{}", self.name, tail(&String::from_utf8_lossy(&log)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        // Both fail only for a child that has already been waited for.
        let _ = child.kill();
        let _ = child.wait();
    }
}
