//! Devices come and go, and so does the program.

use anyhow::{Context, Result};
use kubeshunt_tests::attached;
use kubeshunt_tests::stage::{PATIENCE, Stage};
use kubeshunt_tests::wait;

use crate::{NOTHING, index, masquerade, ports, programs, wait_for_programs};

#[test]
fn everything_is_attached_when_it_says_that_it_is_ready() -> Result<()> {
    let stage = Stage::serving(1)?;
    let ports = ports(&stage)?;
    assert_eq!(ports.len(), 2, "the client's and the backend's");
    let outside = programs(&stage, "eth0")?;
    let pod = programs(&stage, &ports[0])?;
    assert!(outside.iter().chain(&pod).all(|ids| ids.len() == 1), "{outside:?} {pod:?}");
    assert_ne!(outside, pod, "different constants, different programs");
    for port in &ports {
        assert_eq!(programs(&stage, port)?, pod, "the same programs for all on one side");
    }
    assert_eq!(programs(&stage, "lo")?, NOTHING);
    assert_eq!(programs(&stage, "cni0")?, NOTHING, "its ports see to its packets");
    assert_eq!(attached::by_pins(stage.node.pins())?.len(), 6);
    stage
        .wait_for_log(&["programs for packets attached to devices", "outside=1", "pod=2", "by=\"tcx\""])
        .map(drop)
}

#[test]
fn the_map_says_what_to_masquerade_as() -> Result<()> {
    let stage = Stage::serving(1)?;
    let host = stage.node.host();
    let host = [host.v4().into(), host.v6().into()];
    assert_eq!(masquerade(&stage, index(&stage, "eth0")?)?, Some(host));
    let bridge = masquerade(&stage, index(&stage, "cni0")?)?.context("an entry of the bridge")?;
    assert_eq!(bridge.map(|ip| ip.to_string()), ["10.244.1.1", "fd00:10:244:1::1"]);
    for port in ports(&stage)? {
        assert_eq!(masquerade(&stage, index(&stage, &port)?)?, Some(bridge), "{port}: its bridge's");
    }
    // A device that goes takes its own along, and nobody else's.
    let before = attached::by_pins(stage.node.pins())?;
    stage.node.netns().links(async |links| links.delete("eth0").await)?;
    wait::until_true("eth0 is forgotten", PATIENCE, || Ok(attached::by_pins(stage.node.pins())?.len() == 4))?;
    let after = attached::by_pins(stage.node.pins())?;
    assert!(after.iter().all(|(name, link)| before.get(name) == Some(link)), "{before:?} {after:?}");
    Ok(())
}

#[test]
fn a_pods_port_is_attached_and_leaves_nothing() -> Result<()> {
    let stage = Stage::serving(1)?;
    let before = attached::by_pins(stage.node.pins())?;
    let pod = stage.node.pod("newcomer")?;
    let port = ports(&stage)?.pop().context("a port")?;
    let at = index(&stage, &port)?;
    wait_for_programs(&stage, &port)?;
    assert_eq!(programs(&stage, &port)?, programs(&stage, &crate::port(&stage)?)?);
    stage.wait_for_log(&["programs for packets attached", &format!("device=\"{port}\""), "side=\"pod\""])?;
    assert!(masquerade(&stage, at)?.is_some());
    wait::until_true("the metric counts it", PATIENCE, || {
        Ok(stage.kubeshunt().metric("kubeshunt_devices{side=\"pod\"}")? > 2.5)
    })?;
    drop(pod);
    wait::until_true("its pins and its entry are gone", PATIENCE, || {
        Ok(attached::by_pins(stage.node.pins())? == before && masquerade(&stage, at)?.is_none())
    })
    .with_context(|| stage.kubeshunt().log_tail())
}

#[test]
fn a_restart_replaces_programs_within_their_links() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let before = attached::by_pins(stage.node.pins())?;
    stage.kubeshunt_mut().kill9()?;
    stage.kubeshunt_mut().restart()?;
    let after = attached::by_pins(stage.node.pins())?;
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, before) in &before {
        let after = &after[name];
        assert_eq!((before.link, before.device), (after.link, after.device), "{name}");
        assert_ne!(before.program, after.program, "{name}: the new process brings its own");
    }
    Ok(())
}

#[test]
fn what_changed_while_nobody_looked_is_put_right() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let pod = stage.node.pod("leaving")?;
    let port = ports(&stage)?.pop().context("a port")?;
    wait_for_programs(&stage, &port)?;
    wait::until_true("its links are pinned", PATIENCE, || {
        Ok(attached::by_pins(stage.node.pins())?.len() == 8)
    })?;
    let gone = index(&stage, &port)?;
    stage.kubeshunt_mut().kill9()?;
    drop(pod);
    let _pod = stage.node.pod("coming")?;
    let port = ports(&stage)?.pop().context("a port")?;
    stage.kubeshunt_mut().restart()?;
    assert_eq!(programs(&stage, &port)?, programs(&stage, &crate::port(&stage)?)?);
    let pins = attached::by_pins(stage.node.pins())?;
    assert!(pins.keys().all(|pin| !pin.starts_with(&format!("{gone}-"))), "{pins:?}");
    assert!(pins.values().all(|link| link.device != 0), "{pins:?}");
    assert_eq!(masquerade(&stage, gone)?, None);
    Ok(())
}

#[test]
fn another_device_with_the_same_index_gets_links_of_its_own() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let netns = stage.node.netns().clone();
    let add = || {
        use rtnetlink::LinkBridge;
        netns.links(async |links| {
            let mut message = LinkBridge::new("spare").build();
            message.header.index = 4000;
            links.add("spare", message).await
        })
    };
    assert!(add()?);
    // Pinned a moment after it is attached.
    let before = wait::until("its link is pinned", PATIENCE, || {
        Ok(attached::by_pins(stage.node.pins())?.get("4000-ingress").copied())
    })?;
    stage.kubeshunt_mut().kill9()?;
    netns.links(async |links| links.delete("spare").await)?;
    add()?;
    assert_eq!(programs(&stage, "spare")?, NOTHING);
    stage.kubeshunt_mut().restart()?;
    let after = attached::by_pins(stage.node.pins())?["4000-ingress"];
    assert_ne!(before.link, after.link);
    assert_eq!(after.device, 4000);
    assert_eq!(programs(&stage, "spare")?, programs(&stage, &crate::port(&stage)?)?);
    Ok(())
}

#[test]
fn without_the_packet_path_nothing_is_attached_and_nothing_stays() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    assert_eq!(attached::by_pins(stage.node.pins())?.len(), 6);
    stage.kubeshunt_mut().kill9()?;
    stage.start_with(|setup| setup.arg("--packet-path=off"))?;
    assert!(attached::by_pins(stage.node.pins())?.is_empty());
    assert_eq!(programs(&stage, "eth0")?, NOTHING);
    assert_eq!(masquerade(&stage, index(&stage, "eth0")?)?, None);
    Ok(())
}
