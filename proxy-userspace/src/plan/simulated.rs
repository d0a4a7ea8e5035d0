//! The maps in ordinary collections, and a socket in ordinary cells: for tests and for `explain`.
//!
//! Input: a plan's operations; output: answers of the real decision core, which reads [`Maps`] as the programs
//! read the kernel's. Pure.
//!
//! Contract: [`Maps`] behave as the kernel's maps do towards [`crate::datapath`]. What would fail there panics
//! here: a frontend more than fits, a slot out of bounds, an operation that makes no sense. Nothing else is
//! imitated; LRU eviction and full socket storage are for tests on a real kernel.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

use proxy_common::{
    address::{Address, Port},
    decision::{Caller, Client, ClientAddress, Destination, Tables},
    layout::{
        self, Affinity, AffinityKey, Backend, Fate, Fates, Frontend, FrontendKey, Origin, Revision, Sender,
        SenderKey, Service, Sets, Source, Traits, client_kind,
    },
};

use super::{Capacity, NodeAddresses, Observed, Operation, SourceRange};

/// All maps.
#[derive(Clone, Debug)]
pub struct Maps {
    /// The frontends map.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// The services map.
    pub services: Vec<Service>,
    /// The backends map.
    pub backends: Vec<Backend>,
    /// The frontends' revision.
    pub revision: Revision,
    /// The map of the node's addresses.
    pub node_addresses: NodeAddresses,
    /// The trie of admitted clients.
    pub sources: BTreeSet<SourceRange>,
    /// The affinity map.
    pub affinity: RefCell<BTreeMap<AffinityKey, Affinity>>,
    /// The senders map.
    pub senders: RefCell<BTreeMap<SenderKey, Sender>>,
    /// The map of what became of who asked.
    pub fates: RefCell<BTreeMap<u32, Fates>>,
    capacity: Capacity,
}

impl Maps {
    /// Maps as the kernel creates them: hashes empty, arrays zero.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        let nothing =
            Backend { address: Address::from_octets([0; 16]), port: Port::new(0), flags: 0, reserved: 0 };
        Self {
            frontends: BTreeMap::new(),
            services: vec![Service { sets: 0, traits: 0 }; capacity.services as usize],
            backends: vec![nothing; capacity.backends as usize],
            revision: Revision(0),
            node_addresses: NodeAddresses::new(),
            sources: BTreeSet::new(),
            affinity: RefCell::default(),
            senders: RefCell::default(),
            fates: RefCell::default(),
            capacity,
        }
    }

    /// How much fits.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Carries out operations, in order.
    ///
    /// # Panics
    ///
    /// Where the kernel would refuse, see the module's documentation.
    pub fn carry_out(&mut self, operations: &[Operation]) {
        for operation in operations {
            match operation {
                Operation::RemoveFrontend { key } => {
                    assert!(self.frontends.remove(key).is_some(), "{key:?} is removed but is not there");
                }
                Operation::SetRevision { revision } => self.revision = *revision,
                Operation::WriteBackends { start, backends } => {
                    assert!(!backends.is_empty(), "a write of nothing");
                    let start = *start as usize;
                    self.backends[start..start + backends.len()].copy_from_slice(backends);
                }
                Operation::SetTraits { service, traits } => {
                    self.services[*service as usize].traits = traits.0;
                }
                Operation::SetSets { service, sets } => self.services[*service as usize].sets = sets.0,
                Operation::PutFrontend { key, frontend } => {
                    self.frontends.insert(*key, *frontend);
                    assert!(self.frontends.len() <= self.capacity.frontends as usize, "too many frontends");
                }
                Operation::PutSource { range } => {
                    let most = if range.address.is_v4() { 32 } else { 128 };
                    assert!(range.length <= most, "{range} is no range");
                    self.sources.insert(*range);
                    assert!(self.sources.len() <= layout::SOURCES as usize, "too many source ranges");
                }
                Operation::RemoveSource { range } => {
                    assert!(self.sources.remove(range), "{range:?} is removed but is not there");
                }
                Operation::PutNodeAddress { address, is } => {
                    self.node_addresses.insert(*address, *is);
                }
                Operation::RemoveNodeAddress { address } => {
                    assert!(
                        self.node_addresses.remove(address).is_some(),
                        "{address} is removed but is not there"
                    );
                }
            }
        }
    }

    /// What a controller reads back when it starts on these maps.
    #[must_use]
    pub fn observed(&self) -> Observed<'_> {
        Observed {
            frontends: self.frontends.iter().map(|(key, frontend)| (*key, *frontend)).collect(),
            services: &self.services,
            sources: self.sources.iter().copied().collect(),
            revision: self.revision,
        }
    }
}

impl Tables for Maps {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn node_address(&self, address: &Address) -> u32 {
        self.node_addresses.get(address).copied().unwrap_or_default()
    }

    fn admits(&self, source: &Source) -> bool {
        self.sources.iter().any(|range| range.service == source.service && range.contains(&source.address))
    }

    fn sets(&self, service: u32) -> Option<Sets> {
        self.services.get(service as usize).map(|service| Sets(service.sets))
    }

    fn traits(&self, service: u32) -> Option<Traits> {
        self.services.get(service as usize).map(|service| Traits(service.traits))
    }

    fn backend(&self, slot: u32) -> Option<Backend> {
        self.backends.get(slot as usize).copied()
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.borrow().get(key).copied()
    }

    fn keep_affinity(&self, key: &AffinityKey, row: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *row);
    }

    fn sender(&self, key: &SenderKey) -> Option<Sender> {
        self.senders.borrow().get(key).copied()
    }

    fn keep_sender(&self, key: &SenderKey, sender: &Sender) {
        self.senders.borrow_mut().insert(*key, *sender);
    }

    fn tally(&self, service: u32, fate: Fate) {
        let mut fates = self.fates.borrow_mut();
        fates.entry(service).or_insert(Fates { counts: [0; 8] }).counts[fate as usize] += 1;
    }
}

/// A socket, and the clock and dice around it. A new one is a pod's, unconnected, without an origin.
#[derive(Clone, Debug)]
pub struct Socket {
    /// What [`Caller::random`] returns next. It then moves on by the golden section of its range, so that `n`
    /// backends have all been chosen after about 3·`n` draws, without luck.
    pub random: Cell<u32>,
    /// The time, nanoseconds.
    pub now: Cell<u64>,
    /// Whether the socket lives in the host's network namespace.
    pub host_namespace: Cell<bool>,
    /// Whether its pod wants to be left alone.
    pub left_to_packets: Cell<bool>,
    /// The address it is bound to.
    pub bound: Cell<Option<Address>>,
    /// The cookie of its network namespace.
    pub namespace: Cell<u64>,
    /// Its own cookie.
    pub cookie: Cell<u64>,
    /// Whom it is connected to.
    pub peer: Cell<Option<(Address, Port)>>,
    /// Its socket storage.
    pub origin: RefCell<Option<Origin>>,
}

impl Socket {
    /// A socket of that cookie in the network namespace of that cookie.
    #[must_use]
    pub fn new(namespace: u64, cookie: u64) -> Self {
        Self {
            random: Cell::new(0),
            now: Cell::new(0),
            host_namespace: Cell::new(false),
            left_to_packets: Cell::new(false),
            bound: Cell::new(None),
            namespace: Cell::new(namespace),
            cookie: Cell::new(cookie),
            peer: Cell::new(None),
            origin: RefCell::new(None),
        }
    }
}

impl Client for Socket {
    fn random(&self) -> u32 {
        // 2^32 divided by the golden ratio.
        self.random.replace(self.random.get().wrapping_add(0x9e37_79b9))
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn identity(&self) -> (Address, u32) {
        let [a, b, c, d, e, f, g, h] = self.namespace.get().to_be_bytes();
        let cookie = Address::from_octets([0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h]);
        (cookie, client_kind::NAMESPACE)
    }

    fn is_outside(&self) -> bool {
        false
    }

    fn address(&self) -> ClientAddress {
        match (self.host_namespace.get(), self.bound.get()) {
            (false, _) => ClientAddress::Pod,
            (true, None) => ClientAddress::Node,
            (true, Some(address)) => ClientAddress::Known(address),
        }
    }
}

impl Caller for Socket {
    fn is_left_to_packets(&self) -> bool {
        self.left_to_packets.get()
    }

    fn in_host_namespace(&self) -> bool {
        self.host_namespace.get()
    }

    fn cookie(&self) -> u64 {
        self.cookie.get()
    }

    fn is_connected(&self) -> bool {
        self.peer.get().is_some()
    }

    fn is_connected_to(&self, destination: &Destination) -> bool {
        self.peer.get() == Some((destination.address, destination.port))
    }

    fn origin(&self) -> Option<Origin> {
        *self.origin.borrow()
    }

    fn keep_origin(&self, origin: &Origin) -> bool {
        self.origin.replace(Some(*origin));
        true
    }

    fn forget_origin(&self) {
        self.origin.replace(None);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn draws_reach_every_backend() {
        let socket = Socket::new(1, 1);
        for len in [1, 2, 7, 100, 1_500] {
            let reached: BTreeSet<u32> =
                (0..3 * len).map(|_| proxy_common::decision::choice::scale(socket.random(), len)).collect();
            assert_eq!(reached.len(), len as usize);
        }
    }
}
