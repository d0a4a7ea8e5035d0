//! The mounts of a test node: the machine's, but for those that would lead to the machine's own BPF pins and cgroups.
//!
//! Invariant: a namespace of its own, private towards the machine and shared within, as systemd has it on a node. What is
//! mounted here, also by containers, is seen by nobody else and goes with the last process.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::Node;

/// Where a node has its BPF file system, if any.
const BPFFS: &str = "/sys/fs/bpf";
/// Where a node has its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A mount namespace.
#[derive(Debug)]
pub(super) struct Mounts {
    namespace: OwnedFd,
}

impl Mounts {
    /// Of that node, with its pins on /sys/fs/bpf or with nothing there.
    pub(super) fn of(node: &Node, with_bpffs: bool) -> Result<Self> {
        let (pins, cgroup) = (node.pins().to_owned(), node.cgroup().path().to_owned());
        // Of all threads only this one changes its namespace, and it ends right afterwards.
        let made = thread::spawn(move || -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
            spread(MsFlags::MS_PRIVATE)?;
            while umount2(BPFFS, MntFlags::MNT_DETACH).is_ok() {}
            if with_bpffs {
                bind(&pins, BPFFS)?;
            }
            bind(&cgroup, CGROUPS)?;
            spread(MsFlags::MS_SHARED)?;
            let own = File::open("/proc/thread-self/ns/mnt").context("cannot open a mount namespace")?;
            Ok(own.into())
        });
        Ok(Self { namespace: made.join().expect("the namespace thread does not panic")? })
    }

    /// Has a command run in here.
    pub(super) fn enter(&self, command: &mut Command) -> Result<()> {
        use std::os::unix::process::CommandExt as _;
        let namespace = self.namespace.try_clone().context("cannot duplicate a descriptor")?;
        // SAFETY: between fork and exec only one system call on an open descriptor is made.
        unsafe {
            command.pre_exec(move || Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS)?));
        }
        Ok(())
    }
}

fn bind(from: &Path, to: &str) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount {} on {to}", from.display()))
}

fn spread(how: MsFlags) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | how, None::<&str>)
        .context("cannot change how mounts spread")
}
