//! Desired tables: what the maps should say of one Service.
//!
//! Pure. Input: a Service of the cluster model; output: one [`PortTable`] per service port and family, with
//! the frontends under which it answers and the backends it leads to. Slots and ids are not known here: where
//! things lie in the maps is the plan's business.

pub mod admission;
pub mod by_packets;
pub mod checks;
pub mod lacking;
pub mod node_ports;
pub mod ranges;
pub mod rosters;

use proxy_common::{
    address::{Address, Port},
    layout::{Backend, FrontendKey, Sets, backend_flag, frontend_kind, protocol, scope},
};

use admission::Admission;

use crate::{
    cluster::{
        Cluster,
        model::{Endpoint, Family, Protocol, Service, ServiceName, ServicePort, TrafficPolicy},
        printable::Printable,
    },
    policy,
};

/// Names a service port of one family: the unit that has an id, endpoint sets and affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName {
    /// The Service.
    pub service: ServiceName,
    /// `spec.ports[].name`, may be empty.
    pub port: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let colon = if self.port.is_empty() { "" } else { ":" };
        let port = Printable(&self.port);
        write!(f, "{}{colon}{port}/{} ({})", self.service, self.protocol, self.family)
    }
}

/// What the maps should say of one service port of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTable {
    /// Which one.
    pub name: PortName,
    /// `creationTimestamp` of the Service, Unix seconds: the older one keeps a frontend that two claim.
    pub created: i64,
    /// Where it answers, and by which field of the Service (one of [`frontend_kind`]).
    pub frontends: Vec<(FrontendKey, u32)>,
    /// The Cluster set, sorted by [`Backend::rank`].
    pub cluster: Vec<Backend>,
    /// The Local set, sorted by [`Backend::rank`].
    pub local: Vec<Backend>,
    /// Whether any endpoint is usable in the cluster.
    pub any_endpoint: bool,
    /// internalTrafficPolicy Local.
    pub internal_local: bool,
    /// externalTrafficPolicy Local.
    pub external_local: bool,
    /// Who may come in by load-balancer addresses; `None` for everybody.
    pub admission: Option<Admission>,
    /// ClientIP affinity timeout in seconds, 0 for none.
    pub affinity_seconds: u32,
    /// Endpoints that did not fit into a set, 0 as a rule.
    pub left_out: usize,
}

/// The tables of the Service `name`; none if there is no such Service.
#[must_use]
pub fn of_service(cluster: &Cluster, name: &ServiceName) -> Vec<PortTable> {
    let Some(service) = cluster.service(name) else { return Vec::new() };
    let mut tables = Vec::with_capacity(service.ports.len() * service.cluster_ips.len());
    for port in &service.ports {
        for cluster_ip in &service.cluster_ips {
            let family = Family::of(*cluster_ip);
            let endpoints = cluster.endpoints(name, port, family);
            let sets = policy::categorize(service, port, cluster.node(), &endpoints);
            tables.push(of_port(cluster, service, port, family, &sets));
        }
    }
    for cluster_ip in &service.cluster_ips {
        // Once per address, though a Service may have many ports.
        if let Some(table) = tables.iter_mut().find(|table| table.name.family == Family::of(*cluster_ip)) {
            let address = Address::from(*cluster_ip);
            let key = FrontendKey { address, port: Port::new(0), protocol: 0, scope: scope::ADDRESS };
            table.frontends.push((key, frontend_kind::CLUSTER_IP));
        }
    }
    tables
}

/// The table of one service port and family.
#[must_use]
pub fn of_port(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
    sets: &policy::EndpointSets,
) -> PortTable {
    let (all, beyond_all) = backends(&sets.cluster);
    let (local, beyond_local) = backends(&sets.local);
    PortTable {
        name: PortName {
            service: service.name.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
            family,
        },
        created: service.created,
        frontends: frontends(cluster, service, port, family),
        cluster: all,
        local,
        any_endpoint: sets.any,
        internal_local: service.internal_policy == TrafficPolicy::Local,
        external_local: service.external_policy == TrafficPolicy::Local,
        admission: admission::of_family(service, family, cluster.node()),
        affinity_seconds: service.affinity_seconds.unwrap_or(0),
        left_out: beyond_all + beyond_local,
    }
}

/// Every address and port under which a service port answers in one family.
fn frontends(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Vec<(FrontendKey, u32)> {
    let protocol = number(port.protocol);
    let mut frontends: Vec<(FrontendKey, u32)> = Vec::new();
    let mut add = |address, port, scope, kind| {
        let key = FrontendKey { address, port: Port::new(port), protocol, scope };
        // A Service may name one address twice, as external IP and as load-balancer IP.
        if !frontends.iter().any(|(known, _)| *known == key) {
            frontends.push((key, kind));
        }
    };
    let addresses = [
        (&service.cluster_ips, frontend_kind::CLUSTER_IP),
        (&service.load_balancer_ips, frontend_kind::LOAD_BALANCER),
        (&service.external_ips, frontend_kind::EXTERNAL_IP),
    ];
    for (ips, kind) in addresses {
        if kind == frontend_kind::EXTERNAL_IP && !cluster.serves_external_ips() {
            continue;
        }
        for ip in ips.iter().filter(|ip| Family::of(**ip) == family) {
            add(Address::from(*ip), port.port, scope::VIP, kind);
        }
    }
    if let Some(node_port) = port.node_port {
        let any = match family {
            Family::V4 => Address::ANY_V4,
            Family::V6 => Address::ANY_V6,
        };
        add(any, node_port, scope::NODE_PORT, frontend_kind::NODE_PORT);
    }
    frontends
}

/// The IP protocol number.
#[must_use]
pub const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    }
}

/// Endpoints as backends, sorted, and how many were too many.
fn backends(endpoints: &[Endpoint]) -> (Vec<Backend>, usize) {
    let mut backends: Vec<Backend> = endpoints
        .iter()
        .map(|endpoint| Backend {
            address: Address::from(endpoint.address),
            port: Port::new(endpoint.port),
            flags: if endpoint.local { backend_flag::LOCAL } else { 0 },
            reserved: 0,
        })
        .collect();
    backends.sort_unstable_by_key(Backend::rank);
    let beyond = backends.len().saturating_sub(Sets::MAX_LEN);
    backends.truncate(Sets::MAX_LEN);
    (backends, beyond)
}

#[cfg(test)]
mod tests;
