//! `bench`: what a connection through kubeshunt costs, beside the same connection without it.
//!
//! Method: every figure is a ratio within one run. Short slices of every case follow each other in shuffled order,
//! round after round; each round compares a case with the direct one of the same round, so that the machine's
//! drift (frequency, neighbours) falls out. The median of the rounds' ratios is reported with the interval in which
//! 95 % of bootstrap resamples lie. One slow round moves neither.
//!
//! Client and server have a processor each. "Direct" goes to the backend's own address from a process that no
//! hook sees; "hooks only" does so from a process that the hooks see and leave alone.

mod stage;
mod statistics;

use std::fs;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use kubeshunt_tests::protocol::{BenchSlice, Load, SliceReport};

use self::stage::Stage;
use self::statistics::Ratio;
use crate::{build, facts, setup, workspace};

/// What is measured, and how thoroughly.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_enum, default_values_t = [Subject::Connect, Subject::Udp])]
    subjects: Vec<Subject>,
    /// Rounds; fewer than 40 resolve nothing on a shared machine
    #[arg(long, default_value_t = 80)]
    rounds: usize,
    /// Length of a slice
    #[arg(long, default_value_t = 250)]
    slice_ms: u64,
    /// Services loaded on the second node
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Seed of the order of slices and of the resampling
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// TCP: connect, one byte each way, close
    Connect,
    /// UDP: a datagram each way from an unconnected socket
    Udp,
}

impl Subject {
    fn load(self) -> Load {
        match self {
            Self::Connect => Load::Connects { reset: true },
            Self::Udp => Load::Datagrams { size: 64, connected: false },
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Connect => "TCP connections: connect, one byte each way, close",
            Self::Udp => "UDP datagrams: one each way, from an unconnected socket",
        }
    }

    /// What the project holds itself to, as a ratio to direct access.
    fn budget(self) -> f64 {
        match self {
            Self::Connect => 0.97,
            Self::Udp => 0.95,
        }
    }
}

/// Measures; true when every budget was kept.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if !facts::is_root() {
        bail!(
            "the benchmark makes network namespaces and loads BPF programs; run: sudo -E cargo xtask bench"
        );
    }
    setup::run()?;
    build::release()?;
    let program = workspace::built("release", "kubeshunt")?;
    let mut random = fastrand::Rng::with_seed(options.seed);
    let stage = Stage::set_up(program.parent().context("programs lie in a folder")?, options.services)?;
    let mut kept = true;
    let mut results = Vec::new();
    for subject in &options.subjects {
        let measured = measure(&stage, *subject, options, &mut random)?;
        kept &= show(*subject, &measured);
        results.push(serde_json::json!({ "subject": format!("{subject:?}"), "cases": measured }));
    }
    let folder = workspace::root().join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("results.json");
    let document = serde_json::json!({
        "machine": facts::machine(),
        "rounds": options.rounds,
        "slice_ms": options.slice_ms,
        "services": options.services,
        "seed": options.seed,
        "results": results,
    });
    fs::write(&file, serde_json::to_string_pretty(&document)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!(
        "\n{}; {} rounds of {} ms slices, seed {}",
        facts::machine(),
        options.rounds,
        options.slice_ms,
        options.seed
    );
    println!("written to {}", file.display());
    Ok(kept)
}

/// What a case gave over all rounds.
#[derive(Debug, serde::Serialize)]
struct Measured {
    case: &'static str,
    /// Repetitions per second, median of rounds.
    rate: f64,
    /// Microseconds: of connect() for TCP, of a whole exchange for UDP.
    p50: f64,
    p99: f64,
    /// To the direct case of the same node; absent for that case itself.
    ratio: Option<Ratio>,
    failures: u64,
}

fn measure(
    stage: &Stage,
    subject: Subject,
    options: &Options,
    random: &mut fastrand::Rng,
) -> Result<Vec<Measured>> {
    let cases = stage.cases(subject == Subject::Udp);
    let mut reports: Vec<Vec<SliceReport>> = cases.iter().map(|_| Vec::new()).collect();
    let bar = ProgressBar::new((options.rounds * cases.len()) as u64);
    bar.set_style(ProgressStyle::with_template("  {bar:40} {pos}/{len} slices, {eta} left")?);
    let mut order: Vec<usize> = (0..cases.len()).collect();
    for _ in 0..options.rounds {
        random.shuffle(&mut order);
        for &index in &order {
            let case = &cases[index];
            let slice = BenchSlice {
                to: case.to,
                mapped: false,
                for_ms: options.slice_ms,
                workers: 1,
                load: subject.load(),
            };
            reports[index].push(case.client.bench(&slice)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    let rates: Vec<Vec<f64>> = reports.iter().map(|rounds| rounds.iter().map(rate).collect()).collect();
    let mut measured = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let latency = reports[index].iter().map(|report| match subject {
            Subject::Connect => &report.connect,
            Subject::Udp => &report.whole,
        });
        let latency = kubeshunt_tests::probe::merge(latency);
        let ratio = case.beside.map(|direct| Ratio::of(&rates[index], &rates[direct], random));
        measured.push(Measured {
            case: case.name,
            rate: statistics::median(&rates[index]),
            p50: micros(latency.p50),
            p99: micros(latency.p99),
            ratio,
            failures: reports[index].iter().flat_map(|report| report.errors.values()).sum(),
        });
    }
    Ok(measured)
}

#[expect(clippy::cast_precision_loss, reason = "counts and times far below 2^52")]
fn rate(report: &SliceReport) -> f64 {
    report.count as f64 * 1e9 / report.elapsed_ns as f64
}

#[expect(clippy::cast_precision_loss, reason = "times far below 2^52 nanoseconds")]
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// Prints the table; true when the budget was kept by every case through a Service.
fn show(subject: Subject, measured: &[Measured]) -> bool {
    println!("\n{}", console::style(subject.title()).bold());
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "per second", "p50 µs", "p99 µs", "of direct", "95 % interval", "budget"]);
    let mut kept = true;
    for case in measured {
        let (ratio, interval, verdict) = match &case.ratio {
            None => (String::new(), String::new(), String::new()),
            Some(ratio) => {
                let within = ratio.median >= subject.budget();
                kept &= within;
                let verdict = format!("≥ {:.2} {}", subject.budget(), if within { "✓" } else { "✗" });
                (format!("{:.3}", ratio.median), format!("{:.3} to {:.3}", ratio.low, ratio.high), verdict)
            }
        };
        let failures = if case.failures == 0 { String::new() } else { format!(", {} FAILED", case.failures) };
        table.add_row([
            format!("{}{failures}", case.case),
            format!("{:.0}", case.rate),
            format!("{:.1}", case.p50),
            format!("{:.1}", case.p99),
            ratio,
            interval,
            verdict,
        ]);
        kept &= case.failures == 0;
    }
    for column in 1..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{}", table.trim_fmt());
    kept
}
