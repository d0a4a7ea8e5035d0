//! Programs that read what is shipped: Helm, and a linter for workflows. Built with Go from pinned sources, once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::apiserver::cache;

const GO_MOD: &str = include_str!("../tools/go.mod");
const GO_SUM: &str = include_str!("../tools/go.sum");

const PACKAGES: [&str; 2] = ["helm.sh/helm/v3/cmd/helm", "github.com/rhysd/actionlint/cmd/actionlint"];

/// Runs `helm` or `actionlint`, and returns what it prints. An error has what it complained about.
///
/// # Errors
/// When it cannot be built or run, or fails.
pub fn run(name: &str, arguments: &[&str], folder: &Path) -> Result<String> {
    let mut command = Command::new(built()?.join(name));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    // What a person has set up for Helm is not to be seen, and nothing written there.
    let nowhere = tempfile::tempdir()?;
    for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        command.env(variable, nowhere.path());
    }
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "{name} {} ({}): {}{}",
        arguments.join(" "),
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

/// The folder with the programs.
fn built() -> Result<PathBuf> {
    let cache = cache::folder("tools")?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let folder = cache.join(cache::key(&[GO_MOD, GO_SUM]));
    // Test binaries run side by side, and one build is enough of a load.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    if folder.is_dir() {
        return Ok(folder);
    }
    let out = tempfile::Builder::new().prefix(".building-").tempdir_in(&cache)?;
    let output = Command::new(cache::go()?)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools"))
        .envs([("CGO_ENABLED", "0"), ("GOWORK", "off"), ("GOFLAGS", "-mod=readonly")])
        .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(out.path())
        .args(PACKAGES)
        .output()
        .context("cannot run go")?;
    ensure!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
    // Only whole sets get their final name, so that whatever has it can be trusted.
    fs::rename(out.keep(), &folder)?;
    Ok(folder)
}
