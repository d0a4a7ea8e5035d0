//! What is done once for the node: sysctls, a bpffs, and how readily the kernel kills this process.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::{SysconfVar, sysconf},
};
use tracing::{debug, info, warn};

use super::check;
use crate::{
    configuration::KubeProxyConfiguration,
    host::conntrack,
    settings::{Check, Output, Settings},
};

/// Where a bpffs usually is.
const USUAL_PLACE: &str = "/sys/fs/bpf";

/// `--init-only`: everything that needs more rights than serving does. Then it is looked whether anything is lacking.
///
/// # Errors
/// When no bpffs can be mounted, or something is lacking that serving needs.
pub(super) fn only(settings: &Settings) -> Result<()> {
    let place = settings.own.place.clone();
    if let Some(folder) = place.bpffs_root.parent() {
        mount_bpffs(folder)?;
    }
    sysctls(&settings.configuration);
    if !check::run(&Check { output: Output::Table, place })? {
        bail!("something is lacking that serving needs; it is marked above");
    }
    Ok(())
}

/// What kube-proxy does for the node when it starts. Services are served all the same if the rights for it are lacking.
pub(super) fn node(configuration: &KubeProxyConfiguration) {
    sysctls(configuration);
    let score = configuration.oom_score_adj.unwrap_or_default();
    if let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string()) {
        debug!(%error, score, "cannot set oom_score_adj");
    }
}

/// Mounts a bpffs at the usual place if that is where the pins go, and none is there: kube-proxy's DaemonSet brings none.
pub(super) fn bpffs_at_its_usual_place(bpffs_root: &Path) {
    let usual = Path::new(USUAL_PLACE);
    if !bpffs_root.starts_with(usual) {
        return;
    }
    match mount_bpffs(usual) {
        Ok(false) => {}
        Ok(true) => warn!(
            "no bpffs was at {USUAL_PLACE}, so one was mounted. In a container it ends with the container, and Services \
             with it: mount the host's {USUAL_PLACE} there"
        ),
        // Whoever needs it says what to do.
        Err(error) => debug!("{error:#}"),
    }
}

/// Mounts a bpffs at a folder, if it is not on one. Whether it did.
fn mount_bpffs(folder: &Path) -> Result<bool> {
    let shown = folder.display();
    let there = statfs(folder).with_context(|| format!("cannot look at {shown}; create it"))?;
    if there.filesystem_type() == BPF_FS_MAGIC {
        return Ok(false);
    }
    mount(
        Some("bpf"),
        folder,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .with_context(|| {
        format!("cannot mount a bpffs at {shown}; do it with more rights: `mount -t bpf bpf {shown}`")
    })?;
    info!("mounted a bpffs at {shown}");
    Ok(true)
}

fn sysctls(configuration: &KubeProxyConfiguration) {
    let cpus = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
    let failed = conntrack::set(Path::new("/"), &configuration.conntrack, cpus);
    if !failed.is_empty() {
        warn!(
            "cannot set what kube-proxy sets of the kernel's connection tracking ({}); Services do not need it. \
             `kubeshunt run --init-only` sets it with more rights; --conntrack-max-per-core=0 and timeouts of 0 leave it",
            failed.join(", ")
        );
    }
}
