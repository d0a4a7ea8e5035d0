//! Floods from addresses that are nobody's, and what goes on beside them. On a bridge only: a flood does not depend on the
//! layout.

use std::net::SocketAddr;
use std::thread;

use anyhow::Result;
use kubeshunt_tests::Cluster;
use kubeshunt_tests::cluster::NODE_PORT;
use kubeshunt_tests::craft::{Flood, Injector};
use kubeshunt_tests::manifests::{Port, Service};
use kubeshunt_tests::protocol::{Hold, Target};
use kubeshunt_tests::stage::{PORT, vip4};

use crate::large::assert_alive;
use crate::settings::Setting;
use crate::{SOON_MS, outside, serving};

const HALF_OPEN: u32 = 1_000_000;
const PACKETS: u32 = 300_000;
const PER_SECOND: u32 = 50_000;
const LIVE: u32 = 1000;

/// A NodePort of a Service without endpoints.
const NOBODY: u16 = NODE_PORT + 1;

/// Floods `to`, while connections to the Service that stay exchange bytes, and others come; over TCP and UDP, all by
/// packets.
fn beside(of: Flood, cluster: &Cluster, to: SocketAddr, count: u32) -> Result<()> {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let served = cluster.nodes[0].host().at4(NODE_PORT);
    let (client, flooder) = (outside(cluster).probe(), cluster.bed.outsider("flooder")?);
    let hold = Hold { to: served, from: Vec::new(), count: LIVE, at_once: 50, timeout_ms: 10 * SOON_MS };
    let (held, report) = client.hold(&hold)?;
    assert_alive(&report, LIVE, "before the flood");
    let injector = Injector::new(&flooder, cluster.nodes[0].host())?;
    let (mut asked, mut rounds) = (0, 0);
    thread::scope(|scope| -> Result<()> {
        let flood = scope.spawn(|| injector.flood(of, to, count, PER_SECOND, seed));
        while !flood.is_finished() {
            assert_alive(&client.exchange_held(held)?, LIVE, "beside the flood");
            for target in [Target::tcp(served), Target::udp_connected(served)] {
                let target = target.timeout_ms(5 * SOON_MS);
                // A queue that is full for a moment loses a packet: TCP sends it again, a datagram is asked for again.
                let report = client.ask(&target, 20, 1)?;
                let lost = if report.failed() > 0 { client.ask(&target, 20, 1)?.failed() } else { 0 };
                assert_eq!(lost, 0, "new ones beside the flood: {:?}", report.errors);
                asked += report.successes();
            }
            rounds += 1;
        }
        flood.join().expect("the flood does not panic")
    })?;
    assert_alive(&client.exchange_held(held)?, LIVE, "after the flood");
    println!("{asked} new connections and datagrams beside it");
    assert!(rounds > 1, "the flood was over at once");
    client.close_held(held)
}

#[test]
fn half_open_connections_harm_no_live_one_and_no_new_one() -> Result<()> {
    let cluster = serving(Setting::Bridge, &[0, 1], |service| service)?;
    beside(Flood::Syns, &cluster, cluster.nodes[0].host().at4(NODE_PORT), HALF_OPEN)
}

#[test]
fn datagrams_from_nowhere_harm_nobody() -> Result<()> {
    let cluster = serving(Setting::Bridge, &[0, 1], |service| service)?;
    beside(Flood::Datagrams, &cluster, cluster.nodes[0].host().at4(NODE_PORT), PACKETS)
}

/// Each is refused by a packet, and leaves nothing behind.
#[test]
fn floods_to_a_service_without_endpoints_harm_nobody_and_take_no_room() -> Result<()> {
    let mut cluster = serving(Setting::Bridge, &[0, 1], |service| service)?;
    let empty = Service::new("empty")
        .cluster_ip(vip4(2))
        .port(Port::tcp(PORT).named("tcp").node_port(NOBODY))
        .port(Port::udp(PORT).named("udp").node_port(NOBODY));
    cluster.folder.write("empty", &[&empty])?;
    let to = cluster.nodes[0].host().at4(NOBODY);
    crate::answers::is_refused(outside(&cluster), to, "a Service without endpoints")?;
    for of in [Flood::Syns, Flood::Datagrams] {
        beside(of, &cluster, to, PACKETS)?;
    }
    let output = cluster.kubeshunt(0)?.command(&["flows", "-o", "json"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("100.6"), "a flow of nobody's: {text}");
    Ok(())
}
