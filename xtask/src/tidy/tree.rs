//! Checks of the tree: file names and manifests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::verdict;
use crate::workspace;

/// Names that say nothing about what is inside, and so attract everything.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "types", "helpers", "helper", "misc"];

/// The crates of the workspace.
const CRATES: [&str; 5] = ["proxy-common", "proxy-ebpf", "proxy-userspace", "tests", "xtask"];

/// All Rust files below a folder.
pub(super) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// No file or folder has an empty name.
pub(super) fn names() -> Result<()> {
    let mut complaints = Vec::new();
    for name in CRATES {
        for file in rust_files(&workspace::root().join(name))? {
            let file = file.strip_prefix(workspace::root())?;
            let parts = file.with_extension("");
            if parts.iter().any(|part| EMPTY_NAMES.iter().any(|name| part == *name)) {
                complaints.push(format!("{}: name it by what it is about", file.display()));
            }
        }
    }
    verdict(&complaints)
}

/// The crate with lints of its own: a BPF program, which nobody links against, and which clippy does not see.
const OWN_LINTS: &str = "proxy-ebpf";

/// Every crate says `[lints] workspace = true`; without it the workspace's lints mean nothing.
pub(super) fn lints_inherited() -> Result<()> {
    let mut complaints = Vec::new();
    for name in CRATES.into_iter().filter(|name| *name != OWN_LINTS) {
        let manifest = workspace::root().join(name).join("Cargo.toml");
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        if !inherits_lints(&text) {
            complaints.push(format!("{name}/Cargo.toml: add [lints] workspace = true"));
        }
    }
    verdict(&complaints)
}

fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.by_ref().take_while(|line| !line.starts_with('[')).any(|line| line == "workspace = true")
}

#[cfg(test)]
mod tests {
    use super::inherits_lints;

    #[test]
    fn only_the_lints_section_counts() {
        assert!(inherits_lints("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"));
        assert!(!inherits_lints("[package]\nname = \"a\"\n"));
        assert!(!inherits_lints("[lints]\n\n[dependencies.a]\nworkspace = true\n"));
    }
}
