//! For which machines images are made, and how their programs are compiled.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{facts, progress};

/// A processor architecture, by the name that OCI has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Arch {
    /// `x86_64`
    Amd64,
    /// `aarch64`
    Arm64,
}

/// How a static program is made for an [`Arch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Libc {
    /// Static by nature.
    Musl,
    /// Where musl's standard library is not to be had; glibc 2.34 and later resolve names without further files.
    Glibc,
}

impl Arch {
    pub(crate) const fn of_this_machine() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }

    const fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The target as rustc names it.
    pub(super) fn triple(self, libc: Libc) -> String {
        let suffix = match libc {
            Libc::Musl => "musl",
            Libc::Glibc => "gnu",
        };
        format!("{}-unknown-linux-{suffix}", self.machine())
    }

    /// The C compiler for it, which also links. A few files of ring are C; they include nothing of a libc, so
    /// that any will do.
    pub(super) fn c_compiler(self) -> Result<String> {
        let cross = format!("{}-linux-gnu-gcc", self.machine());
        if self == Self::of_this_machine() {
            return Ok("cc".to_owned());
        }
        if facts::which(&cross).is_none() {
            bail!("{self} needs {cross}; on Debian: apt-get install gcc-{}-linux-gnu", self.machine());
        }
        Ok(cross)
    }

    /// Finds or installs a standard library to link statically.
    pub(super) fn libc(self) -> Result<Libc> {
        let musl = self.triple(Libc::Musl);
        if has_std(&musl) {
            return Ok(Libc::Musl);
        }
        if facts::which("rustup").is_some() {
            let label = format!("install Rust's library for {musl} (undo: rustup target remove {musl})");
            let added = progress::quietly(&label, Command::new("rustup").args(["target", "add", &musl]));
            if added.is_ok() && has_std(&musl) {
                return Ok(Libc::Musl);
            }
        }
        if has_std(&self.triple(Libc::Glibc)) {
            println!("  Rust's library for {musl} is not to be had: linking glibc statically instead");
            return Ok(Libc::Glibc);
        }
        bail!("rustc has no library for {self}; run: rustup target add {musl}")
    }
}

/// Has the rustc that cargo runs a standard library for this target?
fn has_std(triple: &str) -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", triple]).output();
    output.is_ok_and(|output| {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success() && Path::new(&folder).is_dir()
    })
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}
