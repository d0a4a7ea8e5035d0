//! `loadBalancerSourceRanges`: who comes in by a load-balancer address, from outside and from inside; and that every
//! other address of the Service stays open.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use kubeshunt_tests::cluster::{INGRESS, everywhere};
use kubeshunt_tests::manifests::Node;
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::PORT;
use kubeshunt_tests::{Cluster, Station, wait};
use serde_json::Value;

use crate::answers::{ask, is_met_with_silence};
use crate::settings::{Setting, in_every_setting};
use crate::{METHODS, PATIENCE, SOON_MS, doors, outside};

in_every_setting!(a_load_balancer_address_admits_who_is_in_its_ranges_and_drops_the_rest);

/// Publishes the Service with these clients as its only ones, and waits until both nodes know.
fn admit(cluster: &mut Cluster, clients: &[IpAddr]) -> Result<()> {
    let ranges: Vec<String> =
        clients.iter().map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })).collect();
    let service = ranges.iter().fold(everywhere("web", 1), |service, range| service.source_range(range));
    cluster.publish(&service, "web", &[0, 1])?;
    for node in 0..cluster.nodes.len() {
        let kubeshunt = cluster.kubeshunt(node)?;
        wait::until_true("the ranges are in force", PATIENCE, || {
            let output = kubeshunt.command(&["services", "-o", "json"])?;
            let services: Value = serde_json::from_slice(&output.stdout).context("it is JSON")?;
            let frontends = services["frontends"].as_array().context("a list of frontends")?.iter();
            let admitted = |frontend: &Value| {
                let ranges = frontend["source_ranges"].as_array().into_iter().flatten();
                ranges.filter_map(|range| range.as_str().map(str::to_owned)).collect::<BTreeSet<_>>()
            };
            let is_right = |address: IpAddr| {
                let those = frontends.clone().filter(|it| it["address"] == address.to_string());
                let those: Vec<_> = those.map(admitted).collect();
                let wanted: BTreeSet<String> =
                    ranges.iter().filter(|range| range.contains(':') == address.is_ipv6()).cloned().collect();
                // A node that is admitted may speak from there as well.
                let own = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
                let is_it = |admitted: &BTreeSet<String>| {
                    admitted.iter().filter(|range| **range != own).eq(wanted.iter())
                };
                !those.is_empty() && those.iter().all(is_it)
            };
            Ok(INGRESS.into_iter().all(is_right))
        })?;
    }
    Ok(())
}

/// The load balancer's addresses.
fn balancers() -> [SocketAddr; 2] {
    INGRESS.map(|address| SocketAddr::new(address, PORT))
}

fn own(client: &Station) -> [IpAddr; 2] {
    [client.v4().into(), client.v6().into()]
}

fn is_let_in(client: &Station, what: &str) -> Result<()> {
    balancers().into_iter().try_for_each(|to| ask(client, to, 10, what).map(drop))
}

fn is_kept_out(client: &Station, what: &str) -> Result<()> {
    balancers().into_iter().try_for_each(|to| is_met_with_silence(client, to, what))
}

/// A process of the node is told at once, by the system call.
fn host_is_kept_out(host: &Station) -> Result<()> {
    for to in balancers() {
        for (name, method) in METHODS {
            let target = Target { method, ..Target::tcp(to) }.timeout_ms(SOON_MS);
            let report = host.probe().ask(&target, 3, 1)?;
            assert_eq!(report.errors.get("EHOSTUNREACH"), Some(&3), "{name} to {to}: {report:?}");
        }
    }
    Ok(())
}

fn a_load_balancer_address_admits_who_is_in_its_ranges_and_drops_the_rest(setting: Setting) -> Result<()> {
    let mut cluster = setting.cluster()?;
    [0, 1].into_iter().try_for_each(|node| cluster.add_backend(node))?;
    cluster.folder.write("nodes", &[&Node::of(&cluster.nodes[0]), &Node::of(&cluster.nodes[1])])?;
    cluster.publish(&everywhere("web", 1), "web", &[0, 1])?;
    cluster.start()?;
    let pod = cluster.nodes[0].pod("client")?;
    let strange = cluster.bypassing_pod(0, "strange")?;

    let client = own(outside(&cluster));
    admit(&mut cluster, &client)?;
    is_let_in(outside(&cluster), "the client outside is in the ranges")?;
    is_kept_out(&pod, "a pod is not")?;
    is_kept_out(&strange, "nor is one that no hook sees")?;
    host_is_kept_out(cluster.nodes[0].host())?;

    let others = [own(&pod), own(&strange), own(cluster.nodes[0].host())].concat();
    admit(&mut cluster, &others)?;
    is_kept_out(outside(&cluster), "the client outside is in the ranges no more")?;
    is_let_in(&pod, "a pod is")?;
    is_let_in(&strange, "so is one that no hook sees")?;
    is_let_in(cluster.nodes[0].host(), "and the node")?;
    for door in doors(&cluster).into_iter().filter(|door| !INGRESS.contains(&door.to.ip())) {
        ask(outside(&cluster), door.to, 5, door.name)?;
    }
    Ok(())
}
