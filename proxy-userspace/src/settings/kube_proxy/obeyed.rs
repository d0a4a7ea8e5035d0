//! kube-proxy's flags that a configuration file replaces, and that mean something here. What they say is judged when the
//! configuration is, so that flags and files are judged alike.

use std::path::PathBuf;

use clap::Args;

use super::{set, set_some};
use crate::configuration::{
    Duration, KubeProxyConfiguration, Mode, defaults,
    defaults::{HEALTHZ_PORT, METRICS_PORT},
    gates::boolean,
};

/// What means something here.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = super::OBEYED)]
pub struct Obeyed {
    /// Follow the API server this file names; without it and without --manifests, the cluster this runs in
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// iptables, ipvs or nftables. Whichever it is, eBPF does the work: it chooses defaults (nftables:
    /// --nodeport-addresses=primary), and is what /proxyMode says [default: iptables]
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// The node's primary address, for --nodeport-addresses=primary. Nothing is bound to it [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// End if the addresses of health or metrics are taken, instead of trying again every 5 seconds
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          value_parser = boolean)]
    pub bind_address_hard_fail: Option<bool>,
    /// Where /healthz and /livez are served [default: 0.0.0.0:10256]
    #[arg(long, value_name = "IP[:PORT]")]
    pub healthz_bind_address: Option<String>,
    /// Deprecated: port for --healthz-bind-address if it has none; 0 serves no health at all
    #[arg(long, value_name = "PORT")]
    pub healthz_port: Option<u16>,
    /// Where /metrics is served [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP[:PORT]")]
    pub metrics_bind_address: Option<String>,
    /// Deprecated: port for --metrics-bind-address if it has none
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// Features that Kubernetes has switches for: AllowServiceExternalIPs=false leaves external IPs alone; others are
    /// known, and change nothing
    #[arg(long, value_name = "NAME=BOOL,...", value_delimiter = ',', value_parser = feature_gate)]
    pub feature_gates: Vec<(String, bool)>,
    /// On which of this node's addresses NodePorts answer: ranges, or `primary` for the first of each family that the Node
    /// object names; a family without ranges has all [default: all, loopback among them]
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// Whether NodePorts answer on loopback addresses [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          value_parser = boolean)]
    pub iptables_localhost_nodeports: Option<bool>,
    /// How packets of this node's pods are told from others, for whom externalTrafficPolicy Local is meant: ClusterCIDR
    /// (they come from --cluster-cidr), NodeCIDR (from the Node's podCIDRs), BridgeInterface (by
    /// --pod-bridge-interface, or one of its ports), InterfaceNamePrefix [default: they come by a device to pods]
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// Pods' addresses, for --detect-local-mode=ClusterCIDR: a range, or one of each family
    #[arg(long, value_name = "CIDRS")]
    pub cluster_cidr: Option<String>,
    /// The bridge that pods are on, for --detect-local-mode=BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// What the names of devices to pods begin with, for --detect-local-mode=InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Half of the time for which changes may wait before /healthz says 503 [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub iptables_sync_period: Option<Duration>,
    /// The same for --proxy-mode=ipvs [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub ipvs_sync_period: Option<Duration>,
    /// How readily the kernel kills the process when memory runs out, -1000 to 1000 [default: -999]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub oom_score_adj: Option<i32>,
    /// How many flows to have room for, per CPU; 0 means 262144 in all, whatever --conntrack-min says. Takes effect when
    /// the map is created. The sysctl nf_conntrack_max is set to the same; 0 leaves it alone [default: 32768]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub conntrack_max_per_core: Option<i32>,
    /// How many flows to have room for at least, however few CPUs there are [default: 131072]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub conntrack_min: Option<i32>,
    /// How long a TCP connection may be idle, as in 24h0m0s; 0 means 24h. This and the next three are set as sysctls, too;
    /// 0 leaves those alone [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub conntrack_tcp_timeout_established: Option<Duration>,
    /// How long a TCP connection may be idle when one side has closed it; 0 means 1h [default: 1h]
    #[arg(long, value_name = "DURATION")]
    pub conntrack_tcp_timeout_close_wait: Option<Duration>,
    /// How long a UDP flow may be idle when it went one way only; 0 means 30s [default: 0]
    #[arg(long, value_name = "DURATION")]
    pub conntrack_udp_timeout: Option<Duration>,
    /// How long a UDP flow may be idle when it went both ways; 0 means 2m [default: 0]
    #[arg(long, value_name = "DURATION")]
    pub conntrack_udp_timeout_stream: Option<Duration>,
    /// Set the sysctl nf_conntrack_tcp_be_liberal; flows here are not judged by their windows anyway
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          value_parser = boolean)]
    pub conntrack_tcp_be_liberal: Option<bool>,
}

impl Obeyed {
    /// Puts them into a configuration that has its defaults.
    pub fn apply(&self, configuration: &mut KubeProxyConfiguration) {
        let to = configuration;
        if let Some(file) = &self.kubeconfig {
            to.client_connection.kubeconfig = file.to_string_lossy().into_owned();
        }
        set(&mut to.mode, self.proxy_mode.as_ref());
        set(&mut to.bind_address, self.bind_address.as_ref().filter(|ip| !ip.is_empty()));
        set(&mut to.bind_address_hard_fail, self.bind_address_hard_fail.as_ref());
        to.feature_gates.extend(self.feature_gates.iter().cloned());
        to.node_port_addresses.clone_from(&self.nodeport_addresses);
        set_some(&mut to.iptables.localhost_node_ports, self.iptables_localhost_nodeports);
        set(&mut to.detect_local_mode, self.detect_local_mode.as_ref());
        set(&mut to.cluster_cidr, self.cluster_cidr.as_ref());
        set(&mut to.detect_local.bridge_interface, self.pod_bridge_interface.as_ref());
        set(&mut to.detect_local.interface_name_prefix, self.pod_interface_name_prefix.as_ref());
        set_some(&mut to.oom_score_adj, self.oom_score_adj);
        self.apply_addresses(to);
        self.apply_conntrack(to);
        // The flag of iptables is that of nftables, too.
        let is_nftables = to.mode() == Mode::Nftables;
        let sync = if is_nftables { &mut to.nftables.sync_period } else { &mut to.iptables.sync_period };
        set(sync, self.iptables_sync_period.as_ref());
        set(&mut to.ipvs.sync_period, self.ipvs_sync_period.as_ref());
    }

    /// kube-proxy: `IPPortVar.Set`, which passes an empty address over, and `addressFromDeprecatedFlags`.
    fn apply_addresses(&self, to: &mut KubeProxyConfiguration) {
        for (field, address, port, default) in [
            (&mut to.healthz_bind_address, &self.healthz_bind_address, self.healthz_port, HEALTHZ_PORT),
            (&mut to.metrics_bind_address, &self.metrics_bind_address, self.metrics_port, METRICS_PORT),
        ] {
            set(field, address.as_ref().filter(|address| !address.is_empty()));
            *field = match port {
                Some(0) => String::new(),
                port => defaults::with_port(field, port.unwrap_or(default)),
            };
        }
    }

    fn apply_conntrack(&self, to: &mut KubeProxyConfiguration) {
        let conntrack = &mut to.conntrack;
        set_some(&mut conntrack.max_per_core, self.conntrack_max_per_core);
        set_some(&mut conntrack.min, self.conntrack_min);
        set_some(&mut conntrack.tcp_established_timeout, self.conntrack_tcp_timeout_established);
        set_some(&mut conntrack.tcp_close_wait_timeout, self.conntrack_tcp_timeout_close_wait);
        set(&mut conntrack.tcp_be_liberal, self.conntrack_tcp_be_liberal.as_ref());
        set(&mut conntrack.udp_timeout, self.conntrack_udp_timeout.as_ref());
        set(&mut conntrack.udp_stream_timeout, self.conntrack_udp_timeout_stream.as_ref());
    }
}

fn feature_gate(text: &str) -> Result<(String, bool), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=BOOL"))?;
    Ok((name.trim().to_owned(), boolean(value.trim())?))
}
