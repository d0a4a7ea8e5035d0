//! The cluster as this node understands it: parsed, validated, in our own words.
//!
//! Plain values without behaviour. Invariants: every port number is 1 to 65535, every address is one host's,
//! addresses are never IPv4-mapped IPv6, no two ports of a Service share name or number within a protocol.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::printable::Printable;

/// Names a Service. Displayed as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name within it.
    pub name: Box<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Printable(&self.namespace), Printable(&self.name))
    }
}

/// Transport protocol. Displayed as the API writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Address family. Displayed as the API writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Which endpoints traffic may go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Only those on this node.
    Local,
}

/// A Service that has at least one cluster IP.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Time of creation in Unix seconds, 0 when unknown.
    pub created: i64,
    /// Cluster IPs, the primary first, at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// External IPs, of the families of the cluster IPs.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer IPs to which packets arrive unchanged (`ipMode: VIP`), of the families of the cluster IPs.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Clients that may reach the load balancer IPs, of the families of those; a family without any is open to all.
    pub source_ranges: Vec<IpNet>,
    /// Ports, in the order of the object.
    pub ports: Vec<ServicePort>,
    /// Policy of the cluster IPs.
    pub internal_policy: TrafficPolicy,
    /// Policy of all other frontends; `Local` only where the API gives it a meaning.
    pub external_policy: TrafficPolicy,
    /// `ClientIP` affinity: seconds since the client's last new connection.
    pub affinity_seconds: Option<u32>,
    /// Where load balancers ask whether this node has endpoints; only for those whose external policy is `Local`.
    pub health_check_node_port: Option<u16>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// Name, may be empty. Endpoint ports are matched by name and protocol.
    pub name: Box<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number at the cluster, external and load balancer IPs.
    pub port: u16,
    /// Number at the node's addresses.
    pub node_port: Option<u16>,
}

/// One backend of one Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// Runs on this node, by node name.
    pub local: bool,
    /// Wants traffic.
    pub ready: bool,
    /// Answers, whether or not it wants traffic.
    pub serving: bool,
    /// Is going away.
    pub terminating: bool,
    /// Zones hinted to use it.
    pub zone_hints: Arc<[Box<str>]>,
    /// Nodes hinted to use it.
    pub node_hints: Arc<[Box<str>]>,
}

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name, trimmed and in lower case.
    pub name: Box<str>,
    /// The zone it is in, as far as known.
    pub zone: Option<Box<str>>,
    /// Its addresses: the internal ones, then the external ones.
    pub addresses: Vec<IpAddr>,
    /// The ranges that its pods' addresses are taken from.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// Whether load balancers should still send something here.
    pub stay: Stay,
}

/// Whether this node is going to stay, as far as its object tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stay {
    /// No object of it has been seen.
    #[default]
    Unknown,
    /// It stays.
    Stays,
    /// Somebody is deleting it, or the cluster autoscaler is about to.
    Leaves,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// What its cgroup is named after.
    pub uid: Box<str>,
    /// `spec.runtimeClassName`.
    pub runtime_class: Option<Box<str>>,
    /// Its annotation says that its sockets are to be left alone.
    pub is_for_packets: bool,
}
