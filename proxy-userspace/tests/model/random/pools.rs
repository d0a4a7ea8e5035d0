//! The small sets that everything is drawn from.

use std::net::IpAddr;

use super::super::oracle::objects::Protocol;

pub(crate) const NODE: &str = "node-1";
pub(crate) const PORT_NAMES: [&str; 4] = ["", "http", "dns", "x"];
/// One of them is a NodePort as well.
pub(crate) const NUMBERS: [u16; 4] = [80, 443, 53, 30_080];
pub(crate) const NODE_PORTS: [u16; 3] = [30_080, 30_053, 31_000];
pub(crate) const NAMES: [&str; 3] = ["web", "db", "cache"];
pub(crate) const NAMESPACES: [&str; 2] = ["a", "b"];

/// Addresses that Services claim, which are the first of each family for ClusterIPs; the last few belong to the node, or
/// to nobody.
pub(crate) fn vips(is_v4: bool) -> Vec<IpAddr> {
    let texts: [&str; 9] = if is_v4 {
        [
            "10.96.0.1",
            "10.96.0.2",
            "10.96.0.3",
            "10.96.0.4",
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "192.168.0.1",
            "127.0.0.1",
        ]
    } else {
        [
            "fd00:96::1",
            "fd00:96::2",
            "fd00:96::3",
            "fd00:96::4",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8::3",
            "fd00:192::1",
            "::1",
        ]
    };
    texts.map(|text| text.parse().expect("an address")).to_vec()
}

/// How many of [`vips`] are for ClusterIPs.
pub(crate) const CLUSTER_IPS: usize = 4;

/// Addresses that may be on the node's interfaces.
pub(crate) fn interfaces() -> Vec<IpAddr> {
    ["192.168.0.1", "192.168.0.9", "fd00:192::1", "fd00:192::9", "192.0.2.3", "2001:db8::3", "10.96.0.4"]
        .map(|text| text.parse().expect("an address"))
        .to_vec()
}

/// How many of [`pods`] are pods of this node.
pub(crate) const PODS: usize = 3;

/// Where endpoints are.
pub(crate) fn pods(is_v4: bool) -> Vec<IpAddr> {
    let texts: [&str; 7] = if is_v4 {
        ["10.244.1.7", "10.244.1.8", "10.244.1.9", "10.244.2.1", "10.244.2.2", "10.244.2.10", "192.168.0.1"]
    } else {
        [
            "fd00:244:1::7",
            "fd00:244:1::8",
            "fd00:244:1::9",
            "fd00:244:2::1",
            "fd00:244:2::2",
            "fd00:244:2::10",
            "fd00:192::1",
        ]
    };
    texts.map(|text| text.parse().expect("an address")).to_vec()
}

/// Of a port of that name. Services and slices mostly agree about it.
pub(crate) fn protocol(name: &str, draw: u8) -> Protocol {
    match (draw, name) {
        (0, _) => Protocol::Tcp,
        (1, _) | (_, "dns") => Protocol::Udp,
        (_, "x") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}
