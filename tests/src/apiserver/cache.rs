//! Where programs built with Go are kept.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// A folder for them, below the user's cache.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("kubeshunt").join(name))
}

/// Changes with whatever changes the programs.
pub(crate) fn key(parts: &[&str]) -> String {
    // FNV-1a: the standard library's hashers promise no stability, and this key outlives the process.
    let hash = parts.iter().flat_map(|part| part.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// The program `go`.
pub(crate) fn go() -> Result<PathBuf> {
    // The last is where Go's own installer puts it, often without touching PATH.
    let known = ["go", "/usr/local/go/bin/go"];
    let works = |go: &&str| {
        let run = Command::new(go).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    };
    known.iter().find(|go| works(go)).map(PathBuf::from).context(
        "there is no `go` to build programs with: install Go 1.26 or newer; for kube-apiserver, etcd and kubectl \
         KUBEBUILDER_ASSETS may name a folder instead",
    )
}
