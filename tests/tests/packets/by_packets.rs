//! Pods whose sockets are left alone because somebody wants it: by annotation, by RuntimeClass. Services work for them as
//! for pods that no hook sees.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result};
use kubeshunt_tests::cluster::everywhere;
use kubeshunt_tests::stage::{at4, at6};
use kubeshunt_tests::{Cluster, Station, wait};
use serde_json::Value;

use crate::PATIENCE;
use crate::answers::ask;
use crate::settings::{Setting, in_every_setting};

in_every_setting!(pods_are_left_to_their_packets_by_annotation_and_by_runtime_class);

/// A Pod of node-a.
fn pod(uid: &str, annotation: &str, class: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {uid}, namespace: default, uid: {uid}, \
         annotations: {{kubeshunt.io/path: {annotation}}}}}\nspec: {{nodeName: node-a, runtimeClassName: {class}}}\n"
    )
}

/// What the packet path of node-a remembers of this client: its addresses and ports.
fn flows(cluster: &mut Cluster, client: &Station) -> Result<BTreeSet<String>> {
    let output = cluster.kubeshunt(0)?.command(&["flows", "-o", "json"])?;
    let document: Value = serde_json::from_slice(&output.stdout).context("it is JSON")?;
    let own = [IpAddr::from(client.v4()).to_string(), IpAddr::from(client.v6()).to_string()];
    let flows = document.as_array().with_context(|| format!("no list of flows: {document}"))?;
    let clients = flows.iter().filter_map(|flow| flow["client"].as_str());
    let is_own = |client: &&str| own.iter().any(|own| client.contains(own.as_str()));
    Ok(clients.filter(is_own).map(str::to_owned).collect())
}

/// Asks at both ClusterIPs; whether the packet path had to do with it.
fn asks_by_packets(cluster: &mut Cluster, client: &Station) -> Result<bool> {
    let before = flows(cluster, client)?;
    for to in [at4(1), at6(1)] {
        ask(client, to, 5, client.name())?;
    }
    Ok(!flows(cluster, client)?.is_subset(&before))
}

fn pods_are_left_to_their_packets_by_annotation_and_by_runtime_class(setting: Setting) -> Result<()> {
    let mut cluster = setting.cluster()?;
    [0, 1].into_iter().try_for_each(|node| cluster.add_backend(node))?;
    cluster.publish(&everywhere("web", 1), "web", &[0, 1])?;
    let [plain, marked, boxed] = [("plain", "aa-1"), ("marked", "aa-2"), ("boxed", "aa-3")]
        .map(|(name, uid)| cluster.pod_with_uid(0, name, uid));
    let (plain, marked, boxed) = (plain?, marked?, boxed?);
    cluster.folder.write(
        "pods",
        &[
            &pod("aa-1", "sockets", "runc"),
            &pod("aa-2", "packets", "runc"),
            &pod("aa-3", "sockets", "gvisor"),
        ],
    )?;
    cluster.start_with(|setup| setup.arg("--pods-by-packets=annotated,runtimeclass/gvisor"))?;
    for client in [&marked, &boxed] {
        wait::until_true(&format!("{} is left alone", client.name()), PATIENCE, || {
            asks_by_packets(&mut cluster, client)
        })?;
    }
    assert!(!asks_by_packets(&mut cluster, &plain)?, "a pod that nobody speaks of is served at its sockets");

    // Changed at run time, both ways; and a pod that comes late.
    let late = cluster.pod_with_uid(0, "late", "aa-4")?;
    let changed =
        [&pod("aa-1", "packets", "runc"), &pod("aa-2", "sockets", "runc"), &pod("aa-4", "packets", "runc")];
    cluster.folder.write("pods", &[changed[0], changed[1], changed[2]])?;
    for client in [&plain, &late] {
        wait::until_true(&format!("{} is left alone", client.name()), PATIENCE, || {
            asks_by_packets(&mut cluster, client)
        })?;
    }
    for client in [&marked, &boxed] {
        wait::until_true(&format!("{} is served at its sockets", client.name()), PATIENCE, || {
            Ok(!asks_by_packets(&mut cluster, client)?)
        })?;
    }
    Ok(())
}
