//! The binary `kubeshunt`.
//!
//! Exit codes: 0 done; 1 failed, with the reason on standard error; 2 the command line makes no sense.

use std::process::ExitCode;

use clap::Parser as _;
use proxy_userspace::{
    commands,
    settings::{Command, CommandLine},
};

fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Run(args) => commands::run::run(&args).map(|()| true),
        Command::Services(args) => commands::services::run(&args).map(|()| true),
        Command::Flows(args) => commands::flows::run(&args).map(|()| true),
        Command::Check(args) => commands::check::run(&args),
        Command::Cleanup(args) => commands::cleanup::run(&args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kubeshunt: {error:#}");
            ExitCode::FAILURE
        }
    }
}
