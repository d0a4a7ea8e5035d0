//! What runs in a machine: kubeshunt, the probes, and tests of the rungs that a kernel can make fail, all of it static.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{progress, workspace};

const TRIPLE: &str = "x86_64-unknown-linux-musl";
const PROGRAMS: [&str; 3] = ["kubeshunt", "kubeshunt-probe", "kubeshunt-guest"];

/// Tests of a rung.
#[derive(Debug)]
struct Rung {
    name: &'static str,
    /// The beginnings of their names; none for all.
    tests: &'static [&'static str],
    /// The kernel from which on they are run.
    since: (u32, u32),
}

const fn always(name: &'static str, tests: &'static [&'static str]) -> Rung {
    Rung { name, tests, since: (0, 0) }
}

/// What is run: of each rung what another kernel may do otherwise. An emulated machine is slow, so not all of it; what
/// measures or needs a newer kernel is left out, and `kernel` says which kernel has what.
const RUNGS: &[Rung] = &[
    always("kernel", &[]),
    always(
        "maps",
        &[
            "arrays::",
            "limits::a_grace_period_passes",
            "flows::arrivals_without_their_flow_go_and_others_stay",
        ],
    ),
    always("programs", &["translation::only_ends_and_checksums_of_a_packet_change"]),
    always(
        "sockets",
        &[
            "translation::unconnected_udp_is_answered_by_the_name_it_asked",
            "translation::getpeername_shows_the_service_and_getsockname_the_pod",
            "removed::a_connected_socket_is_woken_when_its_endpoint_is_removed_and_no_other_is",
        ],
    ),
    Rung {
        name: "sockets",
        tests: &["refusals::without_endpoints_sendto_is_refused_at_once"],
        since: (6, 1),
    },
    always("devices", &["filters::filters_are_put_replaced_and_removed"]),
    Rung { name: "devices", tests: &["life::a_restart_replaces_programs_within_their_links"], since: (6, 6) },
    always("packets", &["outside::remote_backends_see_an_address_of_the_node_that_was_asked::on_a_bridge"]),
];

/// Static programs.
#[derive(Debug)]
pub(super) struct Programs {
    /// Name in the machine, and where the file is.
    files: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Builds them, and takes out what only debuggers need.
    pub(super) fn build(folder: &Path) -> Result<Self> {
        let mut build = cargo();
        build.args(["build", "-p", "proxy-userspace", "-p", "kubeshunt-tests", "--bins", "--target", TRIPLE]);
        progress::quietly("build kubeshunt and the probes, static", &mut build)?;
        let built = workspace::target()?.join(TRIPLE).join("debug");
        let mut files: Vec<_> = PROGRAMS.iter().map(|name| ((*name).to_owned(), built.join(name))).collect();
        files.extend(tests()?);
        let slim = folder.join("programs");
        fs::create_dir_all(&slim).with_context(|| format!("cannot make {}", slim.display()))?;
        for (name, file) in &mut files {
            let to = slim.join(&*name);
            let status = Command::new("strip").arg("--strip-debug").arg("-o").arg(&to).arg(&*file).status();
            let status = status.context("cannot run strip, which comes with a C compiler")?;
            ensure!(status.success(), "strip fails at {}", file.display());
            *file = to;
        }
        Ok(Self { files })
    }

    /// Names and bytes.
    pub(super) fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let read = |(name, path): &(String, PathBuf)| {
            let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = if name == "kubeshunt-guest" { "init".to_owned() } else { format!("bin/{name}") };
            Ok((name, bytes))
        };
        self.files.iter().map(read).collect()
    }

    /// What is run in a kernel of that version, a command per line.
    pub(super) fn commands(&self, version: (u32, u32)) -> String {
        let rungs = RUNGS.iter().filter(|rung| rung.since <= version);
        rungs
            .map(|Rung { name, tests, .. }| format!("/bin/{name} --test-threads=1 {}\n", tests.join(" ")))
            .collect()
    }
}

/// Builds the tests; their names, and where cargo has put them.
fn tests() -> Result<Vec<(String, PathBuf)>> {
    let mut names: Vec<_> = RUNGS.iter().map(|rung| rung.name).collect();
    names.dedup();
    let build = |more: &[&str]| {
        let mut build = cargo();
        build.args(["test", "--no-run", "-p", "kubeshunt-tests", "--target", TRIPLE]).args(more);
        for name in &names {
            build.args(["--test", name]);
        }
        build
    };
    progress::quietly("build the tests, static", &mut build(&[]))?;
    let output = build(&["--message-format=json"]).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo does not say where the tests are: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let file = |message: &Value| -> Option<(String, PathBuf)> {
        Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
    };
    let tests: Vec<_> =
        messages.filter_map(|message| file(&message)).filter(|(name, _)| names.contains(&&**name)).collect();
    ensure!(tests.len() == names.len(), "cargo has built {tests:?}, and wanted are {names:?}");
    Ok(tests)
}

/// A cargo that links statically. The few C files in it include nothing of a libc: any compiler will do.
fn cargo() -> Command {
    let mut cargo = workspace::cargo();
    cargo
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER", "cc")
        .env("CC_x86_64_unknown_linux_musl", "cc");
    cargo
}
