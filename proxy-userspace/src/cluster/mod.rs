//! The cluster's state, as far as this node needs it: the first pure stage of the pipeline.
//!
//! Input: [`Change`]s, in order. Output: [`Service`]s and their [`Endpoint`]s, the set of Services touched since
//! it was last asked for, and a [`Reject`] for everything that could not be taken over.
//!
//! Invariants:
//! - The state depends on the objects last seen, not on the order in which they came: slices may come before
//!   their Service, and a list says the same as the changes that lead to it.
//! - Work is proportional to the change. An object that means the same as before touches nothing.
//! - A bad object never harms another one, and one that turns bad as a whole keeps its last good version.
//! - Nothing is complete before Services, EndpointSlices and the Node have been listed once.

pub mod api;
pub mod change;
pub mod ingest;
pub mod model;
pub mod pending;
pub mod printable;
pub mod reject;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use self::change::{Change, Kind, Object, ObjectRef};
use self::ingest::{Backends, Hints, Parsed, Slice};
use self::model::{Endpoint, Family, NodeInfo, Pod, Protocol, Service, ServiceName, ServicePort};
use self::pending::Pending;
use self::reject::{Problem, Reject};

/// Everything known of the cluster.
#[derive(Debug)]
pub struct Cluster {
    node: NodeInfo,
    serves_external_ips: bool,
    /// Services, and slices grouped by the Service they name, whether or not it exists.
    entries: BTreeMap<ServiceName, Entry>,
    /// Which Service a slice was last filed under, by namespace and name of the slice. Needed because a slice's
    /// label may change, and because a deletion says only the slice's name.
    filed_under: HashMap<(Box<str>, Box<str>), Box<str>>,
    /// Hints in use. There are few different ones and very many endpoints.
    hints: HashSet<Arc<Hints>>,
    /// How many hints there may be before the unused ones are looked for.
    hints_limit: usize,
    dirty: BTreeSet<ServiceName>,
    surroundings_changed: bool,
    /// This node's pods, by namespace and name.
    pods: BTreeMap<(Box<str>, Box<str>), Pod>,
    /// Where cluster IPs are taken from, by the ServiceCIDR that says so.
    service_cidrs: BTreeMap<Box<str>, Vec<IpNet>>,
    /// Whether the source could read everything.
    whole: bool,
    /// Objects that exist, but of which nothing usable has been seen.
    unknown: BTreeSet<ObjectRef>,
    listed_services: bool,
    listed_slices: bool,
    listed_node: bool,
    listed_pods: bool,
    listed_service_cidrs: bool,
    counts: Counts,
    pending: Pending,
    /// How many times that has been taken, and one: entries begin with none.
    round: u32,
}

/// What is known under one Service name.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Box<Service>>,
    /// Sorted by the slice's name, so that the order of arrival has no influence.
    slices: Vec<(Box<str>, Backends)>,
    /// Whether there was a Service once: what its slices say still matters to those that were connected to it.
    was_served: bool,
    /// The round in which the Service last became another one.
    changed_in: u32,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services served.
    pub services: usize,
    /// Slices, including those whose Service does not exist.
    pub slices: usize,
    /// Endpoints of those slices, before duplicates are removed.
    pub endpoints: usize,
}

const FIRST_HINTS_LIMIT: usize = 64;

impl Cluster {
    /// Nothing known yet, seen from the node of that name.
    #[must_use]
    pub fn new(node_name: &str) -> Self {
        Self {
            node: NodeInfo { name: node_name.trim().to_lowercase().into(), ..NodeInfo::default() },
            serves_external_ips: true,
            entries: BTreeMap::new(),
            filed_under: HashMap::new(),
            hints: HashSet::new(),
            hints_limit: FIRST_HINTS_LIMIT,
            dirty: BTreeSet::new(),
            surroundings_changed: true,
            pods: BTreeMap::new(),
            service_cidrs: BTreeMap::new(),
            whole: true,
            unknown: BTreeSet::new(),
            listed_services: false,
            listed_slices: false,
            listed_node: false,
            listed_pods: false,
            listed_service_cidrs: false,
            counts: Counts::default(),
            pending: Pending::default(),
            round: 1,
        }
    }

    /// The same, with external IPs that nobody serves.
    #[must_use]
    pub fn without_external_ips(self) -> Self {
        Self { serves_external_ips: false, ..self }
    }

    /// Whether Services answer at their external IPs.
    #[must_use]
    pub fn serves_external_ips(&self) -> bool {
        self.serves_external_ips
    }

    /// Takes over a change and says what of it could not be.
    pub fn apply(&mut self, change: Change) -> Vec<Reject> {
        self.surroundings_changed |= match &change {
            Change::Listed(kind, _) => kind.is_surrounding(),
            Change::Applied(object) => object.kind().is_surrounding(),
            Change::Deleted(object) => object.kind.is_surrounding(),
            Change::Unreadable(_) | Change::Whole(_) => false,
        };
        match change {
            Change::Listed(kind, objects) => self.list(kind, &objects),
            Change::Applied(object) => self.upsert(&object),
            Change::Deleted(object) => {
                self.delete(&object);
                Vec::new()
            }
            Change::Unreadable(reject) => vec![reject],
            Change::Whole(whole) => {
                self.whole = whole;
                Vec::new()
            }
        }
    }

    /// The Services of which something changed since the last call: themselves, their slices, or this node's
    /// zone, which decides over hints, or its addresses, which admit it as a client. A name without a Service is one that is gone.
    pub fn take_dirty(&mut self) -> BTreeSet<ServiceName> {
        mem::take(&mut self.dirty)
    }

    /// Whether anything but Services and slices has changed since the last call: the Node, pods, ServiceCIDRs. True at first.
    pub fn take_surroundings_changed(&mut self) -> bool {
        mem::replace(&mut self.surroundings_changed, false)
    }

    /// Whether every list needed for decisions has been seen once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.listed_services && self.listed_slices && self.listed_node
    }

    /// Whether it has been seen what there is of this node's object, be it nothing.
    #[must_use]
    pub fn is_node_known(&self) -> bool {
        self.listed_node
    }

    /// Whether ServiceCIDRs have been listed, or are not to be had.
    #[must_use]
    pub fn are_service_cidrs_known(&self) -> bool {
        self.listed_service_cidrs
    }

    /// Whether what is not known does not exist. Not so while a manifest is broken or an object does not decode
    /// that has not been seen well before: an earlier process may have served it, and it is not ours to end that.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole && self.unknown.is_empty()
    }

    /// A Service.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.entries.get(name)?.service.as_deref()
    }

    /// The names of all Services, in order.
    pub fn service_names(&self) -> impl Iterator<Item = &ServiceName> {
        self.entries.iter().filter(|(_, entry)| entry.service.is_some()).map(|(name, _)| name)
    }

    /// All names under which there is anything, Services or slices.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.entries.keys()
    }

    /// Who answers by a protocol according to the slices of that name, on any port, whether or not there is a Service.
    pub fn answering(
        &self,
        name: &ServiceName,
        protocol: Protocol,
    ) -> impl Iterator<Item = (IpAddr, u16)> + use<'_> {
        let slices = self.entries.get(name).into_iter().flat_map(|entry| &entry.slices);
        slices.flat_map(move |(_, backends)| {
            let ports = backends.ports.iter().filter(move |port| port.protocol == protocol);
            ports.flat_map(|port| {
                let answer = backends.endpoints.iter().filter(|endpoint| endpoint.serving || endpoint.ready);
                answer.map(|endpoint| (endpoint.address, port.port))
            })
        })
    }

    /// The endpoints of a Service port in one family, from all slices: every address and port once, sorted by
    /// address and port.
    #[must_use]
    pub fn endpoints(&self, name: &ServiceName, port: &ServicePort, family: Family) -> Vec<Endpoint> {
        let Some(entry) = self.entries.get(name) else { return Vec::new() };
        let mut found: Vec<Endpoint> = Vec::new();
        for (_, backends) in entry.slices.iter().filter(|(_, backends)| backends.family == family) {
            let ports = backends.ports.iter();
            for slice_port in ports.filter(|own| *own.name == *port.name && own.protocol == port.protocol) {
                found.extend(backends.endpoints.iter().map(|endpoint| {
                    let hints = endpoint.hints.as_deref().cloned().unwrap_or_default();
                    Endpoint {
                        address: endpoint.address,
                        port: slice_port.port,
                        local: endpoint.local,
                        ready: endpoint.ready,
                        serving: endpoint.serving,
                        terminating: endpoint.terminating,
                        zone_hints: hints.zones,
                        node_hints: hints.nodes,
                    }
                }));
            }
        }
        // The first one seen wins, except that one which stays beats one which goes: a new pod may have got the
        // address of an old one. The sort is stable, so "first" survives it.
        found.sort_by_key(|endpoint| (endpoint.address, endpoint.port, endpoint.terminating));
        found.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
        found
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> &NodeInfo {
        &self.node
    }

    /// This node's pods; `None` before they have been listed, which nobody waits for.
    #[must_use]
    pub fn pods(&self) -> Option<impl Iterator<Item = &Pod>> {
        self.listed_pods.then(|| self.pods.values())
    }

    /// Where cluster IPs are taken from, as far as ServiceCIDRs say so.
    #[must_use]
    pub fn service_cidrs(&self) -> BTreeSet<IpNet> {
        self.service_cidrs.values().flatten().copied().collect()
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What has been said of Services and slices since the last [`Cluster::take_pending`].
    #[must_use]
    pub fn pending(&self) -> &Pending {
        &self.pending
    }

    /// The same, once it has been carried out.
    pub fn take_pending(&mut self) -> Pending {
        self.round = self.round.wrapping_add(1).max(1);
        mem::take(&mut self.pending)
    }

    fn list(&mut self, kind: Kind, objects: &[Object]) -> Vec<Reject> {
        let rejects = objects.iter().flat_map(|object| self.upsert(object)).collect();
        let seen: HashSet<ObjectRef> = objects.iter().map(Object::reference).collect();
        self.unknown.retain(|object| object.kind != kind || seen.contains(object));
        let is_gone = |namespace: &str, name: &str| !seen.contains(&ObjectRef::new(kind, namespace, name));
        match kind {
            Kind::Service => {
                let gone: Vec<ServiceName> = self
                    .service_names()
                    .filter(|known| is_gone(&known.namespace, &known.name))
                    .cloned()
                    .collect();
                gone.iter().for_each(|name| self.set_service(name, None));
                self.listed_services = true;
            }
            Kind::EndpointSlice => {
                let known = self.filed_under.keys();
                let gone: Vec<_> =
                    known.filter(|(namespace, name)| is_gone(namespace, name)).cloned().collect();
                gone.iter().for_each(|(namespace, name)| self.remove_slice(namespace, name));
                self.listed_slices = true;
            }
            Kind::Pod => {
                self.pods.retain(|(namespace, name), _| !is_gone(namespace, name));
                self.listed_pods = true;
            }
            Kind::ServiceCidr => {
                self.service_cidrs.retain(|name, _| !is_gone("", name));
                self.listed_service_cidrs = true;
            }
            // The only Node that matters is this one, which is here; its last known state is better than none.
            Kind::Node => self.listed_node = true,
            Kind::Manifest => {}
        }
        rejects
    }

    fn upsert(&mut self, object: &Object) -> Vec<Reject> {
        let reference = object.reference();
        if reference.name.is_empty() {
            return vec![Reject {
                object: reference,
                field: "metadata.name".to_owned(),
                problem: Problem::NoName,
            }];
        }
        match object {
            Object::Service(object) => {
                let (parsed, rejects) = ingest::service(object);
                self.note(&reference, matches!(parsed, Parsed::Unusable));
                let name = ServiceName { namespace: reference.namespace, name: reference.name };
                match parsed {
                    Parsed::Value(service) => self.set_service(&name, Some(service)),
                    Parsed::NotOurs => self.set_service(&name, None),
                    Parsed::Unusable => {}
                }
                rejects
            }
            Object::EndpointSlice(object) => {
                let (parsed, rejects) = ingest::slice(object, &self.node.name);
                self.note(&reference, matches!(parsed, Parsed::Unusable));
                let (namespace, name) = (reference.namespace, reference.name);
                match parsed {
                    Parsed::Value(slice) => self.set_slice(namespace, name, slice),
                    Parsed::NotOurs => self.remove_slice(&namespace, &name),
                    Parsed::Unusable => {}
                }
                rejects
            }
            Object::Node(object) if object.metadata.name == *self.node.name => {
                let (node, rejects) = ingest::node(object);
                let (zone, addresses) = (node.zone != self.node.zone, node.addresses != self.node.addresses);
                let services = self.entries.iter().filter(|(_, entry)| {
                    let service = entry.service.as_ref();
                    service.is_some_and(|it| zone || addresses && !it.source_ranges.is_empty())
                });
                self.dirty.extend(services.map(|(name, _)| name.clone()));
                self.node = node;
                rejects
            }
            Object::Node(_) => Vec::new(),
            Object::Pod(object) => {
                let key = (reference.namespace, reference.name);
                match ingest::pod(object, &self.node.name).value() {
                    Some(pod) => drop(self.pods.insert(key, pod)),
                    None => drop(self.pods.remove(&key)),
                }
                Vec::new()
            }
            Object::ServiceCidr(object) => {
                let (cidrs, rejects) = ingest::service_cidr(object);
                self.service_cidrs.insert(reference.name, cidrs);
                rejects
            }
            Object::Unreadable(reject) => {
                self.note(&reference, true);
                vec![(**reject).clone()]
            }
        }
    }

    /// Remembers whether an object exists of which nothing usable has been seen yet.
    fn note(&mut self, object: &ObjectRef, unusable: bool) {
        let is_known = match object.kind {
            Kind::Service => {
                let name = ServiceName { namespace: object.namespace.clone(), name: object.name.clone() };
                self.service(&name).is_some()
            }
            Kind::EndpointSlice => {
                self.filed_under.contains_key(&(object.namespace.clone(), object.name.clone()))
            }
            Kind::Node | Kind::Pod | Kind::ServiceCidr | Kind::Manifest => true,
        };
        if unusable && !is_known {
            self.unknown.insert(object.clone());
        } else {
            self.unknown.remove(object);
        }
    }

    fn delete(&mut self, object: &ObjectRef) {
        self.unknown.remove(object);
        match object.kind {
            Kind::Service => {
                let name = ServiceName { namespace: object.namespace.clone(), name: object.name.clone() };
                self.set_service(&name, None);
            }
            Kind::EndpointSlice => self.remove_slice(&object.namespace, &object.name),
            Kind::Pod => drop(self.pods.remove(&(object.namespace.clone(), object.name.clone()))),
            Kind::ServiceCidr => drop(self.service_cidrs.remove(&object.name)),
            Kind::Node | Kind::Manifest => {}
        }
    }

    fn set_service(&mut self, name: &ServiceName, service: Option<Service>) {
        let (is, will_be) =
            (self.entries.get(name).and_then(|entry| entry.service.as_deref()), service.as_ref());
        if is.is_some() || will_be.is_some() {
            self.pending.service();
        }
        if is == will_be {
            return;
        }
        let entry = self.entries.entry(name.clone()).or_default();
        self.counts.services += usize::from(service.is_some());
        self.counts.services -= usize::from(entry.service.is_some());
        entry.was_served = true;
        if entry.changed_in != self.round {
            entry.changed_in = self.round;
            self.pending.service_changed();
        }
        entry.service = service.map(Box::new);
        self.dirty.insert(name.clone());
        self.drop_if_empty(name);
    }

    fn set_slice(&mut self, namespace: Box<str>, name: Box<str>, slice: Slice) {
        let Slice { service, mut backends, triggered } = slice;
        self.share_hints(&mut backends);
        let key = (namespace, name);
        if self.filed_under.get(&key).is_some_and(|filed_under| *filed_under != service.name) {
            self.remove_slice(&key.0, &key.1);
        }
        let entry = self.entries.entry(service.clone()).or_default();
        let (added, family) = (backends.endpoints.len(), backends.family);
        match entry.slices.binary_search_by(|(known, _)| known.cmp(&key.1)) {
            Ok(index) if entry.slices[index].1 == backends => return self.pending.slice_unchanged(),
            Ok(index) => {
                let old = mem::replace(&mut entry.slices[index].1, backends);
                self.counts.endpoints -= old.endpoints.len();
            }
            Err(index) => {
                // Most Services have exactly one slice: do not make room for four.
                entry.slices.reserve_exact(1);
                entry.slices.insert(index, (key.1.clone(), backends));
                self.counts.slices += 1;
                self.filed_under.insert(key, service.name.clone());
            }
        }
        self.counts.endpoints += added;
        self.pending.slice(&service, family, triggered);
        if entry.was_served {
            self.dirty.insert(service);
        }
    }

    fn remove_slice(&mut self, namespace: &str, name: &str) {
        let key = (Box::from(namespace), Box::from(name));
        let Some(service) = self.filed_under.remove(&key) else { return };
        let service = ServiceName { namespace: key.0, name: service };
        let entry = self.entries.get_mut(&service).expect("a slice is filed under an entry that exists");
        let index = entry.slices.binary_search_by(|(known, _)| (**known).cmp(name));
        let (_, old) = entry.slices.remove(index.expect("a slice is where it was filed"));
        self.counts.slices -= 1;
        self.counts.endpoints -= old.endpoints.len();
        self.pending.slice_gone(&service, old.family);
        if entry.was_served {
            self.dirty.insert(service.clone());
        }
        self.drop_if_empty(&service);
    }

    fn drop_if_empty(&mut self, name: &ServiceName) {
        if self.entries.get(name).is_some_and(|entry| entry.service.is_none() && entry.slices.is_empty()) {
            self.entries.remove(name);
        }
    }

    fn share_hints(&mut self, backends: &mut Backends) {
        for hints in backends.endpoints.iter_mut().filter_map(|endpoint| endpoint.hints.as_mut()) {
            match self.hints.get(&**hints) {
                Some(shared) => *hints = Arc::clone(shared),
                None => {
                    self.hints.insert(Arc::clone(hints));
                }
            }
        }
        if self.hints.len() > self.hints_limit {
            self.hints.retain(|hints| Arc::strong_count(hints) > 1);
            self.hints_limit = FIRST_HINTS_LIMIT.max(2 * self.hints.len());
        }
    }
}

#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod tests;
