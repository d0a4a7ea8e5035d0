//! `setup`: installs what building needs and this machine lacks. Idempotent, asks nothing, and says
//! how to undo what it did. When all is there it only looks.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::facts::{self, BPF_LINKER, BpfRust, LLVM};
use crate::{kernels, progress, workspace};

/// Debian's rustc that compiles for BPF, and what bpf-linker is built from. The -web packages are
/// the current Rust that Debian keeps for browsers, also in its stable releases.
const PACKAGES: [&str; 9] = [
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
    "gcc",
    "libc6-dev",
    "pkg-config",
];

/// Installs what is missing.
///
/// # Errors
/// When something cannot be installed; the message says what to do by hand.
pub(crate) fn run() -> Result<()> {
    let linker = facts::bpf_linker();
    let rust = BpfRust::find();
    if linker.is_some() && rust.is_some() {
        return Ok(());
    }
    let debian = facts::which("apt-get").is_some();
    let rust = match rust {
        Some(rust) => rust,
        None if debian && packages_known()? => {
            install_packages()?;
            BpfRust::Debian
        }
        None if facts::which("rustup").is_some() => {
            progress::quietly(
                "install Rust nightly with its sources (undo: rustup toolchain uninstall nightly)",
                Command::new("rustup").args([
                    "toolchain",
                    "install",
                    "nightly",
                    "--profile",
                    "minimal",
                    "--component",
                    "rust-src",
                ]),
            )?;
            BpfRust::Nightly
        }
        None => bail!(
            "no rustc for BPF can be installed here: this is no Debian with the packages {}, and there is \
             no rustup; install rustup from https://rustup.rs",
            PACKAGES[..4].join(", ")
        ),
    };
    if linker.is_none() {
        install_linker(&rust, debian)?;
    }
    facts::bpf_linker().context("bpf-linker was installed but does not run; is ~/.cargo/bin in PATH?")?;
    BpfRust::find().context("the compiler was installed but cannot be found; see cargo xtask doctor")?;
    Ok(())
}

/// Installs what checking the source needs beyond building it.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn lint_tools() -> Result<()> {
    if facts::has_lint_tools() || facts::which("rustup").is_none() {
        return Ok(());
    }
    progress::quietly(
        "install rustfmt and clippy (undo: rustup component remove rustfmt clippy)",
        Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]),
    )
}

/// Installs what runs containers, for tests of the image.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn container_tools() -> Result<()> {
    extra(&["crun"], &["crun"])
}

/// Installs what a real kube-proxy calls.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn packet_filter_tools() -> Result<()> {
    extra(&["nft", "xtables-nft-multi"], &["nftables", "iptables"])
}

/// Installs what runs other kernels.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn emulator() -> Result<()> {
    extra(&[kernels::EMULATOR], &["qemu-system-x86"])
}

/// Installs packages of Debian's unless all of these programs are there.
fn extra(programs: &[&str], packages: &[&str]) -> Result<()> {
    if programs.iter().all(|program| facts::which(program).is_some()) {
        return Ok(());
    }
    let names = packages.join(" ");
    if facts::which("apt-get").is_none() {
        bail!("there is no {} in PATH, and no apt-get to install it with", programs.join(" or "));
    }
    let install = || -> Result<()> {
        let mut command = privileged("apt-get")?;
        command.args(["install", "-y", "--no-install-recommends"]).args(packages);
        progress::quietly(
            &format!("install {names} (undo: apt-get remove {names})"),
            command.env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    // A machine that has just been made knows no packages yet.
    install().or_else(|_| {
        progress::quietly("refresh the package lists", privileged("apt-get")?.arg("update"))?;
        install()
    })
}

/// Does the package manager know all packages? Asks for fresh lists if it does not.
fn packages_known() -> Result<bool> {
    if candidates_exist()? {
        return Ok(true);
    }
    progress::quietly("refresh the package lists", privileged("apt-get")?.arg("update"))?;
    candidates_exist()
}

fn candidates_exist() -> Result<bool> {
    let output = Command::new("apt-cache").arg("policy").args(PACKAGES).env("LC_ALL", "C").output();
    let output = output.context("cannot run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let known =
        text.lines().filter(|line| line.starts_with("  Candidate:") && !line.ends_with("(none)")).count();
    Ok(known == PACKAGES.len())
}

fn install_packages() -> Result<()> {
    progress::quietly(
        &format!("install packages (undo: apt-get remove {})", PACKAGES[..4].join(" ")),
        privileged("apt-get")?
            .args(["install", "-y", "--no-install-recommends"])
            .args(PACKAGES)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn install_linker(rust: &BpfRust, debian: bool) -> Result<()> {
    if *rust == BpfRust::Debian && !Path::new(LLVM).join("include/llvm").is_dir() {
        if !(debian && packages_known()?) {
            bail!("bpf-linker needs LLVM's headers in {LLVM}; install llvm-22-dev");
        }
        install_packages()?;
    }
    let mut command = workspace::cargo();
    command.args(["install", "bpf-linker", "--version", BPF_LINKER]);
    if *rust == BpfRust::Debian {
        // The very LLVM that this rustc emits bitcode with, instead of one that follows rustup's nightly.
        command.args(["--no-default-features", "--features", "llvm-22"]).env("LLVM_PREFIX", LLVM);
    }
    progress::quietly("install bpf-linker (undo: cargo uninstall bpf-linker)", &mut command)
}

/// A command that runs as root.
fn privileged(program: &str) -> Result<Command> {
    if facts::is_root() {
        return Ok(Command::new(program));
    }
    let sudo = facts::which("sudo").with_context(|| format!("{program} needs root, and there is no sudo"))?;
    let mut command = Command::new(sudo);
    command.arg(program);
    Ok(command)
}
