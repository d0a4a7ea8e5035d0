//! Starting processes inside a namespace and a cgroup.
//!
//! Invariant: every process started here dies with the harness. The kernel sends a parent-death
//! signal when the *thread* that forked ends, so one thread that never ends does all the forking.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::cgroup::{self, Cgroup};
use crate::netns::NetNs;

type Job = (Command, Sender<io::Result<Child>>);

static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();

/// Kills a program, if it still runs, and removes its cgroup. For destructors: what fails is only said.
pub(crate) fn bury(process: &mut Option<Child>, cgroup: &Cgroup) {
    if let Some(mut process) = process.take() {
        // It may have ended already; either way it is gone after this.
        let _ = process.kill();
        let _ = process.wait();
    }
    if let Err(error) = cgroup::remove_tree(cgroup.path()) {
        eprintln!("{error:#}");
    }
}

/// The last lines of a log, indented.
pub(crate) fn last_lines(log: &Path) -> String {
    const LINES: usize = 30;
    let text = fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<_> = text.lines().collect();
    format!("  {}\n", lines[lines.len().saturating_sub(LINES)..].join("\n  "))
}

/// Starts `command` in the namespace and the cgroup, on the machine's own file systems.
///
/// # Errors
/// When the cgroup cannot be entered or the program cannot be run.
pub fn spawn_in(netns: &NetNs, cgroup: &Cgroup, mut command: Command) -> Result<Child> {
    let shown = format!("{command:?}");
    let entrance: OwnedFd = cgroup.entrance()?.into();
    let netns = netns.clone();
    // SAFETY: between fork and exec only system calls on descriptors opened before are made: no
    // allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            if libc::write(entrance.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                return Err(io::Error::last_os_error());
            }
            setns(&netns, CloneFlags::CLONE_NEWNET)?;
            Ok(())
        });
    }
    spawn(command).with_context(|| format!("cannot start {shown}"))
}

/// Starts `command` so that it is killed when the harness dies.
///
/// # Errors
/// When it cannot be run.
pub fn spawn(mut command: Command) -> Result<Child> {
    // SAFETY: prctl is a plain system call.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            Ok(())
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in jobs {
                    // A receiver that is gone no longer wants the child; the parent-death signal remains.
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(sender)
    });
    let (reply, answer) = channel();
    let sender = spawner.lock().unwrap_or_else(PoisonError::into_inner).clone();
    sender.send((command, reply)).ok().context("the spawner thread is gone")?;
    Ok(answer.recv().context("the spawner thread is gone")??)
}

/// Where [`find_program`] looks first, if anywhere.
static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

/// Has programs of this workspace looked for in `folder` first. Only the first call counts.
pub fn prefer_programs_in(folder: &Path) {
    PROGRAMS.get_or_init(|| folder.to_owned());
}

/// Finds a program of this workspace: the file `variable` names, else the one in the preferred folder,
/// else the one that cargo put beside the running program.
///
/// # Errors
/// When it is not there; the message says how to build it.
pub fn find_program(name: &str, variable: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("{variable} names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let current = std::env::current_exe().context("cannot tell where this program lies")?;
    // Test programs lie in target/PROFILE/deps, all others in target/PROFILE.
    let beside = current.ancestors().skip(1).take(2);
    let mut folders = PROGRAMS.get().map(PathBuf::as_path).into_iter().chain(beside);
    folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file())).with_context(|| {
        format!(
            "{name} lies not beside {}; run `cargo build -p {package}` in the same profile, or set {variable}",
            current.display()
        )
    })
}
