//! Where Services answer: serviceport.go, util/utils.go, util/nodeport_addresses.go.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::objects::{Name, NodePortAddresses, Policy, Protocol, Service, Type, World};
use super::{Probe, differences, text};

/// A service port, in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortId {
    pub(crate) service: Name,
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) is_v4: bool,
}

/// In the order in which they win an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ClusterIp,
    Balancer,
    External,
    NodePort,
}

/// A frontend that a service port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) kind: Kind,
    pub(crate) port: PortId,
    /// Of a NodePort, any address of its family.
    pub(crate) at: SocketAddr,
    pub(crate) created: u8,
    pub(crate) internal: Policy,
    pub(crate) external: Policy,
}

/// `ShouldSkipService`, and the label that leaves a Service to another proxy.
fn is_served(service: &Service) -> bool {
    let has_address = !matches!(service.cluster_ip.as_deref(), None | Some("" | "None"));
    has_address && service.kind != Type::ExternalName && !service.is_foreign
}

/// `GetClusterIPByFamily`.
fn cluster_ip(service: &Service, is_v4: bool) -> Option<IpAddr> {
    let text = if service.families.is_empty() {
        service.cluster_ip.as_ref()
    } else {
        let place = service.families.iter().position(|own| *own == is_v4)?;
        service.cluster_ips.get(place)
    };
    text::address(text?).filter(|own| own.is_ipv4() == is_v4)
}

/// Only entries with an address, whose mode is VIP.
pub(crate) fn balancer_addresses(service: &Service, is_v4: bool) -> Vec<IpAddr> {
    let vips = service.ingress.iter().filter(|own| matches!(own.mode, None | Some("VIP")));
    let all = text::addresses(vips.filter_map(|own| own.ip.as_ref()), is_v4);
    all.into_iter().filter(|own| !differences::is_left_out(*own)).collect()
}

fn external_addresses(service: &Service, is_v4: bool) -> Vec<IpAddr> {
    let all = text::addresses(&service.external_ips, is_v4);
    all.into_iter().filter(|own| !differences::is_left_out(*own)).collect()
}

/// svcutil `ExternalPolicyLocal`: of no Service that nobody outside can reach. The raw list of externalIPs counts.
fn external_policy(service: &Service) -> Policy {
    let is_reachable = match service.kind {
        Type::LoadBalancer | Type::NodePort => true,
        Type::ClusterIp => !service.external_ips.is_empty(),
        Type::ExternalName => false,
    };
    if is_reachable { service.external.unwrap_or(Policy::Cluster) } else { Policy::Cluster }
}

/// Everything that Services ask for.
pub(crate) fn claims(world: &World) -> Vec<Claim> {
    let mut claims = Vec::new();
    for (name, service) in world.services.iter().filter(|(_, own)| is_served(own)) {
        for is_v4 in [true, false] {
            let Some(cluster_ip) = cluster_ip(service, is_v4) else { continue };
            for port in &service.ports {
                let id = PortId { service: name.clone(), name: port.name, protocol: port.protocol, is_v4 };
                let mut claim = |kind, address, number| {
                    claims.push(Claim {
                        kind,
                        port: id.clone(),
                        at: SocketAddr::new(address, number),
                        created: service.created,
                        internal: service.internal.unwrap_or(Policy::Cluster),
                        external: external_policy(service),
                    });
                };
                claim(Kind::ClusterIp, cluster_ip, port.number);
                for address in balancer_addresses(service, is_v4) {
                    claim(Kind::Balancer, address, port.number);
                }
                for address in external_addresses(service, is_v4) {
                    claim(Kind::External, address, port.number);
                }
                if let Some(number) = port.node_port {
                    let any: IpAddr =
                        if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                    claim(Kind::NodePort, any, number);
                }
            }
        }
    }
    claims
}

/// Which sets a service port needs.
pub(crate) struct Uses {
    pub(crate) cluster: bool,
    pub(crate) local: bool,
}

/// `UsesClusterEndpoints` and `UsesLocalEndpoints`.
pub(crate) fn uses(world: &World, port: &PortId) -> Uses {
    let service = &world.services[&port.service];
    let its: Vec<Claim> = claims(world).into_iter().filter(|claim| claim.port == *port).collect();
    let is_external = its.iter().any(|claim| claim.kind != Kind::ClusterIp);
    let internal_local = service.internal == Some(Policy::Local);
    let external_local = external_policy(service) == Policy::Local;
    Uses { cluster: !internal_local || is_external, local: internal_local || external_local && is_external }
}

/// Every ClusterIP in force.
pub(crate) fn cluster_ips(world: &World) -> BTreeSet<IpAddr> {
    let all = claims(world).into_iter().filter(|claim| claim.kind == Kind::ClusterIp);
    all.map(|claim| claim.at.ip()).collect()
}

/// Who answers. NodePorts come after everything that has an address.
pub(crate) fn claim(world: &World, probe: &Probe) -> Option<Claim> {
    let all: Vec<Claim> =
        claims(world).into_iter().filter(|claim| claim.port.protocol == probe.protocol).collect();
    let by_address = || all.iter().filter(|claim| claim.kind != Kind::NodePort && claim.at == probe.to);
    let by_port = || {
        let is_its = |claim: &&Claim| {
            claim.kind == Kind::NodePort
                && claim.at.port() == probe.to.port()
                && claim.at.is_ipv4() == probe.to.is_ipv4()
        };
        all.iter().filter(is_its)
    };
    differences::winner(by_address())
        .or_else(|| differences::winner(by_port()).filter(|_| answers_node_ports(world, probe)))
        .cloned()
}

/// Whether NodePorts are to be had at that address.
fn answers_node_ports(world: &World, probe: &Probe) -> bool {
    let address = probe.to.ip();
    if address.is_loopback() || address.is_unspecified() {
        return differences::answers_node_ports_at_loopback(world, probe);
    }
    world.interfaces.contains(&address) && admits_node_ports(world, address)
}

/// The setting. A family that it does not mention is left as it is.
pub(crate) fn admits_node_ports(world: &World, address: IpAddr) -> bool {
    let is_v4 = address.is_ipv4();
    match &world.node_port_addresses {
        NodePortAddresses::Ranges(texts) => {
            let ranges = text::ranges(texts, is_v4);
            ranges.is_empty() || ranges.iter().any(|range| range.contains(address))
        }
        NodePortAddresses::Primary => world.node_ip(is_v4).is_none_or(|own| own == address),
    }
}
