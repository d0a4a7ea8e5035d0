//! `sessionAffinity: ClientIP`: a record per service port, endpoint and client, with the time of the client's last new
//! connection to that endpoint. iptables: `xt_recent`; nftables: a set with timeouts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::Probe;
use super::differences::{self, Client};
use super::endpoints::{self, Usable};
use super::frontends::{self, PortId};
use super::objects::World;

const SECOND: u64 = 1_000_000_000;

/// All records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    last: BTreeMap<(PortId, Client, SocketAddr), u64>,
    /// Service ports as of the last [`Records::settle`].
    ports: BTreeSet<PortId>,
    /// Those that came when another one with records had gone before.
    pub(crate) heirs: BTreeSet<PortId>,
    has_estates: bool,
}

impl Records {
    /// What is left of a set for this client: "endpoints in the order of `ip:port`, the first that has a live record
    /// wins", else all of them.
    pub(crate) fn narrowed(
        &self,
        port: &PortId,
        timeout: Option<u32>,
        set: BTreeSet<Usable>,
        probe: &Probe,
    ) -> BTreeSet<Usable> {
        let Some(timeout) = timeout else { return set };
        let mut in_order: Vec<&Usable> = set.iter().collect();
        in_order.sort_by_key(|own| own.at.to_string());
        let is_live = |own: &&&Usable| {
            let key = (port.clone(), differences::client(probe.who), own.at);
            self.last.get(&key).is_some_and(|last| probe.now - last < u64::from(timeout) * SECOND)
        };
        match in_order.iter().find(is_live) {
            Some(own) => [(*own).clone()].into(),
            None => set,
        }
    }

    /// A new connection has been made.
    pub(crate) fn note(&mut self, port: &PortId, endpoint: SocketAddr, probe: &Probe) {
        let client = differences::client(probe.who);
        differences::forget_elsewhere(&mut self.last, port, &client);
        self.last.insert((port.clone(), client, endpoint), probe.now);
    }

    /// Nobody knows what becomes of the records of that service port.
    pub(crate) fn lose(&mut self, port: &PortId) {
        self.last.retain(|(own, ..), _| own != port);
        self.heirs.insert(port.clone());
    }

    /// The rules have been written anew: chains and sets that nobody needs are gone, with all they held.
    pub(crate) fn settle(&mut self, world: &World) {
        let ports: BTreeSet<PortId> = frontends::claims(world).into_iter().map(|claim| claim.port).collect();
        let has_estates = self.last.keys().any(|(port, ..)| !ports.contains(port));
        self.has_estates |= has_estates;
        self.heirs.retain(|port| ports.contains(port));
        if self.has_estates {
            self.heirs.extend(ports.difference(&self.ports).cloned());
        }
        self.last.retain(|(port, _, endpoint), _| {
            if !ports.contains(port) {
                return false;
            }
            let has_affinity = world.services[&port.service].affinity.is_some();
            let sets = endpoints::sets(world, port);
            let is_reachable = sets.cluster.iter().chain(&sets.local).any(|own| own.at == *endpoint);
            differences::keeps_record(has_affinity, is_reachable)
        });
        self.ports = ports;
    }
}
