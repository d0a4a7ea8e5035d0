//! `kubeshunt man`: the man pages, made of what `--help` says.

use std::fs;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use crate::settings::{CommandLine, Man};

/// Writes a page for the program and one for each of its commands.
///
/// # Errors
/// When the folder cannot be written.
pub fn run(args: &Man) -> Result<()> {
    fs::create_dir_all(&args.folder).with_context(|| format!("cannot create {}", args.folder.display()))?;
    for (name, page) in pages()? {
        let file = args.folder.join(name);
        fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The pages: names of files, and what is in them.
///
/// # Errors
/// When a page cannot be made.
pub fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut program = CommandLine::command().disable_help_subcommand(true);
    program.build();
    let shown = program.get_subcommands().filter(|command| !command.is_hide_set());
    let commands = shown.map(|command| {
        let name = format!("kubeshunt-{}", command.get_name());
        // A page is called as the command is, and shows it as it is typed.
        let typed = format!("kubeshunt {}", command.get_name());
        command.clone().name(name).bin_name(typed)
    });
    std::iter::once(program.clone()).chain(commands).map(page).collect()
}

fn page(command: clap::Command) -> Result<(String, Vec<u8>)> {
    let name = format!("{}.8", command.get_name());
    let mut page = Vec::new();
    // Without a date: the same program has the same pages.
    clap_mangen::Man::new(command)
        .section("8")
        .date("")
        .render(&mut page)
        .with_context(|| format!("cannot make {name}"))?;
    Ok((name, page))
}
