//! v1 Service.

use std::fmt;
use std::net::IpAddr;

use super::{Metadata, flow};

/// A Service; `to_string` renders it as YAML.
#[derive(Clone, Debug)]
pub struct Service {
    metadata: Metadata,
    kind: String,
    cluster_ips: Vec<String>,
    ports: Vec<Port>,
    external_ips: Vec<IpAddr>,
    ingress: Vec<IpAddr>,
    source_ranges: Vec<String>,
    affinity: Option<u32>,
    /// Further lines of `spec`.
    spec: Vec<(String, String)>,
}

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct Port {
    name: Option<String>,
    protocol: &'static str,
    port: u16,
    target: u16,
    node_port: Option<u16>,
}

impl Port {
    fn new(protocol: &'static str, port: u16) -> Self {
        Self { name: None, protocol, port, target: port, node_port: None }
    }

    /// A TCP port.
    #[must_use]
    pub fn tcp(port: u16) -> Self {
        Self::new("TCP", port)
    }

    /// A UDP port.
    #[must_use]
    pub fn udp(port: u16) -> Self {
        Self::new("UDP", port)
    }

    /// An SCTP port.
    #[must_use]
    pub fn sctp(port: u16) -> Self {
        Self::new("SCTP", port)
    }

    /// With a name, which EndpointSlices refer to.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// With another targetPort than its port.
    #[must_use]
    pub fn target(self, target: u16) -> Self {
        Self { target, ..self }
    }

    /// With a nodePort.
    #[must_use]
    pub fn node_port(self, node_port: u16) -> Self {
        Self { node_port: Some(node_port), ..self }
    }
}

impl Service {
    /// A ClusterIP service in namespace `default`, without address and port.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            metadata: Metadata::new(name, Some("default")),
            kind: "ClusterIP".to_owned(),
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            external_ips: Vec::new(),
            ingress: Vec::new(),
            source_ranges: Vec::new(),
            affinity: None,
            spec: Vec::new(),
        }
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

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.metadata.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With one more cluster IP; the first decides the first IP family.
    #[must_use]
    pub fn cluster_ip(mut self, ip: impl Into<IpAddr>) -> Self {
        self.cluster_ips.push(ip.into().to_string());
        self
    }

    /// Headless.
    #[must_use]
    pub fn headless(mut self) -> Self {
        self.cluster_ips = vec!["None".to_owned()];
        self
    }

    /// With one more port. A node port makes it a NodePort service.
    #[must_use]
    pub fn port(mut self, port: Port) -> Self {
        if port.node_port.is_some() && self.kind == "ClusterIP" {
            "NodePort".clone_into(&mut self.kind);
        }
        self.ports.push(port);
        self
    }

    /// Of another type.
    #[must_use]
    pub fn kind(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.kind);
        self
    }

    /// With one more external IP.
    #[must_use]
    pub fn external_ip(mut self, ip: impl Into<IpAddr>) -> Self {
        self.external_ips.push(ip.into());
        self
    }

    /// A LoadBalancer service with one more ingress IP.
    #[must_use]
    pub fn load_balancer(mut self, ip: impl Into<IpAddr>) -> Self {
        "LoadBalancer".clone_into(&mut self.kind);
        self.ingress.push(ip.into());
        self
    }

    /// Only for load-balancer clients from this range, too.
    #[must_use]
    pub fn source_range(mut self, range: &str) -> Self {
        self.source_ranges.push(range.to_owned());
        self
    }

    /// With ClientIP affinity.
    #[must_use]
    pub fn affinity(mut self, seconds: u32) -> Self {
        self.affinity = Some(seconds);
        self
    }

    /// externalTrafficPolicy: Local.
    #[must_use]
    pub fn external_local(self) -> Self {
        self.spec("externalTrafficPolicy", "Local")
    }

    /// internalTrafficPolicy: Local.
    #[must_use]
    pub fn internal_local(self) -> Self {
        self.spec("internalTrafficPolicy", "Local")
    }

    /// Any further field of `spec`, its value as YAML on one line.
    #[must_use]
    pub fn spec(mut self, field: &str, yaml: &str) -> Self {
        self.spec.push((field.to_owned(), yaml.to_owned()));
        self
    }

    fn families(&self) -> Vec<&'static str> {
        let family = |ip: &String| if ip.contains(':') { "IPv6" } else { "IPv4" };
        self.cluster_ips.iter().filter(|ip| *ip != "None").map(family).collect()
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "apiVersion: v1\nkind: Service\n{}", self.metadata)?;
        writeln!(f, "spec:\n  type: {}", self.kind)?;
        if let Some(first) = self.cluster_ips.first() {
            writeln!(f, "  clusterIP: {first:?}\n  clusterIPs: {}", flow(&self.cluster_ips))?;
        }
        let families = self.families();
        if !families.is_empty() {
            let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
            writeln!(f, "  ipFamilies: {}\n  ipFamilyPolicy: {policy}", flow(&families))?;
        }
        if !self.external_ips.is_empty() {
            writeln!(f, "  externalIPs: {}", flow(&self.external_ips))?;
        }
        if !self.source_ranges.is_empty() {
            writeln!(f, "  loadBalancerSourceRanges: {}", flow(&self.source_ranges))?;
        }
        if let Some(seconds) = self.affinity {
            writeln!(f, "  sessionAffinity: ClientIP")?;
            writeln!(f, "  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: {seconds}")?;
        }
        for (field, yaml) in &self.spec {
            writeln!(f, "  {field}: {yaml}")?;
        }
        if !self.ports.is_empty() {
            writeln!(f, "  ports:")?;
        }
        for port in &self.ports {
            writeln!(f, "  - port: {}\n    targetPort: {}", port.port, port.target)?;
            writeln!(f, "    protocol: {}", port.protocol)?;
            if let Some(name) = &port.name {
                writeln!(f, "    name: {name}")?;
            }
            if let Some(node_port) = port.node_port {
                writeln!(f, "    nodePort: {node_port}")?;
            }
        }
        if !self.ingress.is_empty() {
            writeln!(f, "status:\n  loadBalancer:\n    ingress:")?;
        }
        for ip in &self.ingress {
            writeln!(f, "    - ip: {:?}", ip.to_string())?;
        }
        Ok(())
    }
}
