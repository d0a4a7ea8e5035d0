//! What is not said. kube-proxy: `SetDefaults_KubeProxyConfiguration`, and on Linux `platformApplyDefaults`.

use std::net::IpAddr;

use super::{
    Duration, KubeProxyConfiguration, Mode,
    v1alpha1::{API_VERSION, FlushFrequency, KIND, Quantity},
    validation::sloppy_ip,
};

/// Where health is served, if only an address is said.
pub const HEALTHZ_PORT: u16 = 10256;
/// Where metrics are served, if only an address is said.
pub const METRICS_PORT: u16 = 10249;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl KubeProxyConfiguration {
    /// With nothing said but the defaults.
    #[must_use]
    pub fn defaulted() -> Self {
        let mut this = Self::default();
        this.set_defaults();
        this
    }

    /// Fills in what is not said.
    pub fn set_defaults(&mut self) {
        API_VERSION.clone_into(&mut self.api_version);
        KIND.clone_into(&mut self.kind);
        text(&mut self.bind_address, "0.0.0.0");
        let is_v4 = sloppy_ip(&self.bind_address).is_some_and(|ip| ip.is_ipv4());
        let (any, loopback) = if is_v4 { ("0.0.0.0", "127.0.0.1") } else { ("::", "::1") };
        text(&mut self.healthz_bind_address, any);
        self.healthz_bind_address = with_port(&self.healthz_bind_address, HEALTHZ_PORT);
        text(&mut self.metrics_bind_address, loopback);
        self.metrics_bind_address = with_port(&self.metrics_bind_address, METRICS_PORT);
        self.oom_score_adj.get_or_insert(-999);
        period(&mut self.config_sync_period, 900);
        self.set_mode_defaults();
        self.set_conntrack_defaults();
        self.set_client_defaults();
        self.set_logging_defaults();
    }

    /// Fills in what depends on the mode, once all sources have spoken. `detectLocalMode` stays empty: kube-proxy would
    /// take ClusterCIDR, where we go by device.
    pub fn set_platform_defaults(&mut self) {
        text(&mut self.mode, "iptables");
        if self.mode() == Mode::Nftables && self.node_port_addresses.is_empty() {
            self.node_port_addresses = vec!["primary".to_owned()];
        }
    }

    fn set_mode_defaults(&mut self) {
        self.iptables.masquerade_bit.get_or_insert(14);
        self.iptables.localhost_node_ports.get_or_insert(true);
        period(&mut self.iptables.sync_period, 30);
        period(&mut self.iptables.min_sync_period, 1);
        period(&mut self.ipvs.sync_period, 30);
        self.nftables.masquerade_bit.get_or_insert(14);
        period(&mut self.nftables.sync_period, 30);
        period(&mut self.nftables.min_sync_period, 1);
    }

    fn set_conntrack_defaults(&mut self) {
        let conntrack = &mut self.conntrack;
        conntrack.max_per_core.get_or_insert(32 * 1024);
        conntrack.min.get_or_insert(128 * 1024);
        conntrack.tcp_established_timeout.get_or_insert(Duration::from_secs(24 * 3600));
        conntrack.tcp_close_wait_timeout.get_or_insert(Duration::from_secs(3600));
    }

    fn set_client_defaults(&mut self) {
        let client = &mut self.client_connection;
        text(&mut client.content_type, PROTOBUF);
        if client.qps == 0.0 {
            client.qps = 5.0;
        }
        if client.burst == 0 {
            client.burst = 10;
        }
    }

    fn set_logging_defaults(&mut self) {
        let logging = &mut self.logging;
        text(&mut logging.format, "text");
        if logging.flush_frequency.0.is_zero() {
            logging.flush_frequency = FlushFrequency(Duration::from_secs(5));
        }
        for routing in [&mut logging.options.text, &mut logging.options.json] {
            let Quantity(size) = &mut routing.info_buffer_size;
            text(size, "0");
        }
    }
}

fn text(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn period(field: &mut Duration, seconds: i64) {
    if field.is_zero() {
        *field = Duration::from_secs(seconds);
    }
}

/// The address with the port, if it is an address alone; else as it is. kube-proxy: `AppendPortIfNeeded`.
#[must_use]
pub fn with_port(address: &str, port: u16) -> String {
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    match sloppy_ip(bare) {
        Some(IpAddr::V4(_)) => format!("{address}:{port}"),
        Some(IpAddr::V6(_)) => format!("[{bare}]:{port}"),
        None => address.to_owned(),
    }
}
