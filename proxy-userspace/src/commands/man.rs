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
        command.clone().name(name.clone()).display_name(name).bin_name(typed)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Line;

    #[test]
    fn there_is_a_page_for_each_command_and_it_speaks_of_each_flag() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for command in CommandLine::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!("kubeshunt-{}.8", command.get_name());
            assert!(names.contains(&name.as_str()), "no {name} among {names:?}");
        }
        let text = |page: &str| {
            let found = pages.iter().find(|(name, _)| name == page).map(|(_, text)| text.clone());
            // Dashes are escaped, so that they stay dashes.
            String::from_utf8(found.unwrap()).unwrap().replace("\\-", "-")
        };
        let run = text("kubeshunt-run.8");
        for flag in Line::of(["kube-proxy"]).command().get_arguments().filter_map(|flag| flag.get_long()) {
            assert!(run.contains(&format!("--{flag}")), "no --{flag} in kubeshunt-run.8");
        }
        assert!(run.starts_with(".ie") && run.contains(".TH kubeshunt-run 8"), "{}", &run[..200]);
        assert!(text("kubeshunt.8").contains("kubeshunt-run(8)"));
        assert_eq!(pages, super::pages().unwrap(), "the same each time");
    }
}
