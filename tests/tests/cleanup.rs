//! Everything of ours goes, and nothing of others': `kubeshunt cleanup`, and the end of a whole testbed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use kubeshunt_tests::foreign::Foreign;
use kubeshunt_tests::inspect::{self, Thing};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{PATIENCE, Stage, at4, at6};
use kubeshunt_tests::{Estate, bpffs, probe, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The kernel frees programs and maps after a grace period, on a busy machine after several seconds.
const FREED: Duration = Duration::from_secs(60);

/// Waits until the kernel has none of these any more.
fn wait_freed(things: &BTreeSet<Thing>) -> Result<()> {
    let mut left = things.clone();
    let freed = wait::until_true("programs, maps and links are freed", FREED, || {
        let mut still = BTreeSet::new();
        for thing in &left {
            if thing.exists()? {
                still.insert(*thing);
            }
        }
        left = still;
        Ok(left.is_empty())
    });
    freed.with_context(|| format!("{left:?} are left of {things:?}"))
}

/// Wants connections to the Service to get nowhere: translated they would be answered.
fn assert_untranslated(stage: &Stage) -> Result<()> {
    for to in [at4(1), at6(1)] {
        for target in [Target::tcp(to), Target::udp_connected(to), Target::udp(to)] {
            let report = stage.ask(&target.timeout_ms(100), 1)?;
            assert_eq!(report.successes(), 0, "{to} is still translated: {report:?}");
        }
    }
    Ok(())
}

fn cleanup(stage: &Stage) -> Result<(bool, String)> {
    let output = stage.kubeshunt().command(&["cleanup"])?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// A stage whose kubeshunt has served and was stopped, and what it left.
fn stopped() -> Result<(Stage, BTreeSet<Thing>)> {
    let mut stage = Stage::serving(1)?;
    assert_eq!(stage.ask(&Target::tcp(at4(1)), 3)?.successes(), 3);
    let things = inspect::belongings(stage.node.pins())?;
    let programs = things.iter().filter(|thing| matches!(thing, Thing::Program(_))).count();
    assert_eq!(
        programs,
        8 + 2 * 2,
        "of all hooks, and for devices outside and on the pods' side: {things:?}"
    );
    stage.kubeshunt_mut().terminate()?;
    Ok((stage, things))
}

#[test]
fn cleanup_removes_every_pin_and_frees_everything() -> Result<()> {
    let (stage, things) = stopped()?;
    let (well, said) = cleanup(&stage)?;
    // eth0 and the ports of two pods, which see to their bridge.
    assert!(well && said.contains("39 pins"), "8 links, 25 maps, 2 links of 3 devices each: {said}");
    assert!(!stage.node.pins().exists(), "the folder is ours alone, so it goes too");
    wait_freed(&things)
}

#[test]
fn after_cleanup_new_connections_are_no_longer_translated() -> Result<()> {
    let (stage, _) = stopped()?;
    assert_eq!(stage.ask(&Target::tcp(at4(1)), 3)?.successes(), 3, "until then they are");
    assert!(cleanup(&stage)?.0);
    assert_untranslated(&stage)
}

#[test]
fn cleanup_leaves_existing_connections_alone() -> Result<()> {
    let (stage, _) = stopped()?;
    let session = stage.client.probe().session(&Target::tcp(at4(1)))?;
    assert!(cleanup(&stage)?.0);
    let health = stage.client.probe().exchange(session.session, 10)?;
    assert_eq!((health.exchanged, health.broken), (10, None));
    Ok(())
}

#[test]
fn cleanup_is_refused_while_kubeshunt_runs_and_does_no_harm() -> Result<()> {
    let stage = Stage::serving(1)?;
    let before = inspect::belongings(stage.node.pins())?;
    let (well, said) = cleanup(&stage)?;
    assert!(!well, "{said}");
    assert!(said.contains("another kubeshunt works on") && said.contains("stop it"), "{said}");
    assert_eq!(inspect::belongings(stage.node.pins())?, before);
    assert_eq!(stage.ask(&Target::tcp(at4(1)), 3)?.successes(), 3);
    Ok(())
}

#[test]
fn cleanup_twice_is_as_good_as_once() -> Result<()> {
    let (stage, _) = stopped()?;
    assert!(cleanup(&stage)?.0);
    let (well, said) = cleanup(&stage)?;
    assert!(well && said.contains("nothing to clean up"), "{said}");
    Ok(())
}

#[test]
fn cleanup_leaves_foreign_programs_and_pins() -> Result<()> {
    let (stage, _) = stopped()?;
    let foreign = Foreign::attach(stage.node.cgroup())?;
    // One beside our folder, one even inside of it.
    let pins = stage.node.pins();
    let beside = pins.parent().context("on a bpffs")?.join("foreign");
    let inside = pins.join("foreign");
    foreign.pin(&beside)?;
    foreign.pin(&inside)?;
    let (well, said) = cleanup(&stage)?;
    assert!(well, "{said}");
    assert!(inspect::maps(pins).is_err(), "our own pins are gone");
    for pin in [&beside, &inside] {
        assert_ne!(inspect::link(pin)?.cgroup, 0, "{} is detached", pin.display());
    }
    let before = foreign.runs()?;
    stage.ask(&Target::tcp(stage.backends[0].at4(8080)), 5)?;
    assert_eq!(foreign.runs()? - before, 5, "it still runs");
    Ok(())
}

#[test]
fn kubeshunt_starts_anew_after_cleanup() -> Result<()> {
    let (mut stage, _) = stopped()?;
    assert!(cleanup(&stage)?.0);
    stage.kubeshunt_mut().restart()?;
    assert_eq!(stage.ask(&Target::tcp(at4(1)), 3)?.successes(), 3);
    Ok(())
}

fn is_gone(estate: &Estate, pids: &[u32]) -> Result<bool> {
    let gone = !estate.cgroup.exists() && !estate.folder.exists() && !bpffs::is_mounted(&estate.bpffs)?;
    Ok(gone && pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
}

#[test]
fn a_dropped_testbed_leaves_nothing_in_the_machine() -> Result<()> {
    let stage = Stage::serving(1)?;
    assert_eq!(stage.ask(&Target::udp(at4(1)), 3)?.successes(), 3);
    let things = inspect::belongings(stage.node.pins())?;
    let estate = stage.bed.estate().clone();
    let pids = [
        stage.kubeshunt().pid().context("it runs")?,
        stage.client.probe().pid(),
        stage.backends[0].probe().pid(),
    ];
    assert!(!is_gone(&estate, &pids)?);
    drop(stage);
    assert!(is_gone(&estate, &pids)?, "cgroup, folder, mount or one of the processes {pids:?} is left");
    wait_freed(&things)
}

#[test]
fn a_harness_killed_while_kubeshunt_runs_leaves_nothing_in_the_machine() -> Result<()> {
    let mut holder = Command::new(probe::program()?);
    holder.args(["hold", "--kubeshunt"]).stdout(Stdio::piped());
    let mut holder = holder.spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
    let held: serde_json::Value = serde_json::from_str(&line).context("no testbed was made")?;
    let path = |field: &str| PathBuf::from(held[field].as_str().expect("a path"));
    let estate = Estate { cgroup: path("cgroup"), bpffs: path("bpffs"), folder: path("folder") };
    let pids = held["pids"].as_array().context("a list")?;
    let pids: Vec<u32> =
        pids.iter().filter_map(serde_json::Value::as_u64).map(u32::try_from).collect::<Result<_, _>>()?;
    assert_eq!(pids.len(), 3, "a host's probe, a pod's, and kubeshunt");
    let kubeshunt = fs::read_to_string(format!("/proc/{}/cmdline", pids[2]))?;
    assert!(kubeshunt.contains("--bpffs-root"), "{kubeshunt:?}");
    let things = inspect::belongings(&path("pins"))?;
    kill(Pid::from_raw(i32::try_from(holder.id())?), Signal::SIGKILL)?;
    assert_eq!(holder.wait()?.signal(), Some(libc::SIGKILL));
    wait::until_true("nothing is left", PATIENCE, || is_gone(&estate, &pids))?;
    wait_freed(&things)
}
