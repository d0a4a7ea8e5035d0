//! `kubeshunt completion`: completions of the command line, for a shell to read.

use std::io::Write as _;

use anyhow::Result;
use clap::CommandFactory as _;

use crate::settings::{CommandLine, Completion};

/// Prints them.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: Completion) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut CommandLine::command(), "kubeshunt", &mut script);
    // Whoever reads may stop reading (`| head`): that is no failure.
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
