//! `kubeshunt completion`: completions of the command line, for a shell to read.

use std::io::Write as _;

use anyhow::Result;
use clap::CommandFactory as _;

use clap_complete::Shell;

use crate::settings::{CommandLine, Completion};

/// Prints them.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: Completion) -> Result<()> {
    let script = script(args.shell);
    // Whoever reads may stop reading (`| head`): that is no failure.
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "kubeshunt", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::settings::Line;

    #[test]
    fn each_shell_is_told_of_each_flag() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for flag in Line::of(["kube-proxy"]).command().get_arguments().filter_map(|flag| flag.get_long())
            {
                // In fish a flag's name stands without dashes.
                assert!(script.contains(flag), "{shell} does not know --{flag}");
            }
        }
    }
}
