//! The checks of the source itself. Each counts as one test.

mod citations;
mod dependencies;
mod purity;
mod tree;

use anyhow::{Context, Result, bail};

use crate::test::Counts;
use crate::{progress, workspace};

type Check = (&'static str, fn() -> Result<()>);

const CHECKS: &[Check] = &[
    ("the source is formatted", format),
    ("clippy has nothing to say", clippy),
    ("pure stages do no I/O", purity::check),
    ("every crate but the BPF programs inherits the workspace's lints", tree::lints_inherited),
    ("files are named by their noun", tree::names),
    ("the tests that documents name exist", citations::check),
];

/// Runs all checks and says what each has found.
pub(crate) fn run() -> Result<Counts> {
    let mut counts = Counts::default();
    for (claim, check) in CHECKS {
        match check() {
            Ok(()) => {
                println!("{claim} ... ok");
                counts.passed += 1;
            }
            Err(error) => {
                println!("{claim} ... FAILED\n{error:#}");
                counts.failed += 1;
            }
        }
    }
    print!("{} ... ", dependencies::CLAIM);
    match dependencies::obstacle() {
        Some(reason) => {
            println!("skipped: {reason}");
            counts.skipped += 1;
        }
        None => match dependencies::check() {
            Ok(()) => {
                println!("ok");
                counts.passed += 1;
            }
            Err(error) => {
                println!("FAILED\n{error:#}");
                counts.failed += 1;
            }
        },
    }
    Ok(counts)
}

fn format() -> Result<()> {
    progress::quietly("check the format", workspace::cargo().args(["fmt", "--all", "--check"]))
        .context("run: cargo fmt --all")
}

fn clippy() -> Result<()> {
    // proxy-ebpf is compiled for another target, by proxy-userspace's build script.
    progress::quietly(
        "run clippy",
        workspace::cargo().args([
            "clippy",
            "--workspace",
            "--exclude",
            "proxy-ebpf",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )
}

/// Fails with all complaints, if there are any.
fn verdict(complaints: &[String]) -> Result<()> {
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("  {}", complaints.join("\n  "))
}
