//! Services as large as the API lets them be, and larger.

use proxy_userspace::cluster::change::{Change, Kind, ObjectRef};
use proxy_userspace::plan::Capacity;
use serde_json::{Value, json};

use crate::node::{NODE, Node, service, slice};

const CAPACITY: Capacity = Capacity { frontends: 8192, services: 8192, backends: 65_536 };
const PORTS: u16 = 1000;
const SLICES: u16 = 60;
const ENDPOINTS: u16 = 5000;

#[test]
fn each_of_a_thousand_ports_is_served_at_every_address_of_its_service() {
    let port = |number: u16| {
        let protocol = ["TCP", "UDP", "SCTP"][usize::from(number % 3)];
        json!({"name": format!("p{number}"), "port": number, "protocol": protocol, "nodePort": 30_000 + number})
    };
    let ports: Vec<Value> = (1..=PORTS).map(port).collect();
    let targets: Vec<Value> = (1..=PORTS)
        .map(|number| json!({"name": format!("p{number}"), "port": 50_000 + number, "protocol": port(number)["protocol"]}))
        .collect();
    let mut node = Node::new(CAPACITY);
    node.turn([
        service(json!({"metadata": {"namespace": "ns", "name": "web"},
            "spec": {"type": "NodePort", "clusterIPs": ["10.96.0.1", "fd00::1"], "externalIPs": ["203.0.113.1"], "ports": ports}})),
        slice(json!({"metadata": {"namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.1.1"], "nodeName": NODE}], "ports": targets})),
    ]);
    let view = node.view();
    for number in 1..=PORTS {
        let protocol = ["TCP", "UDP", "SCTP"][usize::from(number % 3)];
        let endpoint = format!("10.244.1.1:{}*", 50_000 + number);
        for address in [
            format!("10.96.0.1:{number}/{protocol}"),
            format!("203.0.113.1:{number}/{protocol}"),
            format!("*:{}/{protocol} (IPv4)", 30_000 + number),
        ] {
            assert_eq!(view[&address].cluster, [endpoint.clone()].into(), "{address}");
        }
        assert!(view[&format!("[fd00::1]:{number}/{protocol}")].cluster.is_empty(), "no endpoint of IPv6");
    }
    // ClusterIPs and NodePorts of both families, the external one, and the two addresses as such.
    assert_eq!(view.len(), 5 * usize::from(PORTS) + 2);
    node.turn([Change::Deleted(ObjectRef::new(Kind::Service, "ns", "web"))]);
    assert_eq!(node.usage(), Capacity { frontends: 0, services: 0, backends: 0 });
}

/// The endpoints of slice `number` of 60: each address stands in two of them, and has another word in the second.
fn sixtieth(number: u16) -> Change {
    let each = ENDPOINTS.div_ceil(SLICES);
    let endpoints: Vec<Value> = (number * each..(number + 2) * each)
        .map(|index| index % ENDPOINTS)
        .map(|index| {
            let [high, low] = index.to_be_bytes();
            json!({"addresses": [format!("10.200.{high}.{low}")], "nodeName": if index % 50 == 0 { NODE } else { "node-b" }})
        })
        .collect();
    slice(json!({
        "metadata": {"namespace": "ns", "name": format!("web-{number}"), "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
    }))
}

#[test]
fn each_of_five_thousand_endpoints_in_sixty_slices_is_there_once() {
    let mut node = Node::new(CAPACITY);
    node.turn([service(json!({"metadata": {"namespace": "ns", "name": "web"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "externalTrafficPolicy": "Local",
                 "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}}))]);
    for number in 0..SLICES {
        node.turn([sixtieth(number)]);
    }
    let row = node.view()["10.96.0.1:80/TCP"].clone();
    let all = usize::from(ENDPOINTS);
    assert_eq!((row.cluster.len(), row.local.len()), (all, all / 50));
    assert_eq!(node.usage().backends as usize, all + all / 50, "no slot is left over of sixty changes");
    // A slice goes: its first half was also in the one before, its second in the one after.
    node.turn([Change::Deleted(ObjectRef::new(Kind::EndpointSlice, "ns", "web-30"))]);
    assert_eq!(node.view()["10.96.0.1:80/TCP"], row);
    for number in 0..SLICES {
        node.turn([Change::Deleted(ObjectRef::new(Kind::EndpointSlice, "ns", &format!("web-{number}")))]);
    }
    assert!(node.view()["*:30080/TCP (IPv4)"].cluster.is_empty());
    assert_eq!(node.usage().backends, 0);
}
