//! Services, and where NodePorts answer.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::oracle::objects::{Ingress, Name, NodePortAddresses, Policy, Port, Service, Type};
use super::pools::{CLUSTER_IPS, NAMES, NAMESPACES, NODE_PORTS, NUMBERS, PORT_NAMES, protocol, vips};

pub(crate) fn any_service_name() -> impl Strategy<Value = Name> {
    let is_common = prop::bool::weighted(0.9);
    (select(NAMES.to_vec()), select(NAMESPACES.to_vec()), is_common).prop_map(
        |(name, namespace, is_common)| Name {
            namespace: if is_common { NAMESPACES[0] } else { namespace },
            name: name.to_owned(),
        },
    )
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
        1 => single.prop_flat_map(|own| any_spelling(own.parse().expect("an address")))
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
        "10.244.1.7/32",
        "198.51.100.0/25",
        "198.51.100.1/32",
        "192.168.0.0/24",
        " 192.168.0.1/32 ",
        "010.244.002.0/24",
        "0.0.0.0/0",
        "fd00:244::/32",
        "fd00:244:1::7/128",
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
