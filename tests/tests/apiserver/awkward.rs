//! Objects that the API server admits and nobody can serve in full. They harm nothing but themselves.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::objects::{endpoint, port, service, slice};
use crate::stage::{NODE, PORT, Stage};
use crate::steady::{Steady, steady_service};

fn named(mut object: Value, name: &str) -> Value {
    object["metadata"]["name"] = json!(name);
    object
}

#[test]
fn what_cannot_be_served_harms_nothing_else() -> Result<()> {
    let stage = Stage::new()?;
    let [red, green, _] = &stage.pods;
    let to = steady_service(&stage)?;
    let steady = Steady::begin(&stage.client, &to)?;
    let http = json!([{"name": "http", "protocol": "TCP", "port": PORT}]);
    let ports = json!([port("http", "TCP", 80)]);

    let mut unlabelled = slice("nobody", "IPv4", http.clone(), vec![endpoint(red.v4(), NODE)]);
    unlabelled["metadata"]["labels"] = json!({});
    let mut empty_label = named(unlabelled.clone(), "empty-label");
    empty_label["metadata"]["labels"] = json!({"kubernetes.io/service-name": ""});
    let host_names = json!([{"addresses": ["pod.example.org"]}]).as_array().cloned().unwrap_or_default();
    let many: Vec<_> = (0..1000u16)
        .map(|number| {
            endpoint(
                [
                    10,
                    201,
                    u8::try_from(number / 250).unwrap_or(0),
                    u8::try_from(1 + number % 250).unwrap_or(0),
                ],
                "elsewhere",
            )
        })
        .collect();
    let no_port_number = json!([{"name": "http", "protocol": "TCP"}]);
    let twice = json!([{"name": "http", "protocol": "TCP", "port": PORT},
        {"name": "unknown", "protocol": "SCTP", "port": 1}]);
    stage.api.apply_all(&[
        // An external address that is the steady Service's, and one of a family without a cluster IP.
        service("thief", json!({"externalIPs": [to[0].ip(), "fd00:203::9", "203.0.113.9"], "ports": ports})),
        service("heir", json!({"externalIPs": ["203.0.113.9"], "ports": ports})),
        service(
            "edge",
            json!({"ports": [port("last", "TCP", 65535), port("first", "UDP", 1), port("http", "TCP", 80),
            port("same-number", "UDP", 80), port("and-again", "SCTP", 80)]}),
        ),
        service("endless", json!({"ports": ports})),
        service("no-ports", json!({"clusterIP": "None"})),
        service(
            "affine",
            json!({"sessionAffinity": "ClientIP", "ports": ports,
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}}}),
        ),
        unlabelled,
        empty_label,
        named(slice("endless", "FQDN", http.clone(), host_names), "host-names"),
        named(slice("nobody", "IPv4", http.clone(), vec![endpoint(red.v4(), NODE)]), "orphan"),
        named(slice("endless", "IPv4", no_port_number, vec![endpoint(red.v4(), NODE)]), "all-ports"),
        named(slice("endless", "IPv4", json!([]), vec![endpoint(red.v4(), NODE)]), "no-ports"),
        named(slice("endless", "IPv4", http.clone(), Vec::new()), "no-endpoints"),
        named(slice("endless", "IPv4", http.clone(), many.clone()), "thousand"),
        named(slice("edge", "IPv4", twice, vec![endpoint(red.v4(), NODE)]), "edge-one"),
        named(
            slice("edge", "IPv4", http, vec![endpoint(red.v4(), NODE), endpoint(green.v4(), NODE)]),
            "edge-two",
        ),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "spare"},
            "spec": {"cidrs": ["10.97.0.0/24"]}}),
    ])?;
    stage.settle("awkward objects")?;
    stage.reaches(to[0], &[red, green])?;
    stage.reaches(SocketAddr::new(stage.cluster_ips("edge")?[0], 80), &[red, green])?;
    let log = stage.log()?;
    for word in ["thief", "host-names", "empty-label", "all-ports"] {
        ensure!(log.contains(word), "the log does not speak of {word}");
    }

    // The contested addresses go to whoever is left.
    stage.kubectl(&["delete", "service", "thief"])?;
    stage.settle("the end of the thief")?;
    stage.kubectl(&["delete", "endpointslice", "thousand", "host-names", "all-ports"])?;
    stage.settle("the end of a large slice")?;
    stage.kubectl(&["delete", "servicecidr", "spare", "--wait=false"])?;
    steady.finish("the awkward objects")
}
