//! A node of a cluster with the API server: a client, an endpoint behind a Service, and a kubelet.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::apiserver::{ApiServer, CuttingProxy};
use kubeshunt_tests::kubelet::image::{Archive, Image, archive};
use kubeshunt_tests::kubelet::{Kubelet, Pod};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::{Node, Station, Testbed, stage, wait};
use serde_json::{Value, json};

use crate::server::{NAMES, shared};

/// The port of the Service.
const PORT: u16 = 80;
/// The same on the node.
const NODE_PORT: u16 = 30_080;

/// How long a change in the API may take to be in force.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fields are dropped in order.
pub(crate) struct Scene {
    pub(crate) kubelet: Kubelet,
    _proxies: Vec<CuttingProxy>,
    pub(crate) client: Station,
    server: Station,
    pub(crate) node: Node,
    pub(crate) api: Arc<ApiServer>,
    pub(crate) bed: Testbed,
}

impl Scene {
    pub(crate) fn new() -> Result<Self> {
        Self::with(Kubelet::new)
    }

    /// With a node that has no bpffs.
    pub(crate) fn without_bpffs() -> Result<Self> {
        Self::with(Kubelet::without_bpffs)
    }

    fn with(kubelet: impl Fn(&Node, Arc<ApiServer>, Image) -> Result<Kubelet>) -> Result<Self> {
        let api = shared()?;
        let bed = Testbed::new()?;
        let node = bed.node("node-a")?;
        let client = node.pod("client")?;
        let server = stage::backend(&node, "server")?;
        // Where kubeadm and kind have it, and where k3s has it.
        let at = |port: u16| {
            node.netns().run(|| api.proxy_at(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port)))
        };
        let proxies = vec![at(6443)?, at(6444)?];
        let kubelet =
            kubelet(&node, Arc::clone(&api), Image::of_this_machine(&Archive::open(&archive()?)?)?)?;
        kubelet.resolve(&format!("127.0.0.1 localhost {}\n", NAMES.join(" ")), "")?;
        let scene = Self { kubelet, _proxies: proxies, client, server, node, api, bed };
        scene.publish()?;
        Ok(scene)
    }

    /// A Service `web` with the one endpoint.
    fn publish(&self) -> Result<()> {
        // An earlier test's had another address.
        self.api.request("DELETE", "/api/v1/namespaces/default/services/web", None)?;
        let ports =
            json!([{"name": "tcp", "port": PORT, "targetPort": stage::TARGET_PORT, "nodePort": NODE_PORT}]);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "NodePort", "ports": ports}});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "tcp", "port": stage::TARGET_PORT}],
            "endpoints": [{"addresses": [self.server.v4()], "nodeName": self.node.name(), "conditions": {"ready": true}}]});
        self.api.apply_all(&[service, slice])
    }

    /// Applies YAML, and returns the objects in it.
    pub(crate) fn apply(&self, yaml: &str) -> Result<Vec<Value>> {
        self.api.apply(yaml)?;
        objects(yaml)
    }

    /// Runs what this DaemonSet would run here, and waits until it is ready.
    pub(crate) fn run(&self, daemon_set: &Value) -> Result<Pod> {
        let mut pod = self.start(daemon_set)?;
        pod.wait_ready()?;
        Ok(pod)
    }

    /// The same, without waiting.
    pub(crate) fn start(&self, daemon_set: &Value) -> Result<Pod> {
        self.api.apply(&daemon_set.to_string())?;
        let name = daemon_set["metadata"]["name"].as_str().context("a DaemonSet without name")?;
        let pod = self.kubelet.pod_of("kube-system", name)?;
        self.kubelet.run(&pod)
    }

    /// Where the Service answers inside the cluster.
    pub(crate) fn cluster_ip(&self) -> Result<SocketAddr> {
        let service = self.api.request("GET", "/api/v1/namespaces/default/services/web", None)?.json()?;
        let ip = service["spec"]["clusterIP"].as_str().context("no cluster IP")?;
        Ok(SocketAddr::new(ip.parse()?, PORT))
    }

    /// Connections through the ClusterIP from a pod, and through the NodePort from outside, reach the endpoint.
    pub(crate) fn serves(&self) -> Result<()> {
        let node_port = SocketAddr::new(self.node.host().v4().into(), NODE_PORT);
        for (from, to) in [(&self.client, self.cluster_ip()?), (self.bed.outside(), node_port)] {
            let target = Target::tcp(to);
            wait::until_true(&format!("{to} answers"), PATIENCE, || {
                Ok(from.probe().ask(&target, 1, 1)?.successes() == 1)
            })?;
            let report = from.probe().ask(&target, 20, 2)?;
            ensure!(report.failed() == 0 && report.answered.keys().eq(["server"]), "{to}: {report:?}");
        }
        Ok(())
    }
}

/// The objects in a text of YAML.
pub(crate) fn objects(yaml: &str) -> Result<Vec<Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).context("no YAML")?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

/// The first object of that kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"))
}
