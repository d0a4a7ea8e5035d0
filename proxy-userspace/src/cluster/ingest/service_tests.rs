//! Every rule of reading a Service, as a row.

use serde_json::{Value, json};

use super::*;

/// A sound Service with the given parts of `spec` put over it, and what became of it.
fn read(spec: Value) -> (Parsed<Service>, Vec<String>) {
    let mut object = json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}
    });
    let Value::Object(fields) = spec else { panic!("spec must be an object") };
    for (name, value) in fields {
        match name.strip_prefix('/') {
            Some(pointer) => *object.pointer_mut(&format!("/{pointer}")).expect("a place") = value,
            None => object["spec"][name] = value,
        }
    }
    let (parsed, rejects) = service(&serde_json::from_value(object).expect("decodes"));
    (parsed, rejects.iter().map(|reject| reject.to_string().replacen("Service ns/web: ", "", 1)).collect())
}

/// The value, when there must be one and nothing may have been rejected.
fn sound(spec: Value) -> Service {
    let (parsed, rejects) = read(spec);
    assert_eq!(rejects, Vec::<String>::new());
    parsed.value().expect("a Service for us")
}

/// The value and the fields rejected.
fn flawed(spec: Value) -> (Service, Vec<String>) {
    let (parsed, rejects) = read(spec);
    (parsed.value().expect("a Service for us"), rejects)
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn defaults() {
    let service = sound(json!({}));
    assert_eq!(service.name.to_string(), "ns/web");
    assert_eq!(service.created, 0);
    assert_eq!(texts(&service.cluster_ips), ["10.0.0.1"]);
    assert_eq!(
        service.ports,
        [ServicePort {
            name: "http".into(),
            protocol: crate::cluster::model::Protocol::Tcp,
            port: 80,
            node_port: None
        }]
    );
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
    assert_eq!(service.external_policy, TrafficPolicy::Cluster);
    assert_eq!(service.affinity_seconds, None);
}

#[test]
fn not_for_us() {
    for spec in [
        json!({"clusterIP": "None"}),
        json!({"clusterIP": ""}),
        json!({"clusterIP": null}),
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"clusterIP": null, "clusterIPs": ["None"]}),
        json!({"type": "ExternalName"}),
        json!({"/metadata": {"namespace": "ns", "name": "web", "labels": {"service.kubernetes.io/service-proxy-name": ""}}}),
        // Not even what is wrong with it is our business.
        json!({"clusterIP": "None", "ports": [{"port": 0}]}),
    ] {
        assert_eq!(read(spec.clone()), (Parsed::NotOurs, vec![]), "{spec}");
    }
}

#[test]
fn load_balancer_class_and_app_protocol_do_not_matter() {
    let service = sound(json!({"type": "LoadBalancer", "loadBalancerClass": "acme.io/x",
        "ports": [{"port": 80, "appProtocol": "https", "targetPort": "web"}]}));
    assert_eq!(service.ports.len(), 1);
}

#[test]
fn cluster_ips() {
    let dual = json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"], "ipFamilies": ["IPv6", "IPv4"]});
    assert_eq!(texts(&sound(dual).cluster_ips), ["fd00::1", "10.0.0.1"]);
    assert_eq!(texts(&sound(json!({"clusterIP": "172.30.0.041"})).cluster_ips), ["172.30.0.41"]);
    assert_eq!(
        texts(&sound(json!({"clusterIP": null, "clusterIPs": ["10.0.0.7"]})).cluster_ips),
        ["10.0.0.7"]
    );

    let (service, rejects) = flawed(json!({"clusterIPs": ["10.0.0.1", "10.0.0.2"]}));
    assert_eq!(texts(&service.cluster_ips), ["10.0.0.1"]);
    assert_eq!(
        rejects,
        ["spec.clusterIPs[1]: 10.0.0.2 is the second cluster IP of its family; only the first is served"]
    );

    let (service, rejects) =
        flawed(json!({"clusterIPs": ["10.0.0.1", "10.0.0.2"], "ipFamilies": ["IPv4", "IPv6"]}));
    assert_eq!(texts(&service.cluster_ips), ["10.0.0.1"]);
    assert_eq!(rejects, ["spec.clusterIPs[1]: 10.0.0.2 is not an IPv6 address; it is left out"]);

    let (parsed, rejects) = read(json!({"clusterIP": "nonsense"}));
    assert_eq!(parsed, Parsed::Unusable);
    assert_eq!(rejects.len(), 2, "{rejects:?}");
}

#[test]
fn other_frontends() {
    let service = sound(json!({"externalIPs": ["198.51.100.7", "198.51.100.7"]}));
    assert_eq!(texts(&service.external_ips), ["198.51.100.7"]);

    let (service, rejects) = flawed(json!({"externalIPs": ["bad", "fd00::9", "0.0.0.0", "198.51.100.7"]}));
    assert_eq!(texts(&service.external_ips), ["198.51.100.7"]);
    assert_eq!(
        rejects,
        [
            r#"spec.externalIPs[0]: "bad" is not an IP address; it is left out"#,
            "spec.externalIPs[1]: fd00::9 is not served because the Service has no IPv6 cluster IP; \
             give it one (ipFamilyPolicy)",
            "spec.externalIPs[2]: 0.0.0.0 is not the address of one host; it is left out",
        ]
    );
}

#[test]
fn load_balancer_ips() {
    let object: api::Service = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"},
            {"hostname": "lb.example"}, {"ip": ""}, {"ip": "192.0.2.300"}, {"ip": "192.0.2.4", "ipMode": "Relay"},
            {"hostname": "lb.example", "ipMode": "Proxy"}, {"hostname": "lb.example", "ipMode": "VIP"}]}}
    }))
    .expect("decodes");
    let (parsed, rejects) = service(&object);
    assert_eq!(texts(&parsed.value().expect("ours").load_balancer_ips), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(
        rejects.iter().map(|reject| reject.field.as_str()).collect::<Vec<_>>(),
        ["status.loadBalancer.ingress[6].ipMode", "status.loadBalancer.ingress[5].ip"]
    );
}

#[test]
fn bad_ports_cost_only_themselves() {
    let (service, rejects) = flawed(json!({"ports": [
        {"name": "a", "port": 0},
        {"name": "b", "port": 70000},
        {"name": "c", "port": -1},
        {"name": "d"},
        {"name": "e", "port": 1, "protocol": "QUIC"},
        {"name": "f", "port": 53, "protocol": "UDP"},
        {"name": "f", "port": 53, "protocol": "TCP"},
        {"name": "f", "port": 54, "protocol": "TCP"},
        {"name": "g", "port": 53, "protocol": "TCP"},
        {"name": "h", "port": 55, "nodePort": 30000},
        {"name": "i", "port": 56, "nodePort": 30000},
        {"name": "j", "port": 57, "nodePort": 99999},
        {"name": "k", "port": 58, "nodePort": 30000, "protocol": "SCTP"},
        {"name": "l", "port": 59, "nodePort": 0},
    ]}));
    let kept: Vec<String> = service
        .ports
        .iter()
        .map(|port| format!("{} {} {} {:?}", port.name, port.protocol, port.port, port.node_port))
        .collect();
    assert_eq!(
        kept,
        [
            "f UDP 53 None",
            "f TCP 53 None",
            "h TCP 55 Some(30000)",
            "i TCP 56 None",
            "j TCP 57 None",
            "k SCTP 58 Some(30000)",
            "l TCP 59 None",
        ]
    );
    assert_eq!(
        rejects,
        [
            "spec.ports[0].port: 0 is not a port number (1 to 65535); the port is left out",
            "spec.ports[1].port: 70000 is not a port number (1 to 65535); the port is left out",
            "spec.ports[2].port: -1 is not a port number (1 to 65535); the port is left out",
            "spec.ports[3].port: has no number; the port is left out",
            r#"spec.ports[4].protocol: "QUIC" is not TCP, UDP or SCTP; the port is left out"#,
            "spec.ports[7].name: an earlier port has the same name and protocol; this one is left out",
            "spec.ports[8].port: an earlier port is also 53 with the same protocol; this one is left out",
            "spec.ports[10].nodePort: an earlier port also has node port 30000; \
             this one is served without a node port",
            "spec.ports[11].nodePort: 99999 is not a port number (1 to 65535); \
             the port is served without a node port",
        ]
    );
}

#[test]
fn policies() {
    use TrafficPolicy::{Cluster, Local};
    for (spec, internal, external) in [
        (json!({"internalTrafficPolicy": "Local"}), Local, Cluster),
        (json!({"externalTrafficPolicy": "Local"}), Cluster, Cluster),
        (json!({"externalTrafficPolicy": "Local", "type": "NodePort"}), Cluster, Local),
        (json!({"externalTrafficPolicy": "Local", "type": "LoadBalancer"}), Cluster, Local),
        (json!({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]}), Cluster, Local),
        (json!({"externalTrafficPolicy": "Cluster", "type": "NodePort"}), Cluster, Cluster),
    ] {
        let service = sound(spec.clone());
        assert_eq!((service.internal_policy, service.external_policy), (internal, external), "{spec}");
    }
    let (service, rejects) = flawed(json!({"internalTrafficPolicy": "Nearby"}));
    assert_eq!(service.internal_policy, Cluster);
    assert_eq!(rejects, [r#"spec.internalTrafficPolicy: "Nearby" is not known; Cluster is used"#]);
}

#[test]
fn affinity() {
    let with = |seconds: Value| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
    assert_eq!(sound(json!({"sessionAffinity": "None"})).affinity_seconds, None);
    assert_eq!(sound(json!({"sessionAffinity": "ClientIP"})).affinity_seconds, Some(10800));
    assert_eq!(sound(with(json!(null))).affinity_seconds, Some(10800));
    assert_eq!(sound(with(json!(1))).affinity_seconds, Some(1));
    assert_eq!(sound(with(json!(86400))).affinity_seconds, Some(86400));
    for bad in [0, -5, 86401, i64::MAX] {
        let (service, rejects) = flawed(with(json!(bad)));
        assert_eq!((service.affinity_seconds, rejects.len()), (Some(10800), 1), "{bad}");
    }
}

#[test]
fn an_unknown_value_is_reported_and_costs_only_what_it_would_have_meant() {
    let (service, rejects) = flawed(json!({"type": "Mesh", "ipFamilies": ["IPv5"],
        "sessionAffinity": "ClientPort", "externalTrafficPolicy": "Nearby", "externalIPs": ["192.0.2.1"]}));
    assert_eq!(
        (texts(&service.cluster_ips), texts(&service.external_ips)),
        (vec!["10.0.0.1".to_owned()], vec!["192.0.2.1".to_owned()])
    );
    assert_eq!((service.affinity_seconds, service.external_policy), (None, TrafficPolicy::Cluster));
    assert_eq!(
        rejects,
        [
            r#"spec.ipFamilies[0]: "IPv5" is not known; the family of the address is used"#,
            r#"spec.externalTrafficPolicy: "Nearby" is not known; Cluster is used"#,
            r#"spec.type: "Mesh" is not known; ClusterIP is used"#,
            r#"spec.sessionAffinity: "ClientPort" is not known; None is used"#,
        ]
    );
}

#[test]
fn creation_time() {
    let at = |time: &str| json!({"/metadata": {"namespace": "ns", "name": "web", "creationTimestamp": time}});
    assert_eq!(sound(at("1970-01-02T00:00:01Z")).created, 86401);
    let (service, rejects) = flawed(at("yesterday"));
    assert_eq!((service.created, rejects.len()), (0, 1));
}

#[test]
fn load_balancer_source_ranges_are_read_in_the_families_that_have_such_addresses() {
    let parse = |ranges: serde_json::Value, addresses: serde_json::Value| {
        let object: api::Service = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "web"},
            "spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1", "fd00::1"], "ports": [{"port": 80}],
                     "loadBalancerSourceRanges": ranges},
            "status": {"loadBalancer": {"ingress": addresses}}
        }))
        .expect("decodes");
        let (parsed, rejects) = service(&object);
        let ranges: Vec<String> =
            parsed.value().expect("ours").source_ranges.iter().map(ToString::to_string).collect();
        (ranges, rejects.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let both = json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]);
    let v4 = json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1", "ipMode": "Proxy"}]);
    let none: Vec<String> = Vec::new();
    assert_eq!(parse(json!([]), both.clone()), (none.clone(), none.clone()));
    let ranges = json!(["fd00::/8", " 10.0.0.0/8", "10.1.2.3/8"]);
    assert_eq!(parse(ranges.clone(), both.clone()).0, ["10.0.0.0/8", "fd00::/8"]);
    assert_eq!(parse(ranges.clone(), v4).0, ["10.0.0.0/8"]);
    assert_eq!(parse(ranges, json!([{"hostname": "lb.example"}])).0, none);
    let (ranges, rejects) = parse(json!(["10.0.0.0/8", "10.0.0.0", "0.0.0.0/0"]), both);
    assert_eq!(ranges, ["0.0.0.0/0", "10.0.0.0/8"]);
    assert_eq!(
        rejects,
        [
            "Service ns/web: spec.loadBalancerSourceRanges[1]: \"10.0.0.0\" is not a range of addresses, as in \
          192.0.2.0/24; it is left out"
        ]
    );
}

#[test]
fn load_balancers_ask_only_where_the_policy_is_local() {
    let parse = |kind: &str, policy: &str, port: serde_json::Value| {
        let object: api::Service = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "web"},
            "spec": {"type": kind, "clusterIP": "10.0.0.1", "ports": [{"port": 80}],
                     "externalTrafficPolicy": policy, "healthCheckNodePort": port},
        }))
        .expect("decodes");
        let (parsed, rejects) = service(&object);
        (parsed.value().expect("ours").health_check_node_port, rejects.len())
    };
    assert_eq!(parse("LoadBalancer", "Local", json!(32000)), (Some(32000), 0));
    assert_eq!(parse("LoadBalancer", "Local", json!(65535)), (Some(65535), 0));
    assert_eq!(parse("LoadBalancer", "Local", json!(0)), (None, 0));
    assert_eq!(parse("LoadBalancer", "Local", json!(null)), (None, 0));
    assert_eq!(parse("LoadBalancer", "Cluster", json!(32000)), (None, 0));
    assert_eq!(parse("NodePort", "Local", json!(32000)), (None, 0));
    for bad in [-1, 65536] {
        assert_eq!(parse("LoadBalancer", "Local", json!(bad)), (None, 1), "{bad}");
    }
}
