//! Very many connections. On a bridge only: what is large does not depend on the layout.

use std::net::IpAddr;

use anyhow::Result;
use kubeshunt_tests::Cluster;
use kubeshunt_tests::cluster::NODE_PORT;
use kubeshunt_tests::protocol::{HeldReport, Hold};

use crate::settings::Setting;
use crate::{SOON_MS, outside, serving};

const CONNECTIONS: u32 = 100_000;
const PROCESSES: u32 = 8;

/// More addresses for the client: each has ports of its own.
fn more_addresses(cluster: &Cluster) -> Result<Vec<IpAddr>> {
    let client = outside(cluster);
    client.netns().sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    let add = |last: u8| {
        let address = IpAddr::from([192, 168, 0, last]);
        client.add_address((address, 32))?;
        Ok(address)
    };
    (220..224).map(add).collect()
}

#[track_caller]
pub(crate) fn assert_alive(report: &HeldReport, count: u32, what: &str) {
    assert!(report.errors.is_empty(), "{what}: {report:?}");
    assert_eq!(report.alive, count, "{what}");
}

/// Spread over processes, of which each may have only so many descriptors, and over backends, of which each remote
/// one is one destination for which the node has only so many ports.
#[test]
fn a_hundred_thousand_connections_stand_at_one_node_port() -> Result<()> {
    let cluster = serving(Setting::Bridge, &[0, 0, 0, 1, 1, 1, 1, 1], |service| service)?;
    let to = cluster.nodes[0].host().at4(NODE_PORT);
    let from = more_addresses(&cluster)?;
    let probes = (0..PROCESSES).map(|number| outside(&cluster).another_probe(&format!("holder-{number}")));
    let probes = probes.collect::<Result<Vec<_>>>()?;
    let count = CONNECTIONS / PROCESSES;
    let hold = Hold { to, from, count, at_once: 50, timeout_ms: 10 * SOON_MS };
    let mut held = Vec::new();
    for probe in &probes {
        let (number, report) = probe.hold(&hold)?;
        assert_alive(&report, count, "opened");
        held.push((probe, number));
    }
    for (probe, number) in held {
        assert_alive(&probe.exchange_held(number)?, count, "when all are open");
    }
    Ok(())
}
