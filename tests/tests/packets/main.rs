//! Packets that no socket hook has seen: from outside, and from pods that bypass the hooks. In every layout, both
//! families, TCP and UDP.
//!
//! One test at a time: some measure what a whole node does.

mod admission;
mod affinity;
mod answers;
mod by_packets;
mod changes;
mod crafted;
mod datagrams;
mod floods;
mod inside;
mod large;
mod matrix;
mod outside;
mod paths;
mod refusals;
mod settings;
mod transfers;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use kubeshunt_tests::cluster::{EXTERNAL, INGRESS, NODE_PORT, everywhere};
use kubeshunt_tests::manifests::Service;
use kubeshunt_tests::protocol::Method;
use kubeshunt_tests::stage::PORT;
use kubeshunt_tests::{Cluster, Station};

use crate::settings::Setting;

/// The ways of asking.
const METHODS: [(&str, Method); 3] = [
    ("TCP", Method::Tcp),
    ("connected UDP", Method::UdpConnected),
    ("unconnected UDP", Method::UdpUnconnected { peek: false }),
];

/// How long anything may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer may take that should come at once, so that what does not work fails soon.
const SOON_MS: u64 = 1000;

/// An address by which clients outside reach the Service, and the number of the node that they reach it through.
#[derive(Clone, Copy, Debug)]
struct Door {
    name: &'static str,
    to: SocketAddr,
    node: usize,
}

/// All of them, both families.
fn doors(cluster: &Cluster) -> Vec<Door> {
    let at = |node: usize| {
        let host = cluster.nodes[node].host();
        [IpAddr::from(host.v4()), IpAddr::from(host.v6())]
    };
    let kinds = [
        ("NodePort of node-a", at(0), NODE_PORT, 0),
        ("NodePort of node-b", at(1), NODE_PORT, 1),
        ("external address", EXTERNAL, PORT, 0),
        ("load-balancer address", INGRESS, PORT, 0),
    ];
    let both = |(name, addresses, port, node): (_, [IpAddr; 2], _, _)| {
        addresses.map(|address| Door { name, to: SocketAddr::new(address, port), node })
    };
    kinds.into_iter().flat_map(both).collect()
}

/// The Service `web`, number 1, with all doors, changed as a test wants it; a backend on each of these nodes; both
/// kubeshunts started.
fn serving(setting: Setting, nodes: &[usize], change: impl FnOnce(Service) -> Service) -> Result<Cluster> {
    let mut cluster = setting.cluster()?;
    nodes.iter().try_for_each(|node| cluster.add_backend(*node))?;
    let all: Vec<_> = (0..nodes.len()).collect();
    cluster.publish(&change(everywhere("web", 1)), "web", &all)?;
    cluster.start()?;
    Ok(cluster)
}

/// The client outside.
fn outside(cluster: &Cluster) -> &Station {
    cluster.bed.outside()
}
