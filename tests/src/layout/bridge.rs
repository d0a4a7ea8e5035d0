//! Pods as ports of a bridge, which is their gateway.

use anyhow::Result;

use super::{default_routes, pod_addresses};
use crate::link::Prefix;
use crate::netns::NetNs;

const BRIDGE: &str = "cni0";

pub(super) fn prepare(node: &NetNs, index: u8, mtu: Option<u32>) -> Result<()> {
    node.links(async |links| {
        links.bridge(BRIDGE).await?;
        // Else it takes the lowest address of its ports', and changes it under the eyes of pods that know it as their
        // gateway; CNI plugins see to that as well.
        links.set_mac(BRIDGE, [0x0a, 0x58, 10, 244, index, 1]).await?;
        if let Some(mtu) = mtu {
            links.set_mtu(BRIDGE, mtu).await?;
        }
        for address in pod_addresses(index, 1) {
            links.address(BRIDGE, address).await?;
        }
        Ok(())
    })
}

pub(super) fn plug(
    node: &NetNs,
    port: &str,
    pod: &NetNs,
    index: u8,
    number: u8,
    mtu: Option<u32>,
) -> Result<[Prefix; 2]> {
    let addresses = pod_addresses(index, number);
    node.links(async |links| {
        links.veth(port, "eth0", pod).await?;
        if let Some(mtu) = mtu {
            links.set_mtu(port, mtu).await?;
        }
        links.join_bridge(port, BRIDGE).await?;
        // For a pod that is its own backend, on nodes where netfilter translates what passes a bridge.
        links.hairpin(port).await
    })?;
    pod.links(async |links| {
        if let Some(mtu) = mtu {
            links.set_mtu("eth0", mtu).await?;
        }
        links.up("eth0").await?;
        for address in addresses {
            links.address("eth0", address).await?;
        }
        default_routes(&links, pod_addresses(index, 1).map(|(address, _)| address)).await
    })?;
    Ok(addresses)
}
