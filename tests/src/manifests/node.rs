//! v1 Node.

use std::fmt;
use std::net::IpAddr;

use super::{Metadata, flow};
use crate::node;

/// A Node; `to_string` renders it as YAML.
#[derive(Clone, Debug)]
pub struct Node {
    metadata: Metadata,
    pod_subnets: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Node {
    /// A node with a name only.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { metadata: Metadata::new(name, None), pod_subnets: Vec::new(), addresses: Vec::new() }
    }

    /// A node of the testbed, with its addresses and subnets.
    #[must_use]
    pub fn of(node: &node::Node) -> Self {
        let subnets = node.pod_subnets().map(|(subnet, length)| format!("{subnet}/{length}"));
        let addresses = vec![node.host().v4().into(), node.host().v6().into()];
        Self { pod_subnets: subnets.into(), addresses, ..Self::new(node.name()) }
    }

    /// With one more address.
    #[must_use]
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// With one more range of its pods' addresses.
    #[must_use]
    pub fn pod_subnet(mut self, subnet: &str) -> Self {
        self.pod_subnets.push(subnet.to_owned());
        self
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.metadata.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// In a zone.
    #[must_use]
    pub fn in_zone(self, zone: &str) -> Self {
        self.label("topology.kubernetes.io/zone", zone)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "apiVersion: v1\nkind: Node\n{}", self.metadata)?;
        if let Some(first) = self.pod_subnets.first() {
            writeln!(f, "spec:\n  podCIDR: {first:?}\n  podCIDRs: {}", flow(&self.pod_subnets))?;
        }
        if !self.addresses.is_empty() {
            writeln!(f, "status:\n  addresses:")?;
        }
        for address in &self.addresses {
            writeln!(f, "  - type: InternalIP\n    address: {:?}", address.to_string())?;
        }
        Ok(())
    }
}
