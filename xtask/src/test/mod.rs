//! `test`: runs the rungs and adds them up.
//!
//! Invariants: a rung that cannot run says why and counts as skipped, never as passed; a rung that
//! ran no test has failed.

mod libtest;
mod rungs;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

pub(crate) use self::libtest::Counts;
use self::rungs::{How, RUNGS, Rung};
use crate::facts::{self, ApiServer};
use crate::{image, kernels, progress, setup, tidy, workspace};

/// What is run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only what needs no root
    #[arg(long)]
    unprivileged: bool,
    /// Only these rungs
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = rung_names())]
    rung: Vec<String>,
}

fn rung_names() -> clap::builder::PossibleValuesParser {
    RUNGS
        .iter()
        .map(|rung| clap::builder::PossibleValue::new(rung.name).help(rung.why))
        .collect::<Vec<_>>()
        .into()
}

/// What became of a rung.
struct Outcome {
    rung: &'static Rung,
    counts: Counts,
    seconds: f64,
    note: String,
}

/// Runs the rungs; true when none failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let wanted = |rung: &&Rung| {
        let is_usual = options.rung.is_empty() && rung.how != How::Kernels;
        is_usual || options.rung.iter().any(|name| name == rung.name)
    };
    let rungs: Vec<&'static Rung> = RUNGS.iter().filter(wanted).collect();
    println!("Preparing");
    setup::run()?;
    setup::lint_tools()?;
    let mut outcomes = Vec::new();
    let mut built = false;
    for rung in rungs {
        println!("\n── {}: {}", rung.name, rung.why);
        let begin = Instant::now();
        let (counts, note) = if let Some(reason) = obstacle(rung, options.unprivileged) {
            println!("skipped: {reason}");
            (Counts { skipped: 1, ..Counts::default() }, reason)
        } else {
            match carry_out(rung, &mut built) {
                Ok(counts) if counts.passed + counts.failed == 0 => {
                    (Counts { failed: 1, ..counts }, "ran no test".to_owned())
                }
                Ok(counts) => (counts, String::new()),
                Err((counts, error)) => {
                    println!("failed: {error:#}");
                    (Counts { failed: counts.failed.max(1), ..counts }, format!("{error:#}"))
                }
            }
        };
        outcomes.push(Outcome { rung, counts, seconds: begin.elapsed().as_secs_f64(), note });
    }
    Ok(summary(&outcomes))
}

/// Why a rung cannot run here, if so.
fn obstacle(rung: &Rung, unprivileged: bool) -> Option<String> {
    if rung.root && unprivileged {
        return Some("needs root, and --unprivileged was given".to_owned());
    }
    if rung.root && !facts::is_root() {
        return Some("needs root".to_owned());
    }
    if rung.root
        && let Err(why) = facts::bpf_works()
    {
        return Some(format!("bpf() does not work: {why}"));
    }
    match ApiServer::find() {
        None if rung.apiserver => {
            return Some("needs KUBEBUILDER_ASSETS, or Go to build kube-apiserver".to_owned());
        }
        Some(ApiServer::Assets(folder)) if rung.kube_proxy && !folder.join("kube-proxy").is_file() => {
            return Some(format!("needs a kube-proxy in KUBEBUILDER_ASSETS={}", folder.display()));
        }
        _ => {}
    }
    if rung.kube_proxy
        && let Err(why) = setup::packet_filter_tools()
    {
        return Some(format!("needs nft and iptables: {why:#}"));
    }
    if rung.image
        && let Err(error) = setup::container_tools()
    {
        return Some(format!("needs crun: {error:#}"));
    }
    None
}

type Failed = (Counts, anyhow::Error);

fn carry_out(rung: &Rung, built: &mut bool) -> Result<Counts, Failed> {
    let nothing = |error| (Counts::default(), error);
    match rung.how {
        How::Tidy => tidy::run().map_err(nothing),
        How::Kernels => kernels::counted(&kernels::Options::default()).map_err(nothing),
        How::Cargo(arguments) => cargo_test(arguments, &[]),
        How::Target { name, alone } => {
            if rung.later {
                build_later().map_err(nothing)?;
                *built = false;
            }
            if !*built {
                let mut command = workspace::cargo();
                command.args(["build", "-p", "proxy-userspace", "-p", "kubeshunt-tests"]);
                progress::quietly("build kubeshunt and the probes", &mut command).map_err(nothing)?;
                *built = true;
            }
            if rung.image {
                image::run(&image::Options::default()).map_err(nothing)?;
            }
            let arguments = ["-p", "kubeshunt-tests", "--test", name];
            cargo_test(&arguments, if alone { &["--test-threads=1"] } else { &[] })
        }
    }
}

/// Builds kubeshunt as a later version might be, and puts it where the build of this one does not replace it.
fn build_later() -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["build", "-p", "proxy-userspace", "--features", "later-layout"]);
    progress::quietly("build kubeshunt with another layout", &mut command)?;
    let later = later()?;
    let folder = later.parent().context("a file is in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    std::fs::copy(workspace::built("debug", "kubeshunt")?, &later)
        .with_context(|| format!("cannot write {}", later.display()))?;
    Ok(())
}

/// Where that build lies.
fn later() -> Result<PathBuf> {
    workspace::built("later", "kubeshunt")
}

/// Runs cargo test, passing its output on, and counts.
fn cargo_test(arguments: &[&str], harness: &[&str]) -> Result<Counts, Failed> {
    let mut counts = Counts::default();
    let mut watch = || -> Result<()> {
        let mut command = workspace::cargo();
        command.args(["test", "--no-fail-fast"]).args(arguments).arg("--").args(harness);
        command.env("KUBESHUNT_BIN", workspace::built("debug", "kubeshunt")?);
        command.env("KUBESHUNT_LATER_BIN", later()?);
        command.env("KUBESHUNT_IMAGE", image::default_output()?);
        let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("cannot read what cargo prints")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if let Some(more) = Counts::of_line(&line) {
                counts.add(more);
            }
        }
        let status = child.wait().context("cannot wait for cargo")?;
        if !status.success() {
            bail!("cargo test {}: {status}", arguments.join(" "));
        }
        Ok(())
    };
    match watch() {
        Ok(()) => Ok(counts),
        Err(error) => Err((counts, error)),
    }
}

/// Prints the table and the total; true when nothing failed.
fn summary(outcomes: &[Outcome]) -> bool {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["rung", "passed", "failed", "skipped", "seconds", ""]);
    let mut total = Counts::default();
    for Outcome { rung, counts, seconds, note } in outcomes {
        total.add(*counts);
        let numbers = [counts.passed, counts.failed, counts.skipped].map(|number| number.to_string());
        let [passed, failed, skipped] = &numbers;
        table.add_row([rung.name, passed, failed, skipped, &format!("{seconds:.1}"), note]);
    }
    for column in 1..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("\n{table}\n");
    println!("total: {} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    total.failed == 0
}
