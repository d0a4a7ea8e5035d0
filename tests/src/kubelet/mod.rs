//! Runs a Pod on a test node the way a kubelet with containerd and runc would: from the image's own file system, with
//! the capabilities, system calls, mounts, environment and credentials that the Pod's specification leads to, by the
//! low-level runtime `crun`.
//!
//! The node's files that a Pod mounts by `hostPath` are the test node's: in a mount namespace of its own, its pins are on
//! /sys/fs/bpf and its cgroup on /sys/fs/cgroup; everything else is in a folder.
//!
//! Invariant: a field of the specification that this does not know is an error and never overlooked, so that what runs
//! here is what was written.

mod confinement;
pub mod image;
mod mounts;
mod runtime;
mod volumes;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use self::image::Image;
use self::mounts::Mounts;
pub use self::runtime::Container;
use crate::apiserver::ApiServer;
use crate::{Node, wait};

/// For an init container to come to its end, or a Pod to become ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs Pods on one node.
#[derive(Debug)]
pub struct Kubelet {
    node: Node,
    api: Arc<ApiServer>,
    image: Image,
    mounts: Mounts,
    /// Files of the node, and of Pods.
    folder: PathBuf,
    pods: AtomicU32,
}

/// A Pod whose containers run. Dropping it kills them.
#[derive(Debug)]
pub struct Pod {
    node: Node,
    /// Its containers, in the order of the specification.
    pub containers: Vec<Container>,
    probes: Vec<Value>,
}

impl Kubelet {
    /// For that node. Every container runs from this image, whatever name its specification gives.
    ///
    /// # Errors
    /// When files cannot be written, or there is no `crun`.
    pub fn new(node: &Node, api: Arc<ApiServer>, image: Image) -> Result<Self> {
        Self::with(node, api, image, true)
    }

    /// The same, on a node that has no bpffs.
    ///
    /// # Errors
    /// See [`Kubelet::new`].
    pub fn without_bpffs(node: &Node, api: Arc<ApiServer>, image: Image) -> Result<Self> {
        Self::with(node, api, image, false)
    }

    fn with(node: &Node, api: Arc<ApiServer>, image: Image, bpffs: bool) -> Result<Self> {
        runtime::find()?;
        let mounts = Mounts::of(node, bpffs)?;
        let folder = node.bed().folder().join(format!("kubelet-{}", node.name()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let this = Self { node: node.clone(), api, image, mounts, folder, pods: AtomicU32::new(0) };
        this.resolve("127.0.0.1 localhost\n", "")?;
        Ok(this)
    }

    /// The node's /etc/hosts and /etc/resolv.conf, for Pods that are started from now on.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn resolve(&self, hosts: &str, resolv_conf: &str) -> Result<()> {
        for (name, text) in [("hosts", hosts), ("resolv.conf", resolv_conf)] {
            fs::write(self.folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        Ok(())
    }

    /// Where a file of the node is, for who is in its mount namespace.
    #[must_use]
    pub fn place(&self, path: &str) -> PathBuf {
        if path.starts_with("/sys/") {
            return path.into();
        }
        self.folder.join("root").join(path.trim_start_matches('/'))
    }

    /// What a DaemonSet that is in the API would have run on the node: its template as a Pod, with the defaults that
    /// the API server has filled in.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn pod_of(&self, namespace: &str, daemon_set: &str) -> Result<Value> {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{daemon_set}");
        let mut template = self.api.request("GET", &path, None)?.json()?["spec"]["template"].take();
        template["metadata"]["name"] = format!("{daemon_set}-x7k2p").into();
        template["metadata"]["namespace"] = namespace.into();
        Ok(template)
    }

    /// Runs the init containers to their end, and starts the others.
    ///
    /// # Errors
    /// When an init container fails, or the specification asks for what this cannot do.
    pub fn run(&self, pod: &Value) -> Result<Pod> {
        let spec = &pod["spec"];
        fields(
            spec,
            "spec",
            &[
                "containers",
                "initContainers",
                "volumes",
                "hostNetwork",
                "serviceAccountName",
                "serviceAccount",
                "automountServiceAccountToken",
                // These concern the scheduler and the kubelet, and not what containers see.
                "priorityClassName",
                "priority",
                "preemptionPolicy",
                "nodeSelector",
                "tolerations",
                "schedulerName",
                "terminationGracePeriodSeconds",
                "restartPolicy",
                "enableServiceLinks",
                // Empty, or `Default`: see `resolve`.
                "securityContext",
                "dnsPolicy",
            ],
        )?;
        ensure!(spec["hostNetwork"] == Value::Bool(true), "only Pods in the node's network can be run");
        ensure!(
            spec["securityContext"].as_object().is_none_or(serde_json::Map::is_empty),
            "a Pod's securityContext"
        );
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(format!("pod-{number}"));
        let volumes = volumes::prepare(self, pod, &folder.join("volumes"))?;
        let cgroup = self.node.cgroup().child(&format!("pod-{number}-{}", self.node.name()))?;
        let start = |spec: &Value| -> Result<Container> {
            let name = spec["name"].as_str().context("a container without name")?;
            runtime::start(self, pod, spec, &volumes, &folder.join(name), cgroup.child(name)?)
                .with_context(|| format!("container {name}"))
        };
        let list = |field: &str| spec[field].as_array().into_iter().flatten();
        for spec in list("initContainers") {
            let mut container = start(spec)?;
            let status = container.wait(PATIENCE)?;
            ensure!(
                status.success(),
                "init container {} failed ({status})\n{}",
                spec["name"],
                container.log()?
            );
        }
        let containers = list("containers").map(start).collect::<Result<_>>()?;
        let probes = list("containers").map(|spec| spec["readinessProbe"].clone());
        Ok(Pod { node: self.node.clone(), containers, probes: probes.collect() })
    }
}

impl Pod {
    /// Waits until all readiness probes succeed.
    ///
    /// # Errors
    /// When they do not, or a container ends, with its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let Self { node, containers, probes } = self;
        for (container, probe) in containers.iter_mut().zip(probes) {
            wait::until_true("the readiness probe succeeds", PATIENCE, || {
                if let Some(status) = container.ended()? {
                    bail!("the container ended: {status}\n{}", container.log()?);
                }
                succeeds(node, probe)
            })
            .with_context(|| container.log().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// An HTTP probe, in the node's network. None given is none to fail.
fn succeeds(node: &Node, probe: &Value) -> Result<bool> {
    if probe.is_null() {
        return Ok(true);
    }
    let get = &probe["httpGet"];
    let (host, path) = (get["host"].as_str().context("a probe without host")?, get["path"].as_str());
    let port = get["port"].as_u64().and_then(|port| port.try_into().ok()).context("a probe without port")?;
    let address = std::net::SocketAddr::new(host.parse()?, port);
    Ok(crate::proxy::http_get(node, address, path.unwrap_or("/"))
        .is_ok_and(|(code, _)| (200..400).contains(&code)))
}

/// Fails if there is a field that is not among the known ones.
fn fields(value: &Value, what: &str, known: &[&str]) -> Result<()> {
    for (field, value) in value.as_object().into_iter().flatten() {
        ensure!(known.contains(&field.as_str()), "{what}.{field} is not understood here: {value}");
    }
    Ok(())
}
