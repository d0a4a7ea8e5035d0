//! What is said of differences, and that none is said where there is none.

use std::net::Ipv4Addr;

use proxy_common::{
    address::{Address, Port},
    layout::{Backend, FrontendKey, frontend_kind, protocol, scope},
};

use super::{Difference, served::*};
use crate::{
    cluster::model::{Family, Protocol, ServiceName},
    plan::{Desired, NodeAddresses, SourceRange},
    tables::{PortName, PortTable, admission::Admission},
};

fn address(last: u8) -> Address {
    Address::from(std::net::IpAddr::from(Ipv4Addr::new(10, 0, 0, last)))
}

fn backend(last: u8) -> Backend {
    Backend { address: address(last), port: Port::new(8080), flags: 0, reserved: 0 }
}

fn key(last: u8) -> FrontendKey {
    FrontendKey { address: address(last), port: Port::new(80), protocol: protocol::TCP, scope: scope::VIP }
}

fn desired(name: &str, kind: u32, admission: Option<Admission>) -> Desired {
    let service = ServiceName { namespace: "shop".into(), name: name.into() };
    let table = PortTable {
        name: PortName {
            service: service.clone(),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        },
        created: 0,
        frontends: vec![(key(1), kind), (key(2), kind)],
        cluster: vec![backend(11), backend(12)],
        local: vec![backend(11)],
        any_endpoint: true,
        internal_local: false,
        external_local: true,
        admission,
        affinity_seconds: 60,
        left_out: 0,
    };
    (service, vec![table])
}

/// What maps that are right would be read as.
fn right(desired: &[Desired]) -> Frontends {
    let expected = Expected::of(desired);
    [key(1), key(2)].into_iter().filter_map(|key| Some((key, expected.served(&key)?.clone()))).collect()
}

fn said(differences: &[Difference]) -> Vec<String> {
    differences.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_right_is_not_spoken_of() {
    let all = [desired("web", frontend_kind::CLUSTER_IP, None)];
    assert_eq!(said(&Expected::of(&all).differences(&right(&all))), Vec::<String>::new());
}

#[test]
fn each_difference_is_said_once_with_the_names_of_those_concerned() {
    let all = [desired("web", frontend_kind::CLUSTER_IP, None)];
    let mut found = right(&all);
    for served in found.values_mut() {
        served.cluster = vec![backend(11), backend(99)];
        served.traits = proxy_common::layout::Traits::new(0);
        served.sets = served.sets.with_external_local(false);
    }
    found.insert(key(9), found[&key(1)].clone());
    assert_eq!(
        said(&Expected::of(&all).differences(&found)),
        [
            "services: shop/web:http/TCP (IPv4): externalTrafficPolicy is Cluster in place of Local; affinity is 0s in \
             place of 60s",
            "backends: shop/web:http/TCP (IPv4): endpoints: lacks 10.0.0.12:8080; leads to 10.0.0.99:8080 in vain",
            "frontends: 10.0.0.9:80/TCP is there and is nobody's",
        ]
    );
}

#[test]
fn frontends_that_are_gone_or_broken_are_named() {
    let all = [desired("web", frontend_kind::CLUSTER_IP, None)];
    let mut found = right(&all);
    found.remove(&key(1));
    found.get_mut(&key(2)).expect("the other").kind = None;
    assert_eq!(
        said(&Expected::of(&all).differences(&found)),
        [
            "frontends: shop/web:http/TCP (IPv4): 10.0.0.1:80/TCP is missing",
            "frontends: shop/web:http/TCP (IPv4): 10.0.0.2:80/TCP leads elsewhere",
        ]
    );
}

#[test]
fn who_loses_a_frontend_to_a_better_claim_lacks_nothing() {
    let all =
        [desired("web", frontend_kind::CLUSTER_IP, None), desired("thief", frontend_kind::EXTERNAL_IP, None)];
    assert_eq!(said(&Expected::of(&all).differences(&right(&all[..1]))), Vec::<String>::new());
}

#[test]
fn clients_are_compared_where_not_all_are_admitted() {
    let admission = Admission { ranges: [(address(0), 24)].into(), is_node: false };
    let all = [desired("web", frontend_kind::LOAD_BALANCER, Some(admission))];
    let mut found = right(&all);
    for served in found.values_mut() {
        served.admitted = [(address(0), 8)].into();
    }
    let range = |length| SourceRange { service: 0, address: address(0), length };
    let port = Expected::of(&all).differences(&right(&all));
    assert_eq!(port, []);
    let differences = Expected::of(&all).differences(&found);
    assert!(
        matches!(&differences[..], [Difference::KeptOut { range: kept, .. }, Difference::LetIn { range: let_in, .. }]
            if *kept == range(24) && *let_in == range(8)),
        "{differences:?}"
    );
}

#[test]
fn addresses_of_the_node_are_missing_too_many_or_otherwise() {
    let wanted = NodeAddresses::from([(address(1), 3), (address(2), 2)]);
    let found = NodeAddresses::from([(address(2), 3), (address(3), 2)]);
    assert_eq!(
        said(&node_addresses(&wanted, &found)),
        [
            "node_addresses: 10.0.0.1 is missing",
            "node_addresses: 10.0.0.2 is taken for something else",
            "node_addresses: 10.0.0.3 is there and is not the node's",
        ]
    );
    assert_eq!(node_addresses(&wanted, &wanted), []);
}
