//! What there is: Services, slices and the node, as plain as the API has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
    pub(crate) node_port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ingress {
    pub(crate) ip: Option<String>,
    pub(crate) hostname: Option<&'static str>,
    /// `None` where it is not said.
    pub(crate) mode: Option<&'static str>,
}

/// Texts are as somebody wrote them: with leading zeros, say, or nonsense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Seconds of its day.
    pub(crate) created: u8,
    /// Whether it has the label `service.kubernetes.io/service-proxy-name`.
    pub(crate) is_foreign: bool,
    pub(crate) kind: Type,
    pub(crate) cluster_ip: Option<String>,
    pub(crate) cluster_ips: Vec<String>,
    /// `true` for IPv4.
    pub(crate) families: Vec<bool>,
    pub(crate) ports: Vec<Port>,
    pub(crate) external_ips: Vec<String>,
    pub(crate) ingress: Vec<Ingress>,
    /// `None` where it is not said.
    pub(crate) internal: Option<Policy>,
    pub(crate) external: Option<Policy>,
    /// Seconds of `sessionAffinity: ClientIP`.
    pub(crate) affinity: Option<u32>,
    pub(crate) source_ranges: Vec<String>,
}

/// Conditions may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    pub(crate) node: Option<&'static str>,
    pub(crate) for_zones: Vec<&'static str>,
    pub(crate) for_nodes: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlicePort {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) number: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressType {
    V4,
    V6,
    Fqdn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The label `kubernetes.io/service-name`.
    pub(crate) service: Option<String>,
    /// Whether it has the label `service.kubernetes.io/headless`.
    pub(crate) is_headless: bool,
    pub(crate) address_type: AddressType,
    pub(crate) ports: Vec<SlicePort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// Which of the node's addresses answer NodePorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodePortAddresses {
    /// Those in these ranges; all of a family that has no range.
    Ranges(Vec<String>),
    /// What the Node object says.
    Primary,
}

/// All there is, seen from one node.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// In lower case.
    pub(crate) node: &'static str,
    pub(crate) zone: Option<&'static str>,
    /// The Node object's addresses: `InternalIP`s in order, then `ExternalIP`s.
    pub(crate) node_object: Vec<IpAddr>,
    /// What is on the node's interfaces, but for loopback and link-local addresses.
    pub(crate) interfaces: BTreeSet<IpAddr>,
    pub(crate) node_port_addresses: NodePortAddresses,
    pub(crate) services: BTreeMap<Name, Service>,
    pub(crate) slices: BTreeMap<Name, Slice>,
}

impl World {
    /// Nothing yet, on a node of that name.
    pub(crate) fn new(node: &'static str) -> Self {
        Self {
            node,
            zone: None,
            node_object: Vec::new(),
            interfaces: BTreeSet::new(),
            node_port_addresses: NodePortAddresses::Ranges(Vec::new()),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        }
    }

    /// The node's first address of a family (pkg/util/node: `GetNodeHostIPs`).
    pub(crate) fn node_ip(&self, is_v4: bool) -> Option<IpAddr> {
        self.node_object.iter().copied().find(|own| own.is_ipv4() == is_v4)
    }
}
