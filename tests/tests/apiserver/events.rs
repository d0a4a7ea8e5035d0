//! Kubernetes events: what is said, how often, and what happens where it may not be said.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::apiserver::ApiServer;
use kubeshunt_tests::proxy::METRICS;
use kubeshunt_tests::{Kubeshunt, wait};
use serde_json::{Value, json};

use crate::objects::{port, service};
use crate::rights::Restore;
use crate::server::{NAMESPACE, TOKEN, shared};
use crate::stage::{NODE, Scenery, Stage};

/// All nodes together say what is the same everywhere within five seconds.
const SAID: Duration = Duration::from_secs(20);

/// The events in a namespace with this reason.
fn events(api: &ApiServer, namespace: &str, reason: &str) -> Result<Vec<Value>> {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let list = api.request("GET", &path, None)?.json()?;
    let items = list["items"].as_array().context("no list of events")?;
    Ok(items.iter().filter(|event| event["reason"] == reason).cloned().collect())
}

/// Nothing that an earlier test has said.
fn without_events() -> Result<Arc<ApiServer>> {
    let api = shared()?;
    for namespace in ["default", NAMESPACE] {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        api.request("DELETE", &path, None)?.json()?;
    }
    Ok(api)
}

fn stage() -> Result<Stage> {
    let scenery = Scenery::new(without_events()?)?;
    let setup = Scenery::setup(&scenery.kubeconfig(TOKEN)?);
    scenery.run(setup)
}

fn until_said(stage: &Stage, namespace: &str, reason: &str, count: usize) -> Result<Vec<Value>> {
    wait::until(&format!("{count} events {reason}"), SAID, || {
        Ok(Some(events(&stage.api, namespace, reason)?).filter(|events| events.len() >= count))
    })
    .with_context(|| stage.kubeshunt.log_tail())
}

fn counted(stage: &Stage, outcome: &str) -> f64 {
    stage.kubeshunt.metric(&format!("kubeshunt_events_total{{outcome=\"{outcome}\"}}")).unwrap_or_default()
}

#[test]
fn every_start_is_said_of_the_node() -> Result<()> {
    let mut stage = stage()?;
    let starts = until_said(&stage, "default", "Starting", 1)?;
    let [start] = &starts[..] else { anyhow::bail!("{starts:?}") };
    ensure!(start["regarding"] == json!({"apiVersion": "v1", "kind": "Node", "name": NODE}), "{start}");
    ensure!(start["type"] == "Normal" && start["action"] == "StartKubeProxy", "{start}");
    ensure!(start["reportingController"] == "kubeshunt", "{start}");
    ensure!(start["reportingInstance"] == format!("kubeshunt-{NODE}"), "{start}");
    stage.kubeshunt.kill9()?;
    stage.kubeshunt.restart()?;
    until_said(&stage, "default", "Starting", 2).map(drop)
}

#[test]
fn a_service_whose_address_is_anothers_is_named_once() -> Result<()> {
    let mut stage = stage()?;
    let external = |name: &str, port_number: usize| {
        let ports = json!([port("http", "TCP", port_number)]);
        service(name, json!({"externalIPs": ["203.0.113.7"], "ports": ports}))
    };
    stage.api.apply_all(&[external("first", 80)])?;
    stage.settle("the first Service")?;
    // A second in the API's clock: the older one has the better claim.
    wait::until_true("a second has passed", Duration::from_secs(5), || {
        stage.api.apply_all(&[external("second", 80)])?;
        let created = |name: &str| -> Result<String> {
            Ok(stage.service(name)?["metadata"]["creationTimestamp"].as_str().context("no time")?.to_owned())
        };
        let is_later = created("second")? > created("first")?;
        if !is_later {
            stage.delete("second")?;
        }
        Ok(is_later)
    })?;
    let said = until_said(&stage, NAMESPACE, "AddressInUse", 1)?;
    let [event] = &said[..] else { anyhow::bail!("{said:?}") };
    let uid = stage.service("second")?["metadata"]["uid"].clone();
    let regarding =
        json!({"apiVersion": "v1", "kind": "Service", "namespace": NAMESPACE, "name": "second", "uid": uid});
    ensure!(event["regarding"] == regarding && event["type"] == "Warning", "{event}");
    let note = event["note"].as_str().context("no note")?;
    ensure!(note.contains("203.0.113.7") && note.contains("shop/first"), "{note}");
    let described = stage.kubectl(&["describe", "service", "second"])?;
    ensure!(described.contains("AddressInUse") && described.contains("kubeshunt"), "{described}");

    // Said again by the next process, it is found said.
    stage.kubeshunt.kill9()?;
    stage.kubeshunt.restart()?;
    wait::until_true("the next process finds it said", SAID, || Ok(counted(&stage, "repeated") >= 1.0))?;
    ensure!(events(&stage.api, NAMESPACE, "AddressInUse")?.len() == 1, "said twice");
    Ok(())
}

#[test]
fn a_flood_of_services_without_room_is_said_at_a_pace_and_delays_nothing() -> Result<()> {
    const SERVICES: usize = 200;
    let scenery = Scenery::new(without_events()?)?;
    let setup = Scenery::setup(&scenery.kubeconfig(TOKEN)?).arg("--max-frontends=4");
    let stage = scenery.run(setup)?;
    for batch in (0..SERVICES).collect::<Vec<_>>().chunks(50) {
        let make =
            |number: &usize| service(&format!("many-{number}"), json!({"ports": [port("http", "TCP", 80)]}));
        stage.api.apply_all(&batch.iter().map(make).collect::<Vec<_>>())?;
    }
    // All are named in the log; of the events some are written, and those beyond the queue's room are counted.
    wait::until_true("all are named in the log", SAID, || {
        let log = stage.log()?;
        Ok((0..SERVICES).filter(|number| log.contains(&format!("{NAMESPACE}/many-{number}:"))).count()
            >= SERVICES - 4)
    })?;
    wait::until_true(
        "a burst is written",
        SAID,
        || Ok(events(&stage.api, NAMESPACE, "NoRoom")?.len() >= 20),
    )?;
    ensure!(counted(&stage, "dropped") > 0.0, "nothing was dropped");
    let written = events(&stage.api, NAMESPACE, "NoRoom")?.len();
    ensure!(written < 40, "{written} events in some seconds");
    Ok(())
}

#[test]
fn a_port_for_health_that_somebody_has_is_said_of_the_service() -> Result<()> {
    let stage = stage()?;
    let taken = stage.node.netns().run(|| std::net::TcpListener::bind(("0.0.0.0", 30_999)))?;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_999,
        "allocateLoadBalancerNodePorts": false, "ports": [port("http", "TCP", 80)]});
    stage.api.apply_all(&[service("balanced", spec)])?;
    let said = until_said(&stage, NAMESPACE, "FailedToStartServiceHealthcheck", 1)?;
    let note = said[0]["note"].as_str().context("no note")?;
    let wanted = format!("node {NODE} failed to start healthcheck \"{NAMESPACE}/balanced\" on port 30999: ");
    ensure!(note.starts_with(&wanted) && said[0]["action"] == "Listen", "{}", said[0]);
    drop(taken);
    Ok(())
}

#[test]
fn an_address_that_must_be_had_and_is_not_is_said_of_the_node_before_the_end() -> Result<()> {
    let scenery = Scenery::new(without_events()?)?;
    let taken = scenery.node.netns().run(|| std::net::TcpListener::bind(METRICS))?;
    let setup = Scenery::setup(&scenery.kubeconfig(TOKEN)?).arg("--bind-address-hard-fail");
    let end = Kubeshunt::start(&scenery.node, setup).err().context("it started")?;
    ensure!(format!("{end:#}").contains("it ended at once: exit status: 4"), "{end:#}");
    drop(taken);
    let said = events(&scenery.api, "default", "FailedToStartMetricServer")?;
    let [event] = &said[..] else { anyhow::bail!("{said:?}") };
    ensure!(event["type"] == "Warning" && event["action"] == "StartKubeProxy", "{event}");
    ensure!(event["note"].as_str().is_some_and(|note| note.contains(&METRICS.to_string())), "{event}");
    Ok(())
}

#[test]
fn without_the_right_it_is_said_once_and_everything_else_works() -> Result<()> {
    let api = without_events()?;
    let restore = Restore::new(&api);
    restore.without("events")?;
    let stage = {
        let scenery = Scenery::new(Arc::clone(&api))?;
        let setup = Scenery::setup(&scenery.kubeconfig(TOKEN)?);
        scenery.run(setup)?
    };
    let complaint = "Kubernetes events cannot be written";
    wait::until_true("it complains", SAID, || Ok(stage.log()?.contains(complaint)))?;
    // More to say, and no more complaints.
    let bad = |name: &str| {
        service(name, json!({"externalIPs": ["203.0.113.7"], "ports": [port("http", "TCP", 80)]}))
    };
    stage.api.apply_all(&[bad("one"), bad("two"), bad("three")])?;
    stage.settle("Services with the same address")?;
    wait::until_true("all are given up", SAID, || Ok(counted(&stage, "forbidden") >= 3.0))?;
    ensure!(stage.log()?.matches(complaint).count() == 1, "{}", stage.log()?);
    ensure!(events(&api, NAMESPACE, "AddressInUse")?.is_empty());
    let ip: IpAddr = stage.cluster_ips("one")?[0];
    ensure!(ip.is_ipv4());
    Ok(())
}
