//! The commands of the binary, one file each: arguments in, effects and text out.

pub mod check;
pub mod cleanup;
pub mod completion;
mod configuration_file;
pub mod exit;
pub mod flows;
pub mod man;
mod prepare;
pub mod run;
pub mod services;
mod source;
pub mod verify;

use std::io::IsTerminal as _;

use comfy_table::{ContentArrangement, Table, presets};

/// A table without borders that lines up; colours only on a terminal.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !std::io::stdout().is_terminal() {
        table.force_no_tty();
    }
    table.set_header(header);
    table
}

/// The table's lines, without blanks at their ends.
fn render(table: &Table) -> String {
    table.trim_fmt()
}
