//! What was measured, for reading.

use comfy_table::{CellAlignment, Table, presets};

use super::measure::{Comparison, Measured};

/// Prints the table; true when every budget was kept and nothing failed.
pub(super) fn show(comparison: &Comparison<'_>, measured: &[Measured]) -> bool {
    println!("\n{}", console::style(comparison.title).bold());
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let latency = |text: &'static str| if comparison.is_stream() { "" } else { text };
    let (p50, p99) = (latency("p50 µs"), latency("p99 µs"));
    table.set_header(["", comparison.unit(), p50, p99, "ratio", "95 % interval", "budget"]);
    let digits = usize::from(comparison.is_stream());
    let mut kept = true;
    for case in measured {
        let within = case.ratio.zip(case.budget).map(|(ratio, budget)| (budget, ratio.median >= budget));
        kept &= within.is_none_or(|(_, within)| within) && case.failures == 0;
        let failures = if case.failures == 0 { String::new() } else { format!(", {} FAILED", case.failures) };
        let micros =
            |micros: f64| if comparison.is_stream() { String::new() } else { format!("{micros:.1}") };
        let verdict = |(budget, within)| format!("≥ {budget:.2} {}", if within { "✓" } else { "✗" });
        table.add_row([
            format!("{}{failures}", case.case),
            format!("{:.digits$}", case.rate),
            micros(case.p50),
            micros(case.p99),
            case.ratio.map_or_else(String::new, |ratio| format!("{:.3}", ratio.median)),
            case.ratio.map_or_else(String::new, |ratio| format!("{:.3} to {:.3}", ratio.low, ratio.high)),
            within.map_or_else(String::new, verdict),
        ]);
    }
    for column in 1..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{}", table.trim_fmt());
    kept
}
