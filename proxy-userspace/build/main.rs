//! Compiles `proxy-ebpf` for the BPF target, so that a plain `cargo build` gives a finished binary.
//!
//! Two toolchains do: Debian's `rustc-web` with `libstd-rust-web-dev-bpf`, which brings a prebuilt `core` for
//! the target; and a rustup nightly with `rust-src`, which builds one. Both need `bpf-linker`. The programs
//! are always built optimised: unoptimised ones do not pass the verifier.

mod btf;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

const HOW: &str = "run `cargo xtask setup` to install what is missing, `cargo xtask doctor` to see it";
const SEPARATOR: &str = "\x1f";

fn main() {
    let root = PathBuf::from(env_of("CARGO_MANIFEST_DIR")).parent().expect("a workspace member").to_owned();
    for input in ["proxy-ebpf", "proxy-common/src", "proxy-common/Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-env-changed=KUBESHUNT_BPF_LINKER");

    let out = PathBuf::from(env_of("OUT_DIR"));
    let target = match env_of("CARGO_CFG_TARGET_ENDIAN").to_str() {
        Some("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let arch = env_of("CARGO_CFG_TARGET_ARCH");
    let flags = [
        format!("-Clinker={}", linker().display()),
        "--cfg".to_owned(),
        format!("bpf_target_arch=\"{}\"", arch.to_string_lossy()),
        // BTF is made from debug information, and the verifier's log quotes source lines from it.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Nor is it to say where this was compiled: the same source gives the same program.
        format!("--remap-path-prefix={}=/cargo", cargo_home().display()),
        format!("--remap-path-prefix={}=.", root.display()),
        format!("--remap-path-prefix={}=/target", out.display()),
    ]
    .join(SEPARATOR);

    let mut cargo = toolchain(target);
    cargo
        .current_dir(&root)
        .args(["build", "--release", "--locked", "--quiet", "--package", "proxy-ebpf", "--target", target])
        .args(env::var_os("CARGO_FEATURE_LATER_LAYOUT").map(|_| "--features=later-layout"))
        .arg("--target-dir")
        .arg(out.join("bpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // What cargo tells build scripts about this compilation must not leak into the other one.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("RUSTDOC");
    let status = cargo.status().unwrap_or_else(|error| panic!("cannot start {cargo:?}: {error}; {HOW}"));
    assert!(status.success(), "compiling the BPF programs failed, see above; if tools are missing, {HOW}");

    let linked = out.join("bpf").join(target).join("release/kubeshunt");
    let mut object =
        std::fs::read(&linked).unwrap_or_else(|error| panic!("cannot read {}: {error}", linked.display()));
    if btf::put_in_order(&mut object).is_none() {
        println!(
            "cargo::warning=the programs' BTF is not as expected: builds of the same source may differ in it"
        );
    }
    std::fs::write(out.join("kubeshunt.bpf.o"), object)
        .unwrap_or_else(|error| panic!("cannot write to {}: {error}", out.display()));
}

/// The cargo invocation of a toolchain that can compile for `target`.
fn toolchain(target: &str) -> Command {
    let system = Path::new("/usr/bin/rustc");
    if has_core(system, target) {
        let mut cargo = Command::new("/usr/bin/cargo");
        // The target is unstable; the compiler is the same.
        cargo.env("RUSTC", system).env("RUSTC_BOOTSTRAP", "1");
        return cargo;
    }
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "nightly", "cargo"]);
    // RUSTC of the outer build would win over the toolchain's own.
    cargo.env_remove("RUSTC").arg("-Zbuild-std=core");
    cargo
}

/// Whether `rustc` has a prebuilt `core` for `target`.
fn has_core(rustc: &Path, target: &str) -> bool {
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", target])
        .env("RUSTC_BOOTSTRAP", "1")
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
            std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
        }
        _ => false,
    }
}

/// `bpf-linker`: where KUBESHUNT_BPF_LINKER says, else in the PATH, else where `cargo install` puts it.
fn linker() -> PathBuf {
    if let Some(path) = env::var_os("KUBESHUNT_BPF_LINKER") {
        return path.into();
    }
    let mut folders: Vec<PathBuf> =
        env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    folders.push(cargo_home().join("bin"));
    folders
        .into_iter()
        .map(|folder| folder.join("bpf-linker"))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("bpf-linker is not installed; {HOW}"))
}

/// Where cargo keeps the sources of crates, and the programs it installs.
fn cargo_home() -> PathBuf {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.unwrap_or_else(|| PathBuf::from(env_of("HOME")).join(".cargo"))
}

fn env_of(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}
