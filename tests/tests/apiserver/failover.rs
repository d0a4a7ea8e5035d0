//! Several ways to the API server, of which some are gone: what is known stays in force, and changes arrive again within
//! seconds by another way.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::apiserver::CuttingProxy;
use kubeshunt_tests::{Kubeshunt, Ready, wait};
use serde_json::{Value, json};

use crate::objects::{port, service};
use crate::server::{TOKEN, shared};
use crate::stage::{CONVERGE, NODE, Scenery, Stage};
use crate::steady::{Steady, steady_service};

/// The first address of the range for Services, which the API server gives to `default/kubernetes`.
const CLUSTER_IP: &str = "10.96.0.1";

/// A stage whose kubeshunt knows two doors to the server: that of the stage, and another one.
struct TwoDoors {
    stage: Stage,
    second: CuttingProxy,
}

fn shut(door: &CuttingProxy) -> Result<()> {
    door.refuse(true)?;
    door.cut();
    Ok(())
}

impl TwoDoors {
    /// With what happens to the doors before kubeshunt starts.
    fn new(before: impl FnOnce(&CuttingProxy, &CuttingProxy) -> Result<()>) -> Result<Self> {
        let scenery = Scenery::new(shared()?)?;
        let second = scenery.node.netns().run(|| scenery.api.proxy(IpAddr::from([127, 0, 0, 1])))?;
        before(&scenery.proxy, &second)?;
        let urls = format!("--api-servers={},{}", scenery.proxy.url(), second.url());
        let setup = Scenery::setup(&scenery.kubeconfig(TOKEN)?).arg(urls);
        Ok(Self { stage: scenery.run(setup)?, second })
    }

    /// A change is made, and arrives.
    fn changes_arrive(&self, name: &str) -> Result<()> {
        self.stage.api.apply_all(&[service(name, json!({"ports": [port("http", "TCP", 80)]}))])?;
        self.stage.settle(name).map(drop)
    }

    /// How many times the log tells of a change of server.
    fn moves(&self) -> Result<usize> {
        let log = self.stage.log()?;
        Ok(log.lines().filter(|line| line.contains("the other API server cannot be used")).count())
    }
}

#[test]
fn the_second_server_is_followed_when_the_first_is_dead_at_the_start() -> Result<()> {
    let doors = TwoDoors::new(|first, _| shut(first))?;
    doors.changes_arrive("late")?;
    ensure!(doors.moves()? == 1, "{}", doors.stage.log()?);
    ensure!(doors.stage.proxy.connections() == 0 && doors.second.connections() > 0, "the wrong door");
    Ok(())
}

#[test]
fn servers_die_in_turn_while_connections_go_on() -> Result<()> {
    let doors = TwoDoors::new(|_, _| Ok(()))?;
    let TwoDoors { stage, second } = &doors;
    let to = steady_service(stage)?;
    ensure!(second.connections() == 0, "the second door is used while the first is open");
    let steady = Steady::begin(&stage.client, &to)?;

    shut(&stage.proxy)?;
    doors.changes_arrive("by-the-second")?;
    ensure!(second.connections() > 0 && doors.moves()? == 1, "{}", stage.log()?);

    // Back again, and now the other one is gone.
    stage.proxy.refuse(false)?;
    shut(second)?;
    doors.changes_arrive("by-the-first")?;
    ensure!(doors.moves()? == 2, "{}", stage.log()?);

    // Both gone, for longer than the pauses between attempts take to grow; then the second is back.
    shut(&stage.proxy)?;
    steady.flow(500)?;
    second.refuse(false)?;
    doors.changes_arrive("by-the-second-again")?;
    ensure!(doors.moves()? == 3, "{}", stage.log()?);
    steady.finish("two servers that died in turn")
}

#[test]
fn a_server_whose_certificate_is_another_ones_is_not_followed() -> Result<()> {
    let scenery = Scenery::new(shared()?)?;
    // Reached, but by an address that the certificate does not name.
    let address: IpAddr = "127.0.0.2".parse()?;
    let second = scenery.node.netns().run(|| scenery.api.proxy(address))?;
    shut(&scenery.proxy)?;
    let urls = format!("--api-servers={},{}", scenery.proxy.url(), second.url());
    let complains = |kubeshunt: &Kubeshunt| -> Result<bool> {
        Ok(fs::read_to_string(kubeshunt.log())?.contains("certificate not valid for name"))
    };
    let setup = Scenery::setup(&scenery.kubeconfig(TOKEN)?).arg(urls).ready(Ready::When(Arc::new(complains)));
    let stage = scenery.run(setup)?;
    stage.proxy.refuse(false)?;
    wait::until_true("it is ready by the first", CONVERGE, || {
        Ok(stage.kubeshunt.get(10256, "/readyz").is_ok_and(|(code, _)| code == 200))
    })
}

/// The endpoints of `default/kubernetes`, taken away again in the end: the server is everybody's.
struct Endpoints<'scenery>(&'scenery Scenery);

impl Endpoints<'_> {
    const PATH: &'static str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";

    fn at(scenery: &Scenery, door: &CuttingProxy) -> Result<()> {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "protocol": "TCP", "port": door.addr().port()}],
            "endpoints": [{"addresses": [door.addr().ip().to_string()], "conditions": {"ready": true}}],
        });
        scenery.api.apply(&slice.to_string())
    }
}

impl Drop for Endpoints<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.api.request("DELETE", Self::PATH, None) {
            eprintln!("the endpoints of default/kubernetes stay: {error:#}");
        }
    }
}

/// A node on which the API server can be reached at the node's own address, as on one of the control plane; and a
/// kubeconfig that says so, and one with nothing but the cluster IP.
struct ControlPlane {
    door: CuttingProxy,
    direct: PathBuf,
    by_cluster_ip: PathBuf,
}

impl ControlPlane {
    fn of(scenery: &Scenery) -> Result<Self> {
        let address = IpAddr::from(scenery.node.host().v4());
        let door = scenery.node.netns().run(|| scenery.api.proxy(address))?;
        let direct = scenery.api.kubeconfig(&door.url(), TOKEN)?;
        let by_cluster_ip = scenery.api.kubeconfig(&format!("https://{CLUSTER_IP}:443"), TOKEN)?;
        Ok(Self { door, direct, by_cluster_ip })
    }
}

fn follows_a_new_service(scenery: &Scenery, kubeshunt: &Kubeshunt, name: &str) -> Result<()> {
    scenery.api.apply_all(&[service(name, json!({"ports": [port("http", "TCP", 80)]}))])?;
    let path = format!("/api/v1/namespaces/{}/services/{name}", crate::server::NAMESPACE);
    let object = scenery.api.request("GET", &path, None)?.json()?;
    let address = object["spec"]["clusterIP"].as_str().context("no cluster IP")?.to_owned();
    wait::until_true("the new Service is served", CONVERGE, || {
        let output = kubeshunt.command(&["services", "--output", "json"])?;
        let maps: Value = serde_json::from_slice(&output.stdout)?;
        let frontends = maps["frontends"].as_array().context("no frontends")?;
        Ok(frontends.iter().any(|frontend| frontend["address"] == address.as_str()))
    })
    .with_context(|| kubeshunt.log_tail())
}

#[test]
fn killed_and_restarted_with_nothing_but_the_cluster_ip_it_comes_back() -> Result<()> {
    let scenery = Scenery::new(shared()?)?;
    let plane = ControlPlane::of(&scenery)?;
    let _endpoints = Endpoints(&scenery);
    Endpoints::at(&scenery, &plane.door)?;
    let mut first = Kubeshunt::start(&scenery.node, Scenery::setup(&plane.direct))?;
    follows_a_new_service(&scenery, &first, "before")?;
    first.kill9()?;
    drop(first);

    // Its own connection goes through the hooks that its predecessor has left: it is one of the node's processes.
    let setup = Scenery::setup(&plane.by_cluster_ip).among_pods();
    let mut second = Kubeshunt::start(&scenery.node, setup)?;
    follows_a_new_service(&scenery, &second, "through-the-hooks")?;
    second.kill9()?;
    drop(second);

    // No hook sees it now, as when their links are gone; the maps still tell where the servers are.
    let setup = Scenery::setup(&plane.by_cluster_ip);
    let setup = setup.env("KUBERNETES_SERVICE_HOST", CLUSTER_IP).env("KUBERNETES_SERVICE_PORT", "443");
    let third = Kubeshunt::start(&scenery.node, setup)?;
    follows_a_new_service(&scenery, &third, "through-the-maps")?;
    ensure!(fs::read_to_string(third.log())?.contains("an earlier process knew where the API servers are"));
    Ok(())
}

#[test]
fn endpoints_of_the_kubernetes_service_are_asked_when_the_given_server_is_gone() -> Result<()> {
    let scenery = Scenery::new(shared()?)?;
    let plane = ControlPlane::of(&scenery)?;
    let _endpoints = Endpoints(&scenery);
    Endpoints::at(&scenery, &plane.door)?;
    let kubeshunt = Kubeshunt::start(&scenery.node, Scenery::setup(&scenery.kubeconfig(TOKEN)?))?;
    ensure!(plane.door.connections() == 0, "asked for no reason");
    shut(&scenery.proxy)?;
    follows_a_new_service(&scenery, &kubeshunt, "by-the-endpoint")?;
    ensure!(plane.door.connections() > 0, "{}", kubeshunt.log_tail());
    Ok(())
}

#[test]
fn with_only_a_cluster_ip_that_nobody_serves_it_says_what_to_do_and_goes_on_trying() -> Result<()> {
    let scenery = Scenery::new(shared()?)?;
    let address: IpAddr = CLUSTER_IP.parse()?;
    // The port of a door that is opened later, as kube-proxy would open it.
    scenery.node.host().add_address((address, 32))?;
    let door = scenery.node.netns().run(|| scenery.api.proxy(address))?;
    shut(&door)?;
    let says = |kubeshunt: &Kubeshunt| -> Result<bool> {
        Ok(fs::read_to_string(kubeshunt.log())?.contains("--api-servers=https://HOST:6443"))
    };
    let setup = Scenery::setup(&scenery.api.kubeconfig(&door.url(), TOKEN)?)
        .env("KUBERNETES_SERVICE_HOST", CLUSTER_IP)
        .env("KUBERNETES_SERVICE_PORT", door.addr().port().to_string())
        .ready(Ready::When(Arc::new(says)));
    let kubeshunt = Kubeshunt::start(&scenery.node, setup)?;
    door.refuse(false)?;
    wait::until_true("it is ready once the address is served", Duration::from_secs(20), || {
        Ok(kubeshunt.get(10256, "/readyz").is_ok_and(|(code, _)| code == 200))
    })
    .with_context(|| format!("{NODE}: {}", kubeshunt.log_tail()))
}
