//! Objects at the edges of what the API server admits.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::objects::{endpoint, port, service, slice};
use crate::stage::{NODE, PORT, Stage};

const PORTS: usize = 1000;
/// What one slice may have.
const PORTS_OF_SLICE: usize = 100;
const ENDPOINTS: u16 = 5000;
const SLICES: u16 = 60;

fn named(mut object: Value, name: &str) -> Value {
    object["metadata"]["name"] = json!(name);
    object
}

#[test]
fn a_thousand_ports_and_five_thousand_endpoints_are_what_the_maps_say() -> Result<()> {
    let stage = Stage::new()?;
    let [red, ..] = &stage.pods;
    let ports: Vec<Value> = (1..=PORTS).map(|number| port(&format!("p{number}"), "TCP", number)).collect();
    stage.apply(&service("wide", json!({"ports": ports})))?;
    for (index, names) in ports.chunks(PORTS_OF_SLICE).enumerate() {
        let targets: Vec<Value> =
            names.iter().map(|own| json!({"name": own["name"], "port": PORT})).collect();
        let own = slice("wide", "IPv4", targets.into(), vec![endpoint(red.v4(), NODE)]);
        stage.apply(&named(own, &format!("wide-{index}")))?;
    }
    stage.settle("a thousand ports")?;
    let wide = stage.cluster_ips("wide")?[0];
    for number in [1, 500, 1000] {
        stage.reaches(SocketAddr::new(wide, number), &[red])?;
    }

    stage.apply(&service("deep", json!({"ports": [port("http", "TCP", 80)]})))?;
    let all: Vec<u16> = (0..ENDPOINTS).collect();
    let each = usize::from(ENDPOINTS.div_ceil(SLICES));
    for (index, own) in all.chunks(each).enumerate() {
        let endpoints = own.iter().map(|number| {
            let [high, low] = number.to_be_bytes();
            endpoint([10, 200, high, low], if number % 2 == 0 { NODE } else { "elsewhere" })
        });
        let own = slice("deep", "IPv4", json!([port("http", "TCP", PORT.into())]), endpoints.collect());
        stage.apply(&named(own, &format!("deep-{index}")))?;
    }
    stage.settle("five thousand endpoints")?;
    stage.kubectl(&["delete", "endpointslices", "-l", "kubernetes.io/service-name=deep"])?;
    stage.apply(&stage.slices("deep", "http", &[red])[0])?;
    stage.settle("one endpoint again")?;
    stage.reaches(SocketAddr::new(stage.cluster_ips("deep")?[0], 80), &[red])
}

#[test]
fn the_shortest_and_the_longest_affinity_are_kept_and_others_never_come() -> Result<()> {
    let stage = Stage::new()?;
    let spec = |seconds: u32| {
        json!({"sessionAffinity": "ClientIP", "ports": [port("", "TCP", 80)],
               "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
    };
    for seconds in [1, 86_400] {
        stage.apply(&service("affine", spec(seconds)))?;
        stage.settle(&format!("affinity of {seconds} s"))?;
    }
    for seconds in [0, 86_401] {
        let refused = stage.apply(&service("affine", spec(seconds)));
        ensure!(refused.is_err(), "the API server lets {seconds} s pass, which we take for an error");
    }
    Ok(())
}
