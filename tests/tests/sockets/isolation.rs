//! Beside others: two instances on one kernel, and programs that are somebody else's.

use anyhow::Result;
use kubeshunt_tests::foreign::Foreign;
use kubeshunt_tests::inspect;
use kubeshunt_tests::manifests::EndpointSlice;
use kubeshunt_tests::protocol::{AskReport, Target};
use kubeshunt_tests::stage::{self, Stage, at4, backend, service};
use kubeshunt_tests::{Kubeshunt, Setup};

use crate::{assert_answers, assert_reaches};

#[test]
fn two_instances_lead_one_address_to_different_backends() -> Result<()> {
    let stage = Stage::serving(1)?;
    let other = stage.bed.node("node-b")?;
    let (client, far) = (other.pod("client-b")?, backend(&other, "far")?);
    let folder = stage.bed.manifests("b")?;
    let slice = EndpointSlice::v4("web").tcp(Some("tcp"), 8080).udp(Some("udp"), 8080).ready([far.v4()]);
    folder.write("web", &[&service("web", 1), &slice])?;
    let second = Kubeshunt::start(&other, Setup::manifests(&folder))?;
    assert_reaches(&stage.client, at4(1), "backend-0")?;
    assert_reaches(&client, at4(1), "far")?;
    // One goes, the other does not notice.
    drop(second);
    folder.remove("web")?;
    assert_reaches(&stage.client, at4(1), "backend-0")
}

#[test]
fn processes_outside_of_the_cgroup_are_untouched() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&stage::service("web", 1), "web", &[0])?;
    // Else their packets would be translated on their way through the node.
    stage.start_with(|setup| setup.arg("--packet-path=off"))?;
    let outside = stage.bed.outside();
    stage.bed.route_outside((stage::vip4(1), 32), &stage.node)?;
    let report = outside.probe().ask(&Target::tcp(at4(1)).timeout_ms(100), 1, 1)?;
    assert_eq!(report.successes(), 0, "a socket hook has nothing to do with it: {report:?}");
    Ok(())
}

/// How often the program ran for so many connections.
fn runs(foreign: &Foreign, stage: &Stage, times: u32) -> Result<(u64, AskReport)> {
    let before = foreign.runs()?;
    let report = stage.ask(&Target::tcp(at4(1)), times)?;
    Ok((foreign.runs()? - before, report))
}

#[test]
fn programs_of_others_stay_attached_and_run() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    let before = Foreign::attach(stage.node.cgroup())?;
    stage.start()?;
    let after = Foreign::attach(stage.node.cgroup())?;
    for (when, foreign) in [("before", &before), ("after", &after)] {
        let (ran, report) = runs(foreign, &stage, 10)?;
        assert_answers(&report, at4(1), "backend-0", 10, "beside a foreign program");
        assert_eq!(ran, 10, "the program that was attached {when} kubeshunt");
    }
    stage.kubeshunt_mut().kill9()?;
    stage.kubeshunt_mut().restart()?;
    for (when, foreign) in [("before", &before), ("after", &after)] {
        assert_eq!(runs(foreign, &stage, 10)?.0, 10, "after a restart, the one attached {when}");
    }
    stage.kubeshunt_mut().terminate()?;
    let cleanup = stage.kubeshunt().command(&["cleanup"])?;
    assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
    assert!(inspect::maps(stage.node.pins()).is_err(), "pins are left");
    for (when, foreign) in [("before", &before), ("after", &after)] {
        let ran_before = foreign.runs()?;
        stage.ask(&Target::tcp(stage.backends[0].at4(8080)), 10)?;
        assert_eq!(foreign.runs()? - ran_before, 10, "after cleanup, the one attached {when}");
    }
    Ok(())
}
