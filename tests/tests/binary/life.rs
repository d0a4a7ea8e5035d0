//! Killed, stopped, started again: connections go on, and nothing that was decided changes.

use anyhow::Result;
use kubeshunt_tests::inspect::{self, PinnedLink};
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::protocol::{StreamSpec, Target};
use kubeshunt_tests::stage::{PATIENCE, Stage, at4, at6, service};
use kubeshunt_tests::wait;

fn links(stage: &Stage) -> Result<Vec<PinnedLink>> {
    inspect::links(&stage.node.pins().join("links"))
}

fn assert_serves(stage: &Stage, what: &str) -> Result<()> {
    for to in [at4(1), at6(1)] {
        for target in [Target::tcp(to), Target::udp_connected(to), Target::udp(to)] {
            let report = stage.ask(&target, 5)?;
            assert_eq!(report.successes(), 5, "{what}: {target:?}: {:?}", report.errors);
        }
    }
    Ok(())
}

#[test]
fn new_connections_work_after_kill_9() -> Result<()> {
    let mut stage = Stage::serving(2)?;
    stage.kubeshunt_mut().kill9()?;
    assert_serves(&stage, "with nobody in charge")
}

#[test]
fn sigterm_ends_with_zero_and_leaves_everything_in_place() -> Result<()> {
    let mut stage = Stage::serving(2)?;
    let before = (links(&stage)?, stage.frontends()?);
    let status = stage.kubeshunt_mut().terminate()?;
    assert_eq!(status.code(), Some(0), "{}", stage.kubeshunt().log_tail());
    assert_eq!((links(&stage)?, stage.frontends()?), before);
    assert!(before.0.iter().all(|link| link.cgroup != 0), "attached: {:?}", before.0);
    assert_serves(&stage, "after SIGTERM")?;
    stage.wait_for_log(&["stopping", "programs stay attached", "SIGTERM"]).map(drop)
}

#[test]
fn a_restart_keeps_ids_and_replaces_programs_within_their_links() -> Result<()> {
    let mut stage = Stage::new(2)?;
    for number in 1..6 {
        let name = format!("web-{number}");
        stage.publish(&service(&name, number), &name, &[0, 1])?;
    }
    stage.start()?;
    let (links_before, frontends_before) = (links(&stage)?, stage.frontends()?);
    stage.kubeshunt_mut().kill9()?;
    stage.kubeshunt_mut().restart()?;
    assert_eq!(stage.frontends()?, frontends_before, "the maps say the same, ids included");
    let links_after = links(&stage)?;
    for (before, after) in links_before.iter().zip(&links_after) {
        let name = &before.name;
        assert_eq!((&after.name, after.link, after.cgroup), (name, before.link, before.cgroup));
        assert_ne!(after.program, before.program, "{name}: the new process brings its own program");
    }
    stage.wait_for_log(&["programs attached", "created=0", "replaced=8"]).map(drop)
}

#[test]
fn a_restart_keeps_affinity() -> Result<()> {
    let mut stage = Stage::new(4)?;
    stage.publish(&service("web", 1).affinity(3600), "web", &[0, 1, 2, 3])?;
    stage.start()?;
    let first = stage.ask(&Target::tcp(at4(1)), 5)?.answered;
    assert_eq!(first.len(), 1, "{first:?}");
    for round in 0..3 {
        stage.kubeshunt_mut().kill9()?;
        stage.kubeshunt_mut().restart()?;
        let now = stage.ask(&Target::tcp(at4(1)), 5)?.answered;
        assert_eq!(now, first, "after restart {round}");
    }
    Ok(())
}

#[test]
fn a_restart_without_changes_writes_nothing() -> Result<()> {
    let mut stage = Stage::serving(2)?;
    stage.kubeshunt_mut().kill9()?;
    stage.kubeshunt_mut().restart()?;
    let operations = stage.kubeshunt().metric("kubeshunt_sync_operations_total")?;
    assert!(operations.abs() < 0.5, "{operations} map writes to find everything as it should be");
    Ok(())
}

#[test]
fn a_failed_map_write_is_repaired_from_what_the_maps_hold() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    stage.start_with(|setup| setup.arg("--max-frontends").arg("12"))?;
    // Behind its back somebody fills the map: it believes that six more frontends fit, but only one does.
    let path = inspect::maps(stage.node.pins())?.join("FRONTENDS");
    let frontends = PinnedMap::open(&path)?;
    assert_eq!(frontends.keys()?.len(), 6);
    for number in 1..=5 {
        frontends.update(&[number; 20], &[number; 12])?;
    }
    stage.publish(&service("two", 2), "two", &[0])?;
    stage.wait_for_log(&["ERROR", "map write failed", "PutFrontend", "trying again"])?;
    assert_serves(&stage, "after the failure")?;
    wait::until_true("the second Service is served", PATIENCE, || {
        Ok(stage.frontend(at6(2), "UDP")?.is_some())
    })?;
    assert_eq!(stage.ask(&Target::tcp(at4(2)), 5)?.successes(), 5);
    assert_eq!(frontends.keys()?.len(), 12, "what nobody claims is gone");
    assert!(stage.kubeshunt().metric("kubeshunt_sync_failures_total")? > 0.5);
    Ok(())
}

#[test]
fn no_connection_fails_over_ten_times_kill_9_and_restart() -> Result<()> {
    let mut stage = Stage::serving(3)?;
    let client = stage.node.pod("streaming")?;
    let mut streams = Vec::new();
    for target in
        [Target::tcp(at4(1)), Target::tcp(at6(1)), Target::udp(at4(1)), Target::udp_connected(at6(1))]
    {
        let spec = StreamSpec { target, concurrency: 1, pause_us: 300, keep_records: false };
        streams.push(client.probe().stream(&spec)?);
    }
    for _ in 0..10 {
        stage.kubeshunt_mut().kill9()?;
        stage.kubeshunt_mut().restart()?;
    }
    for (index, stream) in streams.into_iter().enumerate() {
        let asked = stream.stop()?.asked;
        assert_eq!(asked.failed(), 0, "stream {index}: {:?}", asked.failures);
        assert!(asked.successes() > 100, "stream {index} hardly ran: {}", asked.successes());
    }
    Ok(())
}

#[test]
fn changes_made_while_it_was_down_are_caught_up() -> Result<()> {
    let mut stage = Stage::new(3)?;
    stage.publish(&service("web", 1), "web", &[0, 1])?;
    stage.publish(&service("old", 2), "old", &[0])?;
    stage.start()?;
    stage.kubeshunt_mut().kill9()?;
    stage.publish(&service("web", 1), "web", &[1, 2])?;
    stage.publish(&service("new", 3), "new", &[0])?;
    stage.folder.remove("old")?;
    stage.kubeshunt_mut().restart()?;
    // Ready means caught up: no waiting here.
    let answered = stage.ask(&Target::tcp(at4(1)), 60)?.answered;
    assert_eq!(answered.keys().collect::<Vec<_>>(), ["backend-1", "backend-2"]);
    assert_eq!(stage.ask(&Target::tcp(at4(3)), 5)?.successes(), 5, "the new Service");
    assert_eq!(stage.frontend(at4(2), "TCP")?, None, "the old Service");
    Ok(())
}

#[test]
fn a_restart_on_another_cgroup_moves_the_programs_there() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let before = links(&stage)?;
    stage.kubeshunt_mut().terminate()?;
    let elsewhere = stage.bed.node("node-b")?;
    let arguments =
        ["run", "--manifests", &stage.folder.path().to_string_lossy(), "--hostname-override", "b"]
            .map(str::to_owned)
            .into_iter()
            .chain(["--cgroup-root".to_owned(), elsewhere.cgroup().path().display().to_string()])
            .chain(["--bpffs-root".to_owned(), stage.node.pins().display().to_string()]);
    let mut command = std::process::Command::new(kubeshunt_tests::proxy::program()?);
    command.args(arguments).stderr(std::process::Stdio::null());
    let mut moved =
        kubeshunt_tests::process::spawn_in(stage.node.netns(), stage.bed.outside().cgroup(), command)?;
    let what = "all programs are attached to the other cgroup";
    let there = wait::until_true(what, PATIENCE, || {
        // A pin is gone for a moment while it is replaced.
        let now = links(&stage).unwrap_or_default();
        Ok(now.len() == 8 && now.iter().all(|link| link.cgroup != 0 && link.cgroup != before[0].cgroup))
    });
    moved.kill()?;
    moved.wait()?;
    there
}
