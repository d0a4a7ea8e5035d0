//! Which endpoints a service port has, and which of them may be used: endpointslicecache.go, topology.go.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::differences;
use super::frontends::{self, PortId};
use super::objects::{AddressType, Endpoint, World};

/// An endpoint as a service port sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Usable {
    pub(crate) at: SocketAddr,
    /// Whether it runs on this node.
    pub(crate) is_local: bool,
}

/// `CategorizeEndpoints`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sets {
    pub(crate) cluster: BTreeSet<Usable>,
    pub(crate) local: BTreeSet<Usable>,
    /// Whether anybody anywhere could serve.
    pub(crate) any: bool,
}

/// An endpoint of a slice, with conditions filled in.
struct Known<'a> {
    endpoint: &'a Endpoint,
    usable: Usable,
}

impl Known<'_> {
    fn is_ready(&self) -> bool {
        self.endpoint.ready.unwrap_or(true)
    }

    fn is_terminating(&self) -> bool {
        self.endpoint.terminating.unwrap_or(false)
    }

    /// What is used when nobody is ready.
    fn is_last_resort(&self) -> bool {
        self.endpoint.serving.unwrap_or(true) && self.is_terminating()
    }
}

/// All endpoints of a service port, every address and port once.
fn known<'a>(world: &'a World, port: &PortId) -> Vec<Known<'a>> {
    let mut all: Vec<Known<'a>> = Vec::new();
    let family = if port.is_v4 { AddressType::V4 } else { AddressType::V6 };
    for (name, slice) in &world.slices {
        let is_its = name.namespace == port.service.namespace
            && slice.service.as_ref() == Some(&port.service.name)
            && slice.address_type == family
            && !slice.is_headless;
        if !is_its {
            continue;
        }
        for slice_port in &slice.ports {
            let Some(number) = slice_port.number.filter(|number| *number != 0) else { continue };
            if slice_port.name != port.name || slice_port.protocol != port.protocol {
                continue;
            }
            for endpoint in &slice.endpoints {
                // Further addresses have no meaning.
                let Some(address) = endpoint.addresses.first() else { continue };
                let usable = Usable {
                    at: SocketAddr::new(*address, number),
                    is_local: endpoint.node == Some(world.node),
                };
                all.push(Known { endpoint, usable });
            }
        }
    }
    let mut once: Vec<Known<'a>> = Vec::new();
    for later in all {
        match once.iter_mut().find(|earlier| earlier.usable.at == later.usable.at) {
            None => once.push(later),
            Some(earlier) if differences::replaces(earlier.is_terminating(), later.is_terminating()) => {
                *earlier = later;
            }
            Some(_) => {}
        }
    }
    once
}

/// Sorts them.
pub(crate) fn sets(world: &World, port: &PortId) -> Sets {
    let known = known(world, port);
    let all: Vec<&Known<'_>> = known.iter().collect();
    let uses = frontends::uses(world, port);
    let mut sets = Sets::default();
    if uses.cluster {
        let ready: Vec<&Known<'_>> = all.iter().copied().filter(|own| own.is_ready()).collect();
        sets.cluster = set(hinted(world, &ready));
        if sets.cluster.is_empty() {
            sets.cluster = set(all.iter().copied().filter(|own| own.is_last_resort()).collect());
        }
    }
    if uses.local {
        let here = || all.iter().copied().filter(|own| own.usable.is_local);
        sets.local = set(here().filter(|own| own.is_ready()).collect());
        if sets.local.is_empty() {
            sets.local = set(here().filter(|own| own.is_last_resort()).collect());
        }
    }
    let anywhere = || all.iter().any(|own| own.is_ready() || own.is_last_resort());
    sets.any = !sets.cluster.is_empty() || uses.local && anywhere();
    sets
}

fn set(known: Vec<&Known<'_>>) -> BTreeSet<Usable> {
    known.into_iter().map(|own| own.usable.clone()).collect()
}

/// `topologyModeFromHints`: all ready endpoints have a hint of a kind and some are meant for us, or the kind is ignored.
fn hinted<'a, 'b>(world: &World, ready: &[&'b Known<'a>]) -> Vec<&'b Known<'a>> {
    let all_have_node_hints = ready.iter().all(|own| !own.endpoint.for_nodes.is_empty());
    let for_this_node: Vec<&Known<'_>> =
        ready.iter().copied().filter(|own| own.endpoint.for_nodes.contains(&world.node)).collect();
    if all_have_node_hints && !for_this_node.is_empty() {
        return for_this_node;
    }
    let all_have_zone_hints = ready.iter().all(|own| !own.endpoint.for_zones.is_empty());
    let for_this_zone: Vec<&Known<'_>> = ready
        .iter()
        .copied()
        .filter(|own| world.zone.is_some_and(|zone| own.endpoint.for_zones.contains(&zone)))
        .collect();
    if all_have_zone_hints && !for_this_zone.is_empty() {
        return for_this_zone;
    }
    ready.to_vec()
}
