//! The program of an image: static, and the same whoever compiles it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};

use super::platform::{Arch, Libc};
use crate::{progress, workspace};

/// The profile in the workspace's `Cargo.toml`.
const PROFILE: &str = "image";

/// Between flags in CARGO_ENCODED_RUSTFLAGS.
const SEPARATOR: &str = "\x1f";

/// Compiles it, and returns the file's bytes.
pub(super) fn build(arch: Arch) -> Result<Vec<u8>> {
    let libc = arch.libc()?;
    let triple = arch.triple(libc);
    let compiler = arch.c_compiler()?;
    let mut flags = remapped()?;
    flags.push(format!("-Clinker={compiler}"));
    if libc == Libc::Glibc {
        flags.push("-Ctarget-feature=+crt-static".to_owned());
    }
    let mut cargo = workspace::cargo();
    cargo
        .args(["build", "--locked", "--profile", PROFILE, "--target", &triple])
        .args(["--package", "proxy-userspace", "--bin", "kubeshunt"])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(SEPARATOR))
        .env(format!("CC_{}", triple.replace('-', "_")), &compiler)
        .env_remove("RUSTFLAGS");
    progress::quietly(&format!("build kubeshunt for {triple}"), &mut cargo)?;
    let path = workspace::target()?.join(&triple).join(PROFILE).join("kubeshunt");
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    verify(&bytes).with_context(|| path.display().to_string())?;
    Ok(bytes)
}

/// Flags that keep the paths of this machine out of the program.
fn remapped() -> Result<Vec<String>> {
    // The last one that fits counts: what lies in the checkout, as cargo's target folder does, comes after it.
    let paths = [
        (workspace::root().to_owned(), "/kubeshunt"),
        (cargo_home()?, "/cargo"),
        (workspace::target()?, "/target"),
    ];
    Ok(paths.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())).collect())
}

fn cargo_home() -> Result<PathBuf> {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(env::home_dir()?.join(".cargo"))).context("neither CARGO_HOME nor HOME is set")
}

/// Fails unless the program runs where no other file is, and names no folder of this machine.
fn verify(program: &[u8]) -> Result<()> {
    ensure!(is_static(program)?, "the program is not static: it names an interpreter");
    for private in [workspace::root().to_owned(), cargo_home()?, workspace::target()?] {
        if contains(program, &private) {
            bail!("the program contains the path {}, so others would make another one", private.display());
        }
    }
    Ok(())
}

fn contains(program: &[u8], path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    program.windows(path.len()).any(|window| window == path)
}

/// Does a 64-bit ELF program come without an interpreter, the dynamic linker?
pub(super) fn is_static(program: &[u8]) -> Result<bool> {
    let header = elf::FileHeader64::<Endianness>::parse(program).context("no 64-bit ELF file")?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, program)?;
    Ok(segments.iter().all(|segment| segment.p_type(endian) != elf::PT_INTERP))
}
