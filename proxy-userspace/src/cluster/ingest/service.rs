//! From a Service object to [`Service`].

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Parsed, Rejects, address, port_number, protocol};
use crate::cluster::api;
use crate::cluster::change::{Kind, ObjectRef};
use crate::cluster::model::{Family, Service, ServiceName, ServicePort, TrafficPolicy};
use crate::cluster::reject::{Problem, Reject};

/// Whoever sets this label, to any value, wants another proxy to serve the Service.
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The API's default affinity timeout, three hours.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// Reads a Service.
#[must_use]
pub fn service(object: &api::Service) -> (Parsed<Service>, Vec<Reject>) {
    let metadata = &object.metadata;
    let spec = &object.spec;
    let mut rejects = Rejects::new(ObjectRef::new(Kind::Service, &metadata.namespace, &metadata.name));

    let cluster_ip_texts = cluster_ip_texts(spec);
    let headless = cluster_ip_texts.first().is_none_or(|(_, text)| *text == "None");
    let external_name = spec.kind.as_deref() == Some("ExternalName");
    if headless || external_name || metadata.labels.contains_key(OTHER_PROXY_LABEL) {
        return (Parsed::NotOurs, Vec::new());
    }

    let cluster_ips = cluster_ips(spec, &cluster_ip_texts, &mut rejects);
    if cluster_ips.is_empty() {
        rejects.push("spec.clusterIPs", Problem::NoUsableClusterIp);
        return (Parsed::Unusable, rejects.list);
    }
    let external = spec.external_ips.iter().enumerate();
    let external = external.map(|(index, text)| (format!("spec.externalIPs[{index}]"), text.as_str()));
    let external_ips = other_frontends(external, &cluster_ips, &mut rejects);
    let ingress = ingress(&object.status.load_balancer.ingress, &mut rejects);
    let load_balancer_ips = other_frontends(ingress.into_iter(), &cluster_ips, &mut rejects);

    let external_policy =
        policy(spec.external_traffic_policy.as_deref(), "spec.externalTrafficPolicy", &mut rejects);
    check_type(spec.kind.as_deref(), &mut rejects);
    let externally_reachable =
        matches!(spec.kind.as_deref(), Some("NodePort" | "LoadBalancer")) || !spec.external_ips.is_empty();
    let value = Service {
        name: ServiceName {
            namespace: metadata.namespace.as_str().into(),
            name: metadata.name.as_str().into(),
        },
        created: created(metadata, &mut rejects),
        cluster_ips,
        external_ips,
        source_ranges: source_ranges(spec, &load_balancer_ips, &mut rejects),
        load_balancer_ips,
        ports: ports(&spec.ports, &mut rejects),
        internal_policy: policy(
            spec.internal_traffic_policy.as_deref(),
            "spec.internalTrafficPolicy",
            &mut rejects,
        ),
        external_policy: if externally_reachable { external_policy } else { TrafficPolicy::Cluster },
        affinity_seconds: affinity(spec, &mut rejects),
        health_check_node_port: health_check(spec, external_policy, &mut rejects),
    };
    (Parsed::Value(value), rejects.list)
}

/// kube-proxy: `NeedsHealthCheck`.
fn health_check(spec: &api::ServiceSpec, policy: TrafficPolicy, rejects: &mut Rejects) -> Option<u16> {
    if spec.kind.as_deref() != Some("LoadBalancer") || policy != TrafficPolicy::Local {
        return None;
    }
    let number = spec.health_check_node_port.filter(|number| *number != 0)?;
    let port = u16::try_from(number).ok();
    if port.is_none() {
        rejects.push("spec.healthCheckNodePort", Problem::InvalidHealthCheckPort(number));
    }
    port
}

/// What `loadBalancerSourceRanges` says of the families in which there are load balancer IPs. Sorted: their order means
/// nothing.
fn source_ranges(spec: &api::ServiceSpec, load_balancer_ips: &[IpAddr], rejects: &mut Rejects) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> = Vec::new();
    for (index, text) in spec.load_balancer_source_ranges.iter().enumerate() {
        let range = rejects.take(address::range(text), || format!("spec.loadBalancerSourceRanges[{index}]"));
        let is_needed =
            |range: &IpNet| load_balancer_ips.iter().any(|ip| Family::of(*ip) == Family::of(range.addr()));
        ranges.extend(range.filter(is_needed));
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// The texts of the cluster IPs and where they stand. The API server keeps both fields equal; a manifest may
/// have only one of them.
fn cluster_ip_texts(spec: &api::ServiceSpec) -> Vec<(String, &str)> {
    let primary = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    if spec.cluster_ips.is_empty() || primary == Some("None") {
        return primary.map(|text| ("spec.clusterIP".to_owned(), text)).into_iter().collect();
    }
    let texts = spec.cluster_ips.iter().enumerate();
    texts.map(|(index, text)| (format!("spec.clusterIPs[{index}]"), text.as_str())).collect()
}

fn cluster_ips(spec: &api::ServiceSpec, texts: &[(String, &str)], rejects: &mut Rejects) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::with_capacity(texts.len());
    for (index, (field, text)) in texts.iter().enumerate() {
        let Some(address) = rejects.take(address::frontend(text), || field.clone()) else { continue };
        let expected = match spec.ip_families.get(index).map(String::as_str) {
            Some("IPv4") => Some(Family::V4),
            Some("IPv6") => Some(Family::V6),
            None => None,
            Some(other) => {
                let value = other.to_owned();
                rejects.push(
                    format!("spec.ipFamilies[{index}]"),
                    Problem::UnknownValue { value, used: "the family of the address" },
                );
                None
            }
        };
        let family = Family::of(address);
        if let Some(expected) = expected.filter(|expected| *expected != family) {
            rejects.push(field, Problem::WrongFamily { address, expected });
        } else if found.iter().any(|known| Family::of(*known) == family) {
            rejects.push(field, Problem::SecondClusterIp(address));
        } else {
            found.push(address);
        }
    }
    found
}

/// The type decides little here: who has a node port or another address answers there.
fn check_type(text: Option<&str>, rejects: &mut Rejects) {
    match text {
        None | Some("" | "ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some(other) => {
            let problem = Problem::UnknownValue { value: other.to_owned(), used: "ClusterIP" };
            rejects.push("spec.type", problem);
        }
    }
}

/// The load balancer's addresses that packets arrive with here: no host name, and none of a load balancer that is
/// itself the packets' destination.
fn ingress<'a>(entries: &'a [api::LoadBalancerIngress], rejects: &mut Rejects) -> Vec<(String, &'a str)> {
    let mut found = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = |field: &str| format!("status.loadBalancer.ingress[{index}].{field}");
        match (entry.ip_mode.as_deref(), entry.ip.as_deref()) {
            (None | Some("VIP"), Some(text)) if !text.is_empty() => found.push((at("ip"), text)),
            (None | Some("VIP" | "Proxy"), _) => {}
            (Some(other), _) => {
                let problem = Problem::UnknownValue { value: other.to_owned(), used: "Proxy" };
                rejects.push(at("ipMode"), problem);
            }
        }
    }
    found
}

/// External and load balancer IPs: served only in the families of the cluster IPs, as kube-proxy's two
/// single-family halves do.
fn other_frontends<'a>(
    texts: impl Iterator<Item = (String, &'a str)>,
    cluster_ips: &[IpAddr],
    rejects: &mut Rejects,
) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (field, text) in texts {
        match address::frontend(text) {
            Ok(address) if !cluster_ips.iter().any(|ip| Family::of(*ip) == Family::of(address)) => {
                rejects.push(field, Problem::NoClusterIpOfFamily(address));
            }
            Ok(address) if found.contains(&address) => {}
            Ok(address) => found.push(address),
            Err(problem) => rejects.push(field, problem),
        }
    }
    found
}

fn ports(objects: &[api::ServicePort], rejects: &mut Rejects) -> Vec<ServicePort> {
    let mut found: Vec<ServicePort> = Vec::with_capacity(objects.len());
    for (index, object) in objects.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        let number = rejects.take(port_number(object.port), || at("port"));
        let protocol = rejects.take(protocol(object.protocol.as_deref()), || at("protocol"));
        let (Some(port), Some(protocol)) = (number, protocol) else { continue };
        let name = object.name.as_deref().unwrap_or_default();
        let mut same_protocol = found.iter().filter(|known| known.protocol == protocol);
        if same_protocol.clone().any(|known| *known.name == *name) {
            rejects.push(at("name"), Problem::DuplicatePortName);
            continue;
        }
        if same_protocol.clone().any(|known| known.port == port) {
            rejects.push(at("port"), Problem::DuplicatePort(port));
            continue;
        }
        let node_port = match object.node_port.filter(|number| *number != 0) {
            None => None,
            Some(number) => match u16::try_from(number) {
                Ok(node_port) if same_protocol.any(|known| known.node_port == Some(node_port)) => {
                    rejects.push(at("nodePort"), Problem::DuplicateNodePort(node_port));
                    None
                }
                Ok(node_port) => Some(node_port),
                Err(_) => {
                    rejects.push(at("nodePort"), Problem::InvalidNodePort(number));
                    None
                }
            },
        };
        found.push(ServicePort { name: name.into(), protocol, port, node_port });
    }
    found
}

fn policy(text: Option<&str>, field: &str, rejects: &mut Rejects) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            rejects.push(field, Problem::UnknownValue { value: other.to_owned(), used: "Cluster" });
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(spec: &api::ServiceSpec, rejects: &mut Rejects) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let problem = Problem::UnknownValue { value: other.to_owned(), used: "None" };
            rejects.push("spec.sessionAffinity", problem);
            return None;
        }
    }
    let Some(asked) = spec.session_affinity_config.client_ip.timeout_seconds else {
        return Some(DEFAULT_AFFINITY_SECONDS);
    };
    let seconds = u32::try_from(asked).ok().filter(|seconds| (1..=86_400).contains(seconds));
    if seconds.is_none() {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        rejects.push(field, Problem::InvalidAffinityTimeout(asked));
    }
    seconds.or(Some(DEFAULT_AFFINITY_SECONDS))
}

fn created(metadata: &api::Metadata, rejects: &mut Rejects) -> i64 {
    let Some(text) = metadata.creation_timestamp.as_deref().filter(|text| !text.is_empty()) else { return 0 };
    let time = text.parse::<jiff::Timestamp>().map_err(|_| Problem::InvalidTime(text.to_owned()));
    rejects.take(time, || "metadata.creationTimestamp".to_owned()).map_or(0, |time| time.as_second())
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
