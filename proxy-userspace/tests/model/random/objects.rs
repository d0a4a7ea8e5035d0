//! Services and slices.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::oracle::objects::{
    AddressType, Endpoint, Ingress, Name, NodePortAddresses, Policy, Port, Protocol, Service, Slice,
    SlicePort, Type,
};

pub(crate) const NODE: &str = "node-1";
const PORT_NAMES: [&str; 4] = ["", "http", "dns", "x"];
/// One of them is a NodePort as well.
pub(crate) const NUMBERS: [u16; 4] = [80, 443, 53, 30_080];
pub(crate) const NODE_PORTS: [u16; 3] = [30_080, 30_053, 31_000];
const NAMES: [&str; 3] = ["web", "db", "cache"];
const NAMESPACES: [&str; 2] = ["a", "b"];

/// Addresses that Services claim, which are the first of each family for ClusterIPs; the last few belong to the node, or
/// to nobody.
pub(crate) fn vips(is_v4: bool) -> Vec<IpAddr> {
    let texts: [&str; 9] = if is_v4 {
        [
            "10.96.0.1",
            "10.96.0.2",
            "10.96.0.3",
            "10.96.0.4",
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "192.168.0.1",
            "127.0.0.1",
        ]
    } else {
        [
            "fd00:96::1",
            "fd00:96::2",
            "fd00:96::3",
            "fd00:96::4",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8::3",
            "fd00:192::1",
            "::1",
        ]
    };
    texts.map(|text| text.parse().unwrap()).to_vec()
}

/// How many of [`vips`] are for ClusterIPs.
const CLUSTER_IPS: usize = 4;

/// Addresses that may be on the node's interfaces.
pub(crate) fn interfaces() -> Vec<IpAddr> {
    ["192.168.0.1", "192.168.0.9", "fd00:192::1", "fd00:192::9", "192.0.2.3", "2001:db8::3", "10.96.0.4"]
        .map(|text| text.parse().unwrap())
        .to_vec()
}

/// Where endpoints are.
pub(crate) fn pods(is_v4: bool) -> Vec<IpAddr> {
    let texts: [&str; 7] = if is_v4 {
        ["10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.2.1", "10.244.2.2", "10.244.2.10", "192.168.0.1"]
    } else {
        [
            "fd00:244:1::1",
            "fd00:244:1::2",
            "fd00:244:1::3",
            "fd00:244:2::1",
            "fd00:244:2::2",
            "fd00:244:2::10",
            "fd00:192::1",
        ]
    };
    texts.map(|text| text.parse().unwrap()).to_vec()
}

/// Of a port of that name. Services and slices mostly agree about it.
fn protocol(name: &str, draw: u8) -> Protocol {
    match (draw, name) {
        (0, _) => Protocol::Tcp,
        (1, _) | (_, "dns") => Protocol::Udp,
        (_, "x") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

pub(crate) fn any_service_name() -> impl Strategy<Value = Name> {
    let is_common = prop::bool::weighted(0.9);
    (select(NAMES.to_vec()), select(NAMESPACES.to_vec()), is_common).prop_map(
        |(name, namespace, is_common)| Name {
            namespace: if is_common { NAMESPACES[0] } else { namespace },
            name: name.to_owned(),
        },
    )
}

pub(crate) fn any_slice_name() -> impl Strategy<Value = Name> {
    (0u8..14, prop::bool::weighted(0.9)).prop_map(|(number, is_common)| Name {
        namespace: NAMESPACES[usize::from(!is_common)],
        name: format!("slice-{number}"),
    })
}

/// As somebody may have written it before the API was strict.
fn any_spelling(address: IpAddr) -> impl Strategy<Value = String> {
    (0u8..16).prop_map(move |way| match (way, address) {
        (0, IpAddr::V4(own)) => {
            let [a, b, c, d] = own.octets();
            format!("{a}.{b}.{c}.{d:03}")
        }
        (1, IpAddr::V4(own)) => format!("::ffff:{own}"),
        (2, IpAddr::V6(own)) => own.to_string().to_uppercase(),
        _ => address.to_string(),
    })
}

/// Or nothing that could be read.
fn any_text(address: IpAddr) -> impl Strategy<Value = String> {
    prop_oneof![
        16 => any_spelling(address),
        1 => Just(format!("{address}/32")),
        1 => Just("192.0.2.256".to_owned()),
        1 => Just(String::new()),
    ]
}

fn any_vip() -> impl Strategy<Value = String> {
    let all: Vec<(u32, IpAddr)> = [true, false]
        .into_iter()
        .flat_map(vips)
        .enumerate()
        .map(|(place, own)| (if (CLUSTER_IPS..CLUSTER_IPS + 3).contains(&(place % 9)) { 6 } else { 1 }, own))
        .collect();
    prop::strategy::Union::new_weighted(all.into_iter().map(|(weight, own)| (weight, Just(own))).collect())
        .prop_flat_map(any_text)
}

/// The ClusterIP, all of them, and their families.
type Addresses = (Option<String>, Vec<String>, Vec<bool>);

fn any_addresses() -> impl Strategy<Value = Addresses> {
    let one = |is_v4: bool| select(vips(is_v4)[..CLUSTER_IPS].to_vec()).prop_map(|own| own.to_string());
    let single = prop_oneof![one(true), one(true), one(false)];
    let dual = (one(true), one(false), any::<bool>());
    let is_v4 = |text: &String| !text.contains(':');
    prop_oneof![
        12 => dual.prop_map(move |(v4, v6, swapped)| {
            let all = if swapped { vec![v6, v4] } else { vec![v4, v6] };
            (Some(all[0].clone()), all.clone(), all.iter().map(is_v4).collect())
        }),
        8 => single.clone().prop_map(move |own| (Some(own.clone()), vec![own.clone()], vec![is_v4(&own)])),
        // Before there were families, and before there were several addresses.
        2 => (single.clone(), any::<bool>()).prop_map(|(own, several)| {
            (Some(own.clone()), if several { vec![own] } else { Vec::new() }, Vec::new())
        }),
        1 => Just((Some("None".to_owned()), vec!["None".to_owned()], vec![true])),
        1 => Just((None, Vec::new(), Vec::new())),
        1 => single.prop_flat_map(|own| any_spelling(own.parse().unwrap()))
            .prop_map(|own| (Some(own.clone()), vec![own], Vec::new())),
    ]
}

/// Names, numbers and NodePorts are unique in a Service, as the API has it.
fn any_ports() -> impl Strategy<Value = Vec<Port>> {
    let port = (0u8..24, select(NUMBERS.to_vec()), prop::option::weighted(0.6, select(NODE_PORTS.to_vec())));
    (subsequence(PORT_NAMES.to_vec(), 1..=3), prop::collection::vec(port, 3)).prop_map(|(names, drafts)| {
        let mut ports: Vec<Port> = Vec::new();
        for (name, (draw, number, node_port)) in names.into_iter().zip(drafts) {
            let protocol = protocol(name, draw);
            let its = |own: &&Port| own.protocol == protocol;
            if ports.iter().filter(its).any(|own| own.number == number) {
                continue;
            }
            let is_free = |wanted: &u16| !ports.iter().filter(its).any(|own| own.node_port == Some(*wanted));
            let node_port = node_port.filter(is_free);
            ports.push(Port { name, protocol, number, node_port });
        }
        ports
    })
}

fn any_ingress() -> impl Strategy<Value = Ingress> {
    let mode = prop_oneof![3 => Just(None), 3 => Just(Some("VIP")), 1 => Just(Some("Proxy"))];
    (prop::option::weighted(0.9, any_vip()), prop::option::weighted(0.1, Just("lb.example.com")), mode)
        .prop_map(|(ip, hostname, mode)| Ingress { ip, hostname, mode })
}

pub(crate) fn any_type() -> impl Strategy<Value = Type> {
    prop_oneof![
        4 => Just(Type::ClusterIp),
        6 => Just(Type::NodePort),
        6 => Just(Type::LoadBalancer),
        1 => Just(Type::ExternalName),
    ]
}

pub(crate) fn any_policy() -> impl Strategy<Value = Option<Policy>> {
    prop_oneof![2 => Just(None), 2 => Just(Some(Policy::Cluster)), 3 => Just(Some(Policy::Local))]
}

pub(crate) fn any_affinity() -> impl Strategy<Value = Option<u32>> {
    prop::option::weighted(0.4, select(vec![10u32, 60, 10_800]))
}

/// Ranges that some of those who ask are in.
pub(crate) fn any_source_ranges() -> impl Strategy<Value = Vec<String>> {
    let range = select(vec![
        "10.244.0.0/16",
        "10.244.1.1/32",
        "198.51.100.0/25",
        "198.51.100.1/32",
        "192.168.0.0/24",
        " 192.168.0.1/32 ",
        "010.244.002.0/24",
        "0.0.0.0/0",
        "fd00:244::/32",
        "fd00:244:1::1/128",
        "2001:db8:100::/64",
        "fd00:192::/64",
        "::/0",
        "nonsense",
        "198.51.100.0",
        "198.51.100.0/33",
    ])
    .prop_map(str::to_owned);
    prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(range, 1..4)]
}

/// The setting, which mostly is left alone.
pub(crate) fn any_node_port_addresses() -> impl Strategy<Value = NodePortAddresses> {
    let range = select(vec![
        "192.168.0.0/28",
        "192.168.0.9/32",
        "192.0.2.0/24",
        "127.0.0.0/8",
        "0.0.0.0/0",
        "fd00:192::1/128",
        "2001:db8::/32",
        "::1/128",
        "::/0",
    ]);
    prop_oneof![
        4 => Just(NodePortAddresses::Ranges(Vec::new())),
        2 => Just(NodePortAddresses::Primary),
        4 => prop::collection::vec(range, 1..4)
            .prop_map(|own| NodePortAddresses::Ranges(own.into_iter().map(str::to_owned).collect())),
    ]
}

pub(crate) fn any_service() -> impl Strategy<Value = Service> {
    let policies = (any_policy(), any_policy(), any_affinity(), any_source_ranges());
    let addresses =
        (any_addresses(), prop::collection::vec(any_vip(), 0..3), prop::collection::vec(any_ingress(), 0..3));
    (0u8..4, prop::bool::weighted(0.04), any_type(), any_ports(), addresses, policies).prop_map(
        |(created, is_foreign, kind, ports, addresses, policies)| {
            let ((cluster_ip, cluster_ips, families), external_ips, ingress) = addresses;
            let (internal, external, affinity, source_ranges) = policies;
            Service {
                created,
                is_foreign,
                kind,
                cluster_ip,
                cluster_ips,
                families,
                ports,
                external_ips,
                ingress,
                internal,
                external,
                affinity,
                source_ranges,
            }
        },
    )
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
