//! A bpffs instance of a testbed's own.
//!
//! Invariant: what a test pins lives in an instance nobody else sees, so that unmounting it drops
//! every pin at once, and no test can touch the machine's /sys/fs/bpf.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts a fresh bpffs on `path`, making the folder.
///
/// # Errors
/// When not root, or the kernel has no bpffs.
pub fn mount_fresh(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("cannot mount a bpffs on {}; run as root", path.display()))
}

/// Unmounts it, also while something still has it open. One that is not mounted is fine.
///
/// # Errors
/// When the kernel refuses.
pub fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot unmount {}", path.display())),
    }
}

/// Is something mounted on `path`?
///
/// # Errors
/// When /proc/mounts cannot be read.
pub fn is_mounted(path: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let wanted = path.to_string_lossy();
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&*wanted)))
}
