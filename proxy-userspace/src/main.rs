//! The binary `kubeshunt`. Under the name `kube-proxy` it is `kubeshunt run`.
//!
//! What it ends with is [`proxy_userspace::settings::EXIT_CODES`].

use std::process::ExitCode;

use anyhow::Result;
use proxy_userspace::{
    commands::{self, exit},
    settings::{Command, Line, Settings},
};

fn main() -> ExitCode {
    let line = Line::of(std::env::args_os());
    match run(&line) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kubeshunt: {error:#}");
            exit::code(&error)
        }
    }
}

fn run(line: &Line) -> Result<ExitCode> {
    let (command, said) = line.parse().unwrap_or_else(|error| error.exit());
    match command {
        Command::Run(run) => commands::run::run(&Settings::load(line, *run, &said)?)?,
        Command::Services(args) => commands::services::run(&args)?,
        Command::Flows(args) => commands::flows::run(&args)?,
        Command::Check(args) if !commands::check::run(&args)? => return Ok(ExitCode::FAILURE),
        Command::Check(_) => {}
        Command::Verify(args) => {
            let settings = Settings::load(line, args.run, &said)?;
            if !commands::verify::run(&settings, args.output)? {
                return Ok(exit::different());
            }
        }
        Command::Cleanup(args) => commands::cleanup::run(&args)?,
        Command::Completion(args) => commands::completion::run(args)?,
        Command::Man(args) => commands::man::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
