//! What may not grow unnoticed: instructions to verify, writes per change.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use kubeshunt_tests::attached::Way;
use kubeshunt_tests::inspect;
use kubeshunt_tests::manifests::{EndpointSlice, Port};
use kubeshunt_tests::stage::{PATIENCE, PORT, Stage, TARGET_PORT, at4, vip4};
use kubeshunt_tests::{manifests, wait};

/// The most instructions the verifier may have to look at, per program. The kernel's own limit is a million;
/// these are ours, so that no change makes programs needlessly complicated. On the right, what Linux 6.18
/// counted when the ceiling was set: verifiers differ, hence the room.
const CEILINGS: [(&str, u32); 8] = [
    ("connect4", 20_000),  // 16_286
    ("connect6", 20_000),  // 16_833
    ("getpeername4", 500), // 125
    ("getpeername6", 500), // 147
    ("recvmsg4", 500),     // 197
    ("recvmsg6", 500),     // 219
    ("sendmsg4", 60_000),  // 48_117
    ("sendmsg6", 60_000),  // 48_918
];

/// The same for the programs for packets, whatever the device.
const PACKET_CEILINGS: [(Way, u32); 2] = [
    (Way::Ingress, 300_000), // 210_000
    (Way::Egress, 100_000),  // 64_000
];

#[test]
fn programs_for_packets_stay_within_their_verifier_budget() -> Result<()> {
    let stage = Stage::serving(1)?;
    let folder = stage.node.pins().join("devices");
    // The uplink, and a pod at least.
    wait::until_true("devices are attached", PATIENCE, || Ok(inspect::links(&folder)?.len() >= 4))?;
    let links = inspect::links(&folder)?;
    let figures: Vec<_> = links.iter().map(|link| (&*link.name, link.verified)).collect();
    println!("{figures:?}");
    for (way, ceiling) in PACKET_CEILINGS {
        let mut of_way = figures.iter().filter(|(name, _)| name.ends_with(way.name())).peekable();
        assert!(of_way.peek().is_some(), "none for {way:?}: {figures:?}");
        for (name, verified) in of_way {
            assert!(*verified > 0, "the kernel does not tell: {figures:?}");
            assert!(*verified <= ceiling, "{name} is over its {ceiling}: {figures:?}");
        }
    }
    Ok(())
}

#[test]
fn programs_stay_within_their_verifier_budget() -> Result<()> {
    let stage = Stage::serving(1)?;
    let links = inspect::links(&stage.node.pins().join("links"))?;
    let names: Vec<_> = links.iter().map(|link| &*link.name).collect();
    assert_eq!(names, CEILINGS.map(|(name, _)| name));
    let figures: Vec<_> = links.iter().map(|link| (&*link.name, link.verified)).collect();
    for (link, (name, ceiling)) in links.iter().zip(CEILINGS) {
        assert!(link.verified > 0, "the kernel does not tell: {figures:?}");
        assert!(link.verified <= ceiling, "{name} is over its {ceiling}: {figures:?}");
    }
    Ok(())
}

/// Map writes so far.
fn operations(stage: &Stage) -> Result<f64> {
    stage.kubeshunt().metric("kubeshunt_sync_operations_total")
}

#[test]
fn an_endpoint_more_or_less_costs_two_writes_whatever_the_number_of_frontends() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let service = manifests::Service::new("web")
        .cluster_ip(vip4(1))
        .port(Port::tcp(PORT).target(TARGET_PORT).node_port(30080))
        .external_ip(Ipv4Addr::new(203, 0, 113, 7))
        .external_ip(Ipv4Addr::new(203, 0, 113, 8))
        .load_balancer(Ipv4Addr::new(198, 51, 100, 7));
    let write = |stage: &Stage, endpoints: u8| {
        let addresses = (1..=endpoints).map(|last| Ipv4Addr::new(10, 250, 0, last));
        let slice = EndpointSlice::v4("web").tcp(None, TARGET_PORT).ready(addresses);
        stage.folder.write("web", &[&service, &slice])
    };
    write(&stage, 10)?;
    stage.start()?;
    let services = stage.services()?;
    assert_eq!(services["frontends"].as_array().context("a list")?.len(), 5, "{services:#}");
    let mut before = operations(&stage)?;
    for endpoints in [11, 10, 11, 12, 11] {
        write(&stage, endpoints)?;
        wait::until_true(&format!("there are {endpoints} endpoints"), PATIENCE, || {
            Ok(stage.endpoints(at4(1), "TCP")?.is_some_and(|list| list.len() == usize::from(endpoints)))
        })?;
        // Counted right after the last write.
        wait::until_true("the writes are counted", PATIENCE, || Ok(operations(&stage)? > before + 0.5))?;
        let now = operations(&stage)?;
        assert!((now - before - 2.0).abs() < 1e-9, "to {endpoints} endpoints: {} writes", now - before);
        before = now;
    }
    Ok(())
}
