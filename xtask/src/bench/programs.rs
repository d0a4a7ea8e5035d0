//! What a run of each program for packets takes, as the kernel counts it while requests and responses pass.
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

/// Nanoseconds of a run, by program; none where it has not run.
#[derive(Debug, serde::Serialize)]
pub(super) struct Measured {
    traffic: &'static str,
    nanoseconds: BTreeMap<&'static str, f64>,
}

/// Measures and prints: there is nothing to compare with, and no budget.
pub(super) fn run(stage: &Stage, options: &Options) -> Result<Vec<Measured>> {
    let (programs, timing) = (stage.programs()?, Timing::start()?);
    let mut all = Vec::new();
    for (traffic, client, to) in stage.traffic() {
        let load = Load::RequestResponse { size: 1 };
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
                    nanoseconds.entry(name).or_default().push(time / (after.count - before.count) as f64);
                }
            }
        }
        let median = |(name, times): (_, Vec<f64>)| (name, statistics::median(&times));
        all.push(Measured { traffic, nanoseconds: nanoseconds.into_iter().map(median).collect() });
    }
    show(&programs.map(|(name, _)| name), &all);
    Ok(all)
}

fn show(programs: &[&'static str], all: &[Measured]) {
    println!(
        "\n{}",
        console::style("Programs for packets: ns per run, with the kernel's readings of the clock").bold()
    );
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([""].iter().chain(programs));
    for measured in all {
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
