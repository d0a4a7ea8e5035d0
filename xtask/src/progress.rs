//! Long steps that would scroll by: one line while they run, their output only when they fail.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How much of the output a failure shows.
const TAIL: usize = 40;

/// Runs a command under a label, and says how long it took.
///
/// # Errors
/// When it cannot be run or fails; the end of its output has been printed then.
pub(crate) fn quietly(label: &str, command: &mut Command) -> Result<()> {
    let begin = Instant::now();
    let mut output = tempfile::tempfile().context("cannot make a temporary file")?;
    let copy = |file: &File| file.try_clone().context("cannot duplicate a descriptor");
    command.stdin(Stdio::null()).stdout(copy(&output)?).stderr(copy(&output)?);
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}").context("a template")?;
    bar.set_style(style);
    bar.set_message(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    if !std::io::stderr().is_terminal() {
        println!("  … {label}");
    }
    let status = command.status().with_context(|| format!("cannot run {command:?}"));
    bar.finish_and_clear();
    let status = status?;
    if !status.success() {
        output.seek(SeekFrom::Start(0)).context("cannot read the output")?;
        let mut text = Vec::new();
        output.read_to_end(&mut text).context("cannot read the output")?;
        eprintln!("{}", end_of(&String::from_utf8_lossy(&text)));
        bail!("{label}: {command:?} failed ({status}); the end of its output is above");
    }
    println!("  ✓ {label} ({:.1} s)", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The end of a file, indented.
pub(crate) fn tail(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_else(|error| error.to_string().into_bytes());
    end_of(&String::from_utf8_lossy(&bytes))
}

fn end_of(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    format!("    {}", lines[lines.len().saturating_sub(TAIL)..].join("\n    "))
}

/// Is `file` there, and not empty?
pub(crate) fn has_content(file: &str) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0)
}
