//! Where pods' cgroups are: the kubelet names them after the pod's uid, `pod1234-5678` or, where systemd keeps them,
//! `kubepods-burstable-pod1234_5678.slice`, wherever it has its own (`pkg/kubelet/cm/pod_container_manager_linux.go`).
//!
//! A cgroup comes a moment after its Pod is assigned to the node, before the first process of it; so it is looked for
//! often while one is missing, and now and then otherwise.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use proxy_common::layout::CGROUP_LEVELS;
use tokio::{sync::watch, task::spawn_blocking, time::timeout};
use tracing::warn;

/// The cgroups of pods, by id: the inode number of the folder.
pub type Cgroups = BTreeSet<u64>;

/// Which pods' cgroups are wanted, by uid; `None` while that is not known yet.
pub type Wanted = Option<BTreeSet<Box<str>>>;

/// How long to wait before the next look while a cgroup is missing, at first, and at most.
const MISSING: Duration = Duration::from_millis(100);
const COMPLETE: Duration = Duration::from_secs(10);

/// Finds the cgroups of these pods below `root`, and keeps finding them while pods come and go. `None` as long as that is
/// what is wanted. A look that fails is told once, and what the last one found stays.
#[must_use]
pub fn follow(root: PathBuf, wanted: watch::Receiver<Wanted>) -> watch::Receiver<Option<Cgroups>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(keep_looking(root, wanted, sender));
    receiver
}

async fn keep_looking(
    root: PathBuf,
    mut wanted: watch::Receiver<Wanted>,
    sender: watch::Sender<Option<Cgroups>>,
) {
    let mut has_failed = false;
    while !sender.is_closed() {
        let uids = wanted.borrow_and_update().clone();
        let is_idle = uids.as_ref().is_none_or(BTreeSet::is_empty);
        let mut rest = MISSING;
        loop {
            let found = match &uids {
                Some(uids) if !is_idle => find(root.clone(), uids.clone()).await.map(Some),
                other => Ok(other.as_ref().map(|_| Cgroups::new())),
            };
            match found {
                Ok(found) => {
                    let is_all = found.as_ref().map(Cgroups::len) == uids.as_ref().map(BTreeSet::len);
                    rest = if is_all { COMPLETE } else { (rest * 2).min(COMPLETE) };
                    sender.send_if_modified(|known| {
                        let differs = *known != found;
                        *known = found;
                        differs
                    });
                }
                Err(error) => {
                    rest = COMPLETE;
                    if !std::mem::replace(&mut has_failed, true) {
                        let root = root.display();
                        warn!(
                            "cannot look for pods' cgroups below {root}: {error}; trying again now and then"
                        );
                    }
                }
            }
            let changed =
                if is_idle { Ok(wanted.changed().await) } else { timeout(rest, wanted.changed()).await };
            match changed {
                Ok(Ok(())) => break,
                Ok(Err(_)) => return,
                Err(_) if sender.is_closed() => return,
                // Time for another look.
                Err(_) => {}
            }
        }
    }
}

/// How many folders [`some_pods`] looks into at most.
const VISITS: usize = 256;

/// The folders of a few pods' cgroups below `root`, as they come. What cannot be read is passed over.
#[must_use]
pub fn some_pods(root: &Path, most: usize) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![root.to_owned()]);
    for _ in 0..VISITS {
        let Some(folder) = left.pop() else { break };
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if uid(&entry.file_name().to_string_lossy()).is_none() {
                left.push(entry.path());
                continue;
            }
            found.push(entry.path());
            if found.len() >= most {
                return found;
            }
        }
    }
    found
}

/// Whether this process is in the cgroup `root` or below it; `None` where that cannot be told, because the hierarchy is
/// mounted otherwise than this process sees itself in it.
#[must_use]
pub fn is_below(root: &Path) -> Option<bool> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut hierarchies = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (folder, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(folder).join(own))
    });
    // Only where the kernel says that we are there we are.
    let pid = std::process::id().to_string();
    let is_ours = |folder: &PathBuf| {
        fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|pids| pids.lines().any(|line| line == pid))
    };
    let folder = hierarchies.find(is_ours)?;
    let root = fs::metadata(root).ok()?;
    let is_root = |folder: &Path| {
        fs::metadata(folder).is_ok_and(|own| (own.ino(), own.dev()) == (root.ino(), root.dev()))
    };
    Some(folder.ancestors().any(is_root))
}

/// On a thread that may wait for a disk, or what looks like one.
async fn find(root: PathBuf, uids: BTreeSet<Box<str>>) -> io::Result<Cgroups> {
    let looked = spawn_blocking(move || {
        let mut found = Cgroups::new();
        look(&root, 1, &uids, &mut found).map(|()| found)
    });
    looked.await.map_err(io::Error::other)?
}

/// Looks through the folders of this level, in `folder`, but not into pods' own.
fn look(folder: &Path, level: u32, uids: &BTreeSet<Box<str>>, found: &mut Cgroups) -> io::Result<()> {
    if level >= CGROUP_LEVELS || found.len() == uids.len() {
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
                found.extend(entry.metadata().map(|metadata| metadata.ino()));
            }
            Some(_) => {}
            None => match look(&entry.path(), level + 1, uids, found) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
    }
    Ok(())
}

/// The uid of the pod whose cgroup has this name.
fn uid(name: &str) -> Option<String> {
    match name.strip_suffix(".slice") {
        // systemd takes a dash for a level.
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid.replace('_', "-")),
        None => name.strip_prefix("pod").map(str::to_owned),
    }
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
            ("kubelet-kubepods-besteffort-pod1234_5678.slice", Some("1234-5678")),
            ("kubepods-burstable.slice", None),
            ("kubepods.slice", None),
            ("burstable", None),
            ("system.slice", None),
        ] {
            assert_eq!(uid(name).as_deref(), wanted, "{name}");
        }
    }

    fn make(root: &Path, path: &str) -> u64 {
        fs::create_dir_all(root.join(path)).expect("a folder");
        fs::metadata(root.join(path)).expect("it is there").ino()
    }

    #[test]
    fn a_few_pods_are_found_without_looking_at_all() {
        let root = tempfile::tempdir().expect("a folder");
        for number in 0..9 {
            make(root.path(), &format!("kubepods/burstable/pod{number}/container"));
        }
        make(root.path(), "system.slice/sshd.service");
        let found = some_pods(root.path(), 3);
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|folder| folder.starts_with(root.path().join("kubepods/burstable"))));
        assert!(some_pods(&root.path().join("system.slice"), 3).is_empty());
        assert!(some_pods(Path::new("/nonexistent"), 3).is_empty());
    }

    fn uids(texts: &[&str]) -> BTreeSet<Box<str>> {
        texts.iter().map(|text| Box::from(*text)).collect()
    }

    #[tokio::test]
    async fn pods_are_found_wherever_the_kubelet_has_them() {
        let root = tempfile::tempdir().expect("a folder");
        let burstable = make(root.path(), "kubepods/burstable/podaa-bb");
        let guaranteed = make(root.path(), "kubepods/podcc-dd");
        let systemd =
            make(root.path(), "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podee_ff.slice");
        make(root.path(), "kubepods/burstable/podaa-bb/podcc-dd");
        make(root.path(), "kubepods/burstable/podzz");
        let found = async |texts: &[&str]| find(root.path().to_owned(), uids(texts)).await.expect("readable");
        assert_eq!(found(&["aa-bb"]).await, Cgroups::from([burstable]));
        let all = found(&["aa-bb", "cc-dd", "ee-ff", "gg-hh"]).await;
        assert_eq!(all, Cgroups::from([burstable, guaranteed, systemd]));
    }

    #[tokio::test]
    async fn a_pod_that_comes_late_is_found_and_one_that_is_not_wanted_any_more_is_let_go() {
        let root = tempfile::tempdir().expect("a folder");
        let (wants, wanted) = watch::channel(None);
        let mut found = follow(root.path().to_owned(), wanted);
        assert_eq!(*found.borrow(), None);
        wants.send_replace(Some(uids(&["late"])));
        found.changed().await.expect("it looks");
        assert_eq!(*found.borrow_and_update(), Some(Cgroups::new()));
        let late = make(root.path(), "kubepods/podlate");
        found.changed().await.expect("it looks");
        assert_eq!(*found.borrow_and_update(), Some(Cgroups::from([late])));
        wants.send_replace(Some(uids(&[])));
        found.changed().await.expect("it looks");
        assert_eq!(*found.borrow_and_update(), Some(Cgroups::new()));
    }
}
