//! The DaemonSet in `deploy/`, run as it is shipped.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kubeshunt_tests::kubelet::Pod;
use serde_json::{Value, json};

use crate::kubeadm;
use crate::manifests::{rendered, text};
use crate::scene::{Scene, objects, of_kind};

/// What the main container is given; the first three it cannot do without.
const CAPABILITIES: [&str; 4] = ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"];

/// The DaemonSet of an overlay, whose other objects are in the API from then on.
fn daemon_set(scene: &Scene, overlay: &str) -> Result<Value> {
    let objects = scene.apply(&rendered(&scene.api, overlay)?)?;
    of_kind(&objects, "DaemonSet").cloned()
}

fn ends_well(mut pod: Pod) -> Result<()> {
    let status = pod.containers[0].terminate()?;
    ensure!(status.success(), "it ended with {status}: {}", pod.containers[0].log()?);
    let log = pod.containers[0].log()?;
    ensure!(!log.contains("forbidden") && !log.contains("ERROR"), "{log}");
    Ok(())
}

#[test]
fn the_overlay_for_kind_serves() -> Result<()> {
    let scene = Scene::new()?;
    let pod = scene.run(&daemon_set(&scene, "overlays/kind")?)?;
    scene.serves()?;
    ends_well(pod)
}

#[test]
fn the_overlay_for_k3s_serves() -> Result<()> {
    let scene = Scene::new()?;
    let pod = scene.run(&daemon_set(&scene, "overlays/k3s")?)?;
    scene.serves()?;
    ends_well(pod)
}

#[test]
fn the_overlay_for_kubeadm_serves_with_kube_proxys_config_map() -> Result<()> {
    let scene = Scene::new()?;
    kubeadm::applied(&scene)?;
    let pod = scene.run(&daemon_set(&scene, "overlays/kubeadm")?)?;
    scene.serves()?;
    ends_well(pod)
}

#[test]
fn the_static_pod_serves() -> Result<()> {
    let scene = Scene::new()?;
    daemon_set(&scene, "base")?;
    let account = "/api/v1/namespaces/kube-system/serviceaccounts/kubeshunt/token";
    let ask = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = scene.api.request("POST", account, Some(&ask))?.json()?["status"]["token"].take();
    let token = token.as_str().context("no token")?;
    let ca = std::fs::read_to_string(scene.api.ca())?;
    // As `kubectl config --embed-certs` would write it: the container sees no other file.
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.kubeshunt.test:6443",
            "certificate-authority-data": BASE64_STANDARD.encode(ca)}}]});
    let place = scene.kubelet.place("/etc/kubernetes/kubeshunt.conf");
    std::fs::create_dir_all(place.parent().context("a folder")?)?;
    std::fs::write(place, config.to_string())?;
    let mut pod = scene.kubelet.run(&objects(&text("static-pod.yaml")?)?.remove(0))?;
    pod.wait_ready()?;
    scene.serves()?;
    ends_well(pod)
}

#[test]
fn the_node_serves_while_the_pod_is_replaced() -> Result<()> {
    let scene = Scene::new()?;
    let daemon_set = daemon_set(&scene, "overlays/kind")?;
    ends_well(scene.run(&daemon_set)?)?;
    // Nobody is there, and what is pinned on the host's bpffs goes on.
    scene.serves()?;
    let pod = scene.run(&daemon_set)?;
    scene.serves()?;
    let log = pod.containers[0].log()?;
    assert!(log.contains("created=0 replaced=8"), "it took over what it found: {log}");
    ends_well(pod)
}

#[test]
fn the_init_container_gives_a_host_without_bpffs_one_that_stays() -> Result<()> {
    let scene = Scene::without_bpffs()?;
    let daemon_set = daemon_set(&scene, "overlays/kind")?;
    ends_well(scene.run(&daemon_set)?)?;
    // The containers are gone, and their mounts with them, but for the host's.
    scene.serves()?;
    let pod = scene.run(&daemon_set)?;
    assert!(pod.containers[0].log()?.contains("created=0 replaced=8"), "{}", pod.containers[0].log()?);
    ends_well(pod)
}

/// Where a DaemonSet says what its main container may do.
const ADDED: &str = "/spec/template/spec/containers/0/securityContext/capabilities/add";

/// That DaemonSet with these capabilities only.
fn with(daemon_set: &Value, capabilities: &[&str]) -> Result<Value> {
    let mut daemon_set = daemon_set.clone();
    *daemon_set.pointer_mut(ADDED).context("a list")? = json!(capabilities);
    Ok(daemon_set)
}

fn others(all: &[&'static str], spared: &str) -> Vec<&'static str> {
    all.iter().filter(|other| **other != spared).copied().collect()
}

#[test]
fn whichever_capability_is_taken_away_a_warning_names_it() -> Result<()> {
    let scene = Scene::new()?;
    let whole = daemon_set(&scene, "overlays/kind")?;
    assert_eq!(whole.pointer(ADDED), Some(&json!(CAPABILITIES)));
    for spared in CAPABILITIES {
        // CAP_SYS_ADMIN stands in for the others, and they do the most without it.
        let pod = scene.run(&with(&whole, &others(&CAPABILITIES, spared))?)?;
        scene.serves()?;
        let log = pod.containers[0].log()?;
        let named: Vec<_> = log.lines().filter(|line| line.contains(&format!("CAP_{spared}"))).collect();
        let warned = !named.is_empty() && named.iter().all(|line| line.contains("WARN"));
        ensure!(warned, "without CAP_{spared}: {log}");
        ends_well(pod)?;
    }
    Ok(())
}

#[test]
fn without_cap_sys_admin_none_of_the_others_can_be_spared_and_the_message_names_it() -> Result<()> {
    let scene = Scene::new()?;
    let whole = daemon_set(&scene, "overlays/kind")?;
    let needed = &CAPABILITIES[..3];
    for spared in needed {
        let mut pod = scene.start(&with(&whole, &others(needed, spared))?)?;
        let status = pod.containers[0].wait(Duration::from_secs(20))?;
        let log = pod.containers[0].log()?;
        ensure!(
            !status.success() && log.contains(&format!("CAP_{spared}")),
            "without CAP_{spared}: {status}: {log}"
        );
    }
    Ok(())
}

#[test]
fn a_name_that_only_dns_knows_is_resolved_without_any_file_of_a_libc() -> Result<()> {
    let scene = Scene::new()?;
    let daemon_set = daemon_set(&scene, "overlays/kind")?;
    // The node's own network; its processes are those of this test.
    let socket = scene.node.netns().run(|| UdpSocket::bind("127.0.0.1:53"))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    scene.kubelet.resolve("127.0.0.1 localhost\n", "nameserver 127.0.0.1\noptions timeout:1\n")?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| answer(&socket, "kind-control-plane", &over));
        let pod = scene.run(&daemon_set);
        over.store(true, Ordering::Relaxed);
        ends_well(pod?)
    })
}

/// A name server that knows one name, whose address is the loopback's (RFC 1035, section 4).
fn answer(socket: &UdpSocket, name: &str, over: &AtomicBool) {
    const HEADER: usize = 12;
    let mut buffer = [0; 512];
    while !over.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let Some(question) = buffer.get(HEADER..length) else { continue };
        // A length and a label, the end of the name, type and class.
        let end = name.len() + 2;
        let known =
            question.get(1..=name.len()) == Some(name.as_bytes()) && question.get(end - 1) == Some(&0);
        let wants_v4 = question.get(end..end + 4) == Some(&[0, 1, 0, 1]);
        let Some(question) = question.get(..end + 4) else { continue };
        let found = known && wants_v4;
        let code = if known { 0 } else { 3 };
        let mut reply = buffer[..2].to_vec();
        reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(found), 0, 0, 0, 0]);
        reply.extend(question);
        if found {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        // Who asked may have given up.
        let _ = socket.send_to(&reply, client);
    }
}
