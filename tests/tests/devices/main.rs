//! Programs for packets on the devices of a node: on every one they belong on, and on no other.

mod beside;
mod classes;
mod filters;
mod life;

use std::net::IpAddr;

use anyhow::{Context, Result};
use kubeshunt_tests::attached::{self, Way};
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::stage::{PATIENCE, Stage};
use kubeshunt_tests::{inspect, wait};

/// The index of a device of the node.
fn index(stage: &Stage, device: &str) -> Result<u32> {
    stage.node.netns().links(async |links| links.index(device).await)
}

/// What a device without programs has.
const NOTHING: [Vec<u32>; 2] = [Vec::new(), Vec::new()];

/// The programs on a device of the node: in, out.
fn programs(stage: &Stage, device: &str) -> Result<[Vec<u32>; 2]> {
    let netns = stage.node.netns();
    Ok([attached::by_tcx(netns, device, Way::Ingress)?, attached::by_tcx(netns, device, Way::Egress)?])
}

/// Waits until a device has a program for either way, and returns them.
fn wait_for_programs(stage: &Stage, device: &str) -> Result<[u32; 2]> {
    wait::until(&format!("{device} has programs"), PATIENCE, || {
        let [ingress, egress] = programs(stage, device)?;
        Ok(ingress.first().copied().zip(egress.last().copied()).map(|(ingress, egress)| [ingress, egress]))
    })
    .with_context(|| stage.kubeshunt().log_tail())
}

/// The names of the ports of the node's bridge, in the order in which pods came.
fn ports(stage: &Stage) -> Result<Vec<String>> {
    stage.node.netns().run(|| {
        let links = nix::net::if_::if_nameindex()?;
        let names = links.to_slice().iter().map(|one| one.name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name.starts_with("veth")).collect())
    })
}

/// The name of the client's port: one with the programs of all that pods are behind.
fn port(stage: &Stage) -> Result<String> {
    ports(stage)?.into_iter().next().context("the client has a port")
}

/// What the map of devices says: what the node sends from through a device, IPv4 and IPv6.
fn masquerade(stage: &Stage, index: u32) -> Result<Option<[IpAddr; 2]>> {
    let map = PinnedMap::open(&inspect::maps(stage.node.pins())?.join("DEVICES"))?;
    let Some(value) = map.lookup(&index.to_ne_bytes())? else { return Ok(None) };
    let address = |at: usize| -> Result<IpAddr> {
        let octets: [u8; 16] = value[at..at + 16].try_into()?;
        Ok(IpAddr::from(octets).to_canonical())
    };
    Ok(Some([address(0)?, address(16)?]))
}
