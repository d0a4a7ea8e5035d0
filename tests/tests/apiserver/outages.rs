//! The server, the connection to it, or its history goes away. What is known stays in force.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::objects::{endpoint, port, service, slice};
use crate::stage::{PORT, Stage};
use crate::steady::{Steady, steady_service};

fn cluster_ip(name: &str) -> Value {
    service(name, json!({"ports": [port("http", "TCP", 80)]}))
}

#[test]
fn the_server_dies_and_comes_back() -> Result<()> {
    let stage = Stage::new()?;
    let [red, green, blue] = &stage.pods;
    let to = steady_service(&stage)?;
    stage.api.apply_all(&[cluster_ip("web")])?;
    stage.api.apply_all(&stage.slices("web", "http", &[red])[..1])?;
    stage.settle("making web")?;
    let steady = Steady::begin(&stage.client, &to)?;

    stage.api.kill();
    steady.flow(300)?;
    stage.reaches(to[0], &[red, green])?;
    stage.api.restart()?;
    stage.api.apply_all(&stage.slices("web", "http", &[blue])[..1])?;
    stage.settle("the restart of the API server")?;
    stage.kubectl(&["delete", "service", "web"])?;
    stage.settle("a change after the restart")?;
    steady.finish("the restart of the API server")
}

#[test]
fn the_watch_is_cut_again_and_again_while_things_change() -> Result<()> {
    let stage = Stage::new()?;
    let [red, green, blue] = &stage.pods;
    let to = steady_service(&stage)?;
    stage.api.apply_all(&[cluster_ip("web"), cluster_ip("large")])?;
    let steady = Steady::begin(&stage.client, &to)?;

    // Long enough an event to be cut in the middle.
    let large = |number: u8| {
        let endpoints = (1..=250)
            .flat_map(|last| [1, 2].map(|third| endpoint([10, 200 + number % 2, third, last], "elsewhere")));
        slice(
            "large",
            "IPv4",
            json!([{"name": "http", "protocol": "TCP", "port": PORT}]),
            endpoints.collect(),
        )
    };
    let (mut changes, mut cuts) = (0u8, 0);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) && changes < u8::MAX {
        let pods = match changes % 3 {
            0 => vec![red],
            1 => vec![green, blue],
            _ => Vec::new(),
        };
        stage.api.apply_all(&[stage.slices("web", "http", &pods)[0].clone(), large(changes)])?;
        let name = format!("passing-{}", changes % 4);
        match changes % 8 {
            0..4 => stage.api.apply_all(&[cluster_ip(&name)])?,
            _ => stage.delete(&name)?,
        }
        if changes % 3 == 0 {
            cuts += stage.proxy.cut();
        }
        changes += 1;
    }
    ensure!(cuts > 3, "only {cuts} connections were cut");
    stage.settle(&format!("{cuts} cuts during {changes} rounds of changes"))?;
    ensure!(!stage.log()?.contains("is no event"), "half an event was taken for one");
    steady.finish("the cuts")
}

#[test]
fn the_history_is_gone_when_the_watch_resumes() -> Result<()> {
    let stage = Stage::new()?;
    let [red, green, blue] = &stage.pods;
    let to = steady_service(&stage)?;
    let names = ["deleted", "changed", "kept", "recreated"];
    stage.api.apply_all(&names.map(cluster_ip))?;
    for name in names {
        stage.api.apply_all(&stage.slices(name, "http", &[red])[..1])?;
    }
    stage.settle("making four Services")?;
    let kept: Vec<_> = stage.ids()?.into_iter().collect();
    let addresses = stage.cluster_ips("recreated")?;
    let steady = Steady::begin(&stage.client, &to)?;

    stage.proxy.refuse(true)?;
    stage.proxy.cut();
    stage.kubectl(&["delete", "service", "deleted", "recreated"])?;
    stage.kubectl(&["delete", "endpointslice", "deleted-ipv4", "recreated-ipv4"])?;
    stage.api.apply_all(&[cluster_ip("created")])?;
    let spec = json!({"clusterIP": addresses[0].to_string(), "ports": [port("other", "TCP", 80)]});
    stage.api.apply_all(&[service("successor", spec)])?;
    for (name, port, pods) in [
        ("created", "http", &[green][..]),
        ("changed", "http", &[green, blue]),
        ("successor", "other", &[blue]),
    ] {
        stage.api.apply_all(&stage.slices(name, port, pods)[..1])?;
    }
    stage.api.expire_history()?;
    steady.flow(100)?;
    stage.proxy.refuse(false)?;
    stage.settle("an outage beyond the server's memory")?;
    ensure!(stage.log()?.contains("too old for the server; listing again"), "nobody was told 410");
    stage.reaches((addresses[0], 80).into(), &[blue])?;

    // What did not change has the id it had.
    let ids = stage.ids()?;
    let steady_keys = to.iter().map(|to| format!(" {} ", to.ip()));
    for key in steady_keys {
        let of = |ids: &[(String, u64)]| ids.iter().find(|(name, _)| name.contains(&key)).map(|(_, id)| *id);
        let now: Vec<_> = ids.clone().into_iter().collect();
        ensure!(of(&kept).is_some() && of(&kept) == of(&now), "{key} has another id");
    }
    steady.finish("the outage beyond the server's memory")
}
