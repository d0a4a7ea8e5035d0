//! A link with a small MTU between two nodes, in the middle of every way between their pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::{Layout, overlay};
use crate::link::Prefix;
use crate::node::Node;
use crate::testbed::Testbed;

const DEVICE: &str = "narrow";

/// The addresses of the link's two ends.
fn end(number: u8) -> [Prefix; 2] {
    [
        (Ipv4Addr::new(10, 255, 0, number).into(), 24),
        (Ipv6Addr::new(0xfd00, 0x10, 0x255, 0, 0, 0, 0, number.into()).into(), 64),
    ]
}

impl Testbed {
    /// Has pods of these nodes reach each other through a link of that MTU: the overlay itself, or else one that
    /// is added beside the LAN. Nodes' own addresses stay on the LAN.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn narrow(&self, a: &Node, b: &Node, mtu: u32) -> Result<()> {
        if a.layout() == Layout::Overlay {
            return [a, b].into_iter().try_for_each(|node| {
                node.netns().links(async |links| links.set_mtu(overlay::DEVICE, mtu).await)
            });
        }
        a.netns().links(async |links| links.veth(DEVICE, DEVICE, b.netns()).await)?;
        for (node, own, (other, gateways)) in [(a, end(1), (b, end(2))), (b, end(2), (a, end(1)))] {
            node.netns().links(async |links| {
                links.set_mtu(DEVICE, mtu).await?;
                links.up(DEVICE).await?;
                for address in own {
                    links.address(DEVICE, address).await?;
                }
                links.offload(DEVICE, false)
            })?;
            for (subnet, gateway) in other.pod_subnets().into_iter().zip(gateways.map(|(address, _)| address))
            {
                reroute(node, subnet, gateway)?;
            }
        }
        Ok(())
    }
}

fn reroute(node: &Node, subnet: Prefix, gateway: IpAddr) -> Result<()> {
    node.netns().links(async |links| links.reroute(subnet, gateway).await)
}
