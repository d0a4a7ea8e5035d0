//! Small desired worlds, made by hand or at random, and the question "who gets this connection?".

use std::collections::BTreeMap;

use proptest::prelude::*;
use proxy_common::{
    address::{Address, Port as WirePort},
    decision::{self, Destination, Outcome},
    layout::{Backend, FrontendKey, Prefix, frontend_kind, protocol, scope},
};

use crate::{
    cluster::model::{Family, Protocol, ServiceName},
    plan::{
        Capacity, Desired,
        simulated::{Maps, Socket},
    },
    tables::{PortName, PortTable, admission::Admission},
};

pub(super) const CAPACITY: Capacity = Capacity { frontends: 2_000, services: 300, backends: 2_000 };

/// Desired tables by Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct World(pub(super) BTreeMap<ServiceName, Vec<PortTable>>);

impl World {
    pub(super) fn desired(&self) -> Vec<Desired> {
        self.0.iter().map(|(name, tables)| (name.clone(), tables.clone())).collect()
    }

    /// What leads from `self` to `next`: as the controller says it, only the Services that differ.
    pub(super) fn changes_to(&self, next: &Self) -> Vec<Desired> {
        let names = self.0.keys().chain(next.0.keys()).collect::<std::collections::BTreeSet<_>>();
        names
            .into_iter()
            .filter(|name| self.0.get(*name) != next.0.get(*name))
            .map(|name| (name.clone(), next.0.get(name).cloned().unwrap_or_default()))
            .collect()
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &PortTable> {
        self.0.values().flatten()
    }

    /// Who should have the frontend.
    pub(super) fn owner(&self, key: &FrontendKey) -> Option<&PortTable> {
        self.tables()
            .filter_map(|table| Some((table.frontends.iter().find(|(k, _)| k == key)?.1, table)))
            .min_by_key(|(kind, table)| (*kind, table.created, &table.name))
            .map(|(_, table)| table)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = FrontendKey> {
        self.tables().flat_map(|table| table.frontends.iter().map(|(key, _)| *key))
    }
}

/// The parts of a table that tests vary.
#[derive(Clone, Debug, Default)]
pub(super) struct Port {
    pub(super) endpoints: Vec<u8>,
    pub(super) local: Vec<u8>,
    pub(super) any: bool,
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
    pub(super) affinity: u32,
    pub(super) admission: Option<Admission>,
}

pub(super) fn service(number: u16) -> ServiceName {
    ServiceName { namespace: "ns".into(), name: format!("s{number}").into() }
}

pub(super) fn vip(address: [u8; 4], port: u16) -> FrontendKey {
    FrontendKey {
        address: Address::from_v4_word(u32::from_ne_bytes(address)),
        port: WirePort::new(port),
        protocol: protocol::TCP,
        scope: scope::VIP,
    }
}

pub(super) fn backend(number: u8) -> Backend {
    Backend {
        address: Address::from_v4_word(u32::from_ne_bytes([10, 1, 0, number])),
        port: WirePort::new(8080),
        flags: 0,
        reserved: 0,
    }
}

pub(super) fn table(number: u16, port: u8, frontends: Vec<FrontendKey>, with: &Port) -> PortTable {
    let set = |numbers: &[u8]| {
        let mut set: Vec<Backend> = numbers.iter().map(|n| backend(*n)).collect();
        set.sort_unstable_by_key(Backend::rank);
        set.dedup();
        set
    };
    PortTable {
        name: PortName {
            service: service(number),
            port: format!("p{port}").into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        },
        created: i64::from(number % 3),
        frontends: frontends.into_iter().map(|key| (key, frontend_kind::CLUSTER_IP)).collect(),
        cluster: set(&with.endpoints),
        local: set(&with.local),
        any_endpoint: with.any || !with.endpoints.is_empty() || !with.local.is_empty(),
        internal_local: with.internal_local,
        external_local: with.external_local,
        admission: with.admission.clone(),
        affinity_seconds: with.affinity,
        left_out: 0,
    }
}

/// What a connection to a frontend may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody's, or left to packets.
    NoService,
    Refused,
    Unreachable,
    /// Any of these, sorted.
    Backends(Vec<Backend>),
}

/// What the real decision core says, on these maps.
pub(super) fn ask(maps: &Maps, key: FrontendKey) -> Answer {
    let destination = Destination { address: key.address, port: key.port, protocol: key.protocol };
    let mut reached = Vec::new();
    for draw in 0..64u32 {
        // A new socket in a new namespace each time: no affinity.
        let socket = Socket::new(u64::from(draw) + 1, u64::from(draw) + 1);
        socket.random.set(draw << 26);
        match decision::connect(maps, &socket, &destination) {
            Outcome::Pass => return Answer::NoService,
            Outcome::Refuse => return Answer::Refused,
            Outcome::Unreachable => return Answer::Unreachable,
            Outcome::Denied => unreachable!("pods are left to their packets"),
            Outcome::NoMemory => unreachable!("this socket has memory"),
            Outcome::Translate(address, port) => {
                reached.push(Backend { address, port, flags: 0, reserved: 0 });
            }
        }
    }
    maps.affinity.borrow_mut().clear();
    reached.sort_unstable_by_key(Backend::rank);
    reached.dedup();
    Answer::Backends(reached)
}

/// Clients of whom some are admitted here and there.
pub(super) const CLIENTS: [[u8; 4]; 4] = [[10, 9, 0, 1], [10, 9, 1, 1], [10, 9, 1, 2], [10, 8, 0, 1]];

/// Which of them are kept out, by the real decision core; and then, whether the node is.
pub(super) fn kept_out(maps: &Maps, key: FrontendKey) -> [bool; CLIENTS.len() + 1] {
    let destination = Destination { address: key.address, port: key.port, protocol: key.protocol };
    clients().map(|client| {
        let socket = Socket::new(1, 1);
        socket.host_namespace.set(true);
        socket.bound.set(client);
        let outcome = decision::connect(maps, &socket, &destination);
        maps.affinity.borrow_mut().clear();
        outcome == Outcome::Denied
    })
}

/// A process of the node that has chosen one of these addresses, or none.
fn clients() -> [Option<Address>; CLIENTS.len() + 1] {
    std::array::from_fn(|index| {
        CLIENTS.get(index).map(|client| Address::from_v4_word(u32::from_ne_bytes(*client)))
    })
}

/// Which of them should be.
pub(super) fn truly_kept_out(table: Option<&PortTable>, key: &FrontendKey) -> [bool; CLIENTS.len() + 1] {
    let Some(admission) = table.and_then(|table| restriction(table, key)) else {
        return [false; CLIENTS.len() + 1];
    };
    clients().map(|client| match client {
        None => !admission.is_node,
        Some(client) => {
            let is_in =
                |(first, length): &(Address, u8)| Prefix::new(first.to_ip(), *length).contains(&client);
            !admission.ranges.iter().any(is_in)
        }
    })
}

/// Who is admitted, if that is restricted for this frontend of the service port.
fn restriction<'a>(table: &'a PortTable, key: &FrontendKey) -> Option<&'a Admission> {
    let kind = table.frontends.iter().find(|(known, _)| known == key).map(|(_, kind)| *kind);
    table.admission.as_ref().filter(|_| kind == Some(frontend_kind::LOAD_BALANCER))
}

/// What a connection should get from a service port.
pub(super) fn truth(table: Option<&PortTable>, key: &FrontendKey) -> Answer {
    let Some(table) = table else { return Answer::NoService };
    if restriction(table, key).is_some() {
        return Answer::NoService;
    }
    let kind = table.frontends.iter().find(|(k, _)| k == key).map(|(_, kind)| *kind);
    let local = table.internal_local && kind == Some(frontend_kind::CLUSTER_IP);
    let set = if local { &table.local } else { &table.cluster };
    match (set.is_empty(), table.any_endpoint) {
        (false, _) => Answer::Backends(set.clone()),
        (true, true) => Answer::Unreachable,
        (true, false) => Answer::Refused,
    }
}

/// A world of up to five Services with up to two ports each, which compete for a handful of frontends.
pub(super) fn any_world() -> impl Strategy<Value = World> {
    let frontends = prop::collection::btree_map((0u8..4, 0u8..2), 1u32..5, 0..4);
    let numbers = || prop::collection::vec(0u8..12, 0..6);
    let policies = (any::<bool>(), any::<bool>());
    let affinity = prop::sample::select(vec![0u32, 10, 10_800]);
    let port = (numbers(), numbers(), any::<bool>(), policies, affinity, any_admission()).prop_map(
        |(endpoints, local, any, (internal_local, external_local), affinity, admission)| Port {
            endpoints,
            local,
            any,
            internal_local,
            external_local,
            affinity,
            admission,
        },
    );
    let ports = prop::collection::btree_map(0u8..2, (frontends, port), 0..3);
    prop::collection::btree_map(0u16..5, ports, 0..5).prop_map(|services| {
        let mut world = World::default();
        for (number, ports) in services {
            let tables = ports
                .into_iter()
                .map(|(name, (frontends, port))| {
                    let mut table = table(number, name, Vec::new(), &port);
                    table.frontends = frontends
                        .into_iter()
                        .map(|((address, port), kind)| (vip([10, 0, 0, address], 80 + u16::from(port)), kind))
                        .collect();
                    table
                })
                .collect();
            world.0.insert(service(number), tables);
        }
        world
    })
}

/// Some of the ranges that [`CLIENTS`] are in, within each other and beside.
fn any_admission() -> impl Strategy<Value = Option<Admission>> {
    let ranges = [([10, 9, 0, 0], 16), ([10, 9, 1, 0], 24), ([10, 9, 1, 1], 32), ([10, 8, 0, 0], 15)]
        .map(|(first, length): ([u8; 4], u8)| (Address::from_v4_word(u32::from_ne_bytes(first)), length));
    let admission = (prop::sample::subsequence(ranges.to_vec(), 1..=ranges.len()), any::<bool>())
        .prop_map(|(ranges, is_node)| Admission { ranges: ranges.into_iter().collect(), is_node });
    prop::option::of(admission)
}
