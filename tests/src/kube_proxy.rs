//! The real kube-proxy, running on a node: what ours is put in the place of.
//!
//! Invariant: whichever iptables the machine prefers, it runs the one that the test names. Its addresses are others than
//! kubeshunt's, so that both can run at once.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::apiserver::Binaries;
use crate::cgroup::Cgroup;
use crate::layout::cluster_subnets;
use crate::netns::NetNs;
use crate::node::Node;
use crate::{process, wait};

/// Where it serves its metrics, inside the node's namespace.
pub const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 20249);
/// Where it serves its health.
pub const HEALTHZ: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 20256);

/// Where Debian has the tools that it runs.
const TOOLS: &str = "/usr/sbin";

/// The names under which it calls iptables.
const IPTABLES: [&str; 6] =
    ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"];

/// What the old iptables lock, in the testbed's folder: by default that is a file of the machine's.
const LOCK: &str = "xtables.lock";

/// For its start, on a machine that may be busy.
const START: Duration = Duration::from_secs(60);

/// How it has the kernel translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By nftables.
    Nftables,
    /// By iptables, which writes to nftables.
    IptablesNft,
    /// By the old iptables.
    IptablesLegacy,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesNft | Self::IptablesLegacy => "iptables",
        }
    }

    /// The program behind all of [`IPTABLES`].
    fn iptables(self) -> &'static str {
        if self == Self::IptablesLegacy { "xtables-legacy-multi" } else { "xtables-nft-multi" }
    }
}

/// A running kube-proxy. Dropping it kills it; its rules stay, as they do.
#[derive(Debug)]
pub struct KubeProxy {
    process: Option<Child>,
    cgroup: Cgroup,
    log: PathBuf,
}

impl KubeProxy {
    /// Starts it on a node, as a user of that kubeconfig, and waits until it answers.
    ///
    /// # Errors
    /// When there is none, or it ends.
    pub fn start(node: &Node, kubeconfig: &Path, mode: Mode) -> Result<Self> {
        let binaries = Binaries::find_or_build(|progress| eprintln!("{progress}"))?;
        let program = binaries.kube_proxy.context("there is no kube-proxy beside kube-apiserver")?;
        Self::start_program(node, kubeconfig, mode, &program, METRICS)
    }

    /// The same of this program, with its metrics there.
    ///
    /// # Errors
    /// See [`KubeProxy::start`].
    pub fn start_program(
        node: &Node,
        kubeconfig: &Path,
        mode: Mode,
        program: &Path,
        metrics: SocketAddr,
    ) -> Result<Self> {
        let folder = node.bed().folder();
        let config = folder.join(format!("kube-proxy-{}.json", node.name()));
        fs::write(&config, configuration(node, kubeconfig, mode, metrics))?;
        let log = folder.join(format!("kube-proxy-{}.log", node.name()));
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command.arg("--config").arg(config).arg("--v=2").stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        command.env("PATH", path(folder, mode)?).env("XTABLES_LOCKFILE", folder.join(LOCK));
        let cgroup = node.bed().cgroup().child(&format!("kube-proxy-{}", node.name()))?;
        let process = process::spawn_in(node.netns(), &cgroup, command)?;
        let mut this = Self { process: Some(process), cgroup, log };
        wait::until_true("kube-proxy answers", START, || this.answers(node.netns(), metrics))
            .with_context(|| this.log_tail())?;
        Ok(this)
    }

    fn answers(&mut self, netns: &NetNs, metrics: SocketAddr) -> Result<bool> {
        let process = self.process.as_mut().context("it was ended")?;
        if let Some(status) = process.try_wait()? {
            bail!("it ended at once: {status}");
        }
        Ok(netns.run(|| std::net::TcpStream::connect(metrics).is_ok()))
    }

    /// The process.
    ///
    /// # Errors
    /// When it was ended.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("it was ended")?.id())
    }

    /// Ends it as the kubelet does, with SIGTERM, or at once.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn end(mut self, signal: Signal) -> Result<()> {
        let mut process = self.process.take().context("it was ended")?;
        kill(Pid::from_raw(i32::try_from(process.id())?), signal).context("cannot signal")?;
        let status = process.wait()?;
        ensure!(
            status.signal() == Some(signal as i32),
            "it had ended by itself: {status}\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        format!("the end of kube-proxy's log:\n{}", process::last_lines(&self.log))
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        process::bury(&mut self.process, &self.cgroup);
    }
}

/// Runs one of the tools of a mode inside the node's namespace, by the name that kube-proxy calls it.
///
/// # Errors
/// When it fails; with what it said.
pub fn tool(node: &Node, mode: Mode, arguments: &[&str]) -> Result<String> {
    let (name, arguments) = arguments.split_first().context("no tool")?;
    let program = if IPTABLES.contains(name) {
        tools(node.bed().folder(), mode)?.join(name)
    } else {
        Path::new(TOOLS).join(name)
    };
    let mut command = Command::new(program);
    command.args(arguments).env("XTABLES_LOCKFILE", node.bed().folder().join(LOCK));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = process::spawn_in(node.netns(), node.cgroup(), command)?.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} {arguments:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

fn configuration(node: &Node, kubeconfig: &Path, mode: Mode, metrics: SocketAddr) -> String {
    let pods = cluster_subnets().map(|(subnet, length)| format!("{subnet}/{length}"));
    // The limits of conntrack can be set outside of containers only.
    let conntrack = json!({
        "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"
    });
    let configuration = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode.word(),
        "hostnameOverride": node.name(),
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": pods.join(","),
        "metricsBindAddress": metrics.to_string(),
        "healthzBindAddress": HEALTHZ.to_string(),
        "conntrack": conntrack,
    });
    configuration.to_string()
}

/// Where its tools are, those of the mode first.
fn path(folder: &Path, mode: Mode) -> Result<String> {
    Ok(format!("{}:{TOOLS}:/usr/bin:/sbin:/bin", tools(folder, mode)?.display()))
}

/// A folder with the iptables of a mode, under the names that are called.
fn tools(folder: &Path, mode: Mode) -> Result<PathBuf> {
    let tools = folder.join(mode.iptables());
    if !tools.exists() {
        fs::create_dir(&tools)?;
        for name in IPTABLES {
            symlink(Path::new(TOOLS).join(mode.iptables()), tools.join(name))?;
        }
    }
    Ok(tools)
}
