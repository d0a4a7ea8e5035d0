//! A node with a client and three servers, and kubeshunt that follows the API server through a proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kubeshunt_tests::apiserver::{ApiServer, CuttingProxy};
use kubeshunt_tests::protocol::{Service, Target};
use kubeshunt_tests::{Kubeshunt, Node, Setup, Station, Testbed, wait};
use serde_json::{Value, json};

use crate::expectation;
use crate::objects::{endpoint, slice};
use crate::server::{NAMESPACE, TOKEN, shared};

/// Until the maps must say what the API says, on a machine that may be busy. kubeshunt waits up to 900 ms between two
/// attempts to reach a server that was away, and five seconds until it looks whether a silent connection is still there.
pub(crate) const CONVERGE: Duration = Duration::from_secs(10);

/// For kubeshunt to become ready, on a machine that may be busy.
const START: Duration = Duration::from_secs(30);

/// How often a client asks to see all of a few servers.
const QUESTIONS: u32 = 60;

/// The port at which every pod serves TCP and UDP.
pub(crate) const PORT: u16 = 8080;

/// The node's name.
pub(crate) const NODE: &str = "node-a";

/// Everything a test needs.
pub(crate) struct Stage {
    pub(crate) kubeshunt: Kubeshunt,
    pub(crate) proxy: CuttingProxy,
    pub(crate) client: Station,
    /// `red`, `green` and `blue`.
    pub(crate) pods: [Station; 3],
    pub(crate) node: Node,
    pub(crate) api: Arc<ApiServer>,
    pub(crate) _bed: Testbed,
}

/// A stage on which kubeshunt does not run yet.
pub(crate) struct Scenery {
    pub(crate) proxy: CuttingProxy,
    pub(crate) client: Station,
    pub(crate) pods: [Station; 3],
    pub(crate) node: Node,
    pub(crate) api: Arc<ApiServer>,
    pub(crate) bed: Testbed,
}

impl Scenery {
    /// With this server.
    pub(crate) fn new(api: Arc<ApiServer>) -> Result<Self> {
        let bed = Testbed::new()?;
        let node = bed.node(NODE)?;
        let client = node.pod("client")?;
        let pods = [node.pod("red")?, node.pod("green")?, node.pod("blue")?];
        for pod in &pods {
            for address in [pod.at4(PORT), pod.at6(PORT)] {
                pod.probe().serve(Service::Tcp, address)?;
                pod.probe().serve(Service::Udp, address)?;
            }
        }
        let proxy = node.netns().run(|| api.proxy(IpAddr::from([127, 0, 0, 1])))?;
        Ok(Self { proxy, client, pods, node, api, bed })
    }

    /// How to run kubeshunt with this kubeconfig.
    pub(crate) fn setup(kubeconfig: &Path) -> Setup {
        Setup::source(["--kubeconfig".into(), kubeconfig.into()])
            .arg("--log=info,proxy_userspace::source=debug")
            .within(START)
    }

    /// A kubeconfig for the user with this token, through the proxy.
    pub(crate) fn kubeconfig(&self, token: &str) -> Result<PathBuf> {
        self.api.kubeconfig(&self.proxy.url(), token)
    }

    /// How long kubeshunt's log is, which goes on from start to start.
    pub(crate) fn log_length(&self) -> usize {
        let log = self.bed.folder().join(format!("kubeshunt-{NODE}.log"));
        fs::metadata(log).map_or(0, |file| usize::try_from(file.len()).unwrap_or(0))
    }

    /// Runs kubeshunt, and waits until it is ready.
    pub(crate) fn run(self, setup: Setup) -> Result<Stage> {
        let kubeshunt = Kubeshunt::start(&self.node, setup)?;
        let Self { proxy, client, pods, node, api, bed } = self;
        Ok(Stage { kubeshunt, proxy, client, pods, node, api, _bed: bed })
    }
}

impl Stage {
    /// With the shared server.
    pub(crate) fn new() -> Result<Self> {
        let scenery = Scenery::new(shared()?)?;
        let setup = Scenery::setup(&scenery.kubeconfig(TOKEN)?);
        scenery.run(setup)
    }

    /// kubectl, in the tests' namespace.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.api.kubectl(&[&["--namespace", NAMESPACE], args].concat(), None)
    }

    /// kubectl apply of one object.
    pub(crate) fn apply(&self, object: &Value) -> Result<()> {
        self.api.apply(&object.to_string())
    }

    /// A merge patch of a Service.
    pub(crate) fn patch(&self, service: &str, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        self.kubectl(&["patch", "service", service, "--type=merge", "--patch", &patch]).map(drop)
    }

    /// Deletes a Service, much faster than kubectl; it need not exist.
    pub(crate) fn delete(&self, service: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services/{service}");
        let answer = self.api.request("DELETE", &path, None)?;
        ensure!([200, 404].contains(&answer.status), "DELETE {path}: {}", answer.body);
        Ok(())
    }

    /// What the API says of a Service.
    pub(crate) fn service(&self, name: &str) -> Result<Value> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services/{name}");
        self.api.request("GET", &path, None)?.json()
    }

    /// The addresses that the API server gave to a Service.
    pub(crate) fn cluster_ips(&self, name: &str) -> Result<Vec<IpAddr>> {
        let service = self.service(name)?;
        let ips = service["spec"]["clusterIPs"].as_array().context("no cluster IP")?.iter();
        ips.filter_map(Value::as_str).map(|ip| Ok(ip.parse()?)).collect()
    }

    /// One slice per family of a Service with one TCP port, leading to these of the pods.
    pub(crate) fn slices(&self, service: &str, port_name: &str, pods: &[&Station]) -> [Value; 2] {
        let ports = json!([{"name": port_name, "protocol": "TCP", "port": PORT}]);
        let v4 = pods.iter().map(|pod| endpoint(pod.v4(), NODE)).collect();
        let v6 = pods.iter().map(|pod| endpoint(pod.v6(), NODE)).collect();
        [slice(service, "IPv4", ports.clone(), v4), slice(service, "IPv6", ports, v6)]
    }

    /// Waits until the maps hold what the API says; returns how long that took.
    pub(crate) fn settle(&self, after: &str) -> Result<Duration> {
        let begin = Instant::now();
        let mut last = String::new();
        let settled = wait::until_true("the maps say what the API says", CONVERGE, || {
            let expected = expectation::of_api(&self.api, NODE)?;
            // The maps are not read at one moment: what is torn by a change is whole when read again.
            match expectation::of_maps(&self.kubeshunt) {
                Ok((found, _)) => last = expectation::differences(&expected, &found),
                Err(error) => last = format!("{error:#}"),
            }
            Ok(last.is_empty())
        });
        if let Err(error) = settled {
            bail!("after {after}: {error:#}\n{last}\n{}", self.kubeshunt.log_tail());
        }
        let took = begin.elapsed();
        println!("{after}: equal after {took:?}");
        Ok(took)
    }

    /// The ids of all frontends.
    pub(crate) fn ids(&self) -> Result<BTreeMap<String, u64>> {
        Ok(expectation::of_maps(&self.kubeshunt)?.1)
    }

    /// New connections from the client go to all these pods and no others.
    pub(crate) fn reaches(&self, to: SocketAddr, pods: &[&Station]) -> Result<()> {
        let report = self.client.probe().ask(&Target::tcp(to), QUESTIONS, 2)?;
        let seen: BTreeSet<_> = report.answered.keys().map(String::as_str).collect();
        let wanted: BTreeSet<_> = pods.iter().map(|pod| pod.name()).collect();
        ensure!(seen == wanted && report.failed() == 0, "{to} should lead to {wanted:?}: {report:?}");
        Ok(())
    }

    /// New connections from the client fail in this way.
    pub(crate) fn fails(&self, to: SocketAddr, error: &str) -> Result<()> {
        let report = self.client.probe().ask(&Target::tcp(to).timeout_ms(100), 3, 1)?;
        ensure!(report.errors.get(error) == Some(&3), "{to} should fail with {error}: {report:?}");
        Ok(())
    }

    /// The log of kubeshunt, of all its starts.
    pub(crate) fn log(&self) -> Result<String> {
        fs::read_to_string(self.kubeshunt.log()).context("cannot read the log")
    }
}
