//! ServiceCIDR objects: what the server says of ranges is what the programs know of them.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use kubeshunt_tests::apiserver::ApiServer;
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::{inspect, wait};
use proxy_common::address::Address;
use proxy_common::layout::{Prefix, RANGES, map};
use serde_json::json;

use crate::stage::{CONVERGE, Stage};

const OBJECTS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

/// Removes the object, also when the test fails.
struct Made(Arc<ApiServer>);

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = self.0.request("DELETE", &format!("{OBJECTS}/more"), None) {
            eprintln!("the ServiceCIDR stays: {error:#}");
        }
    }
}

/// The ranges in the kernel's map.
fn ranges(stage: &Stage) -> Result<Vec<Vec<u8>>> {
    let map = PinnedMap::open(&inspect::maps(stage.node.pins())?.join(map::SERVICE_CIDRS))?;
    let all = (0..RANGES).map(|place| map.element_at(place)).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|range| range.iter().any(|byte| *byte != 0)).collect())
}

/// As the map has a range.
fn bytes(address: &str, length: u8) -> Result<Vec<u8>> {
    let Prefix { address, mask } = Prefix::new(address.parse::<IpAddr>()?, length);
    let octets: [Address; 2] = [address, mask];
    Ok(octets.into_iter().flat_map(Address::octets).collect())
}

#[test]
fn ranges_come_and_go_with_their_objects() -> Result<()> {
    let stage = Stage::new()?;
    // The server makes one of its own arguments.
    let own = [bytes("10.96.0.0", 16)?, bytes("fd00:10:96::", 108)?];
    wait::until_true("the server's own ranges are known", CONVERGE, || {
        let known = ranges(&stage)?;
        Ok(known.len() == 2 && own.iter().all(|range| known.contains(range)))
    })?;
    let made = Made(Arc::clone(&stage.api));
    let more = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more"}, "spec": {"cidrs": ["10.112.0.0/20"]}});
    stage.api.request("POST", OBJECTS, Some(&more))?.json()?;
    let wanted = bytes("10.112.0.0", 20)?;
    wait::until_true("so is a new one", CONVERGE, || Ok(ranges(&stage)?.contains(&wanted)))?;
    drop(made);
    wait::until_true("until its object goes", CONVERGE, || Ok(ranges(&stage)?.len() == 2))
}
