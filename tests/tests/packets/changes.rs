//! What changes of a Service mean for those who talk to it already.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use kubeshunt_tests::cluster::{NODE_PORT, everywhere};
use kubeshunt_tests::manifests::Service;
use kubeshunt_tests::protocol::{self, Method, Target};
use kubeshunt_tests::{Cluster, wait};

use crate::settings::{Setting, in_every_setting};
use crate::{Door, PATIENCE, SOON_MS, doors, outside, serving};

in_every_setting!(
    a_connection_stands_whatever_becomes_of_its_endpoint_and_its_service,
    a_refused_datagram_client_is_served_from_the_same_port_once_there_is_an_endpoint,
);

/// The doors of the first node.
fn doors_here(cluster: &Cluster) -> Vec<Door> {
    doors(cluster).into_iter().filter(|door| door.node == 0).collect()
}

/// Whether new connections by this door are answered.
fn is_served(cluster: &Cluster, door: &Door) -> Result<bool> {
    let target = Target::tcp(door.to).timeout_ms(SOON_MS);
    Ok(outside(cluster).probe().ask(&target, 1, 1)?.successes() == 1)
}

fn a_connection_stands_whatever_becomes_of_its_endpoint_and_its_service(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0, 1], |service| service)?;
    // What is no service's any more is routed to the LAN's gateway, and a client that heeds the node's advice would
    // send its packets there itself.
    for sysctl in ["ipv4/conf/all", "ipv4/conf/eth0", "ipv6/conf/eth0"] {
        outside(&cluster).netns().sysctl(&format!("net/{sysctl}/accept_redirects"), "0")?;
    }
    let client = outside(&cluster).another_probe("holder")?;
    let doors = doors_here(&cluster);
    let mut sessions = Vec::new();
    for door in &doors {
        // Four of each: some with the endpoint here, some with the other.
        for _ in 0..4 {
            sessions.push((door, client.session(&Target::tcp(door.to).timeout_ms(SOON_MS))?.session));
        }
    }
    let all_stand = |when: &str| -> Result<()> {
        for (door, session) in &sessions {
            let health = client.exchange(*session, 3)?;
            assert_eq!(health.broken, None, "{when}, {door:?}");
        }
        Ok(())
    };
    all_stand("at first")?;

    cluster.publish(&everywhere("web", 1), "web", &[])?;
    wait::until_true("new connections fail", PATIENCE, || Ok(!is_served(&cluster, &doors[0])?))?;
    all_stand("without endpoints")?;
    cluster.publish(&everywhere("web", 1).external_local(), "web", &[0])?;
    wait::until_true("new connections are answered", PATIENCE, || is_served(&cluster, &doors[0]))?;
    all_stand("under another policy")?;
    cluster.folder.remove("web")?;
    for door in &doors {
        wait::until_true(&format!("{door:?} is closed"), PATIENCE, || Ok(!is_served(&cluster, door)?))?;
    }
    all_stand("without a Service")
}

fn a_refused_datagram_client_is_served_from_the_same_port_once_there_is_an_endpoint(
    setting: Setting,
) -> Result<()> {
    let cluster = serving(setting, &[0, 1], |service| service)?;
    let doors = doors_here(&cluster);
    let ask = |door: &Door, port: u16| {
        let from = SocketAddr::new(outside(&cluster).ip(door.to.ip()), port);
        let target = Target { from: Some(from), method: Method::UdpConnected, ..Target::udp(door.to) };
        outside(&cluster).probe().ask(&target.timeout_ms(SOON_MS), 1, 1)
    };
    // Who has an endpoint keeps it until there is another, so whether one is there is asked from ports without a flow.
    let mut fresh = 30_000u16..;
    for (endpoint, first) in [(0, 21_000), (1, 22_000)] {
        let held: Vec<_> = doors.iter().zip(first + 500..).collect();
        for (door, port) in &held {
            wait::until_true("it has an endpoint", PATIENCE, || Ok(ask(door, *port)?.successes() == 1))?;
        }
        cluster.publish(&everywhere("web", 1), "web", &[])?;
        wait::until_true("there is no endpoint", PATIENCE, || {
            let port = fresh.next().context("ports are many")?;
            Ok(ask(&doors[0], port)?.errors.contains_key("ECONNREFUSED"))
        })?;
        for (door, port) in doors.iter().zip(first..) {
            let report = ask(door, port)?;
            assert_eq!(report.errors.get("ECONNREFUSED"), Some(&1), "{door:?}: {report:?}");
        }
        for (door, port) in held {
            assert_eq!(ask(door, port)?.successes(), 1, "who had an endpoint keeps it: {door:?}");
        }
        cluster.publish(&everywhere("web", 1), "web", &[endpoint])?;
        for (door, port) in doors.iter().zip(first..) {
            wait::until_true(&format!("{door:?} answers"), PATIENCE, || {
                Ok(ask(door, port)?.successes() == 1)
            })?;
        }
    }
    Ok(())
}

/// A node port comes before who listens there; nothing of ours listens.
#[test]
fn a_listener_of_the_node_has_its_port_while_no_service_has_it() -> Result<()> {
    let cluster = serving(Setting::Bridge, &[1], Service::external_local)?;
    let host = cluster.nodes[0].host();
    let to = host.at4(NODE_PORT);
    let listener = host.probe().serve(protocol::Service::Tcp, to).context("nobody else listens there")?;
    let answered = || -> Result<Option<String>> {
        let report = outside(&cluster).probe().ask(&Target::tcp(to).timeout_ms(SOON_MS / 4), 1, 1)?;
        Ok(report.answered.into_keys().next())
    };
    assert_eq!(answered()?, None, "the policy drops; the listener does not stand in");
    cluster.publish(&everywhere("web", 1), "web", &[0])?;
    wait::until_true("the endpoint answers", PATIENCE, || Ok(answered()?.as_deref() == Some("backend-0")))?;
    cluster.folder.remove("web")?;
    wait::until_true("the listener answers", PATIENCE, || Ok(answered()?.as_deref() == Some("node-a")))?;
    host.probe().stop_serving(listener, true)
}
