//! Every rule of reading an EndpointSlice, as a row.

use serde_json::{Value, json};

use super::*;

fn read(object: Value) -> (Parsed<Slice>, Vec<String>) {
    let (parsed, rejects) = slice(&serde_json::from_value(object).expect("decodes"), "node-a");
    (
        parsed,
        rejects.iter().map(|reject| reject.to_string().replacen("EndpointSlice ns/web-1: ", "", 1)).collect(),
    )
}

/// A slice of the Service `web` with those endpoints and ports.
fn object(address_type: &str, endpoints: Value, ports: Value) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": address_type, "endpoints": endpoints, "ports": ports,
    })
}

#[test]
fn whose_it_is() {
    for (labels, ours, rejects) in [
        (json!({"kubernetes.io/service-name": "web"}), true, 0),
        (json!({"kubernetes.io/service-name": ""}), false, 1),
        (json!(null), false, 1),
        (json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""}), false, 0),
    ] {
        let mut slice = object("IPv4", json!([]), json!([]));
        slice["metadata"]["labels"] = labels.clone();
        let (parsed, found) = read(slice);
        assert_eq!((parsed.value().is_some(), found.len()), (ours, rejects), "{labels}");
    }
}

#[test]
fn host_names_are_not_for_us() {
    let (parsed, rejects) = read(object("FQDN", json!([{"addresses": ["a.example"]}]), json!([])));
    assert_eq!(parsed, Parsed::NotOurs);
    assert_eq!(rejects, [r#"addressType: "FQDN" is not IPv4 or IPv6; the slice is left out"#]);
}

#[test]
fn conditions_are_three_valued() {
    for (conditions, expected) in [
        (json!(null), (true, true, false)),
        (json!({}), (true, true, false)),
        (json!({"ready": false}), (false, true, false)),
        (json!({"ready": false, "serving": false, "terminating": true}), (false, false, true)),
        (json!({"ready": null, "serving": null, "terminating": null}), (true, true, false)),
    ] {
        let (parsed, _) =
            read(object("IPv4", json!([{"addresses": ["10.1.0.1"], "conditions": conditions}]), json!([])));
        let endpoint = &parsed.value().expect("ours").backends.endpoints[0];
        assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), expected, "{conditions}");
    }
}

#[test]
fn only_the_node_name_makes_local() {
    let endpoints = json!([
        {"addresses": ["10.1.0.1"], "nodeName": "node-a"}, {"addresses": ["10.1.0.2"], "nodeName": "node-b"},
        {"addresses": ["10.1.0.3"]}]);
    let (parsed, _) = read(object("IPv4", endpoints, json!([])));
    let local: Vec<bool> =
        parsed.value().expect("ours").backends.endpoints.iter().map(|one| one.local).collect();
    assert_eq!(local, [true, false, false]);
}

#[test]
fn bad_endpoints_cost_only_themselves() {
    let endpoints = json!([
        {"addresses": ["10.1.0.1", "10.1.0.99"]}, {"addresses": []}, {"addresses": null}, {"addresses": ["oops"]},
        {"addresses": ["fd00::1"]}, {"addresses": ["0.0.0.0"]}, {"addresses": ["10.1.0.002"]}]);
    let (parsed, rejects) = read(object("IPv4", endpoints, json!([])));
    let slice = parsed.value().expect("ours");
    let kept: Vec<String> = slice.backends.endpoints.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(kept, ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(
        rejects,
        [
            "endpoints[1].addresses[0]: there is no address; the endpoint is left out",
            "endpoints[2].addresses[0]: there is no address; the endpoint is left out",
            r#"endpoints[3].addresses[0]: "oops" is not an IP address; it is left out"#,
            "endpoints[4].addresses[0]: fd00::1 is not an IPv4 address; it is left out",
            "endpoints[5].addresses[0]: 0.0.0.0 is not the address of one host; it is left out",
        ]
    );
}

#[test]
fn bad_ports_cost_only_themselves() {
    let ports = json!([
        {"name": "a", "port": 8080}, {"port": 9090, "protocol": "UDP"}, {"name": "b"}, {"name": "c", "port": 0},
        {"name": "d", "port": 65536}, {"name": "e", "port": 1, "protocol": "tcp"}]);
    let (parsed, rejects) = read(object("IPv6", json!([]), ports));
    let slice = parsed.value().expect("ours");
    assert_eq!(
        *slice.backends.ports,
        [
            SlicePort { name: "a".into(), protocol: Protocol::Tcp, port: 8080 },
            SlicePort { name: "".into(), protocol: Protocol::Udp, port: 9090 },
        ]
    );
    assert_eq!(rejects.len(), 4, "{rejects:?}");
}

#[test]
fn hints() {
    let endpoints = json!([
        {"addresses": ["10.1.0.1"], "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "n"}]}},
        {"addresses": ["10.1.0.2"], "hints": {"forZones": []}}]);
    let (parsed, _) = read(object("IPv4", endpoints, json!([])));
    let slice = parsed.value().expect("ours");
    let hints = slice.backends.endpoints[0].hints.as_ref().expect("hints");
    assert_eq!(*hints.zones, ["z1".into(), "z2".into()]);
    assert_eq!(*hints.nodes, ["n".into()]);
    assert_eq!(slice.backends.endpoints[1].hints, None);
}

#[test]
fn endpoints_are_small() {
    assert!(size_of::<SliceEndpoint>() <= 32, "{} bytes", size_of::<SliceEndpoint>());
}
