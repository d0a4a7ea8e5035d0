//! Where programs attach and maps are pinned.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

/// Where programs attach and maps are pinned.
#[derive(Args, Debug, Clone)]
pub struct Place {
    /// The cgroup v2 folder whose processes are served [default: the root of the mounted hierarchy]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// The folder on a bpffs that holds maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/kubeshunt")]
    pub bpffs_root: PathBuf,
}

impl Place {
    /// The cgroup v2 folder to attach to.
    ///
    /// # Errors
    /// When none is named and none is mounted.
    pub fn cgroup_root(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.cgroup_root {
            return Ok(folder.clone());
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        cgroup2_mount(&mounts).map(Path::to_owned).context(
            "no cgroup v2 hierarchy is mounted; mount one (`mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`) or \
             name a folder with --cgroup-root",
        )
    }
}

/// Where cgroup v2 is mounted, according to the text of /proc/mounts.
fn cgroup2_mount(mounts: &str) -> Option<&Path> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (folder, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(Path::new(folder))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_in_both_layouts() {
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(cgroup2_mount(unified), Some(Path::new("/sys/fs/cgroup")));
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(hybrid), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount("proc /proc proc rw 0 0\n"), None);
    }
}
