//! The folder of manifests that a program under test watches.
//!
//! Invariant: [`Folder::write`] is atomic as a careful writer is (a new file, renamed into place);
//! only [`Folder::write_torn`] leaves half a file, on purpose.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A folder of manifests.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder, which must not exist yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `NAME.yaml` with these objects, in place of what it held.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, objects: &[&dyn Display]) -> Result<()> {
        let documents: Vec<_> = objects.iter().map(ToString::to_string).collect();
        self.write_text(name, &documents.join("---\n"))
    }

    /// Writes `NAME.yaml` with this text, in place of what it held.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        let file = self.file(name);
        let fresh = self.path.join(format!(".{name}.fresh"));
        fs::write(&fresh, text).with_context(|| format!("cannot write {}", fresh.display()))?;
        fs::rename(&fresh, &file).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Writes only the first `length` bytes of `text`, over what `NAME.yaml` held: a writer that was
    /// interrupted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_torn(&self, name: &str, text: &str, length: usize) -> Result<()> {
        let file = self.file(name);
        let half = &text.as_bytes()[..length.min(text.len())];
        fs::write(&file, half).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Removes `NAME.yaml`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.yaml"))
    }
}
