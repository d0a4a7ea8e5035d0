//! The policy as one table. Its rows follow those of kube-proxy's `TestCategorizeEndpoints`
//! (`pkg/proxy/topology_test.go` at v1.36.0) and add what that one leaves to other tests.
//!
//! kube-proxy tells a set that nothing uses (nil) from one that is used and empty. Here both are empty, as
//! nothing ever reads an unused set; the rows therefore write `unused` for a set that must be empty *although*
//! endpoints qualify for it, and `none` for one that is empty because none does.

use std::{net::IpAddr, sync::Arc};

use super::*;
use crate::cluster::model::{Protocol, ServiceName};

/// One row.
///
/// - `service`: `ITP=Local`, `ETP=Local`, and what makes it reachable from outside: `nodePort`, `lb`, `external`.
/// - `node`: its name, and its zone if it has one. `n1 a`.
/// - `endpoints`: separated by `;`. The last octet of the address, then any of `ready`, `serving`, `terminating`,
///   `local`, `zone=..`, `node=..`. `1 ready zone=a zone=b`.
/// - `cluster`, `local`: last octets of the sets' endpoints; `none`; `unused`.
/// - `any`: whether an endpoint is usable somewhere.
struct Row {
    name: &'static str,
    service: &'static str,
    node: &'static str,
    endpoints: &'static str,
    cluster: &'static str,
    local: &'static str,
    any: bool,
}

fn service(text: &str) -> (Service, ServicePort) {
    let has = |word: &str| text.split_whitespace().any(|own| own == word);
    let policy = |word: &str| if has(word) { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let addresses =
        |word: &str, ip: &str| has(word).then(|| ip.parse().unwrap()).into_iter().collect::<Vec<IpAddr>>();
    let port = ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: has("nodePort").then_some(30080),
    };
    let service = Service {
        name: ServiceName { namespace: "ns".into(), name: "web".into() },
        created: 0,
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        external_ips: addresses("external", "192.0.2.1"),
        load_balancer_ips: addresses("lb", "203.0.113.1"),
        source_ranges: Vec::new(),
        health_check_node_port: None,
        ports: vec![port.clone()],
        internal_policy: policy("ITP=Local"),
        external_policy: policy("ETP=Local"),
        affinity_seconds: None,
    };
    for word in text.split_whitespace() {
        assert!(["ITP=Local", "ETP=Local", "nodePort", "lb", "external"].contains(&word), "{word:?}");
    }
    (service, port)
}

fn node(text: &str) -> NodeInfo {
    let mut words = text.split_whitespace().map(Box::from);
    NodeInfo { name: words.next().unwrap(), zone: words.next(), ..NodeInfo::default() }
}

fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split_whitespace();
    let last: u8 = words.next().unwrap().parse().unwrap();
    let mut endpoint = Endpoint {
        address: IpAddr::from([10, 244, 0, last]),
        port: 8080,
        local: false,
        ready: false,
        serving: false,
        terminating: false,
        zone_hints: Arc::default(),
        node_hints: Arc::default(),
    };
    let (mut zones, mut nodes) = (Vec::new(), Vec::new());
    for word in words {
        match (word, word.split_once('=')) {
            ("ready", _) => endpoint.ready = true,
            ("serving", _) => endpoint.serving = true,
            ("terminating", _) => endpoint.terminating = true,
            ("local", _) => endpoint.local = true,
            (_, Some(("zone", name))) => zones.push(Box::from(name)),
            (_, Some(("node", name))) => nodes.push(Box::from(name)),
            _ => panic!("{word:?}"),
        }
    }
    endpoint.zone_hints = zones.into();
    endpoint.node_hints = nodes.into();
    endpoint
}

fn show(endpoints: &[Endpoint]) -> String {
    let last = |endpoint: &Endpoint| endpoint.address.to_string().rsplit_once('.').unwrap().1.to_owned();
    endpoints.iter().map(last).collect::<Vec<_>>().join(" ")
}

fn check(row: &Row) {
    let (service, port) = service(row.service);
    let endpoints: Vec<Endpoint> =
        row.endpoints.split(';').filter(|text| !text.trim().is_empty()).map(endpoint).collect();
    let sets = categorize(&service, &port, &node(row.node), &endpoints);
    let expected = |text: &'static str| if ["none", "unused"].contains(&text) { "" } else { text };
    assert_eq!(
        (show(&sets.cluster).as_str(), show(&sets.local).as_str(), sets.any),
        (expected(row.cluster), expected(row.local), row.any),
        "\n{}: cluster, local, any\nleft: what came out; right: what the row says",
        row.name
    );
}

/// Rows as `name: service on node, endpoints => cluster, local, any;`.
macro_rules! rows {
    ($($name:literal: $service:literal on $node:literal, $endpoints:literal
        => $cluster:literal, $local:literal, $any:literal;)*) => {
        [$(Row {
            name: $name, service: $service, node: $node, endpoints: $endpoints,
            cluster: $cluster, local: $local, any: $any,
        },)*]
    };
}

#[test]
fn readiness_and_termination() {
    for row in rows! {
        "no endpoint": "" on "n1", "" => "none", "unused", false;
        "ready ones are used": "" on "n1", "1 ready serving; 2 ready serving" => "1 2", "unused", true;
        "local ones need no set of their own": "" on "n1", "1 ready local; 2 ready" => "1 2", "unused", true;
        "neither ready nor terminating is no last resort, though it serves":
            "" on "n1", "1 serving; 2" => "none", "unused", false;
        "unready ones are left out": "" on "n1", "1 ready; 2 serving; 3" => "1", "unused", true;
        "ready wins over draining": "" on "n1", "1 ready; 2 serving terminating" => "1", "unused", true;
        "all draining: all of them":
            "" on "n1", "1 serving terminating; 2 serving terminating" => "1 2", "unused", true;
        "draining ones that no longer answer are not used":
            "" on "n1", "1 serving terminating; 2 terminating" => "1", "unused", true;
        "only ones that no longer answer": "" on "n1", "1 terminating; 2 terminating" => "none", "unused", false;
        "unready next to draining": "" on "n1", "1 serving; 2 serving terminating" => "2", "unused", true;
        // publishNotReadyAddresses: the controller says ready of pods that terminate.
        "ready although terminating counts as ready":
            "" on "n1", "1 ready terminating; 2 serving terminating" => "1", "unused", true;
        "ready although it does not serve": "" on "n1", "1 ready; 2 ready serving" => "1 2", "unused", true;
        "the order given is kept": "" on "n1", "3 ready; 1 ready; 2 ready" => "3 1 2", "unused", true;
    } {
        check(&row);
    }
}

#[test]
fn local_policies() {
    for row in rows! {
        "ITP Local, no endpoint": "ITP=Local" on "n1", "" => "unused", "none", false;
        "ITP Local, all here": "ITP=Local" on "n1", "1 ready local; 2 ready local" => "unused", "1 2", true;
        "ITP Local, some here": "ITP=Local" on "n1", "1 ready local; 2 ready" => "unused", "1", true;
        "ITP Local, none here, some elsewhere": "ITP=Local" on "n1", "1 ready; 2 ready" => "unused", "none", true;
        "ITP Local, only draining elsewhere":
            "ITP=Local" on "n1", "1 serving terminating" => "unused", "none", true;
        "ITP Local, only dead ones elsewhere":
            "ITP=Local" on "n1", "1 terminating; 2 serving; 3" => "unused", "none", false;
        "ITP Local, only dead ones here, ready elsewhere":
            "ITP=Local" on "n1", "1 terminating local; 2 ready" => "unused", "none", true;
        "ETP Local means nothing without anything external":
            "ETP=Local" on "n1", "1 ready local; 2 ready" => "1 2", "unused", true;
        "ETP Local, no endpoint": "ETP=Local nodePort" on "n1", "" => "none", "none", false;
        "ETP Local by node port":
            "ETP=Local nodePort" on "n1", "1 ready local; 2 ready" => "1 2", "1", true;
        "ETP Local by load balancer": "ETP=Local lb" on "n1", "1 ready local; 2 ready" => "1 2", "1", true;
        "ETP Local by external IP": "ETP=Local external" on "n1", "1 ready local; 2 ready" => "1 2", "1", true;
        "ETP Local, none here": "ETP=Local nodePort" on "n1", "1 ready; 2 ready" => "1 2", "none", true;
        "ETP Cluster keeps no Local set": "nodePort lb" on "n1", "1 ready local; 2 ready" => "1 2", "unused", true;
        "ITP Local with a node port: that one uses the Cluster set":
            "ITP=Local nodePort" on "n1", "1 ready local; 2 ready" => "1 2", "1", true;
        "both Local": "ITP=Local ETP=Local nodePort" on "n1", "1 ready local; 2 ready" => "1 2", "1", true;
        "both Local without anything external":
            "ITP=Local ETP=Local" on "n1", "1 ready local; 2 ready" => "unused", "1", true;
    } {
        check(&row);
    }
}

#[test]
fn each_scope_falls_back_on_its_own() {
    for row in rows! {
        "draining here, ready elsewhere: Local drains, Cluster does not":
            "ETP=Local nodePort" on "n1", "1 serving terminating local; 2 ready" => "2", "1", true;
        "the same under ITP Local":
            "ITP=Local" on "n1", "1 serving terminating local; 2 ready" => "unused", "1", true;
        "ready here, draining elsewhere":
            "ETP=Local nodePort" on "n1", "1 ready local; 2 serving terminating" => "1", "1", true;
        "ready and draining here":
            "ITP=Local" on "n1", "1 ready local; 2 serving terminating local" => "unused", "1", true;
        "draining everywhere":
            "ETP=Local nodePort" on "n1", "1 serving terminating local; 2 serving terminating" => "1 2", "1", true;
        "dead here, draining elsewhere":
            "ETP=Local nodePort" on "n1", "1 terminating local; 2 serving terminating" => "2", "none", true;
        "unready here, ready elsewhere":
            "ETP=Local nodePort" on "n1", "1 serving local; 2 ready" => "2", "none", true;
        "unready here, draining elsewhere":
            "ITP=Local" on "n1", "1 serving local; 2 serving terminating" => "unused", "none", true;
        "dead everywhere":
            "ITP=Local ETP=Local nodePort" on "n1", "1 terminating local; 2 terminating" => "none", "none", false;
    } {
        check(&row);
    }
}

#[test]
fn zone_hints() {
    for row in rows! {
        "those of this zone":
            "" on "n1 a", "1 ready zone=a; 2 ready zone=b; 3 ready zone=c; 4 ready zone=a" => "1 4", "unused", true;
        "an endpoint may be for several zones":
            "" on "n1 c", "1 ready zone=a zone=b zone=c; 2 ready zone=b zone=c; 3 ready zone=b zone=d; 4 ready zone=c"
            => "1 2 4", "unused", true;
        "one without a hint switches hints off":
            "" on "n1 a", "1 ready zone=a; 2 ready zone=b; 3 ready" => "1 2 3", "unused", true;
        "none for this zone": "" on "n1 a", "1 ready zone=b; 2 ready zone=c" => "1 2", "unused", true;
        "the node is in no zone": "" on "n1", "1 ready zone=a; 2 ready zone=b" => "1 2", "unused", true;
        "no hints at all": "" on "n1 a", "1 ready; 2 ready" => "1 2", "unused", true;
        "unready ones have no say, without a hint":
            "" on "n1 a", "1 ready zone=a; 2 ready zone=b; 3 serving; 4" => "1", "unused", true;
        "nor draining ones": "" on "n1 a", "1 ready zone=a; 2 serving terminating" => "1", "unused", true;
        "an unready one of this zone does not count as one for it":
            "" on "n1 a", "1 zone=a; 2 ready zone=b; 3 ready zone=c" => "2 3", "unused", true;
        "unready ones of this zone are not used either":
            "" on "n1 a", "1 ready zone=a; 2 zone=a; 3 ready zone=b" => "1", "unused", true;
        "the last resort knows no zones":
            "" on "n1 a", "1 serving terminating zone=a; 2 serving terminating zone=b" => "1 2", "unused", true;
        "ready in the other zone wins over draining in this one":
            "" on "n1 a", "1 serving terminating zone=a; 2 ready zone=b" => "2", "unused", true;
        "zone names are compared whole": "" on "n1 a", "1 ready zone=aa; 2 ready zone=A" => "1 2", "unused", true;
        "being on this node is no hint":
            "" on "n1 a", "1 ready local zone=b; 2 ready zone=a" => "2", "unused", true;
    } {
        check(&row);
    }
}

#[test]
fn node_hints() {
    for row in rows! {
        "those for this node": "" on "n1 a", "1 ready node=n1; 2 ready node=n2" => "1", "unused", true;
        "several nodes": "" on "n1", "1 ready node=n1 node=n2; 2 ready node=n2; 3 ready node=n1" => "1 3", "unused", true;
        "they come before zones":
            "" on "n1 a", "1 ready node=n1 zone=a; 2 ready node=n2 zone=a; 3 ready node=n3 zone=b"
            => "1", "unused", true;
        "none for this node: the zone decides":
            "" on "n1 a", "1 ready node=n2 zone=a; 2 ready node=n3 zone=a; 3 ready node=n4 zone=b"
            => "1 2", "unused", true;
        "none for this node, none for this zone":
            "" on "n1 a", "1 ready node=n2 zone=b; 2 ready node=n3 zone=c" => "1 2", "unused", true;
        "one without a node hint: the zone decides, even against the node":
            "" on "n1 a", "1 ready node=n1 zone=b; 2 ready zone=a" => "2", "unused", true;
        "one without a node hint, one without a zone hint":
            "" on "n1 a", "1 ready node=n1; 2 ready zone=a" => "1 2", "unused", true;
        "they need no zone": "" on "n1", "1 ready node=n1 zone=a; 2 ready node=n2 zone=a" => "1", "unused", true;
        "an unready one without hints has no say":
            "" on "n1", "1 ready node=n1; 2 ready node=n2; 3 serving" => "1", "unused", true;
        "the only one for this node is not ready":
            "" on "n1 a", "1 serving node=n1 zone=a; 2 ready node=n2 zone=a; 3 ready node=n3 zone=b"
            => "2", "unused", true;
        "the only one for this node drains":
            "" on "n1", "1 serving terminating node=n1; 2 ready node=n2" => "2", "unused", true;
        "the last resort knows no nodes":
            "" on "n1", "1 serving terminating node=n1; 2 serving terminating node=n2" => "1 2", "unused", true;
        "a zone named like the node is no node": "" on "n1 n1", "1 ready zone=n1; 2 ready zone=b" => "1", "unused", true;
    } {
        check(&row);
    }
}

#[test]
fn hints_and_local_policies() {
    for row in rows! {
        "hints narrow the Cluster set only":
            "ETP=Local nodePort" on "n1 a",
            "1 ready local zone=a; 2 ready local zone=b; 3 ready zone=c; 4 ready zone=a" => "1 4", "1 2", true;
        "the same under ITP Local with a node port":
            "ITP=Local nodePort" on "n1 a",
            "1 ready local zone=a; 2 ready local zone=b; 3 ready zone=c; 4 ready zone=a" => "1 4", "1 2", true;
        "ITP Local alone ignores hints":
            "ITP=Local" on "n1 a", "1 ready local zone=b; 2 ready zone=a" => "unused", "1", true;
        "ITP Local ignores node hints for others":
            "ITP=Local" on "n1", "1 ready local node=n2; 2 ready node=n1" => "unused", "1", true;
        "topology and locality may be disjoint":
            "ETP=Local nodePort" on "n1 a", "1 ready local zone=b; 2 ready zone=a" => "2", "1", true;
        "topology here, fallback there":
            "ETP=Local nodePort" on "n1 a",
            "1 serving terminating local zone=a; 2 ready zone=a; 3 ready zone=b" => "2", "1", true;
    } {
        check(&row);
    }
}

/// One Service's frontends are per port: a node port on one of them is no reason for another's sets.
#[test]
fn a_node_port_is_the_ports_own() {
    let (service, mut port) = service("ITP=Local ETP=Local nodePort");
    port.node_port = None;
    let endpoints = [endpoint("1 ready local"), endpoint("2 ready")];
    let sets = categorize(&service, &port, &node("n1"), &endpoints);
    assert_eq!((show(&sets.cluster).as_str(), show(&sets.local).as_str()), ("", "1"));
}
