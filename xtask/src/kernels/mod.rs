//! `kernels`: boots kernels of several ages in virtual machines, and runs in each what a kernel can make fail.
//!
//! The processor is emulated, so that it works in a machine without virtualisation; a kernel is up after some five
//! seconds. Everything that is fetched or made lies below cargo's target folder.
//!
//! - [`debian`]: fetches kernels, with lists and a state of apt's that are not this machine's;
//! - [`modules`]: which modules have to be loaded, in which order;
//! - [`initramfs`]: the file system a machine boots with;
//! - [`guest`]: what runs in it;
//! - [`machine`]: runs a machine, never for longer than it may take, and reads its console.

mod debian;
mod guest;
mod initramfs;
mod machine;
mod modules;

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use self::debian::LINES;
use self::guest::Programs;
pub(crate) use self::machine::EMULATOR;
use self::machine::Report;
use crate::test::Counts;
use crate::{progress, setup, workspace};

/// Which kernels.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Only these
    #[arg(value_name = "KERNEL", value_parser = LINES.map(|line| line.name))]
    kernels: Vec<String>,
}

/// Boots them; true when nothing failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let counts = counted(options)?;
    Ok(counts.failed == 0)
}

/// Boots them, and counts the tests.
pub(crate) fn counted(options: &Options) -> Result<Counts> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the kernels that are booted, and what runs in them, are for x86_64"
    );
    setup::run()?;
    setup::emulator()?;
    let folder = workspace::target()?.join("kernels");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let chosen = LINES
        .iter()
        .filter(|line| options.kernels.is_empty() || options.kernels.iter().any(|name| name == line.name));
    let archive = debian::Archive::open(&folder)?;
    let kernels = chosen.map(|line| Ok((line, archive.fetch(line)?))).collect::<Result<Vec<_>>>()?;
    let programs = Programs::build(&folder)?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["kernel", "release", "passed", "failed", "seconds", ""]);
    let mut total = Counts::default();
    for (line, kernel) in &kernels {
        println!("\n── {} ({})", line.name, kernel.release);
        let begin = Instant::now();
        let initramfs = folder.join(format!("{}.cpio", line.name));
        initramfs::write(&initramfs, kernel, &programs, line.version)?;
        let console = folder.join(format!("{}.log", line.name));
        let Report { counts, fault } = machine::run(kernel, &initramfs, &console)?;
        let note = fault.map_or_else(String::new, |fault| format!("{fault}; see {}", console.display()));
        if counts.failed > 0 {
            println!("{}\n  the console: {}", progress::tail(&console), console.display());
        }
        let numbers = [counts.passed, counts.failed].map(|number| number.to_string());
        let [passed, failed] = &numbers;
        let seconds = format!("{:.1}", begin.elapsed().as_secs_f64());
        table.add_row([line.name, &kernel.release, passed, failed, &seconds, &note]);
        total.add(counts);
    }
    for column in 2..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("\n{table}");
    Ok(total)
}
