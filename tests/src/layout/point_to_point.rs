//! Every pod on a link of its own, with a gateway that exists only as a neighbour.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::{alone, anywhere, pod_addresses};
use crate::link::{Mac, Prefix};
use crate::netns::NetNs;

/// The node's end of every pod's link.
const NODE_END: Mac = [0xee; 6];

/// What pods send everything to. No device has the first; the second follows from the hardware address.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee)),
];

pub(super) fn plug(node: &NetNs, port: &str, pod: &NetNs, index: u8, number: u8) -> Result<[Prefix; 2]> {
    let addresses = alone(pod_addresses(index, number));
    node.links(async |links| {
        links.veth(port, "eth0", pod).await?;
        links.set_mac(port, NODE_END).await?;
        links.up(port).await?;
        for address in addresses {
            links.route_to_device(address, port).await?;
        }
        Ok(())
    })?;
    pod.links(async |links| {
        links.up("eth0").await?;
        for (address, gateway) in addresses.into_iter().zip(GATEWAYS) {
            links.address("eth0", address).await?;
            links.neighbour("eth0", gateway, NODE_END).await?;
            links.route_onlink(anywhere(gateway), gateway, "eth0").await?;
        }
        Ok(())
    })?;
    Ok(addresses)
}
