//! EndpointSlices.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::oracle::objects::{AddressType, Endpoint, Name, Slice, SlicePort};
use super::pools::{NAMES, NAMESPACES, NODE, PORT_NAMES, pods, protocol};

pub(crate) fn any_slice_name() -> impl Strategy<Value = Name> {
    (0u8..14, prop::bool::weighted(0.9)).prop_map(|(number, is_common)| Name {
        namespace: NAMESPACES[usize::from(!is_common)],
        name: format!("slice-{number}"),
    })
}

/// What an endpoint's conditions may be, the usual ones more often.
pub(crate) fn any_conditions() -> impl Strategy<Value = [Option<bool>; 3]> {
    let any = || prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
    prop_oneof![
        6 => Just([Some(true), Some(true), Some(false)]),
        2 => Just([None, None, None]),
        4 => Just([Some(false), Some(true), Some(true)]),
        1 => Just([Some(false), Some(false), Some(true)]),
        1 => Just([Some(false), Some(false), Some(false)]),
        2 => [any(), any(), any()],
    ]
}

fn any_endpoint(is_v4: bool) -> impl Strategy<Value = Endpoint> {
    let node = prop_oneof![6 => Just(Some(NODE)), 5 => Just(Some("node-2")), 1 => Just(None)];
    let addresses = prop_oneof![
        20 => prop::collection::vec(select(pods(is_v4)), 1),
        1 => prop::collection::vec(select(pods(is_v4)), 0..3),
    ];
    (addresses, any_conditions(), node).prop_map(|(addresses, [ready, serving, terminating], node)| {
        Endpoint {
            addresses,
            ready,
            serving,
            terminating,
            node,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
        }
    })
}

/// Hints for all endpoints of a slice, or for all but some: one without any decides for all.
fn any_hints(len: usize) -> impl Strategy<Value = Vec<(Vec<&'static str>, Vec<&'static str>)>> {
    let zones = |least: usize| subsequence(vec!["zone-a", "zone-b"], least..=2);
    let nodes = |least: usize| subsequence(vec![NODE, "node-2"], least..=2);
    let of = |zone: usize, node: usize, few: usize| {
        prop::collection::vec((zones(zone), subsequence(vec![NODE, "node-2"], node..=few)), len)
    };
    prop_oneof![
        4 => Just(vec![(Vec::new(), Vec::new()); len]),
        3 => of(1, 0, 0),
        2 => of(1, 1, 2),
        1 => prop::collection::vec((zones(0), nodes(0)), len),
    ]
}

pub(crate) fn any_slice() -> impl Strategy<Value = Slice> {
    let number =
        prop_oneof![16 => select(vec![8080u16, 8081]).prop_map(Some), 1 => Just(None), 1 => Just(Some(0))];
    let port = (0u8..24, number);
    let ports = (subsequence(PORT_NAMES.to_vec(), 2..=4), prop::collection::vec(port, 4));
    let ports = ports.prop_map(|(names, drafts)| {
        let pairs = names.into_iter().zip(drafts);
        let port = |(name, (draw, number))| SlicePort { name, protocol: protocol(name, draw), number };
        pairs.map(port).collect::<Vec<_>>()
    });
    let endpoints = (any::<bool>(), 0usize..6).prop_flat_map(|(is_v4, len)| {
        (Just(is_v4), prop::collection::vec(any_endpoint(is_v4), len), any_hints(len))
    });
    let service = prop::option::weighted(0.97, select(NAMES.to_vec()).prop_map(str::to_owned));
    let flags = (prop::bool::weighted(0.04), prop::bool::weighted(0.02));
    (service, flags, ports, endpoints).prop_map(
        |(service, (is_headless, is_fqdn), ports, (is_v4, mut endpoints, hints))| {
            for (endpoint, (zones, nodes)) in endpoints.iter_mut().zip(hints) {
                (endpoint.for_zones, endpoint.for_nodes) = (zones, nodes);
            }
            let address_type = match (is_fqdn, is_v4) {
                (true, _) => AddressType::Fqdn,
                (false, true) => AddressType::V4,
                (false, false) => AddressType::V6,
            };
            Slice { service, is_headless, address_type, ports, endpoints }
        },
    )
}
