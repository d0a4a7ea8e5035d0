//! kubeadm's own kube-proxy, with only the image changed.
//!
//! `kubeadm/kube-proxy.yaml` is what kubeadm v1.36.3 writes for `kubeadm/cluster.yaml`, unabridged:
//! `kubeadm init phase addon kube-proxy --print-manifest --config cluster.yaml`.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::scene::{Scene, of_kind};

const ADDON: &str = include_str!("kubeadm/kube-proxy.yaml");

/// The one line that an operator changes.
const THEIRS: &str = "image: registry.k8s.io/kube-proxy:v1.36.3";
const OURS: &str = concat!("image: localhost/kubeshunt:", env!("CARGO_PKG_VERSION"));

/// The addon's objects, as they are in the API once the image has been changed.
pub(crate) fn applied(scene: &Scene) -> Result<Vec<Value>> {
    ensure!(ADDON.matches(THEIRS).count() == 1, "kubeadm names its image in another way");
    scene.apply(&ADDON.replace(THEIRS, OURS))
}

#[test]
fn kubeadms_daemon_set_serves_with_only_the_image_changed() -> Result<()> {
    let scene = Scene::new()?;
    let objects = applied(&scene)?;
    let mut pod = scene.run(of_kind(&objects, "DaemonSet")?)?;
    scene.serves()?;
    let log = pod.containers[0].log()?;
    println!("{log}");
    ensure!(!log.contains("forbidden"), "{log}");
    // Nobody shows that container a bpffs, so it mounts one; and says what that means.
    let warnings: Vec<_> =
        log.lines().filter(|line| line.contains("WARN") && line.contains("bpffs")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(pod.containers[0].terminate()?.success());
    Ok(())
}
