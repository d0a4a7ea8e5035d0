//! The cluster as a whole: what a sequence of changes leaves behind.

use serde_json::{Value, json};

use super::model::{Protocol, TrafficPolicy};
use super::*;

pub(super) fn service(name: &str, spec: Value) -> Object {
    Object::Service(
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec}))
            .expect("a Service"),
    )
}

pub(super) fn web() -> Object {
    service("web", json!({"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}))
}

pub(super) fn slice(name: &str, owner: &str, endpoints: Value) -> Object {
    Object::EndpointSlice(
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": owner}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
        }))
        .expect("a slice"),
    )
}

fn name(name: &str) -> ServiceName {
    ServiceName { namespace: "ns".into(), name: name.into() }
}

fn http() -> ServicePort {
    ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }
}

fn addresses(cluster: &Cluster, service: &str) -> Vec<String> {
    let endpoints = cluster.endpoints(&name(service), &http(), Family::V4);
    endpoints.iter().map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port)).collect()
}

fn dirty(cluster: &mut Cluster) -> Vec<String> {
    cluster.take_dirty().iter().map(ToString::to_string).collect()
}

fn cluster_after(changes: impl IntoIterator<Item = Change>) -> Cluster {
    let mut cluster = Cluster::new("Node-A ");
    for change in changes {
        assert_eq!(cluster.apply(change), vec![]);
    }
    cluster
}

#[test]
fn complete_after_all_lists() {
    let mut cluster = Cluster::new("n");
    cluster.apply(Change::Listed(Kind::Service, vec![]));
    cluster.apply(Change::Applied(slice("web-1", "web", json!([]))));
    assert!(!cluster.is_complete());
    cluster.apply(Change::Listed(Kind::EndpointSlice, vec![]));
    assert!(!cluster.is_complete(), "the Node decides over hints and over who is admitted");
    cluster.apply(Change::Listed(Kind::Node, vec![]));
    assert!(cluster.is_complete());
}

#[test]
fn a_slice_waits_for_its_service() {
    let mut cluster =
        cluster_after([Change::Applied(slice("web-1", "web", json!([{"addresses": ["10.1.0.1"]}])))]);
    assert_eq!(dirty(&mut cluster), Vec::<String>::new(), "nobody can use it yet");
    cluster.apply(Change::Applied(web()));
    assert_eq!(dirty(&mut cluster), ["ns/web"]);
    assert_eq!(addresses(&cluster, "web"), ["10.1.0.1:8080"]);

    cluster.apply(Change::Deleted(ObjectRef::new(Kind::Service, "ns", "web")));
    assert_eq!(dirty(&mut cluster), ["ns/web"]);
    assert_eq!(cluster.service_names().count(), 0);
    assert_eq!(cluster.counts(), Counts { services: 0, slices: 1, endpoints: 1 });
}

#[test]
fn what_means_the_same_touches_nothing() {
    let endpoints = json!([{"addresses": ["10.1.0.1"], "hints": {"forZones": [{"name": "z"}]}}]);
    let list = || {
        [
            Change::Listed(Kind::Service, vec![web()]),
            Change::Listed(Kind::EndpointSlice, vec![slice("web-1", "web", endpoints.clone())]),
        ]
    };
    let mut cluster = cluster_after(list());
    dirty(&mut cluster);
    list().into_iter().for_each(|change| drop(cluster.apply(change)));
    let mut touched = web();
    let Object::Service(object) = &mut touched else { unreachable!() };
    object.metadata.resource_version = "99".to_owned();
    object.metadata.labels.insert("a".to_owned(), "b".to_owned());
    cluster.apply(Change::Applied(touched));
    cluster.apply(Change::Deleted(ObjectRef::new(Kind::Service, "ns", "other")));
    cluster.apply(Change::Deleted(ObjectRef::new(Kind::EndpointSlice, "ns", "other")));
    assert_eq!(dirty(&mut cluster), Vec::<String>::new());
}

#[test]
fn a_moved_slice_leaves_its_old_service() {
    let endpoints = json!([{"addresses": ["10.1.0.1"]}]);
    let mut cluster = cluster_after([
        Change::Applied(web()),
        Change::Applied(service(
            "api",
            json!({"clusterIP": "10.0.0.2", "ports": [{"name": "http", "port": 80}]}),
        )),
        Change::Applied(slice("s", "web", endpoints.clone())),
    ]);
    dirty(&mut cluster);
    cluster.apply(Change::Applied(slice("s", "api", endpoints)));
    assert_eq!(dirty(&mut cluster), ["ns/api", "ns/web"]);
    assert_eq!(addresses(&cluster, "web"), Vec::<String>::new());
    assert_eq!(addresses(&cluster, "api"), ["10.1.0.1:8080"]);
    assert_eq!(cluster.counts().slices, 1);
}

#[test]
fn duplicates_across_slices() {
    let terminating = json!({"ready": false, "terminating": true});
    let cluster = cluster_after([
        Change::Applied(web()),
        Change::Applied(slice(
            "a",
            "web",
            json!([{"addresses": ["10.1.0.1"], "conditions": terminating}, {"addresses": ["10.1.0.2"]},
                   {"addresses": ["10.1.0.3"], "nodeName": "node-a"}]),
        )),
        Change::Applied(slice(
            "b",
            "web",
            json!([{"addresses": ["10.1.0.1"]}, {"addresses": ["10.1.0.2"], "conditions": terminating},
                   {"addresses": ["10.1.0.3"]}]),
        )),
    ]);
    let endpoints = cluster.endpoints(&name("web"), &http(), Family::V4);
    let seen: Vec<_> = endpoints.iter().map(|one| (one.address.to_string(), one.ready, one.local)).collect();
    assert_eq!(
        seen,
        [
            ("10.1.0.1".to_owned(), true, false),
            ("10.1.0.2".to_owned(), true, false),
            ("10.1.0.3".to_owned(), true, true)
        ]
    );
}

#[test]
fn ports_match_by_name_and_protocol_and_family() {
    let object = Object::EndpointSlice(
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "s", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv6", "endpoints": [{"addresses": ["fd00::2"]}, {"addresses": ["fd00::1"]}],
            "ports": [{"name": "http", "port": 1}, {"name": "http", "port": 2, "protocol": "UDP"}, {"port": 3}],
        }))
        .expect("a slice"),
    );
    let cluster = cluster_after([Change::Applied(web()), Change::Applied(object)]);
    let find = |port: &ServicePort, family| {
        let found = cluster.endpoints(&name("web"), port, family);
        found.iter().map(|one| format!("{} {}", one.address, one.port)).collect::<Vec<_>>()
    };
    assert_eq!(find(&http(), Family::V4), Vec::<String>::new());
    assert_eq!(find(&http(), Family::V6), ["fd00::1 1", "fd00::2 1"]);
    assert_eq!(
        find(&ServicePort { protocol: Protocol::Udp, ..http() }, Family::V6),
        ["fd00::1 2", "fd00::2 2"]
    );
    assert_eq!(find(&ServicePort { name: "".into(), ..http() }, Family::V6), ["fd00::1 3", "fd00::2 3"]);
    assert_eq!(find(&ServicePort { name: "x".into(), ..http() }, Family::V6), Vec::<String>::new());
}

#[test]
fn an_unreadable_object_keeps_its_last_good_version() {
    let reject = |kind, name: &str| Reject {
        object: ObjectRef::new(kind, "ns", name),
        field: String::new(),
        problem: Problem::Undecodable("not JSON".to_owned()),
    };
    let mut cluster = cluster_after([
        Change::Listed(Kind::Service, vec![web()]),
        Change::Listed(Kind::EndpointSlice, vec![slice("s", "web", json!([{"addresses": ["10.1.0.1"]}]))]),
    ]);
    dirty(&mut cluster);
    let known = reject(Kind::Service, "web");
    assert_eq!(cluster.apply(Change::Unreadable(known.clone())), std::slice::from_ref(&known));
    let relist = Change::Listed(Kind::Service, vec![Object::Unreadable(Box::new(known.clone()))]);
    assert_eq!(cluster.apply(relist), [known]);
    cluster.apply(Change::Listed(
        Kind::EndpointSlice,
        vec![Object::Unreadable(Box::new(reject(Kind::EndpointSlice, "s")))],
    ));
    // The same for a Service that decodes but has nothing usable left.
    let rejects = cluster.apply(Change::Applied(service("web", json!({"clusterIP": "10.0.0"}))));
    assert_eq!(rejects.len(), 2);
    assert_eq!(dirty(&mut cluster), Vec::<String>::new());
    assert_eq!(addresses(&cluster, "web"), ["10.1.0.1:8080"]);
}

#[test]
fn a_service_that_stops_being_ours_is_gone() {
    let mut cluster = cluster_after([Change::Applied(web())]);
    dirty(&mut cluster);
    assert_eq!(cluster.apply(Change::Applied(service("web", json!({"clusterIP": "None"})))), vec![]);
    assert_eq!(dirty(&mut cluster), ["ns/web"]);
    assert_eq!(cluster.service(&name("web")), None);
}

#[test]
fn a_nameless_object_is_rejected() {
    let rejects = Cluster::new("n").apply(Change::Applied(service("", json!({"clusterIP": "10.0.0.1"}))));
    assert_eq!(rejects[0].problem, Problem::NoName);
}

#[test]
fn a_new_zone_touches_every_service() {
    let node = |name: &str, zone: &str, address: &str| {
        Change::Applied(Object::Node(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}
            }))
            .expect("a Node"),
        ))
    };
    let mut cluster = cluster_after([Change::Applied(web())]);
    dirty(&mut cluster);
    assert_eq!(&*cluster.node().name, "node-a", "trimmed and in lower case");
    cluster.apply(node("node-b", "z9", "192.0.2.9"));
    assert_eq!((dirty(&mut cluster).len(), &cluster.node().zone), (0, &None), "somebody else's zone");
    cluster.apply(node("node-a", "z1", "192.0.2.1"));
    assert_eq!(dirty(&mut cluster), ["ns/web"]);
    cluster.apply(node("node-a", "z1", "192.0.2.2"));
    assert_eq!(dirty(&mut cluster), Vec::<String>::new(), "addresses decide over no endpoint");
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.0.0.9", "loadBalancerSourceRanges": ["192.0.2.0/30"]});
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}});
    let object = json!({"metadata": {"namespace": "ns", "name": "choosy"}, "spec": spec, "status": status});
    let object = serde_json::from_value(object).expect("a Service");
    cluster.apply(Change::Applied(Object::Service(Box::new(object))));
    dirty(&mut cluster);
    cluster.apply(node("node-a", "z1", "192.0.2.5"));
    assert_eq!(dirty(&mut cluster), ["ns/choosy"], "but over whether the node is a client");
    cluster.apply(node("node-a", "z1", "192.0.2.2"));
    assert_eq!(cluster.node().addresses, ["192.0.2.2".parse::<std::net::IpAddr>().expect("an address")]);
    cluster.apply(Change::Listed(Kind::Node, vec![]));
    cluster.apply(Change::Deleted(ObjectRef::new(Kind::Node, "", "node-a")));
    assert_eq!(cluster.node().zone.as_deref(), Some("z1"), "the last known zone stays");
}

#[test]
fn ranges_of_cluster_ips_are_those_of_all_service_cidrs() {
    let object = |name: &str, cidrs: &[&str]| {
        let object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        Object::ServiceCidr(Box::new(serde_json::from_value(object).expect("a ServiceCIDR")))
    };
    let ranges =
        |cluster: &Cluster| cluster.service_cidrs().iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut cluster = Cluster::new("n");
    cluster.apply(Change::Listed(Kind::ServiceCidr, vec![object("kubernetes", &["10.96.0.0/12"])]));
    cluster.apply(Change::Applied(object("more", &["10.112.0.0/16", "fd00::/112"])));
    assert_eq!(ranges(&cluster), ["10.96.0.0/12", "10.112.0.0/16", "fd00::/112"]);
    cluster.apply(Change::Applied(object("more", &["fd00::/112"])));
    assert_eq!(ranges(&cluster), ["10.96.0.0/12", "fd00::/112"]);
    cluster.apply(Change::Deleted(ObjectRef::new(Kind::ServiceCidr, "", "kubernetes")));
    assert_eq!(ranges(&cluster), ["fd00::/112"]);
    cluster.apply(Change::Listed(Kind::ServiceCidr, vec![object("other", &["10.0.0.0/16"])]));
    assert_eq!(ranges(&cluster), ["10.0.0.0/16"], "a list is the whole truth");
    assert!(!cluster.is_complete() && dirty(&mut cluster).is_empty(), "they decide over no Service");
}

#[test]
fn surroundings_change_with_everything_but_services_and_slices() {
    let mut cluster = cluster_after([]);
    assert!(cluster.take_surroundings_changed(), "nothing is known of them yet");
    assert!(!cluster.take_surroundings_changed());
    cluster.apply(Change::Listed(Kind::Service, vec![]));
    cluster.apply(Change::Applied(web()));
    cluster.apply(Change::Applied(slice("web-1", "web", json!([]))));
    assert!(!cluster.take_surroundings_changed());
    for kind in [Kind::Node, Kind::Pod, Kind::ServiceCidr] {
        cluster.apply(Change::Listed(kind, vec![]));
        assert!(cluster.take_surroundings_changed(), "{kind}");
        cluster.apply(Change::Deleted(ObjectRef::new(kind, "", "x")));
        assert!(cluster.take_surroundings_changed(), "{kind}");
    }
}

#[test]
fn hints_are_shared_and_forgotten() {
    let hinted = |zone: &str| json!([{"addresses": ["10.1.0.1"], "hints": {"forZones": [{"name": zone}]}}]);
    let mut cluster = cluster_after([Change::Applied(web())]);
    for turn in 0..1000 {
        cluster.apply(Change::Applied(slice("a", "web", hinted(&format!("z{turn}")))));
        cluster.apply(Change::Applied(slice("b", "web", hinted(&format!("z{turn}")))));
    }
    assert!(cluster.hints.len() <= FIRST_HINTS_LIMIT, "{} hints kept for two endpoints", cluster.hints.len());
    let endpoints = cluster.endpoints(&name("web"), &http(), Family::V4);
    assert_eq!(*endpoints[0].zone_hints, ["z999".into()]);
}

#[test]
fn policies_reach_the_model() {
    let cluster = cluster_after([Change::Applied(service(
        "web",
        json!({"clusterIP": "10.0.0.1", "internalTrafficPolicy": "Local", "ports": []}),
    ))]);
    assert_eq!(cluster.service(&name("web")).map(|web| web.internal_policy), Some(TrafficPolicy::Local));
}

#[test]
fn what_exists_but_cannot_be_read_is_not_taken_for_absent() {
    let mut cluster = Cluster::new("node-a");
    let object = ObjectRef::new(Kind::Service, "default", "web");
    let problem = Problem::Undecodable("no number".to_owned());
    let unreadable =
        Object::Unreadable(Box::new(Reject { object: object.clone(), field: String::new(), problem }));
    assert!(cluster.is_whole());
    cluster.apply(Change::Listed(Kind::Service, vec![unreadable.clone()]));
    assert!(!cluster.is_whole(), "it may have been served by an earlier process");
    cluster.apply(Change::Listed(Kind::EndpointSlice, Vec::new()));
    assert!(!cluster.is_whole(), "the list of another kind says nothing of it");
    cluster.apply(Change::Deleted(object));
    assert!(cluster.is_whole());

    cluster.apply(Change::Listed(Kind::Service, vec![unreadable]));
    cluster.apply(Change::Listed(Kind::Service, Vec::new()));
    assert!(cluster.is_whole(), "it is not in the newer list");
    cluster.apply(Change::Whole(false));
    assert!(!cluster.is_whole());
    cluster.apply(Change::Whole(true));
    assert!(cluster.is_whole());
}
