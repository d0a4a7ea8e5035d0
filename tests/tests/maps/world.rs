//! Small desired worlds at random: few Services, few frontends, so that they meet often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use proxy_common::address::{Address, Port};
use proxy_common::layout::{Backend, FrontendKey, backend_flag, frontend_kind, protocol, scope};
use proxy_userspace::cluster::model::{Family, Protocol, ServiceName};
use proxy_userspace::plan::Desired;
use proxy_userspace::tables::admission::Admission;
use proxy_userspace::tables::{PortName, PortTable, node_ports::NodeAddresses};

/// Desired tables by Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct World(pub(crate) BTreeMap<ServiceName, Vec<PortTable>>);

pub(crate) fn service(number: u16) -> ServiceName {
    ServiceName { namespace: "ns".into(), name: format!("s{number}").into() }
}

pub(crate) fn vip(ip: impl Into<IpAddr>, port: u16) -> FrontendKey {
    FrontendKey {
        address: Address::from(ip.into()),
        port: Port::new(port),
        protocol: protocol::TCP,
        scope: scope::VIP,
    }
}

/// A service port of IPv4 with one frontend.
pub(crate) fn table(number: u16, key: FrontendKey, cluster: Vec<Backend>) -> PortTable {
    let name =
        PortName { service: service(number), port: "p".into(), protocol: Protocol::Tcp, family: Family::V4 };
    PortTable {
        name,
        created: 0,
        frontends: vec![(key, frontend_kind::CLUSTER_IP)],
        any_endpoint: !cluster.is_empty(),
        cluster: sorted(cluster),
        local: Vec::new(),
        internal_local: false,
        external_local: false,
        admission: None,
        affinity_seconds: 0,
        left_out: 0,
    }
}

pub(crate) fn backend(ip: impl Into<IpAddr>) -> Backend {
    Backend { address: Address::from(ip.into()), port: Port::new(8080), flags: 0, reserved: 0 }
}

pub(crate) fn sorted(mut backends: Vec<Backend>) -> Vec<Backend> {
    backends.sort_unstable_by_key(Backend::rank);
    backends.dedup();
    backends
}

impl World {
    pub(crate) fn desired(&self) -> Vec<Desired> {
        self.0.iter().map(|(name, tables)| (name.clone(), tables.clone())).collect()
    }

    /// What leads from `self` to `next`: only the Services that differ.
    pub(crate) fn changes_to(&self, next: &Self) -> Vec<Desired> {
        let names: BTreeSet<_> = self.0.keys().chain(next.0.keys()).collect();
        let changed = names.into_iter().filter(|name| self.0.get(*name) != next.0.get(*name));
        changed.map(|name| (name.clone(), next.0.get(name).cloned().unwrap_or_default())).collect()
    }

    /// The service ports that have a frontend to which no other has a better claim. The others are nowhere in
    /// the maps, so that whoever adopts those sets them up anew.
    pub(crate) fn leading(&self) -> Self {
        let owner = |key: &FrontendKey| {
            let claims = self.0.values().flatten().flat_map(|table| {
                let mine = table.frontends.iter().filter(|(own, _)| own == key);
                mine.map(move |(_, kind)| (*kind, table.created, &table.name))
            });
            claims.min().map(|(_, _, name)| name)
        };
        let leads =
            |table: &&PortTable| table.frontends.iter().any(|(key, _)| owner(key) == Some(&table.name));
        let kept = |tables: &Vec<PortTable>| tables.iter().filter(leads).cloned().collect();
        Self(self.0.iter().map(|(name, tables)| (name.clone(), kept(tables))).collect())
    }

    /// The same world some changes later.
    pub(crate) fn changed(&self, random: &mut Rng) -> Self {
        let mut next = self.clone();
        for _ in 0..random.u8(1..4) {
            let number = random.u16(0..10);
            match (random.u8(0..10), next.0.get_mut(&service(number))) {
                (0..2, _) => drop(next.0.remove(&service(number))),
                // An endpoint more or less is what happens most.
                (2..7, Some(tables)) if !tables.is_empty() => {
                    let at = random.usize(0..tables.len());
                    toggle_endpoint(&mut tables[at], random);
                }
                _ => drop(next.0.insert(service(number), any_tables(number, random))),
            }
        }
        next
    }
}

fn toggle_endpoint(table: &mut PortTable, random: &mut Rng) {
    let fresh = any_backends(table.name.family, 1, random);
    table.cluster = match table.cluster.len() {
        0 => fresh,
        len if random.bool() => {
            let gone = random.usize(0..len);
            let kept = table.cluster.iter().enumerate().filter(|(index, _)| *index != gone);
            kept.map(|(_, backend)| *backend).collect()
        }
        _ => sorted(table.cluster.iter().copied().chain(fresh).collect()),
    };
    table.any_endpoint |= !table.cluster.is_empty();
}

fn any_tables(number: u16, random: &mut Rng) -> Vec<PortTable> {
    let created = random.i64(0..3);
    let ports = random.u8(0..4);
    let table = |port: u8| {
        let family = random.choice([Family::V4, Family::V6]).expect("not empty");
        let protocol = random.choice([Protocol::Tcp, Protocol::Udp, Protocol::Sctp]).expect("not empty");
        let (clusters, locals) = (random.usize(0..14), random.usize(0..6));
        let cluster = any_backends(family, clusters, random);
        let local = any_backends(family, locals, random);
        let admission = random.bool().then(|| any_admission(family, random));
        let name = PortName { service: service(number), port: format!("p{port}").into(), protocol, family };
        PortTable {
            created,
            frontends: any_frontends(&name, random),
            any_endpoint: random.bool() || !cluster.is_empty() || !local.is_empty(),
            name,
            cluster,
            local,
            internal_local: random.bool(),
            external_local: random.bool(),
            admission,
            affinity_seconds: if random.bool() { 0 } else { random.u32(1..86_401) },
            left_out: 0,
        }
    };
    (0..ports).map(table).collect()
}

/// Clients of one family, some of them within each other.
fn any_admission(family: Family, random: &mut Rng) -> Admission {
    let mut range = || {
        let shorter = random.u8(0..3) * 8;
        let (length, last) = if shorter > 0 { (shorter, 0) } else { (32, random.u8(1..8)) };
        let length = if family == Family::V4 { length } else { length + 96 };
        (any_ip(family, 0, last).into(), length)
    };
    Admission { ranges: (0..3).map(|_| range()).collect(), is_node: random.bool() }
}

fn any_frontends(name: &PortName, random: &mut Rng) -> Vec<(FrontendKey, u32)> {
    let number = proxy_userspace::tables::number(name.protocol);
    let mut frontends = BTreeMap::new();
    for _ in 0..random.u8(0..4) {
        let port = Port::new(80 + random.u16(0..2));
        let (address, scope, kind) = if random.u8(0..4) == 0 {
            let any = any_ip(name.family, 0, 0).into();
            (Address::any_of_family(&any), scope::NODE_PORT, frontend_kind::NODE_PORT)
        } else {
            let kinds = [frontend_kind::CLUSTER_IP, frontend_kind::LOAD_BALANCER, frontend_kind::EXTERNAL_IP];
            let kind = random.choice(kinds).expect("not empty");
            (any_ip(name.family, 0, random.u8(1..7)).into(), scope::VIP, kind)
        };
        frontends.insert(FrontendKey { address, port, protocol: number, scope }, kind);
    }
    frontends.into_iter().collect()
}

fn any_backends(family: Family, count: usize, random: &mut Rng) -> Vec<Backend> {
    let mut one = || {
        let last = random.u8(1..40);
        let flags = if last.is_multiple_of(3) { backend_flag::LOCAL } else { 0 };
        Backend { flags, ..backend(any_ip(family, 1, last)) }
    };
    let backends = (0..count).map(|_| one()).collect();
    sorted(backends)
}

fn any_ip(family: Family, net: u8, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, net, 0, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, last.into()).into(),
    }
}

/// Addresses of a node.
pub(crate) fn any_addresses(random: &mut Rng) -> NodeAddresses {
    let family = |random: &mut Rng| if random.bool() { Family::V4 } else { Family::V6 };
    let mut one = || Address::from(any_ip(family(random), 2, random.u8(1..12)));
    let addresses: Vec<Address> = (0..6).map(|_| one()).collect();
    addresses.into_iter().map(|address| (address, random.u32(0..4))).collect()
}
