//! How a node's pods are connected: what different CNIs make of a node.
//!
//! Invariant: in every layout a pod reaches every other pod and everybody on the LAN, without address
//! translation. Only where packets pass differs, and whom the LAN knows.

mod bridge;
mod narrow;
mod overlay;
mod point_to_point;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::link::{Links, Prefix};
use crate::netns::NetNs;
use crate::testbed::Bed;

pub(crate) use self::overlay::Member;

/// A way of connecting pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Pods are ports of a bridge; everybody on the LAN routes a node's pod subnet to it.
    #[default]
    Bridge,
    /// Every pod has a link of its own and the node a route per pod, as Calico makes it. Routed on the LAN,
    /// too.
    PointToPoint,
    /// Pods are ports of a bridge, and VXLAN leads from node to node, as flannel makes it. The LAN knows no pod.
    Overlay,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bridge, Self::PointToPoint, Self::Overlay];

    /// Prepares a node that is on the LAN already.
    pub(crate) fn prepare(self, bed: &Bed, node: &NetNs, index: u8, addresses: [Prefix; 2]) -> Result<()> {
        match self {
            Self::Bridge => bridge::prepare(node, index, None)?,
            Self::PointToPoint => {}
            Self::Overlay => {
                bridge::prepare(node, index, Some(overlay::MTU))?;
                return overlay::join(bed, node, index, addresses);
            }
        }
        for ((subnet, length), (gateway, _)) in pod_addresses(index, 0).into_iter().zip(addresses) {
            bed.announce(node, (subnet, length), gateway)?;
        }
        Ok(())
    }

    /// Connects a pod to its node, by a link whose end at the node is called `port`. Returns its addresses.
    pub(crate) fn plug(
        self,
        node: &NetNs,
        port: &str,
        pod: &NetNs,
        index: u8,
        number: u8,
    ) -> Result<[Prefix; 2]> {
        match self {
            Self::Bridge => bridge::plug(node, port, pod, index, number, None),
            Self::PointToPoint => point_to_point::plug(node, port, pod, index, number),
            Self::Overlay => bridge::plug(node, port, pod, index, number, Some(overlay::MTU)),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge, routed",
            Self::PointToPoint => "point to point, routed",
            Self::Overlay => "bridge, overlay",
        })
    }
}

/// The subnets of all pods.
#[must_use]
pub fn cluster_subnets() -> [Prefix; 2] {
    [
        (Ipv4Addr::new(10, 244, 0, 0).into(), 16),
        (Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0).into(), 48),
    ]
}

/// The addresses of a pod; number 0 is the subnet itself and 1 the bridge, where there is one.
pub(crate) fn pod_addresses(node: u8, number: u8) -> [Prefix; 2] {
    [
        (Ipv4Addr::new(10, 244, node, number).into(), 24),
        (Ipv6Addr::new(0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, number.into()).into(), 64),
    ]
}

/// Everything, in the family of `like`.
fn anywhere(like: IpAddr) -> Prefix {
    match like {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// The same addresses, alone in their subnets.
fn alone(addresses: [Prefix; 2]) -> [Prefix; 2] {
    addresses.map(|(address, _)| (address, if address.is_ipv4() { 32 } else { 128 }))
}

/// Routes everything else to these gateways.
pub(crate) async fn default_routes(links: &Links, gateways: [IpAddr; 2]) -> Result<()> {
    for gateway in gateways {
        links.route(anywhere(gateway), gateway).await?;
    }
    Ok(())
}
