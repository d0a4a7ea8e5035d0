//! The command line: what the user said, and what it means.

mod flows;
mod metrics;
mod leftovers;
mod packets;
mod sockets;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use proxy_common::layout::{DEFAULT_BACKENDS, DEFAULT_FRONTENDS, DEFAULT_SERVICES, Sets};

use crate::{
    controller::health::Expectations,
    datapath::{self, flows::settings::PacketSettings},
    host,
    plan::Capacity,
    tables::node_ports,
};
pub use flows::Flows;
pub use metrics::Metrics;
pub use leftovers::{Leftovers, Removal, Treatment};
pub use packets::{Packets, Switch};
pub use sockets::Sockets;

/// Kubernetes Services by eBPF, beside any CNI, in place of kube-proxy.
#[derive(Parser, Debug)]
#[command(name = "kubeshunt", version, propagate_version = true)]
pub struct CommandLine {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Serve Services on this node until stopped; connections outlive the process
    Run(Box<Run>),
    /// Show the Services that the kernel's maps hold right now
    Services(Services),
    /// Show the flows that the packet path remembers right now
    Flows(FlowList),
    /// Check what this machine offers, and what to do about what it lacks
    Check(Check),
    /// Detach the programs and remove everything kubeshunt has pinned; or else what kube-proxy has left
    Cleanup(Cleanup),
}

/// `kubeshunt run`
#[derive(Args, Debug)]
pub struct Run {
    /// Read Services, EndpointSlices and Nodes from the YAML and JSON files of this folder, and follow them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "master"])]
    pub manifests: Option<PathBuf>,
    /// Follow the API server this file names; without it and without --manifests, the cluster this runs in
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server, in place of the kubeconfig's
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Name of this node, if it is not the host's
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Where /metrics is served
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: SocketAddr,
    /// Where /healthz, /livez and /readyz are served
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Room for addresses and ports under which Services answer
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FRONTENDS, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_frontends: u32,
    /// Room for service ports, counted once per IP family
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SERVICES, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_services: u32,
    /// Room for endpoints, counted once per service port
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BACKENDS,
          value_parser = clap::value_parser!(u32).range(1..Sets::MAX_SLOTS as i64))]
    pub max_backends: u32,
    /// On which of this node's addresses NodePorts answer: ranges separated by commas, or `primary` for the first of each
    /// family that the Node object names; a family without ranges has all [default: all, loopback among them]
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    pub nodeport_addresses: Vec<node_ports::Word>,
    /// Features that Kubernetes has switches for: AllowServiceExternalIPs=false leaves external IPs alone
    #[arg(long, value_name = "NAME=BOOL", value_delimiter = ',')]
    pub feature_gates: Vec<FeatureGate>,
    /// Which flows are remembered, and for how long
    #[command(flatten)]
    pub flows: Flows,
    /// Log every decision of the programs (slow; for looking at one node closely)
    #[arg(long)]
    pub log_decisions: bool,
    /// How to write the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, value_name = "FILTER", env = "KUBESHUNT_LOG", default_value = "info")]
    pub log: String,
    /// Which packets are seen to
    #[command(flatten)]
    pub packets: Packets,
    /// Which sockets are woken
    #[command(flatten)]
    pub sockets: Sockets,
    /// What is counted
    #[command(flatten)]
    pub metrics: Metrics,
    /// What kube-proxy has left
    #[command(flatten)]
    pub leftovers: Leftovers,
    /// Where programs attach and maps are pinned
    #[command(flatten)]
    pub place: Place,
}

/// A feature that Kubernetes has a switch for, set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureGate {
    /// Whether Services answer at `spec.externalIPs`, which Kubernetes wants to be rid of (KEP-5707).
    AllowServiceExternalIps(bool),
}

impl FromStr for FeatureGate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=BOOL"))?;
        // As Go reads it.
        let is_on = match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(format!("{value:?} is neither true nor false")),
        };
        match name.trim() {
            "AllowServiceExternalIPs" => Ok(Self::AllowServiceExternalIps(is_on)),
            _ => Err(format!("{name:?} is no feature that is known here; there is AllowServiceExternalIPs")),
        }
    }
}

/// Where programs attach and maps are pinned.
#[derive(Args, Debug, Clone)]
pub struct Place {
    /// The cgroup v2 folder whose processes are served [default: the root of the mounted hierarchy]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// The folder on a bpffs that holds maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/kubeshunt")]
    pub bpffs_root: PathBuf,
}

/// `kubeshunt services`
#[derive(Args, Debug)]
pub struct Services {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The folder on a bpffs that holds maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/kubeshunt")]
    pub bpffs_root: PathBuf,
}

/// `kubeshunt flows`
#[derive(Args, Debug)]
pub struct FlowList {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The folder on a bpffs that holds maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/kubeshunt")]
    pub bpffs_root: PathBuf,
}

/// `kubeshunt check`
#[derive(Args, Debug)]
pub struct Check {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Where programs attach and maps are pinned
    #[command(flatten)]
    pub place: Place,
}

/// `kubeshunt cleanup`
#[derive(Args, Debug)]
pub struct Cleanup {
    /// The folder on a bpffs that holds maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/kubeshunt")]
    pub bpffs_root: PathBuf,
    /// What kube-proxy has left
    #[command(flatten)]
    pub leftovers: Removal,
}

/// Form of an answer.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people
    Table,
    /// For machines
    Json,
}

/// Form of the log.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line per event
    Text,
    /// A JSON object per event
    Json,
}

impl Run {
    /// The datapath's share.
    ///
    /// # Errors
    /// When no cgroup v2 hierarchy is mounted and none is named, or the machine does not tell about itself.
    pub fn datapath(&self) -> Result<datapath::Settings> {
        Ok(datapath::Settings {
            cgroup_root: self.place.cgroup_root()?,
            bpffs_root: self.place.bpffs_root.clone(),
            capacity: Capacity {
                frontends: self.max_frontends,
                services: self.max_services,
                backends: self.max_backends,
            },
            log_decisions: self.log_decisions,
            tc_attach: self.packets.hook(),
            packets: PacketSettings { pods: self.packets.pods(), ..self.flows.packets()? },
        })
    }

    /// What health is judged by.
    #[must_use]
    pub fn expectations(&self) -> Expectations {
        // A folder need not speak of Nodes.
        Expectations {
            needs_node: self.manifests.is_none(),
            families: host::families(),
            ..Expectations::default()
        }
    }

    /// Whether Services answer at their external IPs.
    #[must_use]
    pub fn serves_external_ips(&self) -> bool {
        let last = self.feature_gates.last();
        last.is_none_or(|FeatureGate::AllowServiceExternalIps(is_on)| *is_on)
    }

    /// Where NodePorts answer.
    ///
    /// # Errors
    /// When the words contradict each other.
    pub fn node_ports(&self) -> Result<node_ports::Choice> {
        node_ports::Choice::of(&self.nodeport_addresses).context("--nodeport-addresses")
    }

    /// The node's name as EndpointSlices have it: trimmed, lower case.
    ///
    /// # Errors
    /// When it is empty or the host has none.
    pub fn node_name(&self) -> Result<String> {
        let name = match &self.hostname_override {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()
                .context("cannot read the host's name")?
                .into_string()
                .map_err(|name| anyhow::anyhow!("the host's name {} is not UTF-8", name.display()))?,
        };
        let name = name.trim().to_lowercase();
        if name.is_empty() {
            bail!("the node's name is empty; set one with --hostname-override");
        }
        Ok(name)
    }
}

impl Place {
    /// The cgroup v2 folder to attach to.
    ///
    /// # Errors
    /// When none is named and none is mounted.
    pub fn cgroup_root(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.cgroup_root {
            return Ok(folder.clone());
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        cgroup2_mount(&mounts).map(Path::to_owned).context(
            "no cgroup v2 hierarchy is mounted; mount one (`mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`) or \
             name a folder with --cgroup-root",
        )
    }
}

/// Where cgroup v2 is mounted, according to the text of /proc/mounts.
fn cgroup2_mount(mounts: &str) -> Option<&Path> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (folder, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(Path::new(folder))
    })
}

/// What a command line says, one by one, what it leaves to defaults as well: names without dashes, and values.
///
/// Nothing for a command line that says nothing.
#[must_use]
pub fn flags(arguments: impl IntoIterator<Item = OsString>) -> Vec<(String, String)> {
    let Ok(matches) = CommandLine::command().try_get_matches_from(arguments) else { return Vec::new() };
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let command = CommandLine::command();
    let Some(command) = command.find_subcommand(name) else { return Vec::new() };
    let said = |argument: &clap::Arg| {
        let values = matches.get_raw(argument.get_id().as_str())?;
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        Some((argument.get_long()?.to_owned(), values.join(",")))
    };
    let mut flags: Vec<_> = command.get_arguments().filter_map(said).collect();
    flags.sort();
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::flows::settings::Pods;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_command_line_can_be_told_flag_by_flag() {
        let line = ["kubeshunt", "run", "--devices=eth*,wg0", "--manifests", "d"].map(OsString::from);
        let flags = flags(line);
        let value = |name: &str| flags.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        assert_eq!((value("devices"), value("manifests")), (Some("eth*,wg0"), Some("d")));
        assert_eq!((value("metrics-bind-address"), value("master")), (Some("127.0.0.1:10249"), None));
        assert_eq!(super::flags(["kubeshunt", "--wrong"].map(OsString::from)), []);
    }

    #[test]
    fn cgroup2_is_found_in_both_layouts() {
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(cgroup2_mount(unified), Some(Path::new("/sys/fs/cgroup")));
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(hybrid), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn manifests_and_an_api_server_exclude_each_other() {
        let parse = |args: &[&str]| CommandLine::try_parse_from(args);
        assert!(parse(&["kubeshunt", "run", "--manifests", "d"]).is_ok());
        assert!(parse(&["kubeshunt", "run", "--manifests", "d", "--kubeconfig", "f"]).is_err());
        assert!(parse(&["kubeshunt", "run", "--max-backends", "0"]).is_err());
        assert!(parse(&["kubeshunt", "run", "--max-backends", "536870912"]).is_err());
    }

    #[test]
    fn devices_are_chosen_by_name() {
        let packets = |args: &[&str]| {
            let all = ["kubeshunt", "run"].iter().chain(args);
            match CommandLine::parse_from(all).command {
                Command::Run(run) => run.packets,
                _ => unreachable!("the line above says run"),
            }
        };
        let by_default = packets(&[]);
        assert_eq!((by_default.packet_path, by_default.hook()), (Switch::On, None));
        assert_eq!(by_default.choice(), crate::host::devices::Choice::default());
        let chosen = packets(&["--devices=eth*,wg0", "--pod-devices=none", "--packet-path=off"]);
        assert_eq!(chosen.packet_path, Switch::Off);
        let choice = chosen.choice();
        assert!(choice.outside.is_some_and(|names| names.contain("eth7") && names.contain("wg0")));
        assert!(choice.pods.is_some_and(|pods| !pods.contain("none", None) && !pods.contain("cni0", None)));
        assert_eq!(packets(&["--tc-attach=clsact"]).hook(), Some(datapath::devices::Hook::Clsact));
    }

    #[test]
    fn pods_are_told_apart_in_kube_proxys_modes() {
        let parse = |args: &[&str]| {
            let all = ["kubeshunt", "run"].iter().chain(args);
            match CommandLine::try_parse_from(all).map(|line| line.command) {
                Ok(Command::Run(run)) => Some(run.packets),
                _ => None,
            }
        };
        let packets = |args: &[&str]| parse(args).unwrap();
        assert_eq!(packets(&[]).pods(), Pods::ByDevice);
        assert_eq!(packets(&["--cluster-cidr=10.0.0.0/8"]).pods(), Pods::ByDevice, "without the mode");
        let by_address = packets(&["--detect-local-mode=ClusterCIDR", "--cluster-cidr=10.0.0.0/8,fd00::/48"]);
        assert!(matches!(by_address.pods(), Pods::ByAddress([v4, v6, rest, ..])
            if v4.is_some() && v6.is_some() && !rest.is_some()));
        assert_eq!(packets(&["--detect-local-mode=NodeCIDR"]).pods(), Pods::ByNode);
        let bridge =
            packets(&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"]).choice();
        let pods = bridge.pods.unwrap();
        assert!(
            pods.contain("cni0", None) && pods.contain("veth7", Some("cni0")) && !pods.contain("veth7", None)
        );
        let prefix =
            packets(&["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"])
                .choice();
        let pods = prefix.pods.unwrap();
        assert!(pods.contain("cali123", None) && !pods.contain("veth7", Some("cali0")));
        for half in ["ClusterCIDR", "BridgeInterface", "InterfaceNamePrefix", "Magic"] {
            assert!(parse(&["--detect-local-mode", half]).is_none(), "{half} alone says too little");
        }
    }

    #[test]
    fn pods_are_left_to_packets_only_where_somebody_sees_to_packets() {
        let by_packets = |args: &[&str]| {
            let all = ["kubeshunt", "run"].iter().chain(args);
            match CommandLine::parse_from(all).command {
                Command::Run(run) => run.packets.by_packets().map(|kinds| kinds.len()),
                _ => unreachable!("the line above says run"),
            }
        };
        assert_eq!(by_packets(&[]).unwrap(), 0);
        assert_eq!(by_packets(&["--pods-by-packets=annotated,runtimeclass/gvisor"]).unwrap(), 2);
        assert_eq!(by_packets(&["--packet-path=off"]).unwrap(), 0);
        assert!(by_packets(&["--packet-path=off", "--pods-by-packets=annotated"]).is_err());
    }

    #[test]
    fn external_ips_have_a_switch() {
        let serves = |args: &[&str]| {
            let all = ["kubeshunt", "run"].iter().chain(args);
            match CommandLine::try_parse_from(all).map(|line| line.command) {
                Ok(Command::Run(run)) => Some(run.serves_external_ips()),
                _ => None,
            }
        };
        assert_eq!(serves(&[]), Some(true));
        assert_eq!(serves(&["--feature-gates=AllowServiceExternalIPs=false"]), Some(false));
        let last = ["--feature-gates=AllowServiceExternalIPs=false,AllowServiceExternalIPs=True"];
        assert_eq!(serves(&last), Some(true), "the last word counts");
        for bad in ["AllowServiceExternalIPs", "AllowServiceExternalIPs=no", "Magic=true"] {
            assert_eq!(serves(&["--feature-gates", bad]), None, "{bad}");
        }
    }

    #[test]
    fn node_names_are_trimmed_and_lower_case() {
        let name =
            |text: &str| match CommandLine::parse_from(["kubeshunt", "run", "--hostname-override", text])
                .command
            {
                Command::Run(run) => run.node_name(),
                _ => unreachable!("the line above says run"),
            };
        assert_eq!(name(" Node-A ").unwrap(), "node-a");
        assert!(name("  ").is_err());
    }
}
