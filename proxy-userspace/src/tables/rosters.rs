//! Who stands behind the frontends of a Service, for those who judge flows and sockets that were made earlier.

use std::{collections::HashSet, sync::Arc};

use proxy_common::{
    address::{Address, Port},
    layout::FrontendKey,
};

use super::frontends;
use crate::{
    cluster::{
        Cluster,
        model::{Family, Protocol, ServiceName, ServicePort},
    },
    flows::backing::{End, Roster, Stand},
};

/// Of the Service `name`, at those of its frontends that it `holds`: another Service may have a better claim to one.
/// Without TCP only UDP's. Endpoints of UDP that are ready count whether or not they answer, because the sets have them,
/// too.
pub fn of_service(
    cluster: &Cluster,
    name: &ServiceName,
    holds: impl Fn(&ServicePort, &FrontendKey) -> bool,
    with_tcp: bool,
) -> Roster {
    let mut stands = Vec::new();
    if let Some(service) = cluster.service(name) {
        let counts = |protocol| protocol == Protocol::Udp || with_tcp && protocol == Protocol::Tcp;
        for port in service.ports.iter().filter(|port| counts(port.protocol)) {
            for cluster_ip in &service.cluster_ips {
                let family = Family::of(*cluster_ip);
                let endpoints = cluster.endpoints(name, port, family).into_iter();
                let endpoints = endpoints
                    .filter(|endpoint| port.protocol == Protocol::Tcp || endpoint.serving || endpoint.ready)
                    .map(|endpoint| (Address::from(endpoint.address), Port::new(endpoint.port)));
                let keys = frontends(cluster, service, port, family).into_iter().map(|(key, _)| key);
                stands.push(Stand {
                    frontends: keys.filter(|key| holds(port, key)).collect(),
                    endpoints: Arc::new(endpoints.collect()),
                });
            }
        }
    }
    Roster { service: name.clone(), stands, answering: Arc::new(answering(cluster, name).collect()) }
}

/// Who answers UDP in the whole cluster.
#[must_use]
pub fn everybody(cluster: &Cluster) -> HashSet<End> {
    cluster.names().flat_map(|name| answering(cluster, name)).collect()
}

fn answering(cluster: &Cluster, name: &ServiceName) -> impl Iterator<Item = End> {
    let ends = cluster.answering(name, Protocol::Udp);
    ends.map(|(address, port)| (Address::from(address), Port::new(port)))
}

#[cfg(test)]
#[path = "rosters_tests.rs"]
mod tests;
