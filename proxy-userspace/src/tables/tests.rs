//! What the maps should say of one Service, as text.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::change::{Change, Object},
    plan::operation::show,
};

/// A cluster of these objects, seen from node `n1`.
fn cluster(objects: &[Value]) -> Cluster {
    let mut cluster = Cluster::new("n1");
    for object in objects {
        let object = if object.get("addressType").is_some() {
            Object::EndpointSlice(serde_json::from_value(object.clone()).unwrap())
        } else {
            Object::Service(serde_json::from_value(object.clone()).unwrap())
        };
        assert_eq!(cluster.apply(Change::Applied(object)), []);
    }
    cluster
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec})
}

fn balanced(spec: Value, ips: &[&str]) -> Value {
    let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    let mut service = service(spec);
    service["status"] = json!({"loadBalancer": {"ingress": ingress}});
    service
}

fn slice(family: &str, endpoints: &[&str]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|text| match text.split_once('@') {
            Some((address, node)) => json!({"addresses": [address], "nodeName": node}),
            None => json!({"addresses": [text]}),
        })
        .collect();
    json!({
        "metadata": {"namespace": "ns", "name": format!("web-{family}"), "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
    })
}

fn tables(objects: &[Value]) -> Vec<PortTable> {
    of_service(&cluster(objects), &ServiceName { namespace: "ns".into(), name: "web".into() })
}

fn kind(kind: u32) -> &'static str {
    match kind {
        frontend_kind::CLUSTER_IP => "ClusterIP",
        frontend_kind::NODE_PORT => "NodePort",
        frontend_kind::LOAD_BALANCER => "LoadBalancer",
        frontend_kind::EXTERNAL_IP => "ExternalIP",
        _ => "?",
    }
}

fn frontend_lines(tables: &[PortTable]) -> Vec<String> {
    let line = |table: &PortTable, (key, by): &(FrontendKey, u32)| {
        format!("{}: {} {}", table.name, kind(*by), show(key))
    };
    tables.iter().flat_map(|table| table.frontends.iter().map(move |own| line(table, own))).collect()
}

fn addresses(backends: &[Backend]) -> Vec<String> {
    let star = |backend: &Backend| if backend.flags & backend_flag::LOCAL != 0 { "*" } else { "" };
    let show = |b: &Backend| format!("{}:{}{}", b.address, b.port.number(), star(b));
    let mut shown: Vec<String> = backends.iter().map(show).collect();
    shown.sort();
    shown
}

#[track_caller]
fn check(objects: &[Value], frontends: &[&str]) {
    assert_eq!(frontend_lines(&tables(objects)), frontends);
}

fn http() -> Value {
    json!([{"name": "http", "port": 80}])
}

#[test]
fn frontends_of_every_kind() {
    check(
        &[service(json!({"clusterIP": "10.96.0.1", "ports": http()}))],
        &[
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1:80/TCP",
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1, whatever port",
        ],
    );
    let everything = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1", "192.0.2.2"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    check(
        &[balanced(everything, &["203.0.113.1", "203.0.113.2"])],
        &[
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1:80/TCP",
            "ns/web:http/TCP (IPv4): LoadBalancer 203.0.113.1:80/TCP",
            "ns/web:http/TCP (IPv4): LoadBalancer 203.0.113.2:80/TCP",
            "ns/web:http/TCP (IPv4): ExternalIP 192.0.2.1:80/TCP",
            "ns/web:http/TCP (IPv4): ExternalIP 192.0.2.2:80/TCP",
            "ns/web:http/TCP (IPv4): NodePort *:30080/TCP (IPv4)",
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1, whatever port",
        ],
    );
}

#[test]
fn external_ips_are_left_alone_if_nobody_wants_them() {
    let spec = json!({"clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1"], "ports": http(),
        "externalTrafficPolicy": "Local"});
    let tables = |cluster: Cluster| {
        let mut cluster = cluster;
        let object = serde_json::from_value(service(spec.clone())).unwrap();
        assert_eq!(cluster.apply(Change::Applied(Object::Service(object))), []);
        let name = cluster.service_names().next().cloned().expect("one");
        of_service(&cluster, &name).remove(0)
    };
    let (with, without) = (tables(Cluster::new("n1")), tables(Cluster::new("n1").without_external_ips()));
    let external = |table: &PortTable| {
        table.frontends.iter().filter(|(_, kind)| *kind == frontend_kind::EXTERNAL_IP).count()
    };
    assert_eq!((external(&with), external(&without)), (1, 0));
    // As far as policies go, the Service has them all the same (`ExternallyAccessible` in `pkg/proxy/serviceport.go`).
    assert_eq!(PortTable { frontends: with.frontends.clone(), ..without }, with);
}

#[test]
fn a_table_per_port() {
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 80, "protocol": "UDP"},
        {"name": "sctp", "port": 80, "protocol": "SCTP"}]);
    check(
        &[service(json!({"clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1"], "ports": ports}))],
        &[
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1:80/TCP",
            "ns/web:http/TCP (IPv4): ExternalIP 192.0.2.1:80/TCP",
            "ns/web:http/TCP (IPv4): NodePort *:30080/TCP (IPv4)",
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1, whatever port",
            "ns/web:dns/UDP (IPv4): ClusterIP 10.96.0.1:80/UDP",
            "ns/web:dns/UDP (IPv4): ExternalIP 192.0.2.1:80/UDP",
            "ns/web:sctp/SCTP (IPv4): ClusterIP 10.96.0.1:80/SCTP",
            "ns/web:sctp/SCTP (IPv4): ExternalIP 192.0.2.1:80/SCTP",
        ],
    );
}

#[test]
fn a_table_per_family() {
    let spec = json!({"type": "LoadBalancer", "clusterIPs": ["fd00:96::1", "10.96.0.1"],
        "externalIPs": ["192.0.2.1", "2001:db8::1"], "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    let objects = [
        balanced(spec, &["2001:db8::2", "203.0.113.1"]),
        slice("IPv4", &["10.244.0.1"]),
        slice("IPv6", &["fd00:244::1", "fd00:244::2"]),
    ];
    check(
        &objects,
        &[
            "ns/web:http/TCP (IPv6): ClusterIP [fd00:96::1]:80/TCP",
            "ns/web:http/TCP (IPv6): LoadBalancer [2001:db8::2]:80/TCP",
            "ns/web:http/TCP (IPv6): ExternalIP [2001:db8::1]:80/TCP",
            "ns/web:http/TCP (IPv6): NodePort *:30080/TCP (IPv6)",
            "ns/web:http/TCP (IPv6): ClusterIP fd00:96::1, whatever port",
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1:80/TCP",
            "ns/web:http/TCP (IPv4): LoadBalancer 203.0.113.1:80/TCP",
            "ns/web:http/TCP (IPv4): ExternalIP 192.0.2.1:80/TCP",
            "ns/web:http/TCP (IPv4): NodePort *:30080/TCP (IPv4)",
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1, whatever port",
        ],
    );
    let tables = tables(&objects);
    assert_eq!(addresses(&tables[0].cluster), ["fd00:244::1:8080", "fd00:244::2:8080"]);
    assert_eq!(addresses(&tables[1].cluster), ["10.244.0.1:8080"]);
}

#[test]
fn one_family_has_no_node_port_in_the_other() {
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    check(
        &[service(json!({"type": "NodePort", "clusterIP": "fd00:96::1", "ports": ports}))],
        &[
            "ns/web/TCP (IPv6): ClusterIP [fd00:96::1]:80/TCP",
            "ns/web/TCP (IPv6): NodePort *:30080/TCP (IPv6)",
            "ns/web/TCP (IPv6): ClusterIP fd00:96::1, whatever port",
        ],
    );
}

#[test]
fn an_address_of_two_kinds_counts_as_the_better_one() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.1",
        "externalIPs": ["203.0.113.1", "10.96.0.1"], "ports": http()});
    check(
        &[balanced(spec, &["203.0.113.1"])],
        &[
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1:80/TCP",
            "ns/web:http/TCP (IPv4): LoadBalancer 203.0.113.1:80/TCP",
            "ns/web:http/TCP (IPv4): ClusterIP 10.96.0.1, whatever port",
        ],
    );
}

#[test]
fn backends_are_sorted_by_rank() {
    let endpoints = ["10.244.9.1", "10.244.0.200@n1", "10.244.0.3", "10.244.1.1@n1", "192.0.2.7", "10.1.0.1"];
    let spec = json!({"clusterIP": "10.96.0.1", "internalTrafficPolicy": "Local", "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    let table = &tables(&[service(spec), slice("IPv4", &endpoints)])[0];
    assert_eq!((table.cluster.len(), table.local.len()), (6, 2));
    assert!(table.cluster.is_sorted_by_key(Backend::rank) && table.local.is_sorted_by_key(Backend::rank));
    assert_eq!(addresses(&table.local), ["10.244.0.200:8080*", "10.244.1.1:8080*"]);
    let local = table.cluster.iter().filter(|backend| backend.flags & backend_flag::LOCAL != 0);
    assert_eq!(local.copied().collect::<Vec<_>>(), table.local, "the flag does not depend on the set");
}

#[test]
fn endpoints_beyond_what_a_set_holds_are_counted() {
    let endpoint = |number: u32| Endpoint {
        address: std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
        port: 8080,
        local: true,
        ready: true,
        serving: true,
        terminating: false,
        zone_hints: Arc::default(),
        node_hints: Arc::default(),
    };
    let endpoints: Vec<Endpoint> = (0..65_538).map(endpoint).collect();
    let cluster = cluster(&[service(json!({"clusterIP": "10.96.0.1", "ports": http()}))]);
    let service = cluster.service(cluster.service_names().next().unwrap()).unwrap();
    for (in_cluster, in_local, left_out) in [(65_535, 0, 0), (65_536, 0, 1), (65_538, 65_537, 5)] {
        let sets = policy::EndpointSets {
            cluster: endpoints[..in_cluster].to_vec(),
            local: endpoints[..in_local].to_vec(),
            any: true,
        };
        let table = of_port(&cluster, service, &service.ports[0], Family::V4, &sets);
        assert_eq!(table.left_out, left_out);
        assert_eq!(table.cluster.len(), 65_535);
        assert!(table.cluster.is_sorted_by_key(Backend::rank));
    }
}

#[test]
fn affinity() {
    let traits = |extra: Value| {
        let mut spec = json!({"clusterIP": "10.96.0.1", "ports": http()});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let table = tables(&[service(spec), slice("IPv4", &["10.244.0.1"])]).remove(0);
        (table.affinity_seconds, table.any_endpoint, table.cluster.len())
    };
    assert_eq!(traits(json!({})), (0, true, 1));
    assert_eq!(traits(json!({"sessionAffinity": "ClientIP"})), (10_800, true, 1));
    let config = json!({"clientIP": {"timeoutSeconds": 7}});
    assert_eq!(traits(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config})), (7, true, 1));
    assert_eq!(traits(json!({"sessionAffinity": "None", "sessionAffinityConfig": config})), (0, true, 1));
}

#[test]
fn policies_go_along_and_leave_the_cluster_set_to_who_may_come_from_here() {
    let policies = |port: Value, extra: Value| {
        let mut spec = json!({"clusterIP": "10.96.0.1", "type": "NodePort", "ports": [port]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let table = tables(&[service(spec), slice("IPv4", &["10.244.0.1", "10.244.0.2@n1"])]).remove(0);
        (table.internal_local, table.external_local, table.cluster.len(), table.local.len())
    };
    let inside = || json!({"name": "http", "port": 80});
    let both = || json!({"name": "http", "port": 80, "nodePort": 30080});
    let (internal, external) =
        (json!({"internalTrafficPolicy": "Local"}), json!({"externalTrafficPolicy": "Local"}));
    assert_eq!(policies(both(), json!({})), (false, false, 2, 0));
    assert_eq!(policies(both(), internal.clone()), (true, false, 2, 1));
    assert_eq!(policies(both(), external), (false, true, 2, 1), "for this node's own pods");
    assert_eq!(policies(inside(), internal), (true, false, 0, 1));
}

#[test]
fn the_creation_time_goes_along() {
    let mut object = service(json!({"clusterIP": "10.96.0.1", "ports": http()}));
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(tables(&[object])[0].created, 1_767_225_600);
}

#[test]
fn nothing_for_what_is_not_served() {
    assert_eq!(tables(&[]), []);
    assert_eq!(tables(&[slice("IPv4", &["10.244.0.1"])]), [], "a slice without its Service");
    assert_eq!(tables(&[service(json!({"clusterIP": "None", "ports": http()}))]), []);
    assert_eq!(tables(&[service(json!({"clusterIP": "10.96.0.1"}))]), [], "a Service without ports");
    let table = tables(&[service(json!({"clusterIP": "10.96.0.1", "ports": http()}))]).remove(0);
    assert!(!table.any_endpoint && table.cluster.is_empty(), "it refuses, so it needs its frontend");
    assert_eq!(table.frontends.len(), 2);
}

#[test]
fn load_balancers_are_told_how_many_endpoints_on_this_node_are_ready() {
    let spec = json!({
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.1", "fd00::1"], "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000,
        "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
    });
    let endpoint = |ip: &str, node: &str, conditions: Value| json!({"addresses": [ip], "nodeName": node, "conditions": conditions});
    let slice = json!({
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}, {"name": "https", "port": 8443}],
        "metadata": {"namespace": "ns", "name": "a", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [
            endpoint("10.244.0.1", "n1", json!({"ready": true})),
            endpoint("10.244.0.2", "n1", json!({})),
            endpoint("10.244.0.3", "n1", json!({"ready": false})),
            endpoint("10.244.0.4", "n1", json!({"ready": false, "serving": true, "terminating": true})),
            endpoint("10.244.1.1", "n2", json!({"ready": true})),
        ],
    });
    let check = |objects: &[Value]| {
        let name = ServiceName { namespace: "ns".into(), name: "web".into() };
        checks::of_service(&cluster(objects), &name).map(|check| (check.port, check.endpoints))
    };
    let (v4, v6) = (Family::V4, Family::V6);
    assert_eq!(check(&[service(spec.clone()), slice.clone()]), Some((32000, [(v4, 2), (v6, 0)].into())));
    assert_eq!(check(&[service(spec.clone())]), Some((32000, [(v4, 0), (v6, 0)].into())));
    assert_eq!(check(&[slice]), None);
    let mut single = spec;
    single["clusterIPs"] = json!(["10.96.0.1"]);
    assert_eq!(
        check(&[service(single.clone())]),
        Some((32000, [(v4, 0)].into())),
        "a family it does not have"
    );
    single["externalTrafficPolicy"] = json!("Cluster");
    assert_eq!(check(&[service(single)]), None);
}
