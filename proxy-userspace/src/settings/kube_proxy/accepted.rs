//! kube-proxy's flags that a configuration file replaces, and that change nothing here: they are accepted, go into the
//! configuration that is shown, and whoever sets one reads in the log why it has no effect.

use clap::Args;

use super::{set, set_some};
use crate::configuration::{Duration, KubeProxyConfiguration, Mode, gates::boolean};

/// What changes nothing.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = super::ACCEPTED)]
pub struct Accepted {
    /// A client is hidden only where its answer would miss the node
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          value_parser = boolean)]
    pub masquerade_all: Option<bool>,
    /// Packets are not marked
    #[arg(long, value_name = "BIT", allow_negative_numbers = true)]
    pub iptables_masquerade_bit: Option<i32>,
    /// Changes are applied at once
    #[arg(long, value_name = "DURATION")]
    pub iptables_min_sync_period: Option<Duration>,
    /// Changes are applied at once
    #[arg(long, value_name = "DURATION")]
    pub ipvs_min_sync_period: Option<Duration>,
    /// There is no IPVS here
    #[arg(long, value_name = "NAME")]
    pub ipvs_scheduler: Option<String>,
    /// There is no IPVS here
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    pub ipvs_exclude_cidrs: Vec<String>,
    /// There is no IPVS here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          value_parser = boolean)]
    pub ipvs_strict_arp: Option<bool>,
    /// There is no IPVS here
    #[arg(long, value_name = "DURATION")]
    pub ipvs_tcp_timeout: Option<Duration>,
    /// There is no IPVS here
    #[arg(long, value_name = "DURATION")]
    pub ipvs_tcpfin_timeout: Option<Duration>,
    /// There is no IPVS here
    #[arg(long, value_name = "DURATION")]
    pub ipvs_udp_timeout: Option<Duration>,
    /// A list that came once is kept true by its watch
    #[arg(long, value_name = "DURATION")]
    pub config_sync_period: Option<Duration>,
    /// There are a handful of requests, paced by a backoff
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub kube_api_burst: Option<i32>,
    /// There are a handful of requests, paced by a backoff
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub kube_api_qps: Option<f32>,
    /// The API server is spoken to in JSON
    #[arg(long, value_name = "TYPE")]
    pub kube_api_content_type: Option<String>,
    /// There is no Go runtime to be profiled
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          value_parser = boolean)]
    pub profiling: Option<bool>,
    /// No metric is hidden
    #[arg(long, value_name = "VERSION")]
    pub show_hidden_metrics_for_version: Option<String>,
}

impl Accepted {
    /// Puts them into a configuration that has its defaults, and its mode.
    pub fn apply(&self, configuration: &mut KubeProxyConfiguration) {
        let to = configuration;
        set(to.masquerade_all_mut(), self.masquerade_all.as_ref());
        set_some(&mut to.iptables.masquerade_bit, self.iptables_masquerade_bit);
        // The flag of iptables is that of nftables, too.
        let is_nftables = to.mode() == Mode::Nftables;
        let stanza =
            if is_nftables { &mut to.nftables.min_sync_period } else { &mut to.iptables.min_sync_period };
        set(stanza, self.iptables_min_sync_period.as_ref());
        set(&mut to.ipvs.min_sync_period, self.ipvs_min_sync_period.as_ref());
        set(&mut to.ipvs.scheduler, self.ipvs_scheduler.as_ref());
        to.ipvs.exclude_cidrs.clone_from(&self.ipvs_exclude_cidrs);
        set(&mut to.ipvs.strict_arp, self.ipvs_strict_arp.as_ref());
        set(&mut to.ipvs.tcp_timeout, self.ipvs_tcp_timeout.as_ref());
        set(&mut to.ipvs.tcp_fin_timeout, self.ipvs_tcpfin_timeout.as_ref());
        set(&mut to.ipvs.udp_timeout, self.ipvs_udp_timeout.as_ref());
        set(&mut to.config_sync_period, self.config_sync_period.as_ref());
        let client = &mut to.client_connection;
        set(&mut client.burst, self.kube_api_burst.as_ref());
        set(&mut client.qps, self.kube_api_qps.as_ref());
        set(&mut client.content_type, self.kube_api_content_type.as_ref());
        set(&mut to.enable_profiling, self.profiling.as_ref());
        set(&mut to.show_hidden_metrics_for_version, self.show_hidden_metrics_for_version.as_ref());
    }
}
