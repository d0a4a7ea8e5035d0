//! VXLAN between the nodes: one device per node, on which every other node is a neighbour written down.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::PoisonError;

use anyhow::Result;

use super::{alone, pod_addresses};
use crate::link::{Mac, Prefix};
use crate::netns::NetNs;
use crate::testbed::Bed;

/// What is left of an Ethernet frame after VXLAN's headers.
pub(super) const MTU: u32 = 1450;

pub(super) const DEVICE: &str = "flannel.1";
const VNI: u32 = 1;

/// A node in the overlay.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    netns: NetNs,
    index: u8,
    address: Ipv4Addr,
}

impl Member {
    fn mac(&self) -> Mac {
        [0x0a, 0x58, 0, 0, 0, self.index]
    }

    /// Leads from here to the pods of another node.
    fn lead_to(&self, other: &Self) -> Result<()> {
        self.netns.links(async |links| {
            links.tunnel_to(DEVICE, other.mac(), other.address).await?;
            for subnet in pod_addresses(other.index, 0) {
                // The first address of its subnet is that node's end of the overlay.
                links.neighbour(DEVICE, subnet.0, other.mac()).await?;
                links.route_onlink(subnet, subnet.0, DEVICE).await?;
            }
            Ok(())
        })
    }
}

/// Makes a node one of the overlay: it and those before it learn of each other.
pub(super) fn join(bed: &Bed, netns: &NetNs, index: u8, addresses: [Prefix; 2]) -> Result<()> {
    let [(IpAddr::V4(address), _), _] = addresses else { unreachable!("addresses come as IPv4, IPv6") };
    let new = Member { netns: netns.clone(), index, address };
    netns.links(async |links| {
        links.vxlan(DEVICE, VNI, address, "eth0").await?;
        links.set_mac(DEVICE, new.mac()).await?;
        links.set_mtu(DEVICE, MTU).await?;
        for address in alone(pod_addresses(index, 0)) {
            links.address(DEVICE, address).await?;
        }
        Ok(())
    })?;
    let mut members = bed.overlay().lock().unwrap_or_else(PoisonError::into_inner);
    for old in members.iter() {
        old.lead_to(&new)?;
        new.lead_to(old)?;
    }
    members.push(new);
    Ok(())
}
