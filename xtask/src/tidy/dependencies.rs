//! What we depend on: licences, sources, duplicates that are banned, as `deny.toml` says.
//!
//! Advisories are left to `.github/workflows/dependencies.yml`: they need a database from the network, and say something new
//! about code that has not changed. `setup` does not install the tool: compiling it takes longer than compiling us.

use anyhow::{Context as _, Result};

use crate::{facts, progress, workspace};

pub(super) const CLAIM: &str = "dependencies have the licences and sources that deny.toml allows";

/// Why it cannot be checked here, if so.
pub(super) fn obstacle() -> Option<String> {
    facts::which("cargo-deny")
        .is_none()
        .then(|| "needs cargo-deny, which takes some minutes: cargo install --locked cargo-deny".to_owned())
}

pub(super) fn check() -> Result<()> {
    progress::quietly(
        "check what we depend on",
        workspace::cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]),
    )
    .context("see deny.toml")
}
