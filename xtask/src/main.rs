//! kubeshunt's commands for developers and newcomers: `cargo xtask demo` shows it at work, `test`
//! proves it, `doctor` says what this machine lacks, `setup` installs that.

mod bench;
mod build;
mod demo;
mod doctor;
mod facts;
mod image;
mod kernels;
mod progress;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show kubeshunt at work in a small cluster on this machine (needs root, cleans up after itself)
    Demo(demo::Options),
    /// Run the tests, rung by rung, from pure logic to real packets
    Test(test::Options),
    /// Measure what traffic costs, as a ratio to direct access (needs root)
    Bench(bench::Options),
    /// Build the program, optimised
    Build,
    /// Make a container image of the program, static, and the same bytes each time
    Image(image::Options),
    /// Boot kernels from 5.10 on in emulated machines, and run in each what a kernel can make fail
    Kernels(kernels::Options),
    /// Install what building and testing need
    Setup,
    /// Say what this machine has and lacks
    Doctor,
}

/// For what only some tests need: said, and gone on.
fn told(error: anyhow::Error) -> anyhow::Result<()> {
    println!("  - {error:#}");
    Ok(())
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Build => setup::run().and_then(|()| build::release()).map(|()| true),
        Command::Image(options) => image::run(&options).map(|()| true),
        Command::Kernels(options) => kernels::run(&options),
        Command::Setup => setup::run()
            .and_then(|()| setup::lint_tools())
            .and_then(|()| setup::container_tools().or_else(told))
            .and_then(|()| setup::packet_filter_tools().or_else(told))
            .map(|()| true),
        Command::Doctor => doctor::run(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
