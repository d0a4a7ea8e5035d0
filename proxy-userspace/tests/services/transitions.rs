//! From every kind of Service to every other one, as a live object: what must be gone is gone.

use std::collections::BTreeSet;

use proxy_userspace::cluster::change::{Change, Kind, ObjectRef};
use proxy_userspace::plan::Capacity;
use serde_json::{Value, json};

use crate::node::{NODE, Node, View, service, slice};

const CAPACITY: Capacity = Capacity { frontends: 64, services: 64, backends: 256 };

/// A Service as it may be at some time.
struct State {
    name: &'static str,
    /// Its parts; nothing if there is no such Service.
    object: Option<Value>,
    /// Every address at which it answers.
    serves: &'static [&'static str],
}

/// One with these cluster IPs, with more of `spec` put over it.
fn web(ips: &[&str], more: &Value) -> Value {
    let mut object = json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"clusterIP": ips[0], "clusterIPs": ips, "ports": [{"name": "http", "port": 80}]},
    });
    for (field, value) in more.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    object[pointer] = value;
    object
}

const V4: [&str; 1] = ["10.96.0.1"];
const V6: [&str; 1] = ["fd00::1"];
const BOTH: [&str; 2] = ["10.96.0.1", "fd00::1"];

/// Both families' endpoint sets, here and elsewhere, of a port by two names and over two protocols.
fn slices() -> [Change; 2] {
    let of = |family: &str, here: &str, elsewhere: &str| {
        slice(json!({
            "metadata": {"namespace": "ns", "name": format!("web-{family}"),
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family,
            "endpoints": [{"addresses": [here], "nodeName": NODE}, {"addresses": [elsewhere], "nodeName": "node-b"}],
            "ports": [{"name": "http", "port": 8080}, {"name": "http", "port": 8081, "protocol": "UDP"},
                      {"name": "web", "port": 8082}, {"name": "", "port": 8083}],
        }))
    };
    [of("IPv4", "10.244.1.1", "10.244.2.1"), of("IPv6", "fd00:244:1::1", "fd00:244:2::1")]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn states() -> Vec<State> {
    let node_port = |number: u16| json!([{"name": "http", "port": 80, "nodePort": number}]);
    let balanced = |spec: Value, ingress: Value| {
        let object = web(&BOTH, &spec);
        with(object, "status", json!({"loadBalancer": {"ingress": ingress}}))
    };
    let balancer = json!({"type": "LoadBalancer", "ports": node_port(30080)});
    let vips = json!([{"ip": "203.0.113.1"}, {"ip": "2001:db8::1", "ipMode": "VIP"}]);
    let labelled = json!({"namespace": "ns", "name": "web",
        "labels": {"service.kubernetes.io/service-proxy-name": ""}});
    let state = |name, object, serves| State { name, object: Some(object), serves };
    vec![
        State { name: "absent", object: None, serves: &[] },
        state("ClusterIP", web(&V4, &json!({})), &["10.96.0.1, whatever port", "10.96.0.1:80/TCP"]),
        state("ClusterIP of IPv6", web(&V6, &json!({})), &["[fd00::1]:80/TCP", "fd00::1, whatever port"]),
        state(
            "ClusterIP of both families",
            web(&BOTH, &json!({})),
            &["10.96.0.1, whatever port", "10.96.0.1:80/TCP", "[fd00::1]:80/TCP", "fd00::1, whatever port"],
        ),
        state(
            "ClusterIP of both families, IPv6 first",
            web(&["fd00::1", "10.96.0.1"], &json!({"ipFamilies": ["IPv6", "IPv4"]})),
            &["10.96.0.1, whatever port", "10.96.0.1:80/TCP", "[fd00::1]:80/TCP", "fd00::1, whatever port"],
        ),
        state(
            "another ClusterIP",
            web(&["10.96.0.2"], &json!({})),
            &["10.96.0.2, whatever port", "10.96.0.2:80/TCP"],
        ),
        state(
            "NodePort",
            web(&V4, &json!({"type": "NodePort", "ports": node_port(30080)})),
            &["*:30080/TCP (IPv4)", "10.96.0.1, whatever port", "10.96.0.1:80/TCP"],
        ),
        state(
            "another NodePort, both families",
            web(&BOTH, &json!({"type": "NodePort", "ports": node_port(30081)})),
            &[
                "*:30081/TCP (IPv4)",
                "*:30081/TCP (IPv6)",
                "10.96.0.1, whatever port",
                "10.96.0.1:80/TCP",
                "[fd00::1]:80/TCP",
                "fd00::1, whatever port",
            ],
        ),
        state(
            "LoadBalancer",
            balanced(balancer.clone(), vips.clone()),
            &[
                "*:30080/TCP (IPv4)",
                "*:30080/TCP (IPv6)",
                "10.96.0.1, whatever port",
                "10.96.0.1:80/TCP",
                "203.0.113.1:80/TCP",
                "[2001:db8::1]:80/TCP",
                "[fd00::1]:80/TCP",
                "fd00::1, whatever port",
            ],
        ),
        state(
            "LoadBalancer for some clients",
            balanced(
                json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24", "fd00:2::/64"]}),
                vips.clone(),
            ),
            &[
                "10.96.0.1, whatever port",
                "10.96.0.1:80/TCP",
                "203.0.113.1:80/TCP",
                "[2001:db8::1]:80/TCP",
                "[fd00::1]:80/TCP",
                "fd00::1, whatever port",
            ],
        ),
        state(
            "LoadBalancer without node ports",
            balanced(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}), vips.clone()),
            &[
                "10.96.0.1, whatever port",
                "10.96.0.1:80/TCP",
                "203.0.113.1:80/TCP",
                "[2001:db8::1]:80/TCP",
                "[fd00::1]:80/TCP",
                "fd00::1, whatever port",
            ],
        ),
        state(
            "LoadBalancer by proxy and by name",
            balanced(
                balancer.clone(),
                json!([{"ip": "203.0.113.1", "ipMode": "Proxy"}, {"hostname": "lb.example"}]),
            ),
            &[
                "*:30080/TCP (IPv4)",
                "*:30080/TCP (IPv6)",
                "10.96.0.1, whatever port",
                "10.96.0.1:80/TCP",
                "[fd00::1]:80/TCP",
                "fd00::1, whatever port",
            ],
        ),
        state(
            "external IPs",
            web(&BOTH, &json!({"externalIPs": ["203.0.113.1", "2001:db8::9"]})),
            &[
                "10.96.0.1, whatever port",
                "10.96.0.1:80/TCP",
                "203.0.113.1:80/TCP",
                "[2001:db8::9]:80/TCP",
                "[fd00::1]:80/TCP",
                "fd00::1, whatever port",
            ],
        ),
        state(
            "both policies Local",
            balanced(
                json!({"type": "LoadBalancer", "ports": node_port(30080), "externalTrafficPolicy": "Local",
                       "internalTrafficPolicy": "Local"}),
                vips,
            ),
            &[
                "*:30080/TCP (IPv4)",
                "*:30080/TCP (IPv6)",
                "10.96.0.1, whatever port",
                "10.96.0.1:80/TCP",
                "203.0.113.1:80/TCP",
                "[2001:db8::1]:80/TCP",
                "[fd00::1]:80/TCP",
                "fd00::1, whatever port",
            ],
        ),
        state(
            "ClusterIP with policy Local and affinity",
            web(&V4, &json!({"internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"})),
            &["10.96.0.1, whatever port", "10.96.0.1:80/TCP"],
        ),
        state(
            "its port renamed",
            web(&V4, &json!({"ports": [{"name": "web", "port": 80}]})),
            &["10.96.0.1, whatever port", "10.96.0.1:80/TCP"],
        ),
        state(
            "its port without a name",
            web(&V4, &json!({"ports": [{"port": 80}]})),
            &["10.96.0.1, whatever port", "10.96.0.1:80/TCP"],
        ),
        state(
            "another port, and the other protocol on the first",
            web(
                &V4,
                &json!({"ports": [{"name": "http", "port": 81}, {"name": "http", "port": 80, "protocol": "UDP"}]}),
            ),
            &["10.96.0.1, whatever port", "10.96.0.1:80/UDP", "10.96.0.1:81/TCP"],
        ),
        state("no port", web(&V4, &json!({"ports": []})), &[]),
        state(
            "ExternalName",
            web(&V4, &json!({"type": "ExternalName", "externalName": "www.example.com"})),
            &[],
        ),
        state(
            "ExternalName as the API server leaves it",
            json!({"metadata": {"namespace": "ns", "name": "web"},
                   "spec": {"type": "ExternalName", "externalName": "www.example.com", "ports": [{"port": 80}]}}),
            &[],
        ),
        state("headless", web(&["None"], &json!({})), &[]),
        state("another proxy's", with(web(&V4, &json!({})), "metadata", labelled), &[]),
    ]
}

fn become_(node: &mut Node, state: &State) {
    node.turn([match &state.object {
        Some(object) => service(object.clone()),
        None => Change::Deleted(ObjectRef::new(Kind::Service, "ns", "web")),
    }]);
}

/// What such a Service leads to when it has never been another.
fn fresh(state: &State) -> (View, Capacity) {
    let mut node = Node::new(CAPACITY);
    node.turn(slices());
    become_(&mut node, state);
    (node.view(), node.usage())
}

#[test]
fn each_state_answers_where_it_should_and_nowhere_else() {
    for state in states() {
        let (view, _) = fresh(&state);
        let serves: BTreeSet<&str> = view.keys().map(String::as_str).collect();
        assert_eq!(serves, state.serves.iter().copied().collect(), "{}", state.name);
    }
}

#[test]
fn after_any_change_of_type_family_port_or_label_nothing_is_left_of_what_was_before() {
    let states = states();
    let expected: Vec<_> = states.iter().map(fresh).collect();
    for (from, was) in states.iter().zip(&expected) {
        for (to, is) in states.iter().zip(&expected) {
            let mut node = Node::new(CAPACITY);
            node.turn(slices());
            become_(&mut node, from);
            become_(&mut node, to);
            assert_eq!((&node.view(), node.usage()), (&is.0, is.1), "from {} to {}", from.name, to.name);
            become_(&mut node, from);
            assert_eq!(
                (&node.view(), node.usage()),
                (&was.0, was.1),
                "from {} to {} and back",
                from.name,
                to.name
            );
        }
    }
}

/// On one node and one object, in an order that passes from each state to each other one.
#[test]
fn the_way_by_which_a_service_came_to_its_state_does_not_show() {
    let states = states();
    let expected: Vec<_> = states.iter().map(fresh).collect();
    let mut node = Node::new(CAPACITY);
    node.turn(slices());
    for step in 1..states.len() {
        for first in 0..states.len() {
            for index in [first, (first + step) % states.len()] {
                become_(&mut node, &states[index]);
                let (view, usage) = &expected[index];
                let name = states[index].name;
                assert_eq!((&node.view(), node.usage()), (view, *usage), "{name}, {step} from {first}");
            }
        }
    }
}

#[test]
fn labels_that_come_and_go_give_a_slice_away_and_back() {
    let states = states();
    let labels = [
        (json!({"kubernetes.io/service-name": "web"}), true),
        (json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""}), false),
        (json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "false"}), false),
        (json!({"kubernetes.io/service-name": "other"}), false),
    ];
    let mut node = Node::new(CAPACITY);
    become_(&mut node, &states[1]);
    for (from, _) in &labels {
        for (to, counts) in &labels {
            for own in [from, to] {
                node.turn([slice(json!({
                    "metadata": {"namespace": "ns", "name": "web-1", "labels": own},
                    "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.2.1"]}],
                    "ports": [{"name": "http", "port": 8080}],
                }))]);
            }
            let cluster = &node.view()["10.96.0.1:80/TCP"].cluster;
            assert_eq!(cluster.contains("10.244.2.1:8080"), *counts, "from {from} to {to}");
        }
    }
}
