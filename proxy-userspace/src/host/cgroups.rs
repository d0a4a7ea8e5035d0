//! Where pods' cgroups are: the kubelet names them after the pod's uid, `pod1234-5678` or, where systemd keeps them,
//! `kubepods-burstable-pod1234_5678.slice` (`pkg/kubelet/cm/pod_container_manager_linux.go`).
//!
//! A cgroup comes a moment after its Pod is assigned to the node, before the first process of it; so it is looked for
//! often while one is missing, and now and then otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use proxy_common::layout::LEFT_LEVELS;
use tokio::{sync::watch, time::timeout};
use tracing::warn;

/// The cgroups of pods, by id: at which level below the root of the hierarchy they are.
pub type Cgroups = BTreeMap<u64, u32>;

/// How long to wait before the next look while a cgroup is missing, and while none is.
const MISSING: Duration = Duration::from_millis(100);
const COMPLETE: Duration = Duration::from_secs(10);

/// Which pods' cgroups are wanted, by uid; `None` while that is not known yet.
pub type Wanted = Option<BTreeSet<Box<str>>>;

/// Finds the cgroups of these pods below `root`, and keeps finding them while pods come and go. `None` as long as that is
/// what is wanted.
///
/// # Errors
/// When it cannot be told how deep `root` is in the hierarchy.
pub fn follow(
    root: PathBuf,
    mut wanted: watch::Receiver<Wanted>,
) -> Result<watch::Receiver<Option<Cgroups>>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let level = level_of(&root, &mounts)
        .with_context(|| format!("{} is not below a cgroup v2 mount point", root.display()))?;
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut told = false;
        loop {
            let uids = wanted.borrow_and_update().clone();
            let found = uids.as_ref().map(|uids| {
                let mut found = Cgroups::new();
                match look(&root, level, uids, &mut found) {
                    Err(error) if !told => {
                        warn!("cannot look for pods' cgroups below {}: {error}", root.display());
                        told = true;
                    }
                    _ => {}
                }
                found
            });
            let (looked_for, are_found) =
                (uids.map_or(0, |uids| uids.len()), found.as_ref().map_or(0, Cgroups::len));
            sender.send_if_modified(|known| {
                let differs = *known != found;
                *known = found;
                differs
            });
            let changed = match looked_for {
                0 => wanted.changed().await,
                _ => {
                    let rest = if are_found < looked_for { MISSING } else { COMPLETE };
                    timeout(rest, wanted.changed()).await.unwrap_or(Ok(()))
                }
            };
            if changed.is_err() || sender.is_closed() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// How many levels `root` is below the root of the hierarchy, by the mount point that it is under.
fn level_of(root: &Path, mounts: &str) -> Option<u32> {
    let mount_points = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (folder, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(Path::new(folder))
    });
    let below = mount_points.filter_map(|folder| root.strip_prefix(folder).ok());
    below.map(|rest| rest.components().count()).min().and_then(|depth| u32::try_from(depth).ok())
}

/// Looks through the folders below `folder`, but not into pods' own.
fn look(folder: &Path, level: u32, uids: &BTreeSet<Box<str>>, found: &mut Cgroups) -> io::Result<()> {
    let level = level + 1;
    if level >= LEFT_LEVELS || found.len() == uids.len() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        match uid(&entry.file_name().to_string_lossy()) {
            Some(uid) if uids.contains(uid.as_str()) => {
                // It may have gone meanwhile.
                if let Ok(metadata) = entry.metadata() {
                    found.insert(metadata.ino(), level);
                }
            }
            Some(_) => {}
            None => match look(&entry.path(), level, uids, found) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
    }
    Ok(())
}

/// The uid of the pod whose cgroup has this name.
fn uid(name: &str) -> Option<String> {
    if let Some(slice) = name.strip_suffix(".slice") {
        // systemd takes a dash for a level.
        let (_, uid) = slice
            .strip_prefix("kubepods-")?
            .rsplit_once("pod")
            .or_else(|| slice.strip_prefix("kubepods-pod").map(|uid| ("", uid)))?;
        return Some(uid.replace('_', "-"));
    }
    name.strip_prefix("pod").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pods_cgroups() {
        for (name, wanted) in [
            ("pod1234-5678", Some("1234-5678")),
            ("kubepods-burstable-pod1234_5678.slice", Some("1234-5678")),
            ("kubepods-pod1234_5678.slice", Some("1234-5678")),
            ("kubepods-burstable.slice", None),
            ("kubepods.slice", None),
            ("burstable", None),
            ("system.slice", None),
        ] {
            assert_eq!(uid(name).as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn levels_are_counted_from_the_mount_point() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\ntmpfs /run tmpfs rw 0 0\n";
        assert_eq!(level_of(Path::new("/sys/fs/cgroup"), mounts), Some(0));
        assert_eq!(level_of(Path::new("/sys/fs/cgroup/a/b"), mounts), Some(2));
        assert_eq!(level_of(Path::new("/run/cgroup"), mounts), None);
    }

    #[test]
    fn pods_are_found_wherever_the_kubelet_has_them() {
        let root = tempfile::tempdir().expect("a folder");
        let make = |path: &str| {
            fs::create_dir_all(root.path().join(path)).expect("a folder");
            fs::metadata(root.path().join(path)).expect("it is there").ino()
        };
        let burstable = make("kubepods/burstable/podaa-bb");
        let guaranteed = make("kubepods/podcc-dd");
        let systemd = make("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podee_ff.slice");
        make("kubepods/burstable/podaa-bb/podcc-dd");
        make("kubepods/burstable/podzz");
        let uids = |texts: &[&str]| texts.iter().map(|text| Box::from(*text)).collect::<BTreeSet<_>>();
        let found = |texts: &[&str]| {
            let mut found = Cgroups::new();
            look(root.path(), 0, &uids(texts), &mut found).expect("readable");
            found
        };
        assert_eq!(found(&["aa-bb"]), Cgroups::from([(burstable, 3)]));
        assert_eq!(
            found(&["aa-bb", "cc-dd", "ee-ff", "gg-hh"]),
            Cgroups::from([(burstable, 3), (guaranteed, 2), (systemd, 3)])
        );
    }
}
