//! A machine: QEMU with an emulated processor, no disk, no network, and a console that is read.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::debian::Kernel;
use crate::test::Counts;

/// The emulator.
pub(crate) const EMULATOR: &str = "qemu-system-x86_64";
/// For how long a machine may run.
const LONGEST: Duration = Duration::from_secs(600);
/// What the guest tells us begins with this.
const MARK: &str = "kubeshunt-guest:";

/// What came of a machine.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Its tests; at least one has failed where there is a fault.
    pub(super) counts: Counts,
    /// What went wrong beside tests.
    pub(super) fault: Option<String>,
}

/// Boots, prints what tests say, keeps the console in a file.
pub(super) fn run(kernel: &Kernel, initramfs: &Path, console: &Path) -> Result<Report> {
    let mut machine = Machine(boot(kernel, initramfs)?);
    let mut log = File::create(console).with_context(|| format!("cannot write {}", console.display()))?;
    let stdout = machine.0.stdout.take().context("stdout is piped")?;
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + LONGEST;
    let mut reading = Reading::default();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(log, "{line}").context("cannot write the console's log")?;
                reading.take(&line, &kernel.release);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(reading.end(None)),
            Err(RecvTimeoutError::Timeout) => {
                return Ok(reading.end(Some(format!("it has not ended after {} s", LONGEST.as_secs()))));
            }
        }
    }
}

/// Dropped, it is switched off.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot(kernel: &Kernel, initramfs: &Path) -> Result<Child> {
    let mut command = Command::new(EMULATOR);
    command
        .args(["-accel", "tcg", "-cpu", kernel.cpu, "-smp", "1", "-m", "2048", "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        // A panic is an end. On a busy machine the emulated timer may be late, which is no reason to stop.
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off random.trust_cpu=on"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    // SAFETY: prctl is a plain system call.
    unsafe {
        command.pre_exec(|| {
            // However this program ends, also by Ctrl-C.
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            Ok(())
        });
    }
    command.spawn().with_context(|| format!("cannot run {EMULATOR}"))
}

/// What has been read from the console.
#[derive(Default)]
struct Reading {
    report: Report,
    /// The command that runs, and whether it has counted its tests.
    command: Option<(String, bool)>,
    has_ended: bool,
}

impl Reading {
    fn take(&mut self, line: &str, release: &str) {
        if let Some(said) = line.strip_prefix(MARK) {
            let (word, rest) = said.trim().split_once(' ').unwrap_or((said.trim(), ""));
            match word {
                "release" if rest != release => self.fault(&format!("it runs {rest} instead of {release}")),
                "begin" => self.command = Some((rest.to_owned(), false)),
                "done" => self.done(rest == "well"),
                "end" => self.has_ended = true,
                "broken" => self.fault(rest),
                _ => {}
            }
            return;
        }
        if let Some(counts) = Counts::of_line(line) {
            let Some((command, has_counted)) = &mut self.command else { return };
            *has_counted = true;
            if counts.passed + counts.failed == 0 {
                let fault = format!("no test was run by: {command}");
                self.fault(&fault);
            }
            self.report.counts.add(counts);
        }
        // What tests say; what the kernel says is in the log.
        if self.command.is_some() && !line.is_empty() && !line.starts_with('[') {
            println!("  {line}");
        }
    }

    fn done(&mut self, well: bool) {
        if let Some((command, has_counted)) = self.command.take()
            && (!has_counted || !well && self.report.counts.failed == 0)
        {
            self.fault(&format!("failed without a result: {command}"));
        }
    }

    fn fault(&mut self, what: &str) {
        self.report.counts.failed += 1;
        self.report.fault.get_or_insert_with(|| what.to_owned());
    }

    fn end(mut self, why: Option<String>) -> Report {
        if let Some(why) = why {
            self.fault(&why);
        } else if !self.has_ended {
            self.fault("it ended before all was run");
        }
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::{Reading, Report};

    fn read(lines: &[&str]) -> Report {
        let mut reading = Reading::default();
        lines.iter().for_each(|line| reading.take(line, "6.1.0"));
        reading.end(None)
    }

    const GOOD: [&str; 5] = [
        "kubeshunt-guest: release 6.1.0",
        "kubeshunt-guest: begin /bin/maps",
        "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 3.52s",
        "kubeshunt-guest: done well",
        "kubeshunt-guest: end",
    ];

    #[test]
    fn tests_are_counted() {
        let report = read(&GOOD);
        assert_eq!((report.counts.passed, report.counts.failed), (4, 0));
        assert_eq!(report.fault, None);
    }

    #[test]
    fn whatever_is_missing_is_a_fault() {
        for missing in [2, 4] {
            let mut lines = GOOD.to_vec();
            lines.remove(missing);
            let report = read(&lines);
            assert!(report.counts.failed > 0 && report.fault.is_some(), "without line {missing}: {report:?}");
        }
        assert!(read(&["Kernel panic - not syncing"]).fault.is_some());
    }

    #[test]
    fn another_kernel_is_a_fault() {
        assert!(read(&["kubeshunt-guest: release 5.10.0", "kubeshunt-guest: end"]).fault.is_some());
    }
}
