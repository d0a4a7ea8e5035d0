//! `doctor`: one line per thing that is needed, with the verdict and the remedy.

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};

use crate::facts::{self, ApiServer, BpfRust};
use crate::kernels;

/// What a thing is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Building.
    Build,
    /// Running, and so every test with real sockets.
    Run,
    /// Only some rungs.
    Extra,
}

/// One line.
struct Finding {
    what: &'static str,
    need: Need,
    /// What was found, or what to do.
    result: Result<String, String>,
}

/// Prints the table; true when nothing needed is missing.
pub(crate) fn run() -> Result<bool> {
    let findings = findings();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["", "", "needed for", "found, or what to do"]);
    for finding in &findings {
        let need = match finding.need {
            Need::Build => "building",
            Need::Run => "running",
            Need::Extra => "some tests",
        };
        let (mark, text) = match &finding.result {
            Ok(found) => ("✓", found),
            Err(remedy) if finding.need == Need::Extra => ("-", remedy),
            Err(remedy) => ("✗", remedy),
        };
        table.add_row([mark, finding.what, need, text]);
    }
    println!("{table}");
    let lacking = findings.iter().filter(|finding| finding.result.is_err() && finding.need != Need::Extra);
    let lacking: Vec<_> = lacking.map(|finding| finding.what).collect();
    if lacking.is_empty() {
        println!("\nEverything that is needed is here. Go on with: cargo xtask demo");
    } else {
        println!("\nMissing: {}", lacking.join(", "));
    }
    Ok(lacking.is_empty())
}

fn found<T>(value: Option<T>, show: impl FnOnce(T) -> String, remedy: &str) -> Result<String, String> {
    value.map(show).ok_or_else(|| remedy.to_owned())
}

fn yes(value: bool, found: &str, remedy: &str) -> Result<String, String> {
    if value { Ok(found.to_owned()) } else { Err(remedy.to_owned()) }
}

fn findings() -> Vec<Finding> {
    let bpf_rust = BpfRust::find();
    let linker = facts::bpf_linker();
    let finding = |what, need, result| Finding { what, need, result };
    vec![
        finding(
            "rustc",
            Need::Build,
            found(facts::version("rustc", "--version"), |text| text, "install Rust with rustup"),
        ),
        finding(
            "rustc for BPF",
            Need::Build,
            found(
                bpf_rust,
                |which| match which {
                    BpfRust::Debian => "Debian's rustc-web with libstd-rust-web-dev-bpf".to_owned(),
                    BpfRust::Nightly => "rustup's nightly with rust-src".to_owned(),
                },
                "run: cargo xtask setup",
            ),
        ),
        finding(
            "bpf-linker",
            Need::Build,
            found(
                linker,
                |text| text,
                &format!("version {} is needed; run: cargo xtask setup", facts::BPF_LINKER),
            ),
        ),
        finding(
            "rustfmt and clippy",
            Need::Extra,
            yes(facts::has_lint_tools(), "beside cargo", "run: rustup component add rustfmt clippy"),
        ),
        finding("root", Need::Run, yes(facts::is_root(), "yes", "run as root (sudo -E cargo xtask …)")),
        finding(
            "kernel types (BTF)",
            Need::Run,
            yes(facts::kernel_btf(), "/sys/kernel/btf/vmlinux", "use a kernel with CONFIG_DEBUG_INFO_BTF=y"),
        ),
        finding(
            "cgroup v2",
            Need::Run,
            found(
                facts::cgroup2(),
                |path| path.display().to_string(),
                "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified",
            ),
        ),
        finding(
            "bpffs",
            Need::Run,
            yes(facts::bpffs(), "known to the kernel", "use a kernel with CONFIG_BPF_SYSCALL=y"),
        ),
        finding(
            "bpf()",
            Need::Run,
            facts::bpf_works().map(|()| "works".to_owned()).map_err(|why| {
                format!("{why}; run as root, in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN")
            }),
        ),
        finding(
            "API server",
            Need::Extra,
            found(
                ApiServer::find(),
                |which| match which {
                    ApiServer::Assets(folder) => format!("KUBEBUILDER_ASSETS={}", folder.display()),
                    ApiServer::Go(go) => format!("{} can build it", go.display()),
                },
                "install Go, or let KUBEBUILDER_ASSETS name a folder with kube-apiserver and etcd",
            ),
        ),
        finding(
            "crun",
            Need::Extra,
            found(facts::which("crun"), |path| path.display().to_string(), "run: cargo xtask setup"),
        ),
        finding(
            "QEMU",
            Need::Extra,
            found(
                facts::which(kernels::EMULATOR),
                |path| path.display().to_string(),
                "cargo xtask kernels installs it; by hand: apt-get install qemu-system-x86",
            ),
        ),
    ]
}
