//! What the demo prints: aligned, short, coloured only on a terminal.

use std::collections::BTreeMap;
use std::fmt::Display;

use console::style;

/// The width of a full bar.
const BAR: u64 = 30;

/// Where the demo prints; remembers whether everything came as promised.
#[derive(Debug, Default)]
pub(super) struct Screen {
    step: u32,
    promises: u32,
    broken: u32,
}

impl Screen {
    /// The headline.
    pub(super) fn title(&self, text: &str, explanation: &str) {
        println!("\n{}\n{explanation}", style(text).bold());
    }

    /// Begins a step.
    pub(super) fn step(&mut self, text: &str) {
        self.step += 1;
        println!("\n{:>2}  {}", style(self.step).cyan().bold(), style(text).bold());
    }

    /// A value with a label.
    pub(super) fn line(&self, label: &str, text: impl Display) {
        println!("      {label:<30} {text}");
    }

    /// A bar for each server.
    pub(super) fn bars(&self, label: &str, answered: &BTreeMap<String, u64>) {
        let total: u64 = answered.values().sum();
        let bar = |count: u64| {
            let width = (count * BAR).checked_div(total).unwrap_or(0);
            "█".repeat(usize::try_from(width).unwrap_or(0))
        };
        let bars: Vec<_> = answered
            .iter()
            .map(|(server, count)| format!("{server} {} {count}", style(bar(*count)).cyan()))
            .collect();
        self.line(label, bars.join("   "));
    }

    /// Something that was promised; and whether it came true.
    pub(super) fn promise(&mut self, kept: bool, text: impl Display) {
        self.promises += 1;
        let text = text.to_string();
        let text = text.trim_end();
        if kept {
            println!("    {} {text}", style("✓").green().bold());
        } else {
            self.broken += 1;
            println!("    {} {text}", style("✗").red().bold());
        }
    }

    /// A remark.
    pub(super) fn remark(&self, text: impl Display) {
        println!("      {}", style(text).dim());
    }

    /// A command to paste.
    pub(super) fn command(&self, explanation: &str, command: &str) {
        println!("  {}\n    {command}", style(format!("# {explanation}")).dim());
    }

    /// The last line; true when all promises were kept.
    pub(super) fn verdict(&self) -> bool {
        let Self { promises, broken, .. } = self;
        if *broken == 0 {
            println!(
                "\n{} everything came as promised ({promises} of {promises})",
                style("✓").green().bold()
            );
        } else {
            println!("\n{} {broken} of {promises} promises were not kept", style("✗").red().bold());
        }
        *broken == 0
    }
}

/// Nanoseconds as microseconds with one digit.
pub(super) fn micros(nanos: u64) -> String {
    format!("{}.{} µs", nanos / 1000, nanos % 1000 / 100)
}

/// Nanoseconds as milliseconds with one digit.
pub(super) fn millis(nanos: u64) -> String {
    format!("{}.{} ms", nanos / 1_000_000, nanos % 1_000_000 / 100_000)
}
