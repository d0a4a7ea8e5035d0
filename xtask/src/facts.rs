//! What this machine has. Looks only; files before programs, so that looking takes milliseconds.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kubeshunt_tests::cgroup::Cgroup;

use crate::progress::has_content;

/// The version of bpf-linker that fits the toolchains below.
pub(crate) const BPF_LINKER: &str = "0.13.0";
/// The LLVM that Debian's rustc-web and bpf-linker share.
pub(crate) const LLVM: &str = "/usr/lib/llvm-22";
/// Where Debian's libstd-rust-web-dev-bpf puts the core library for BPF.
const DEBIAN_BPF_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// A rustc that can compile for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BpfRust {
    /// Debian's rustc-web with a built core library.
    Debian,
    /// A rustup nightly that builds the core library from its sources.
    Nightly,
}

impl BpfRust {
    /// The one to be used, if there is any.
    pub(crate) fn find() -> Option<Self> {
        if has_rlib(Path::new(DEBIAN_BPF_CORE)) && Path::new("/usr/bin/rustc").exists() {
            return Some(Self::Debian);
        }
        let toolchains = fs::read_dir(rustup_home()?.join("toolchains")).ok()?;
        let nightly = toolchains.flatten().any(|toolchain| {
            toolchain.file_name().to_string_lossy().starts_with("nightly")
                && toolchain.path().join("lib/rustlib/src/rust/library/core").is_dir()
        });
        nightly.then_some(Self::Nightly)
    }
}

fn has_rlib(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn rustup_home() -> Option<PathBuf> {
    env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".rustup")))
}

/// Where a program lies that the shell would run.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// What a program says about its version, if it runs.
pub(crate) fn version(program: &str, argument: &str) -> Option<String> {
    let output =
        Command::new(program).arg(argument).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// rustfmt and clippy, which a minimal toolchain lacks; rustup's own stand-ins for them are always there.
pub(crate) fn has_lint_tools() -> bool {
    let folder = env::var_os("CARGO").map(PathBuf::from).and_then(|cargo| cargo.parent().map(Path::to_owned));
    folder.is_none_or(|folder| ["cargo-fmt", "cargo-clippy"].iter().all(|tool| folder.join(tool).is_file()))
}

/// A bpf-linker of the right version that runs (it is bound to a libLLVM that may have gone).
pub(crate) fn bpf_linker() -> Option<String> {
    version("bpf-linker", "--version").filter(|text| text.contains(BPF_LINKER))
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The kernel's own types, without which portable BPF programs cannot be loaded.
pub(crate) fn kernel_btf() -> bool {
    has_content("/sys/kernel/btf/vmlinux")
}

pub(crate) fn cgroup2() -> Option<PathBuf> {
    Cgroup::mount_point().ok()
}

/// Can the kernel mount a bpffs?
pub(crate) fn bpffs() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with("\tbpf")))
}

/// Does bpf() work? Makes the smallest map there is, which goes with its descriptor.
pub(crate) fn bpf_works() -> Result<(), String> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // The first fields of union bpf_attr: type, key size, value size, entries, flags.
    let attr: [u32; 5] = [BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0];
    // SAFETY: the kernel reads as many bytes as are given, and returns a descriptor that nobody else has.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attr.as_ptr(), size_of_val(&attr)) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    let fd = i32::try_from(fd).expect("descriptors are small");
    // SAFETY: just made, and owned by nobody else.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
    Ok(())
}

/// Where a real API server can be had.
#[derive(Clone, Debug)]
pub(crate) enum ApiServer {
    /// KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd.
    Assets(PathBuf),
    /// Go can build them.
    Go(PathBuf),
}

impl ApiServer {
    pub(crate) fn find() -> Option<Self> {
        if let Some(folder) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from)
            && ["kube-apiserver", "etcd"].iter().all(|program| folder.join(program).is_file())
        {
            return Some(Self::Assets(folder));
        }
        which("go")
            .or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|go| go.is_file()))
            .map(Self::Go)
    }
}

/// The machine in a line, for whoever reads a measurement later.
pub(crate) fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let processors = info.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "Linux {}, {processors} × {}",
        read("/proc/sys/kernel/osrelease").trim(),
        model.map_or("unknown processor", |(_, name)| name)
    )
}
