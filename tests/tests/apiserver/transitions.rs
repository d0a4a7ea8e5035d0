//! A Service becomes another kind of Service, or somebody else's.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::Station;
use serde_json::json;

use crate::objects::{port, service};
use crate::stage::Stage;

const PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

#[test]
fn labels_give_a_service_and_a_slice_away_and_back() -> Result<()> {
    let stage = Stage::new()?;
    let [red, ..] = &stage.pods;
    stage.apply(&service("web", json!({"ports": [port("http", "TCP", 80)]})))?;
    stage.apply(&stage.slices("web", "http", &[red])[0])?;
    stage.settle("making web")?;
    let web = SocketAddr::new(stage.cluster_ips("web")?[0], 80);
    stage.reaches(web, &[red])?;
    for round in 0..2 {
        stage.kubectl(&["label", "service", "web", &format!("{PROXY_LABEL}=another")])?;
        stage.settle(&format!("giving the Service away, round {round}"))?;
        stage.fails(web, "TIMEOUT")?;
        stage.kubectl(&["label", "service", "web", &format!("{PROXY_LABEL}-")])?;
        stage.settle(&format!("getting the Service back, round {round}"))?;
        stage.reaches(web, &[red])?;

        stage.kubectl(&["label", "endpointslice", "web-ipv4", &format!("{HEADLESS_LABEL}=")])?;
        stage.settle(&format!("a headless slice, round {round}"))?;
        stage.fails(web, "ECONNREFUSED")?;
        stage.kubectl(&["label", "endpointslice", "web-ipv4", &format!("{HEADLESS_LABEL}-")])?;
        stage.settle(&format!("a slice that is no longer headless, round {round}"))?;
        stage.reaches(web, &[red])?;
    }
    // Born with the label, which the watch does not show at all, and freed.
    let mut other = service("other", json!({"ports": [port("http", "TCP", 80)]}));
    other["metadata"]["labels"] = json!({PROXY_LABEL: "another"});
    stage.apply(&other)?;
    stage.apply(&stage.slices("other", "http", &[red])[0])?;
    stage.settle("a Service of another proxy")?;
    stage.kubectl(&["label", "service", "other", &format!("{PROXY_LABEL}-")])?;
    stage.settle("its liberation")?;
    stage.reaches(SocketAddr::new(stage.cluster_ips("other")?[0], 80), &[red])
}

/// What a Service can be.
const TYPES: [&str; 5] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "headless"];
const BALANCER: &str = "198.51.100.81";

/// Makes `web` what it is to be: the object as it is, if the API server lets it.
fn turn_into(stage: &Stage, from: &str, to: &str) -> Result<()> {
    let mut spec = match to {
        "ExternalName" => json!({"type": "ExternalName", "externalName": "example.org"}),
        "headless" => json!({"type": "ClusterIP", "externalName": null, "clusterIP": "None"}),
        kind => json!({"type": kind, "externalName": null}),
    };
    if [from, to].contains(&"headless") && ![from, to].contains(&"ExternalName") {
        // The one change that the API server refuses.
        stage.delete("web")?;
        spec["ports"] = json!([port("http", "TCP", 80)]);
        stage.apply(&service("web", spec))?;
    } else {
        stage.patch("web", &json!({"spec": spec}))?;
    }
    if to == "LoadBalancer" {
        let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": BALANCER}]}}}).to_string();
        stage.kubectl(&[
            "patch",
            "service",
            "web",
            "--subresource=status",
            "--type=merge",
            "--patch",
            &ingress,
        ])?;
    }
    Ok(())
}

/// Where `web` answers, as the API server has it.
fn answers_at(stage: &Stage, kind: &str) -> Result<Vec<SocketAddr>> {
    let web = stage.service("web")?;
    let mut found = Vec::new();
    if !["ExternalName", "headless"].contains(&kind) {
        found.push(SocketAddr::new(stage.cluster_ips("web")?[0], 80));
    }
    if let Some(node_port) = web["spec"]["ports"][0]["nodePort"].as_u64() {
        found.push(stage.node.host().at4(u16::try_from(node_port)?));
    }
    if kind == "LoadBalancer" {
        found.push(SocketAddr::new(BALANCER.parse()?, 80));
    }
    let wanted = match kind {
        "ClusterIP" => 1,
        "NodePort" => 2,
        "LoadBalancer" => 3,
        _ => 0,
    };
    ensure!(found.len() == wanted, "the API server has made something else of it: {web}");
    Ok(found)
}

/// A ClusterIP Service with these pods.
fn make_web(stage: &Stage, pods: &[&Station]) -> Result<()> {
    stage.apply(&service("web", json!({"ports": [port("http", "TCP", 80)]})))?;
    stage.api.apply_all(&stage.slices("web", "http", pods))?;
    stage.settle("ClusterIP").map(drop)
}

#[test]
fn every_type_turns_into_every_other_type_and_leaves_nothing_behind() -> Result<()> {
    let stage = Stage::new()?;
    let [red, green, _] = &stage.pods;
    let pods = [red, green];
    make_web(&stage, &pods)?;
    let mut before = answers_at(&stage, "ClusterIP")?;
    // Five is prime: each stride passes all types and comes back.
    for stride in 1..TYPES.len() {
        for step in 0..TYPES.len() {
            let [from, to] = [step, step + 1].map(|step| TYPES[step * stride % TYPES.len()]);
            turn_into(&stage, from, to)?;
            stage.settle(&format!("{from} to {to}"))?;
            let now = answers_at(&stage, to)?;
            for address in &now {
                stage.reaches(*address, &pods).with_context(|| format!("{from} to {to}"))?;
            }
            for gone in before.iter().filter(|address| !now.contains(address)) {
                let is_nodes = gone.ip() == IpAddr::from(stage.node.host().v4());
                let error = if is_nodes { "ECONNREFUSED" } else { "TIMEOUT" };
                stage.fails(*gone, error).with_context(|| format!("{from} to {to}"))?;
            }
            before = now;
        }
    }
    Ok(())
}

#[test]
fn a_service_changes_its_type_and_its_families() -> Result<()> {
    let stage = Stage::new()?;
    let [red, green, _] = &stage.pods;
    let pods = [red, green];
    make_web(&stage, &pods)?;
    let first: IpAddr = stage.cluster_ips("web")?[0];

    stage.patch("web", &json!({"spec": {"type": "NodePort"}}))?;
    stage.settle("NodePort")?;
    let node_port = stage.service("web")?["spec"]["ports"][0]["nodePort"].as_u64().context("no node port")?;
    let node_port = u16::try_from(node_port)?;
    let host = stage.node.host();
    stage.reaches(host.at4(node_port), &pods)?;
    stage.reaches((first, 80).into(), &pods)?;

    stage.patch("web", &json!({"spec": {"type": "LoadBalancer"}}))?;
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.80"}]}}}).to_string();
    let status = ["patch", "service", "web", "--subresource=status", "--type=merge", "--patch", &ingress];
    stage.kubectl(&status)?;
    stage.settle("LoadBalancer")?;
    let balancer: SocketAddr = "198.51.100.80:80".parse()?;
    stage.reaches(balancer, &pods)?;
    stage.reaches(host.at4(node_port), &pods)?;

    stage.patch("web", &json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}}))?;
    stage.settle("dual stack")?;
    let ips = stage.cluster_ips("web")?;
    ensure!(ips.len() == 2 && ips[0] == first, "{ips:?}");
    stage.reaches((ips[1], 80).into(), &pods)?;
    stage.reaches(host.at6(node_port), &pods)?;

    stage.patch(
        "web",
        &json!({"spec": {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}}),
    )?;
    stage.settle("local policies")?;
    stage.reaches((first, 80).into(), &pods)?;

    stage.patch(
        "web",
        &json!({"spec": {"ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "clusterIPs": [first], "ipFamilies": ["IPv4"]}}),
    )?;
    stage.settle("single stack")?;
    stage.fails((ips[1], 80).into(), "TIMEOUT")?;

    let name = json!({"type": "ExternalName", "externalName": "example.org", "externalTrafficPolicy": null});
    stage.patch("web", &json!({"spec": name}))?;
    stage.settle("ExternalName")?;
    stage.fails((first, 80).into(), "TIMEOUT")?;
    stage.fails(balancer, "TIMEOUT")?;
    stage.fails(host.at4(node_port), "ECONNREFUSED")?;

    stage.patch("web", &json!({"spec": {"type": "ClusterIP", "externalName": null}}))?;
    stage.settle("ClusterIP again")?;
    stage.reaches((stage.cluster_ips("web")?[0], 80).into(), &pods)
}
