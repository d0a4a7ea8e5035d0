//! The Services of the stand and who asks them, as a plan writes them.
//!
//! Bytes 12 and 13 of a packet without link-layer header must read like an EtherType: the kernel takes what it is given
//! for an Ethernet frame, see [`Program::run`](kubeshunt_tests::test_run::Program::run). They belong to the source
//! address, hence 8.0.0.0/16 (0800) and fd00:0:86dd::/48.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_common::address::{Address, Port};
use proxy_common::layout::{Backend, FrontendKey, backend_flag, frontend_kind, node_address, scope};
use proxy_userspace::cluster::model::{Family, Protocol, ServiceName};
use proxy_userspace::plan::{Capacity, Desired, Extent, Operation, Planner};
use proxy_userspace::tables::admission::Admission;
use proxy_userspace::tables::{PortName, PortTable, number};

pub(crate) const CAPACITY: Capacity = Capacity { frontends: 512, services: 128, backends: 1024 };
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The port of every Service.
pub(crate) const PORT: u16 = 80;
/// Where pods listen.
pub(crate) const TARGET: u16 = 8080;
/// One more than a Service's number is the last digit of its NodePort.
const NODE_PORTS: u16 = 30_080;

/// Its subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    /// Pods of this node.
    Pods = 1,
    /// Pods of another node.
    Remote = 2,
    /// The node.
    Node = 3,
    /// ClusterIPs.
    Services = 96,
    /// Clients.
    World = 100,
    /// What load balancers hand out.
    Balancers = 113,
}

pub(crate) fn ip(family: Family, net: Net, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(8, 0, net as u8, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0, 0x86dd, net as u16, 0, 0, 0, last.into()).into(),
    }
}

/// The address under which the node masquerades.
pub(crate) fn node(family: Family) -> IpAddr {
    ip(family, Net::Node, 1)
}

/// What a Service has behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    /// A pod of this node.
    Local = 1,
    /// A pod elsewhere.
    Remote = 2,
    /// A pod of this node that listens at the Service's own port.
    SamePort = 3,
    /// Nobody.
    Empty = 4,
    /// A pod elsewhere, but clients from outside want one here.
    Elsewhere = 5,
    /// A pod elsewhere that listens at the Service's own port.
    RemoteSamePort = 6,
    /// The node itself.
    Host = 7,
    /// A pod of this node; its load balancer admits some clients only.
    Choosy = 8,
}

impl Service {
    pub(crate) const ALL: [Self; 8] = [
        Self::Local,
        Self::Remote,
        Self::SamePort,
        Self::Empty,
        Self::Elsewhere,
        Self::RemoteSamePort,
        Self::Host,
        Self::Choosy,
    ];

    /// Its number.
    fn number(self) -> u8 {
        self as u8
    }

    /// Its ClusterIP.
    pub(crate) fn cluster_ip(self, family: Family) -> SocketAddr {
        SocketAddr::new(ip(family, Net::Services, self.number()), PORT)
    }

    /// Its load balancer.
    pub(crate) fn balancer(self, family: Family) -> SocketAddr {
        SocketAddr::new(ip(family, Net::Balancers, self.number()), PORT)
    }

    /// Its NodePort.
    pub(crate) fn node_port(self, family: Family) -> SocketAddr {
        SocketAddr::new(node(family), NODE_PORTS + u16::from(self.number()))
    }

    /// Its only endpoint.
    pub(crate) fn backend(self, family: Family) -> Option<SocketAddr> {
        let at = |net, port| Some(SocketAddr::new(ip(family, net, self.number()), port));
        match self {
            Self::Local | Self::Choosy => at(Net::Pods, TARGET),
            Self::Remote | Self::Elsewhere => at(Net::Remote, TARGET),
            Self::SamePort => at(Net::Pods, PORT),
            Self::RemoteSamePort => at(Net::Remote, PORT),
            Self::Host => Some(SocketAddr::new(node(family), TARGET)),
            Self::Empty => None,
        }
    }

    fn is_local(self) -> bool {
        matches!(self, Self::Local | Self::SamePort | Self::Host | Self::Choosy)
    }

    fn name(self) -> ServiceName {
        ServiceName { namespace: "ns".into(), name: format!("{self:?}").into() }
    }

    fn table(self, protocol: Protocol, family: Family) -> PortTable {
        let key = |at: SocketAddr, scope| FrontendKey {
            address: Address::from(at.ip()),
            port: Port::new(at.port()),
            protocol: number(protocol),
            scope,
        };
        let node_port = SocketAddr::new(
            Address::from(node(family)).any_of_family().to_ip(),
            self.node_port(family).port(),
        );
        let mut frontends = vec![
            (key(self.cluster_ip(family), scope::VIP), frontend_kind::CLUSTER_IP),
            (key(self.balancer(family), scope::VIP), frontend_kind::LOAD_BALANCER),
            (key(node_port, scope::NODE_PORT), frontend_kind::NODE_PORT),
        ];
        if protocol == PROTOCOLS[0] {
            let address = Address::from(self.cluster_ip(family).ip());
            let whole = FrontendKey { address, port: Port::new(0), protocol: 0, scope: scope::ADDRESS };
            frontends.push((whole, frontend_kind::CLUSTER_IP));
        }
        let cluster: Vec<Backend> = self.backend(family).map(|at| self.row(at)).into_iter().collect();
        PortTable {
            name: PortName {
                service: self.name(),
                port: number(protocol).to_string().into(),
                protocol,
                family,
            },
            created: 0,
            frontends,
            local: if self.is_local() { cluster.clone() } else { Vec::new() },
            any_endpoint: !cluster.is_empty(),
            cluster,
            internal_local: false,
            external_local: self == Self::Elsewhere,
            admission: (self == Self::Choosy).then(|| admission(family)),
            affinity_seconds: 0,
            left_out: 0,
        }
    }

    fn row(self, at: SocketAddr) -> Backend {
        let flags = if self.is_local() { backend_flag::LOCAL } else { 0 };
        Backend { address: Address::from(at.ip()), port: Port::new(at.port()), flags, reserved: 0 }
    }
}

/// Clients outside whose addresses are even.
fn admission(family: Family) -> Admission {
    let length = if family == Family::V4 { 32 } else { 128 };
    let even = (0..128).map(|half| (ip(family, Net::World, 2 * half).into(), length));
    Admission { ranges: even.collect(), is_node: false }
}

/// What a plan for empty maps writes.
pub(crate) fn operations() -> Vec<Operation> {
    let mut desired: BTreeMap<ServiceName, Vec<PortTable>> = BTreeMap::new();
    for service in Service::ALL {
        for family in FAMILIES {
            let tables = PROTOCOLS.map(|protocol| service.table(protocol, family));
            desired.entry(service.name()).or_default().extend(tables);
        }
    }
    let desired: Vec<Desired> = desired.into_iter().collect();
    let nothing = Backend { address: Address::ANY_V6, port: Port::new(0), flags: 0, reserved: 0 };
    let memory = vec![nothing; CAPACITY.backends as usize];
    let plan = Planner::new(CAPACITY).plan(&memory, desired, Extent::Everything);
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
    let addresses = FAMILIES.map(|family| {
        let is = node_address::OWN | node_address::NODE_PORTS;
        Operation::PutNodeAddress { address: node(family).into(), is }
    });
    plan.operations.into_iter().chain(addresses).collect()
}
