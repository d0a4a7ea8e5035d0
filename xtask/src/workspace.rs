//! Where things lie in this workspace.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The top folder of the workspace.
///
/// # Panics
/// Never: cargo builds xtask inside the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies inside the workspace")
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // `cargo run` tells us about xtask this way. Build scripts that watch it (ring's does) would run again at
    // every turn, here and at the next `cargo run`, and everything above them would be compiled anew.
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.starts_with(own)))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> Result<PathBuf> {
    // This program lies in target/PROFILE itself, wherever the target folder may be.
    let own = env::current_exe().context("cannot tell where this program lies")?;
    let target = own.ancestors().nth(2).context("this program lies in no target folder")?;
    Ok(target.to_owned())
}

/// Where cargo puts what it builds in a profile.
pub(crate) fn built(profile: &str, program: &str) -> Result<PathBuf> {
    Ok(target()?.join(profile).join(program))
}
