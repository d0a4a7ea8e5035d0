//! Which endpoints a service port may use on this node: readiness, termination, topology, traffic policy.
//!
//! Pure. Input: a service port's endpoints, deduplicated and sorted; output: the Cluster set, the Local set,
//! and whether any endpoint exists at all. The rules are kube-proxy's `CategorizeEndpoints`
//! (`pkg/proxy/topology.go` at v1.36.0), of which the Kubernetes documentation describes the parts under
//! "EndpointSlices: conditions", "Topology aware routing" and "Service internal traffic policy".

use crate::cluster::model::{Endpoint, NodeInfo, Service, ServicePort, TrafficPolicy};

/// The endpoint sets of one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSets {
    /// For traffic under the Cluster policy; empty when nothing can use it.
    pub cluster: Vec<Endpoint>,
    /// For traffic under a Local policy; empty when neither policy is Local.
    pub local: Vec<Endpoint>,
    /// Whether an endpoint is usable somewhere, though perhaps not for this node's traffic: the difference
    /// between refusing and dropping.
    pub any: bool,
}

/// Sorts a service port's endpoints into sets, as seen from `node`.
#[must_use]
pub fn categorize(
    service: &Service,
    port: &ServicePort,
    node: &NodeInfo,
    endpoints: &[Endpoint],
) -> EndpointSets {
    let external =
        port.node_port.is_some() || !service.external_ips.is_empty() || !service.load_balancer_ips.is_empty();
    // External traffic from this node's own pods uses the Cluster set even under the Local policy.
    let uses_cluster = service.internal_policy == TrafficPolicy::Cluster || external;
    let uses_local = service.internal_policy == TrafficPolicy::Local
        || (external && service.external_policy == TrafficPolicy::Local);

    let mut sets = EndpointSets::default();
    if uses_cluster {
        let topology = Topology::of(node, endpoints);
        sets.cluster = ready_else_terminating(endpoints, |e| topology.admits(node, e), |_| true);
        sets.any = !sets.cluster.is_empty();
    }
    if uses_local {
        sets.local = ready_else_terminating(endpoints, |e| e.local, |e| e.local);
        sets.any |= endpoints.iter().any(|e| e.ready || is_draining(e));
    }
    sets
}

/// The ready endpoints that `among_ready` admits; if there are none, those that still serve while they
/// terminate and that `among_draining` admits.
fn ready_else_terminating(
    endpoints: &[Endpoint],
    among_ready: impl Fn(&Endpoint) -> bool,
    among_draining: impl Fn(&Endpoint) -> bool,
) -> Vec<Endpoint> {
    let ready: Vec<Endpoint> = endpoints.iter().filter(|e| e.ready && among_ready(e)).cloned().collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.iter().filter(|e| is_draining(e) && among_draining(e)).cloned().collect()
}

/// Terminating, but still answering: the last resort.
fn is_draining(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// How hints narrow the Cluster set. Only hints are read, never `spec.trafficDistribution` nor the
/// topology-mode annotation, which are for whoever writes the hints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Topology {
    SameNode,
    SameZone,
    Everywhere,
}

impl Topology {
    /// All or nothing: one ready endpoint without a hint, or none for us, switches that kind of hint off.
    fn of(node: &NodeInfo, endpoints: &[Endpoint]) -> Self {
        let ready = || endpoints.iter().filter(|e| e.ready);
        if ready().next().is_none() {
            return Self::Everywhere;
        }
        for mode in [Self::SameNode, Self::SameZone] {
            if ready().all(|e| mode.is_hinted(e)) && ready().any(|e| mode.admits(node, e)) {
                return mode;
            }
        }
        Self::Everywhere
    }

    fn is_hinted(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::SameNode => !endpoint.node_hints.is_empty(),
            Self::SameZone => !endpoint.zone_hints.is_empty(),
            Self::Everywhere => true,
        }
    }

    fn admits(self, node: &NodeInfo, endpoint: &Endpoint) -> bool {
        match self {
            Self::SameNode => endpoint.node_hints.contains(&node.name),
            Self::SameZone => node.zone.as_ref().is_some_and(|zone| endpoint.zone_hints.contains(zone)),
            Self::Everywhere => true,
        }
    }
}

#[cfg(test)]
mod tests;
