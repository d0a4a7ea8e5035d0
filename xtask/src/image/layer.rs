//! The file system of an image, as a tar archive.

use anyhow::{Context, Result};
use tar::{EntryType, Header};

use super::archive::Timestamp;

/// Where the program is. kubeadm's DaemonSet calls it as `kube-proxy`, in the same folder.
pub(super) const PROGRAM: &str = "usr/local/bin/kubeshunt";

/// All there is besides the program: what a mount point or a runtime needs, and a name for user 0. Sorted.
const ENTRIES: [Entry; 13] = [
    Entry::folder("dev"),
    Entry::folder("etc"),
    Entry::file("etc/group", "root:x:0:\n"),
    Entry::file("etc/passwd", "root:x:0:0:root:/:/sbin/nologin\n"),
    Entry::folder("proc"),
    Entry::folder("run"),
    Entry::folder("sys"),
    Entry::folder("tmp"),
    Entry::folder("usr"),
    Entry::folder("usr/local"),
    Entry::folder("usr/local/bin"),
    Entry { path: "usr/local/bin/kube-proxy", kind: Kind::Link("kubeshunt") },
    Entry::folder("var"),
];

struct Entry {
    path: &'static str,
    kind: Kind,
}

enum Kind {
    Folder,
    File(&'static str),
    Link(&'static str),
}

impl Entry {
    const fn folder(path: &'static str) -> Self {
        Self { path, kind: Kind::Folder }
    }

    const fn file(path: &'static str, text: &'static str) -> Self {
        Self { path, kind: Kind::File(text) }
    }
}

/// The layer, not compressed.
pub(super) fn of(program: &[u8], created: Timestamp) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for Entry { path, kind } in &ENTRIES {
        let (kind, mode, content) = match kind {
            Kind::Folder if *path == "tmp" => (EntryType::Directory, 0o1777, ""),
            Kind::Folder => (EntryType::Directory, 0o755, ""),
            Kind::File(text) => (EntryType::Regular, 0o644, *text),
            Kind::Link(target) => {
                let mut header = header(EntryType::Symlink, 0o777, 0, created);
                tar.append_link(&mut header, path, target).context(*path)?;
                continue;
            }
        };
        // Folders end in a slash, as tar itself has it.
        let slash = if kind == EntryType::Directory { "/" } else { "" };
        let mut header = header(kind, mode, content.len(), created);
        tar.append_data(&mut header, format!("{path}{slash}"), content.as_bytes()).context(*path)?;
    }
    let mut header = header(EntryType::Regular, 0o755, program.len(), created);
    tar.append_data(&mut header, PROGRAM, program).context(PROGRAM)?;
    tar.into_inner().context("cannot end the layer")
}

/// Everything is root's.
pub(super) fn header(kind: EntryType, mode: u32, size: usize, created: Timestamp) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size as u64);
    header.set_mtime(created.seconds());
    header
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_image_holds_one_program_and_no_shell() {
        let layer = of(b"program", Timestamp::EPOCH).expect("a layer");
        let mut seen = Vec::new();
        let mut tar = tar::Archive::new(layer.as_slice());
        for entry in tar.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let header = entry.header();
            assert_eq!(
                (header.uid().ok(), header.gid().ok(), header.mtime().ok()),
                (Some(0), Some(0), Some(0))
            );
            assert_eq!(header.mode().expect("a mode") & 0o6000, 0, "{path} is setuid");
            if header.entry_type() == EntryType::Regular {
                let executable = header.mode().expect("a mode") & 0o111 != 0;
                assert_eq!(executable, path == PROGRAM, "{path}");
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            assert_eq!(content == b"program", path == PROGRAM, "{path}");
            seen.push(path);
        }
        let paths: Vec<_> = seen.iter().map(|path| path.trim_end_matches('/')).collect();
        assert_eq!(paths.len(), ENTRIES.len() + 1);
        assert!(ENTRIES.is_sorted_by_key(|entry| entry.path));
    }
}
