//! Budget: what the model of a large cluster costs. On its own in this file, because it looks at the process.

use proxy_userspace::cluster::Cluster;
use proxy_userspace::cluster::change::{Change, Object};
use serde_json::json;

const SERVICES: u32 = 10_000;
const BUDGET_BYTES: usize = 14 << 20;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).expect("a second field").parse().expect("a number");
    pages * 4096
}

fn objects(index: u32) -> [Object; 2] {
    let name = format!("service-{index}");
    let service = json!({
        "metadata": {"namespace": "default", "name": name, "annotations": {"a": "x".repeat(500)}},
        "spec": {"clusterIP": format!("10.0.{}.{}", 1 + index / 250, 1 + index % 250), "ports": [{"name": "http", "port": 80}]}
    });
    let endpoint = |number: u32| {
        json!({"addresses": [format!("10.{}.{}.{}", 1 + number, index / 250, 1 + index % 250)],
            "conditions": {"ready": true}, "nodeName": format!("node-{number}"),
            "hints": {"forZones": [{"name": format!("zone-{}", number % 3)}]}})
    };
    let slice = json!({
        "metadata": {"namespace": "default", "name": format!("{name}-x7f2k"),
            "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": (0..10).map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
    });
    [
        Object::Service(serde_json::from_value(service).expect("a Service")),
        Object::EndpointSlice(serde_json::from_value(slice).expect("a slice")),
    ]
}

#[test]
fn ten_thousand_services_of_ten_endpoints_are_small() {
    let mut cluster = Cluster::new("node-1");
    // What the machinery itself needs is there after the first ones.
    (0..10).flat_map(objects).for_each(|object| drop(cluster.apply(Change::Applied(object))));
    let before = resident_bytes();
    (10..SERVICES).flat_map(objects).for_each(|object| drop(cluster.apply(Change::Applied(object))));
    let used = resident_bytes() - before;
    assert_eq!((cluster.counts().services, cluster.counts().endpoints), (10_000, 100_000));
    println!("{} KiB", used >> 10);
    assert!(used < BUDGET_BYTES, "{} KiB for the model of 10,000 services", used >> 10);
}
