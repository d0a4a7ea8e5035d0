//! What load balancers are told of a Service whose external policy is `Local`: whether this node has endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::cluster::{
    Cluster,
    model::{Family, ServiceName},
};

/// What load balancers are told, by Service.
pub type Checks = BTreeMap<ServiceName, Check>;

/// What load balancers are told of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Where they ask: `spec.healthCheckNodePort`.
    pub port: u16,
    /// The families the Service has, and how many endpoints on this node are ready in each, by address: one that serves
    /// several ports counts once, and one that is going away does not.
    pub endpoints: BTreeMap<Family, usize>,
}

/// What load balancers are told of the Service `name`; nothing if they have no port to ask at.
#[must_use]
pub fn of_service(cluster: &Cluster, name: &ServiceName) -> Option<Check> {
    let service = cluster.service(name)?;
    let port = service.health_check_node_port?;
    let ready = |family| -> BTreeSet<IpAddr> {
        let endpoints = service.ports.iter().flat_map(|port| cluster.endpoints(name, port, family));
        endpoints
            .filter(|endpoint| endpoint.local && endpoint.ready)
            .map(|endpoint| endpoint.address)
            .collect()
    };
    let families = service.cluster_ips.iter().map(|ip| Family::of(*ip));
    Some(Check { port, endpoints: families.map(|family| (family, ready(family).len())).collect() })
}
