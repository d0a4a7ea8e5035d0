//! The network namespaces of this node, found and entered.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};

/// The namespace this thread is in.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// Namespaces, by where they can be opened.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// All but the one this thread is in.
    pub(super) others: Vec<PathBuf>,
    /// Whether there are processes that did not let us see theirs.
    pub(super) has_hidden: bool,
}

impl Namespaces {
    /// Those that processes are in, as far as this process sees them (`/proc`), and those that are mounted, as container
    /// runtimes do with pods'. Threads that left their process' namespace behind are not looked for.
    pub(super) fn find() -> io::Result<Self> {
        let mut known = BTreeSet::from([identity(Path::new(OWN))?]);
        let mut found = Self::default();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
        for path in mounted(&mounts) {
            // One that is gone by now, or hidden by another mount, is no namespace of interest.
            if let Ok(identity) = identity(&path)
                && known.insert(identity)
            {
                found.others.push(path);
            }
        }
        for entry in fs::read_dir("/proc")? {
            let folder = entry?;
            if !folder.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
                continue;
            }
            let path = folder.path().join("ns/net");
            match identity(&path) {
                Ok(identity) if known.insert(identity) => found.others.push(path),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.has_hidden = true,
                // Known, or the process has ended.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(found)
    }
}

/// Moves this thread, and no other, into a namespace.
pub(super) fn enter(path: &Path) -> io::Result<()> {
    setns(File::open(path)?.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// What tells a namespace from all others.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Where network namespaces are mounted, by the text of a `mountinfo` (`proc_pid_mountinfo(5)`).
fn mounted(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        root.starts_with("net:[").then(|| PathBuf::from(unescaped(point)))
    })
}

/// Spaces and their like stand as three octal digits after a backslash.
fn unescaped(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut parts = field.split('\\');
    text.extend(parts.next());
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.extend(code.map(char::from));
        text.push_str(part.get(3..).unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_namespaces_are_told_from_other_mounts() {
        let text = "21 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
                    633 26 0:4 net:[4026532281] /run/netns/cni-1 rw shared:2 - nsfs nsfs rw\n\
                    634 26 0:4 net:[4026532399] /run/a\\040b\\134c rw - nsfs nsfs rw\n\
                    635 26 0:4 mnt:[4026532400] /run/other rw - nsfs nsfs rw\n\
                    broken\n";
        let found: Vec<_> = mounted(text).collect();
        assert_eq!(found, [Path::new("/run/netns/cni-1"), Path::new("/run/a b\\c")]);
    }
}
