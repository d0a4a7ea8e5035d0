//! A node's pipeline without I/O: changes in, maps out, and the maps in words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proxy_common::layout::{Backend, Range, Sets, Traits, backend_flag, frontend_kind};
use proxy_userspace::cluster::Cluster;
use proxy_userspace::cluster::change::{Change, Kind, Object};
use proxy_userspace::plan::operation::show;
use proxy_userspace::plan::simulated::Maps;
use proxy_userspace::plan::{Capacity, Extent, Planner};
use proxy_userspace::tables;
use serde_json::Value;

/// Its name.
pub(crate) const NODE: &str = "node-a";

/// What a frontend leads to: everything that a program could tell apart, ids and slots aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) kind: &'static str,
    pub(crate) cluster: BTreeSet<String>,
    pub(crate) local: BTreeSet<String>,
    policies: (bool, bool),
    any_endpoint: bool,
    traits: Traits,
    /// The clients that a load-balancer address admits, if not all.
    admitted: BTreeSet<String>,
}

/// By `ADDRESS:PORT/PROTOCOL`.
pub(crate) type View = BTreeMap<String, Row>;

pub(crate) struct Node {
    pub(crate) cluster: Cluster,
    planner: Planner,
    maps: Maps,
    extent: Extent,
}

impl Node {
    /// One that has seen both lists, empty.
    pub(crate) fn new(capacity: Capacity) -> Self {
        let mut cluster = Cluster::new(NODE);
        for kind in [Kind::Service, Kind::EndpointSlice] {
            assert_eq!(cluster.apply(Change::Listed(kind, Vec::new())), []);
        }
        Self {
            cluster,
            planner: Planner::new(capacity),
            maps: Maps::new(capacity),
            extent: Extent::Everything,
        }
    }

    /// One turn of the controller's loop, with a grace period at its end. Nothing may be rejected.
    pub(crate) fn turn(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            assert_eq!(self.cluster.apply(change), []);
        }
        let dirty = self.cluster.take_dirty();
        let desired = dirty.into_iter().map(|name| {
            let tables = tables::of_service(&self.cluster, &name);
            (name, tables)
        });
        let plan = self.planner.plan(&self.maps.backends, desired.collect(), self.extent);
        self.extent = Extent::Changes;
        assert!(plan.unplaced.is_empty() && plan.problems.is_empty(), "{:?}", plan.problems);
        self.maps.carry_out(&plan.operations);
        self.planner.release(plan.epoch);
    }

    /// What the maps say.
    pub(crate) fn view(&self) -> View {
        let row = |id: u32, kind: u32| {
            let service = self.maps.services[id as usize];
            let sets = Sets(service.sets);
            Row {
                kind: match kind {
                    frontend_kind::CLUSTER_IP => "ClusterIP",
                    frontend_kind::NODE_PORT => "NodePort",
                    frontend_kind::LOAD_BALANCER => "LoadBalancer",
                    frontend_kind::EXTERNAL_IP => "ExternalIP",
                    _ => panic!("{kind}"),
                },
                cluster: self.set(sets.cluster()),
                local: self.set(sets.local()),
                policies: (sets.internal_local(), sets.external_local()),
                any_endpoint: sets.any_endpoint(),
                traits: Traits(service.traits),
                // Of one that is open to all they may stay for a grace period.
                admitted: if Traits(service.traits).is_restricted() {
                    self.admitted(id)
                } else {
                    BTreeSet::new()
                },
            }
        };
        let frontends = self.maps.frontends.iter();
        frontends.map(|(key, frontend)| (show(key), row(frontend.service, frontend.kind))).collect()
    }

    fn admitted(&self, service: u32) -> BTreeSet<String> {
        let own = self.maps.sources.iter().filter(|range| range.service == service);
        own.map(|range| format!("{}/{}", range.address, range.length)).collect()
    }

    fn set(&self, range: Range) -> BTreeSet<String> {
        let slots = range.start as usize..(range.start + range.len) as usize;
        let name = |backend: &Backend| {
            let star = if backend.flags & backend_flag::LOCAL != 0 { "*" } else { "" };
            format!("{}{star}", SocketAddr::new(backend.address.to_ip(), backend.port.number()))
        };
        let set: BTreeSet<String> = self.maps.backends[slots].iter().map(name).collect();
        assert_eq!(set.len(), range.len as usize, "an endpoint twice");
        set
    }

    /// What is in use of frontends, services and backends, once grace periods have passed.
    pub(crate) fn usage(&self) -> Capacity {
        assert_eq!(self.planner.awaits_grace(), None);
        self.planner.usage()
    }
}

pub(crate) fn service(object: Value) -> Change {
    Change::Applied(Object::Service(serde_json::from_value(object).unwrap()))
}

pub(crate) fn slice(object: Value) -> Change {
    Change::Applied(Object::EndpointSlice(serde_json::from_value(object).unwrap()))
}
