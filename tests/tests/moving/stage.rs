//! A node whose Services are kube-proxy's to begin with, a second one without any proxy, and a client outside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::apiserver::{ADMIN_TOKEN, ApiServer, Binaries, CuttingProxy};
use kubeshunt_tests::kube_proxy::{KubeProxy, Mode, tool};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{TARGET_PORT, backend};
use kubeshunt_tests::{Kubeshunt, Node, Setup, Station, Testbed, wait};
use serde_json::{Value, json};

use crate::objects::{endpoint, port, service, slice};
use crate::server::{NAMESPACE, TOKEN, shared};

/// For a proxy to serve what it has been told.
const SERVED: Duration = Duration::from_secs(30);

/// The port of `web`.
const PORT: u16 = 80;

/// Everything a test needs. Fields are dropped in order: what runs first, the testbed last.
pub(crate) struct Stage {
    proxy: CuttingProxy,
    /// A pod of the node.
    pub(crate) client: Station,
    /// One of the node's pods, and one of another node's.
    pub(crate) backends: [Station; 2],
    pub(crate) node: Node,
    _other: Node,
    api: Arc<ApiServer>,
    pub(crate) bed: Testbed,
}

impl Stage {
    /// With a Service `web` of type NodePort that both backends serve.
    pub(crate) fn new() -> Result<Self> {
        let api = shared()?;
        let bed = Testbed::new()?;
        let (node, other) = (bed.node("node-a")?, bed.node("node-b")?);
        let client = node.pod("client")?;
        let backends = [backend(&node, "here")?, backend(&other, "there")?];
        let proxy = node.netns().run(|| api.proxy(IpAddr::from(Ipv4Addr::LOCALHOST)))?;
        let stage = Self { proxy, client, backends, node, _other: other, api, bed };
        // Server-side apply takes no second address of a type.
        let made = stage.api.request("POST", "/api/v1/nodes", Some(&stage.node_object()))?;
        ensure!([201, 409].contains(&made.status), "the Node: {}", made.body);
        stage.publish("web", json!({"type": "NodePort"}), &[0, 1])?;
        Ok(stage)
    }

    /// Makes a dual-stack Service that these of the backends serve.
    pub(crate) fn publish(&self, name: &str, spec: Value, backends: &[usize]) -> Result<()> {
        let mut spec = spec;
        spec["ipFamilyPolicy"] = json!("RequireDualStack");
        spec["ports"] = json!([port("http", "TCP", PORT.into())]);
        let ports = json!([port("http", "TCP", TARGET_PORT.into())]);
        let nodes = ["node-a", "node-b"];
        let chosen = || backends.iter().map(|index| (&self.backends[*index], nodes[*index]));
        let v4 = chosen().map(|(pod, node)| endpoint(pod.v4(), node)).collect();
        let v6 = chosen().map(|(pod, node)| endpoint(pod.v6(), node)).collect();
        self.api.apply_all(&[
            service(name, spec),
            slice(name, "IPv4", ports.clone(), v4),
            slice(name, "IPv6", ports, v6),
        ])
    }

    fn node_object(&self) -> Value {
        let host = self.node.host();
        let addresses = [host.v4().to_string(), host.v6().to_string()]
            .map(|address| json!({"type": "InternalIP", "address": address}));
        let subnets = self.node.pod_subnets().map(|(subnet, length)| format!("{subnet}/{length}"));
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node.name()},
            "spec": {"podCIDR": subnets[0], "podCIDRs": subnets},
            "status": {"addresses": addresses},
        })
    }

    /// Where a Service answers: its ClusterIPs, or its NodePort at both of the node's addresses.
    pub(crate) fn cluster_ips(&self, name: &str) -> Result<[SocketAddr; 2]> {
        let service = self.service(name)?;
        let ip = |index: usize| -> Result<SocketAddr> {
            let ip = service["spec"]["clusterIPs"][index].as_str().context("no ClusterIP")?;
            Ok(SocketAddr::new(ip.parse()?, PORT))
        };
        Ok([ip(0)?, ip(1)?])
    }

    /// The same for its NodePort.
    pub(crate) fn node_ports(&self, name: &str) -> Result<[SocketAddr; 2]> {
        let service = self.service(name)?;
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no NodePort")?;
        let port = u16::try_from(port)?;
        Ok([self.node.host().at4(port), self.node.host().at6(port)])
    }

    fn service(&self, name: &str) -> Result<Value> {
        self.api.request("GET", &format!("/api/v1/namespaces/{NAMESPACE}/services/{name}"), None)?.json()
    }

    /// A kubeconfig that leads to the API server from the node.
    pub(crate) fn kubeconfig(&self, token: &str) -> Result<PathBuf> {
        self.api.kubeconfig(&self.proxy.url(), token)
    }

    /// Where kube-proxy lies.
    pub(crate) fn kube_proxy_program() -> Result<PathBuf> {
        Binaries::find()?.and_then(|binaries| binaries.kube_proxy).context("there is no kube-proxy")
    }

    /// Starts kube-proxy on the node.
    pub(crate) fn kube_proxy(&self, mode: Mode) -> Result<KubeProxy> {
        KubeProxy::start(&self.node, &self.kubeconfig(ADMIN_TOKEN)?, mode)
    }

    /// Starts kubeshunt on the node, and waits until it serves.
    pub(crate) fn kubeshunt(&self, more: impl FnOnce(Setup) -> Setup) -> Result<Kubeshunt> {
        let source = ["--kubeconfig".into(), self.kubeconfig(TOKEN)?.into()];
        Kubeshunt::start(&self.node, more(Setup::source(source).within(SERVED)))
    }

    /// Waits until the client in a pod and the one outside reach all backends of `web`.
    pub(crate) fn wait_until_served(&self, kube_proxy: &KubeProxy) -> Result<()> {
        for (station, to) in
            [(&self.client, self.cluster_ips("web")?), (self.bed.outside(), self.node_ports("web")?)]
                .into_iter()
                .flat_map(|(station, both)| both.map(|to| (station, to)))
        {
            wait::until_true(&format!("{to} is served"), SERVED, || {
                let report = station.probe().ask(&Target::tcp(to).timeout_ms(200), 30, 1)?;
                Ok(report.failed() == 0 && report.answered.len() == self.backends.len())
            })
            .with_context(|| kube_proxy.log_tail())?;
        }
        Ok(())
    }

    /// Waits until the rules of kube-proxy lead to all endpoints of a Service, whoever else serves it.
    pub(crate) fn wait_for_rules(&self, kube_proxy: &KubeProxy, mode: Mode) -> Result<()> {
        for family in 0..2 {
            let rules = || match (mode, family) {
                (Mode::Nftables, 0) => self.tool(mode, &["nft", "list", "table", "ip", "kube-proxy"]),
                (Mode::Nftables, _) => self.tool(mode, &["nft", "list", "table", "ip6", "kube-proxy"]),
                (_, 0) => self.tool(mode, &["iptables-save", "-t", "nat"]),
                (_, _) => self.tool(mode, &["ip6tables-save", "-t", "nat"]),
            };
            let addresses = self.backends.each_ref().map(|pod| match family {
                0 => pod.at4(TARGET_PORT).to_string(),
                _ => pod.at6(TARGET_PORT).to_string(),
            });
            wait::until_true("kube-proxy has written its rules", SERVED, || {
                // nftables writes an address and its port with dots or colons between, by its release.
                let rules = rules().unwrap_or_default().replace(" . ", ":");
                Ok(addresses.iter().all(|address| {
                    rules.contains(address.as_str()) || rules.contains(&address.replace(['[', ']'], ""))
                }))
            })
            .with_context(|| kube_proxy.log_tail())?;
        }
        Ok(())
    }

    /// Waits until kubeshunt serves that address.
    pub(crate) fn wait_until_listed(&self, address: SocketAddr) -> Result<()> {
        let pins = self.node.pins().display().to_string();
        wait::until_true("kubeshunt serves it", SERVED, || {
            let output = self.invoke(&["services", "--bpffs-root", &pins])?;
            Ok(String::from_utf8_lossy(&output.stdout).contains(&address.ip().to_string()))
        })
    }

    /// Waits until kubeshunt's log has a line with these words.
    pub(crate) fn wait_for_log(&self, kubeshunt: &Kubeshunt, words: &str) -> Result<String> {
        wait::until(&format!("the log says {words:?}"), SERVED, || {
            let text = std::fs::read_to_string(kubeshunt.log())?;
            Ok(text.lines().find(|line| line.contains(words)).map(str::to_owned))
        })
        .with_context(|| kubeshunt.log_tail())
    }

    /// What conntrack of the node has seen going there.
    pub(crate) fn tracked(&self, to: &[SocketAddr]) -> Result<Vec<String>> {
        let table =
            self.node.netns().run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"))?;
        let leads_there = |line: &str| {
            to.iter().any(|to| {
                let ip = match to.ip() {
                    IpAddr::V4(ip) => ip.to_string(),
                    // In full, as the kernel writes it.
                    IpAddr::V6(ip) => ip.segments().map(|part| format!("{part:04x}")).join(":"),
                };
                line.contains(&format!("dst={ip} ")) && line.contains(&format!("dport={} ", to.port()))
            })
        };
        Ok(table.lines().filter(|line| leads_there(line)).map(str::to_owned).collect())
    }

    /// Runs one of kubeshunt's commands on the node.
    pub(crate) fn invoke(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = std::process::Command::new(kubeshunt_tests::proxy::program()?);
        command.args(arguments).stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        // Beside what is served, as its own connections must be.
        let outside = self.bed.outside().cgroup();
        let child = kubeshunt_tests::process::spawn_in(self.node.netns(), outside, command)?;
        Ok(child.wait_with_output()?)
    }

    /// `kubeshunt cleanup --kube-proxy`: what it has removed.
    pub(crate) fn clean_up(&self) -> Result<Vec<Value>> {
        let output = self.invoke(&["cleanup", "--kube-proxy", "-o", "json"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Runs a tool of the packet filter on the node.
    pub(crate) fn tool(&self, mode: Mode, arguments: &[&str]) -> Result<String> {
        tool(&self.node, mode, arguments)
    }
}
