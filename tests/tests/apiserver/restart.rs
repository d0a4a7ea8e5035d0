//! kubeshunt is killed, the cluster goes on, kubeshunt comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::objects::{port, service};
use crate::stage::Stage;
use crate::steady::{Steady, steady_service};

/// A Service with two ports and, where it gets them, two families.
fn dual(name: &str, kind: &str) -> Value {
    let ports = json!([port("http", "TCP", 80), port("dns", "UDP", 53)]);
    service(name, json!({"type": kind, "ipFamilyPolicy": "PreferDualStack", "ports": ports}))
}

/// Makes Services that lead to the first two pods.
fn make(stage: &Stage, kind: &str, names: &[&str]) -> Result<()> {
    for name in names {
        let slices = stage.slices(name, "http", &[&stage.pods[0], &stage.pods[1]]);
        stage.api.apply_all(&[&[dual(name, kind)], &slices[..]].concat())?;
    }
    Ok(())
}

/// All frontends but those of these addresses have the ids they had.
fn same_ids(stage: &Stage, before: &BTreeMap<String, u64>, except: &[String]) -> Result<()> {
    let after = stage.ids()?;
    for (key, id) in before.iter().filter(|(key, _)| !except.iter().any(|part| key.contains(part))) {
        let now = after.get(key).with_context(|| format!("{key} is gone"))?;
        ensure!(now == id, "{key} had id {id} and has {now}");
    }
    println!("{} frontends kept their ids", before.len());
    Ok(())
}

#[test]
fn changes_made_while_it_was_dead_are_caught_up_with() -> Result<()> {
    let mut stage = Stage::new()?;
    let to = steady_service(&stage)?;
    make(&stage, "NodePort", &["one", "two", "three"])?;
    make(&stage, "ClusterIP", &["scaled", "deleted", "retyped"])?;
    stage.settle("making six Services")?;
    let before = stage.ids()?;
    let deleted = stage.cluster_ips("deleted")?;
    let gone: Vec<_> = deleted.iter().map(|ip| format!(" {ip} ")).collect();
    let steady = Steady::begin(&stage.client, &to)?;

    stage.kubeshunt.kill9()?;
    stage.kubectl(&["delete", "service", "deleted"])?;
    stage.api.apply_all(&stage.slices("scaled", "http", &[&stage.pods[2]]))?;
    stage.patch("retyped", &json!({"spec": {"type": "NodePort"}}))?;
    steady.flow(50)?;
    stage.kubeshunt.restart()?;
    stage.settle("the first kill -9")?;
    same_ids(&stage, &before, &gone)?;

    stage.kubeshunt.kill9()?;
    // The address of a Service that is gone, for another one.
    let ports = json!([port("http", "TCP", 80)]);
    let spec = json!({"clusterIP": deleted[0], "clusterIPs": deleted, "ipFamilyPolicy": "RequireDualStack", "ports": ports});
    stage.api.apply_all(&[service("heir", spec)])?;
    stage.api.apply_all(&stage.slices("heir", "http", &[&stage.pods[1]]))?;
    stage.api.apply_all(&stage.slices("scaled", "http", &[&stage.pods[0], &stage.pods[2]]))?;
    steady.flow(50)?;
    stage.kubeshunt.restart()?;
    stage.settle("the second kill -9")?;
    same_ids(&stage, &before, &gone)?;
    stage.reaches((deleted[0], 80).into(), &[&stage.pods[1]])?;
    steady.finish("two times kill -9")
}

#[test]
fn killed_in_the_middle_of_changes_it_goes_on_with_the_same_ids() -> Result<()> {
    let mut stage = Stage::new()?;
    let to = steady_service(&stage)?;
    make(&stage, "NodePort", &["one", "two", "three"])?;
    stage.settle("making three Services")?;
    let before = stage.ids()?;
    make(&stage, "ClusterIP", &["scaled"])?;
    let [red, green, blue] = &stage.pods;
    let turns = [vec![red], vec![green, blue], vec![], vec![red, green, blue]];
    let turns = turns.map(|pods| stage.slices("scaled", "http", &pods));
    let steady = Steady::begin(&stage.client, &to)?;

    for round in 1..=4 {
        let api = Arc::clone(&stage.api);
        let changes = || -> Result<()> {
            for number in 0..40 {
                api.apply_all(&turns[number % turns.len()])?;
                api.apply_all(&[dual(&format!("passing-{round}-{number}"), "NodePort")])?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let changes = scope.spawn(changes);
            steady.flow(20)?;
            stage.kubeshunt.kill9()?;
            ensure!(!changes.is_finished(), "the changes were over when it was killed");
            steady.flow(10)?;
            stage.kubeshunt.restart()?;
            changes.join().map_err(|_| anyhow!("the thread that changes things panicked"))?
        })?;
        stage.settle(&format!("kill -9 number {round} among changes"))?;
        same_ids(&stage, &before, &[])?;
    }
    steady.finish("four times kill -9 among changes")
}

#[test]
fn started_while_the_server_is_away_it_serves_what_it_finds() -> Result<()> {
    let mut stage = Stage::new()?;
    let to = steady_service(&stage)?;
    let before = stage.ids()?;
    let steady = Steady::begin(&stage.client, &to)?;
    stage.kubeshunt.kill9()?;
    stage.proxy.refuse(true)?;
    stage.proxy.cut();
    make(&stage, "NodePort", &["late"])?;
    thread::scope(|scope| {
        let restart = scope.spawn(|| stage.kubeshunt.restart());
        steady.flow(200)?;
        ensure!(!restart.is_finished(), "ready without a server");
        stage.proxy.refuse(false)?;
        restart.join().map_err(|_| anyhow!("the thread that waits until it is ready panicked"))?
    })?;
    stage.settle("a start without a server")?;
    same_ids(&stage, &before, &[])?;
    steady.finish("a start without a server")
}
