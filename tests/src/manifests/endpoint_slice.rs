//! discovery.k8s.io/v1 EndpointSlice.

use std::fmt;
use std::net::IpAddr;

use super::{Metadata, flow};

/// An EndpointSlice; `to_string` renders it as YAML.
#[derive(Clone, Debug)]
pub struct EndpointSlice {
    metadata: Metadata,
    family: &'static str,
    ports: Vec<(Option<String>, &'static str, u16)>,
    endpoints: Vec<Endpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    addresses: Vec<IpAddr>,
    ready: bool,
    serving: bool,
    terminating: bool,
    node: Option<String>,
    zone: Option<String>,
    zone_hints: Vec<String>,
    node_hints: Vec<String>,
}

impl Endpoint {
    /// A ready endpoint.
    #[must_use]
    pub fn ready(address: impl Into<IpAddr>) -> Self {
        Self {
            addresses: vec![address.into()],
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }

    /// Neither ready nor serving.
    #[must_use]
    pub fn unready(self) -> Self {
        Self { ready: false, serving: false, ..self }
    }

    /// Terminating, and still serving or no longer.
    #[must_use]
    pub fn terminating(self, serving: bool) -> Self {
        Self { ready: false, serving, terminating: true, ..self }
    }

    /// On a node.
    #[must_use]
    pub fn on_node(self, node: &str) -> Self {
        Self { node: Some(node.to_owned()), ..self }
    }

    /// In a zone.
    #[must_use]
    pub fn in_zone(self, zone: &str) -> Self {
        Self { zone: Some(zone.to_owned()), ..self }
    }

    /// Meant for clients in a zone.
    #[must_use]
    pub fn for_zone(mut self, zone: &str) -> Self {
        self.zone_hints.push(zone.to_owned());
        self
    }

    /// Meant for clients on a node.
    #[must_use]
    pub fn for_node(mut self, node: &str) -> Self {
        self.node_hints.push(node.to_owned());
        self
    }
}

impl EndpointSlice {
    fn new(service: &str, family: &'static str) -> Self {
        let name = format!("{service}-{}", family.to_ascii_lowercase());
        let mut metadata = Metadata::new(&name, Some("default"));
        metadata.labels.push(("kubernetes.io/service-name".to_owned(), service.to_owned()));
        Self { metadata, family, ports: Vec::new(), endpoints: Vec::new() }
    }

    /// A slice with IPv4 addresses of a service in namespace `default`, named `SERVICE-ipv4`.
    #[must_use]
    pub fn v4(service: &str) -> Self {
        Self::new(service, "IPv4")
    }

    /// A slice with IPv6 addresses of a service in namespace `default`, named `SERVICE-ipv6`.
    #[must_use]
    pub fn v6(service: &str) -> Self {
        Self::new(service, "IPv6")
    }

    /// With another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.metadata.name);
        self
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.metadata.namespace = Some(namespace.to_owned());
        self
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.metadata.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With a TCP port. The name is the Service's port name, or none.
    #[must_use]
    pub fn tcp(mut self, name: Option<&str>, port: u16) -> Self {
        self.ports.push((name.map(str::to_owned), "TCP", port));
        self
    }

    /// With a UDP port. The name is the Service's port name, or none.
    #[must_use]
    pub fn udp(mut self, name: Option<&str>, port: u16) -> Self {
        self.ports.push((name.map(str::to_owned), "UDP", port));
        self
    }

    /// With an SCTP port. The name is the Service's port name, or none.
    #[must_use]
    pub fn sctp(mut self, name: Option<&str>, port: u16) -> Self {
        self.ports.push((name.map(str::to_owned), "SCTP", port));
        self
    }

    /// With one more endpoint.
    #[must_use]
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// With ready endpoints.
    #[must_use]
    pub fn ready<A: Into<IpAddr>>(mut self, addresses: impl IntoIterator<Item = A>) -> Self {
        self.endpoints.extend(addresses.into_iter().map(Endpoint::ready));
        self
    }
}

impl fmt::Display for EndpointSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n{}", self.metadata)?;
        writeln!(f, "addressType: {}", self.family)?;
        writeln!(f, "{}", if self.ports.is_empty() { "ports: []" } else { "ports:" })?;
        for (name, protocol, port) in &self.ports {
            writeln!(f, "- port: {port}\n  protocol: {protocol}")?;
            if let Some(name) = name {
                writeln!(f, "  name: {name}")?;
            }
        }
        writeln!(f, "{}", if self.endpoints.is_empty() { "endpoints: []" } else { "endpoints:" })?;
        for endpoint in &self.endpoints {
            let Endpoint { ready, serving, terminating, .. } = endpoint;
            writeln!(f, "- addresses: {}", flow(&endpoint.addresses))?;
            writeln!(f, "  conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}")?;
            if let Some(node) = &endpoint.node {
                writeln!(f, "  nodeName: {node}")?;
            }
            if let Some(zone) = &endpoint.zone {
                writeln!(f, "  zone: {zone}")?;
            }
            if !(endpoint.zone_hints.is_empty() && endpoint.node_hints.is_empty()) {
                writeln!(f, "  hints:")?;
            }
            for (field, names) in [("forZones", &endpoint.zone_hints), ("forNodes", &endpoint.node_hints)] {
                if !names.is_empty() {
                    writeln!(f, "    {field}:")?;
                }
                for name in names {
                    writeln!(f, "    - name: {name}")?;
                }
            }
        }
        Ok(())
    }
}
