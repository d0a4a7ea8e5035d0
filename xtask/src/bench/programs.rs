//! What a run of each program for packets takes, as the kernel counts it while requests and responses pass, and what
//! all runs take that a connection from its first packet to its last needs.
//!
//! `BPF_PROG_TEST_RUN` would not do: it hands one packet to all its runs, and what the first has translated is no
//! packet of a Service to the second.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use kubeshunt_tests::protocol::{BenchSlice, Load};
use kubeshunt_tests::timing::Timing;

use super::packets::Stage;
use super::{Options, statistics};

/// What a time is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Per {
    Run,
    Connection,
}

/// Nanoseconds by program; none where it has not run.
#[derive(Debug, serde::Serialize)]
pub(super) struct Measured {
    per: Per,
    traffic: &'static str,
    nanoseconds: BTreeMap<&'static str, f64>,
}

/// Measures and prints: there is nothing to compare with, and no budget.
pub(super) fn run(stage: &Stage, options: &Options) -> Result<Vec<Measured>> {
    let mut all = measure(stage, options, Per::Run)?;
    all.extend(measure(stage, options, Per::Connection)?);
    let programs = stage.programs()?.map(|(name, _)| name);
    show(
        "Programs for packets: ns per run, with the kernel's readings of the clock",
        Per::Run,
        &programs,
        &all,
    );
    show("The same: ns per connection, all runs together", Per::Connection, &programs, &all);
    Ok(all)
}

fn measure(stage: &Stage, options: &Options, per: Per) -> Result<Vec<Measured>> {
    let (programs, timing) = (stage.programs()?, Timing::start()?);
    let mut all = Vec::new();
    for (traffic, client, to) in stage.traffic() {
        let load = match per {
            Per::Run => Load::RequestResponse { size: 1 },
            Per::Connection => Load::Connects { reset: true },
        };
        let slice = BenchSlice { to, mapped: false, for_ms: options.slice_ms, workers: 1, load };
        let mut nanoseconds = BTreeMap::<_, Vec<f64>>::new();
        for _ in 0..options.rounds {
            let before = programs.map(|(_, id)| timing.of(id));
            let report = client.bench(&slice)?;
            ensure!(report.errors.is_empty(), "{traffic}: {:?}", report.errors);
            for ((name, id), before) in programs.into_iter().zip(before) {
                let (before, after) = (before?, timing.of(id)?);
                // Neighbour discovery and the like run a program now and then.
                if after.count - before.count > report.count / 2 {
                    let time = (after.nanoseconds - before.nanoseconds) as f64;
                    let by = match per {
                        Per::Run => after.count - before.count,
                        Per::Connection => report.count,
                    };
                    nanoseconds.entry(name).or_default().push(time / by as f64);
                }
            }
        }
        let median = |(name, times): (_, Vec<f64>)| (name, statistics::median(&times));
        all.push(Measured { per, traffic, nanoseconds: nanoseconds.into_iter().map(median).collect() });
    }
    Ok(all)
}

fn show(title: &str, per: Per, programs: &[&'static str], all: &[Measured]) {
    println!("\n{}", console::style(title).bold());
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([""].iter().chain(programs));
    for measured in all.iter().filter(|measured| measured.per == per) {
        let cell =
            |name| measured.nanoseconds.get(name).map_or_else(String::new, |time| format!("{time:.0}"));
        let cells = programs.iter().map(cell);
        table.add_row([measured.traffic.to_owned()].into_iter().chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{}", table.trim_fmt());
}
