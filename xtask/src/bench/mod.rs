//! `bench`: what traffic costs with kubeshunt, beside the same traffic without it.
//!
//! Method: every figure is a ratio within one run. Short slices of every case follow each other in shuffled order,
//! round after round; each round compares a case with the base case of the same round, so that the machine's
//! drift (frequency, neighbours) falls out. The median of the rounds' ratios is reported with the interval in which
//! 95 % of bootstrap resamples lie. One slow round moves neither.
//!
//! Client and server have a processor each. What the hooks of sockets cost is measured on one node ([`sockets`]), what
//! the programs for packets cost on nodes with and without kubeshunt ([`packets`]).

mod measure;
mod packets;
mod programs;
mod sockets;
mod statistics;
mod table;

use std::borrow::Cow;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use kubeshunt_tests::process;

use self::measure::Comparison;
use crate::{build, facts, setup, workspace};

/// What is measured, and how thoroughly.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_enum, default_values_t = Subject::value_variants().to_vec())]
    subjects: Vec<Subject>,
    /// Rounds; fewer than 40 resolve nothing on a shared machine
    #[arg(long, default_value_t = 80)]
    rounds: usize,
    /// Length of a slice
    #[arg(long, default_value_t = 250)]
    slice_ms: u64,
    /// Services loaded on the second node of `connect` and `udp`
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Seed of the order of slices and of the resampling
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// From a pod to a ClusterIP, TCP: connect, one byte each way, close
    Connect,
    /// From a pod to a ClusterIP, UDP: a datagram each way from an unconnected socket
    Udp,
    /// From outside to a NodePort, TCP: connect, one byte each way, close
    Nodeport,
    /// From pod to pod, no Service: bytes of a stream, requests on a connection, connections
    Throughput,
    /// What a run of each program for packets takes, for information
    Program,
}

impl Subject {
    fn is_of_sockets(self) -> bool {
        matches!(self, Self::Connect | Self::Udp)
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
    process::prefer_programs_in(program.parent().context("programs lie in a folder")?);
    let mut run =
        Run { options, random: fastrand::Rng::with_seed(options.seed), kept: true, results: Vec::new() };
    let (of_sockets, of_packets): (Vec<Subject>, Vec<Subject>) =
        options.subjects.iter().copied().partition(|subject| subject.is_of_sockets());
    if !of_sockets.is_empty() {
        let stage = sockets::Stage::set_up(options.services)?;
        of_sockets.into_iter().try_for_each(|subject| run.compare(subject, stage.comparisons(subject)))?;
    }
    if !of_packets.is_empty() {
        let stage = packets::Stage::set_up()?;
        for subject in of_packets {
            if subject == Subject::Program {
                let measured = programs::run(&stage, options)?;
                run.results.push(serde_json::json!({ "subject": "Program", "cases": measured }));
            } else {
                run.compare(subject, stage.comparisons(subject))?;
            }
        }
    }
    run.write()?;
    Ok(run.kept)
}

/// Says what is being built.
fn spinner(message: impl Into<Cow<'static, str>>) -> Result<ProgressBar> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}")?);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.set_message(message);
    Ok(bar)
}

/// What a run has come to.
struct Run<'a> {
    options: &'a Options,
    random: fastrand::Rng,
    kept: bool,
    results: Vec<serde_json::Value>,
}

impl Run<'_> {
    fn compare(&mut self, subject: Subject, comparisons: Vec<Comparison<'_>>) -> Result<()> {
        for comparison in comparisons {
            let measured = comparison.measure(self.options, &mut self.random)?;
            self.kept &= table::show(&comparison, &measured);
            self.results.push(serde_json::json!({
                "subject": format!("{subject:?}"),
                "load": comparison.title,
                "unit": comparison.unit(),
                "cases": measured,
            }));
        }
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let Options { rounds, slice_ms, services, seed, .. } = self.options;
        let folder = workspace::root().join("target/bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = folder.join("results.json");
        let document = serde_json::json!({
            "machine": facts::machine(),
            "rounds": rounds,
            "slice_ms": slice_ms,
            "services": services,
            "seed": seed,
            "results": self.results,
        });
        fs::write(&file, serde_json::to_string_pretty(&document)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("\n{}; {rounds} rounds of {slice_ms} ms slices, seed {seed}", facts::machine());
        println!("written to {}", file.display());
        Ok(())
    }
}
