//! Where there is no tcx: filters of a clsact qdisc.

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType, tc};
use kubeshunt_tests::attached::{self, Filter, Way};
use kubeshunt_tests::foreign::Foreign;
use kubeshunt_tests::stage::{PATIENCE, Stage};
use kubeshunt_tests::wait;

use crate::{NOTHING, ports, programs};

fn filters(stage: &Stage, device: &str) -> Result<[Vec<Filter>; 2]> {
    let netns = stage.node.netns();
    Ok([
        attached::by_filters(netns, device, Way::Ingress)?,
        attached::by_filters(netns, device, Way::Egress)?,
    ])
}

/// Names and priorities.
fn names(filters: &[Vec<Filter>; 2]) -> [Vec<(&str, u32)>; 2] {
    filters.each_ref().map(|way| way.iter().map(|filter| (&*filter.name, filter.priority)).collect())
}

const OURS: [(&str, u32); 2] = [("packet_ingress", 1), ("packet_egress", 65_534)];

fn start(stage: &mut Stage) -> Result<()> {
    stage.start_with(|setup| setup.arg("--tc-attach=clsact"))
}

/// A filter of somebody else's on either way of a device, with a middling priority.
fn foreign(stage: &Stage, device: &str) -> Result<Foreign> {
    let foreign = Foreign::classifier()?;
    let pin = stage.node.pins().parent().context("on a bpffs")?.join("foreign");
    foreign.pin_program(&pin)?;
    stage.node.netns().run(|| -> Result<()> {
        tc::qdisc_add_clsact(device)?;
        for way in [TcAttachType::Ingress, TcAttachType::Egress] {
            let mut program = SchedClassifier::from_pin(&pin)?;
            let options = tc::NlOptions { priority: 100, ..tc::NlOptions::default() };
            let link = program.attach_with_options(device, way, tc::TcAttachOptions::Netlink(options))?;
            // It is to stay.
            std::mem::forget(program.take_link(link)?);
        }
        Ok(())
    })?;
    Ok(foreign)
}

#[test]
fn filters_are_put_replaced_and_removed() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let foreign = foreign(&stage, "eth0")?;
    start(&mut stage)?;
    let before = filters(&stage, "eth0")?;
    let [ingress, egress] = names(&before);
    assert_eq!((ingress[0], egress[1]), (OURS[0], OURS[1]), "{before:?}");
    assert_eq!((ingress[1].1, egress[0].1), (100, 100), "{before:?}");
    assert_eq!(before[0][1].program, foreign.id()?);
    assert_eq!(programs(&stage, "eth0")?, NOTHING, "nothing by tcx");
    assert!(attached::by_pins(stage.node.pins())?.is_empty());
    for device in ports(&stage)? {
        assert_eq!(names(&filters(&stage, &device)?), OURS.map(|one| vec![one]), "{device}");
    }
    assert_eq!(filters(&stage, "cni0")?, [vec![], vec![]]);

    stage.kubeshunt_mut().kill9()?;
    stage.kubeshunt_mut().restart()?;
    let after = filters(&stage, "eth0")?;
    assert_eq!(names(&before), names(&after));
    assert_ne!(before[0][0].program, after[0][0].program, "the new process brings its own");

    let pod = stage.node.pod("newcomer")?;
    let port = ports(&stage)?.pop().context("a port")?;
    wait::until_true("the newcomer's port has filters", PATIENCE, || {
        Ok(names(&filters(&stage, &port)?) == OURS.map(|one| vec![one]))
    })
    .with_context(|| stage.kubeshunt().log_tail())?;
    drop(pod);
    stage.wait_for_log(&["programs for packets detached", &format!("\"{port}\"")])?;
    let log = std::fs::read_to_string(stage.kubeshunt().log())?;
    // Kernels without tcx may lack something else besides, which is said.
    let is_warning = |line: &&str| line.contains("WARN") && !line.contains("cannot refuse a connection");
    assert_eq!(log.lines().find(is_warning), None, "{log}");

    stage.kubeshunt_mut().terminate()?;
    let output = stage.kubeshunt().command(&["cleanup"])?;
    ensure!(output.status.success(), "{output:?}");
    let left = filters(&stage, "eth0")?;
    assert_eq!([left[0].len(), left[1].len()], [1, 1], "{left:?}");
    assert!(left.iter().flatten().all(|filter| filter.priority == 100), "{left:?}");
    for device in ports(&stage)? {
        assert_eq!(filters(&stage, &device)?, [vec![], vec![]], "{device}");
    }
    Ok(())
}

#[test]
fn from_one_hook_to_the_other_and_back() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    stage.kubeshunt_mut().kill9()?;
    start(&mut stage)?;
    assert_eq!(programs(&stage, "eth0")?, NOTHING);
    assert!(attached::by_pins(stage.node.pins())?.is_empty());
    assert_eq!(names(&filters(&stage, "eth0")?), OURS.map(|one| vec![one]));
    stage.kubeshunt_mut().kill9()?;
    stage.start()?;
    assert_eq!(filters(&stage, "eth0")?, [vec![], vec![]]);
    assert!(programs(&stage, "eth0")?.iter().all(|ids| ids.len() == 1));
    Ok(())
}

#[test]
fn a_device_that_is_no_longer_chosen_loses_its_filters() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    stage.kubeshunt_mut().kill9()?;
    start(&mut stage)?;
    stage.kubeshunt_mut().kill9()?;
    stage.start_with(|setup| setup.arg("--tc-attach=clsact").arg("--pod-devices=none"))?;
    assert_eq!(names(&filters(&stage, "eth0")?), OURS.map(|one| vec![one]));
    for device in ports(&stage)?.iter().map(String::as_str).chain(["cni0"]) {
        assert_eq!(filters(&stage, device)?, [vec![], vec![]], "{device}");
    }
    Ok(())
}

#[test]
fn a_bridge_helps_out_where_a_port_cannot_be_attached() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let (taken, netns) = (crate::port(&stage)?, stage.node.netns().clone());
    netns.links(async |links| links.ingress_qdisc(&taken).await)?;
    start(&mut stage)?;
    stage.wait_for_log(&["packets of Services are not seen to here", &taken])?;
    wait::until_true("the bridge has filters", PATIENCE, || {
        Ok(names(&filters(&stage, "cni0")?) == OURS.map(|one| vec![one]))
    })
    .with_context(|| stage.kubeshunt().log_tail())?;
    // Once the port is free, its own will do.
    netns.links(async |links| links.remove_ingress_qdisc(&taken).await)?;
    stage.kubeshunt_mut().kill9()?;
    stage.kubeshunt_mut().restart()?;
    assert_eq!(names(&filters(&stage, &taken)?), OURS.map(|one| vec![one]));
    assert_eq!(filters(&stage, "cni0")?, [vec![], vec![]]);
    Ok(())
}
