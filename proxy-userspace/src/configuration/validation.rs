//! What cannot be meant. kube-proxy: `pkg/proxy/apis/config/validation/validation.go`; fields are named here as they are
//! written, and not as they are called in its source.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use super::{Duration, KubeProxyConfiguration, Mode, gates, v1alpha1::Conntrack};
use crate::cluster::ingest::address;

/// A field that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The field, as in `conntrack.min`.
    pub field: String,
    /// What it says.
    pub value: String,
    /// What it should say.
    pub wanted: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} {}", self.field, self.value, self.wanted)
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfits(pub Vec<Misfit>);

impl fmt::Display for Misfits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("; "))
    }
}

impl std::error::Error for Misfits {}

/// Parses an address as leniently as Kubernetes does: leading zeros are decimal.
#[must_use]
pub fn sloppy_ip(text: &str) -> Option<IpAddr> {
    address::lenient(text)
}

/// Parses `IP:PORT` as leniently.
#[must_use]
pub fn socket_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    // Without brackets there is no telling where the address ends.
    let host = if host.contains(':') { bare? } else { bare.unwrap_or(host) };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some(SocketAddr::new(sloppy_ip(host)?, port))
}

/// The ranges of a list as in `clusterCIDR`.
///
/// # Errors
/// The first that is none.
pub fn ranges(list: &str) -> Result<Vec<IpNet>, String> {
    let parts = list.split(',').filter(|_| !list.is_empty());
    parts.map(|part| address::range(part).map_err(|_| part.to_owned())).collect()
}

impl KubeProxyConfiguration {
    /// Looks for what cannot be meant. Defaults are there already.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn validate(&self) -> Result<(), Misfits> {
        let mut found = Found::default();
        for (name, wanted) in gates::misfits(&self.feature_gates) {
            let value = self.feature_gates.get(&name).copied().unwrap_or_default().to_string();
            found.add(&format!("featureGates.{name}"), value, &wanted);
        }
        self.mode_fits(&mut found);
        self.addresses_fit(&mut found);
        self.detection_fits(&mut found);
        self.logging_fits(&mut found);
        conntrack_fits(&self.conntrack, &mut found);
        let oom_score = self.oom_score_adj.unwrap_or_default();
        found.unless(
            (-1000..=1000).contains(&oom_score),
            "oomScoreAdj",
            oom_score,
            "must be within -1000 to 1000",
        );
        let burst = self.client_connection.burst;
        found.unless(burst >= 0, "clientConnection.burst", burst, "must not be negative");
        let resync = self.config_sync_period;
        found.unless(resync > Duration::ZERO, "configSyncPeriod", resync, "must be greater than 0");
        if found.0.is_empty() { Ok(()) } else { Err(Misfits(found.0)) }
    }

    fn mode_fits(&self, found: &mut Found) {
        let is_known = ["", "iptables", "ipvs", "nftables"].contains(&&*self.mode);
        found.unless(
            is_known,
            "mode",
            &self.mode,
            "must be iptables, ipvs or nftables, or empty for iptables",
        );
        let stanza = match self.mode() {
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::Nftables => "nftables",
        };
        let is_bit = |bit: Option<i32>| bit.is_none_or(|bit| (0..=31).contains(&bit));
        let bit = self.iptables.masquerade_bit;
        found.unless(
            is_bit(bit),
            "iptables.masqueradeBit",
            bit.unwrap_or_default(),
            "must be within 0 to 31",
        );
        if self.mode() == Mode::Nftables {
            let bit = self.nftables.masquerade_bit;
            found.unless(
                is_bit(bit),
                "nftables.masqueradeBit",
                bit.unwrap_or_default(),
                "must be within 0 to 31",
            );
        }
        if self.mode() == Mode::Ipvs {
            let ipvs = &self.ipvs;
            found.not_negative("ipvs.tcpTimeout", ipvs.tcp_timeout);
            found.not_negative("ipvs.tcpFinTimeout", ipvs.tcp_fin_timeout);
            found.not_negative("ipvs.udpTimeout", ipvs.udp_timeout);
            for (index, range) in ipvs.exclude_cidrs.iter().enumerate() {
                let field = format!("ipvs.excludeCIDRs[{index}]");
                found.unless(address::range(range).is_ok(), &field, range, IS_NO_RANGE);
            }
        }
        let periods = self.periods();
        let (sync, min_sync) = (format!("{stanza}.syncPeriod"), format!("{stanza}.minSyncPeriod"));
        found.unless(periods.sync > Duration::ZERO, &sync, periods.sync, "must be greater than 0");
        found.not_negative(&min_sync, periods.min_sync);
        let wanted = format!("must be greater than or equal to {min_sync}, {}", periods.min_sync);
        found.unless(
            periods.sync >= periods.min_sync || periods.sync <= Duration::ZERO,
            &sync,
            periods.sync,
            &wanted,
        );
    }

    fn addresses_fit(&self, found: &mut Found) {
        let name = &self.hostname_override;
        found.unless(
            name.is_empty() || !name.trim().is_empty(),
            "hostnameOverride",
            name,
            "must not be blank",
        );
        let bind = &self.bind_address;
        found.unless(sloppy_ip(bind).is_some(), "bindAddress", bind, "must be an IP address");
        for (field, address, may_be_empty) in [
            ("healthzBindAddress", &self.healthz_bind_address, true),
            ("metricsBindAddress", &self.metrics_bind_address, false),
        ] {
            let fits = socket_address(address).is_some() || (address.is_empty() && may_be_empty);
            found.unless(
                fits,
                field,
                address,
                "must be IP:PORT, as in 127.0.0.1:10249, with a port from 1 to 65535",
            );
        }
        let words = &self.node_port_addresses;
        for (index, word) in words.iter().enumerate() {
            let field = format!("nodePortAddresses[{index}]");
            if word == "primary" {
                found.unless(
                    words.len() == 1,
                    &field,
                    word,
                    "stands alone: say either that or ranges of addresses",
                );
            } else {
                found.unless(address::range(word).is_ok(), &field, word, IS_NO_RANGE);
            }
        }
    }

    fn detection_fits(&self, found: &mut Found) {
        let mode = &*self.detect_local_mode;
        let devices = &self.detect_local;
        match mode {
            "" | "NodeCIDR" => {}
            "ClusterCIDR" => {
                let cidrs = &self.cluster_cidr;
                let fits = match ranges(cidrs).as_deref() {
                    Ok([] | [_]) => true,
                    Ok([one, other]) => one.addr().is_ipv4() != other.addr().is_ipv4(),
                    _ => false,
                };
                let wanted = "must be one range of addresses, as in 10.244.0.0/16, or one of each family";
                found.unless(fits, "clusterCIDR", cidrs, wanted);
            }
            "BridgeInterface" => {
                let bridge = &devices.bridge_interface;
                let wanted = "must name a bridge, which detectLocalMode BridgeInterface needs";
                found.unless(!bridge.is_empty(), "detectLocal.bridgeInterface", bridge, wanted);
            }
            "InterfaceNamePrefix" => {
                let prefix = &devices.interface_name_prefix;
                let wanted = "must say what devices' names begin with, which detectLocalMode InterfaceNamePrefix needs";
                found.unless(!prefix.is_empty(), "detectLocal.interfaceNamePrefix", prefix, wanted);
            }
            _ => {
                let wanted =
                    "must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix, or empty";
                found.add("detectLocalMode", mode.to_owned(), wanted);
            }
        }
    }

    /// kube-proxy: `staging/src/k8s.io/component-base/logs/api/v1/options.go`.
    fn logging_fits(&self, found: &mut Found) {
        let logging = &self.logging;
        let format = &logging.format;
        found.unless(["text", "json"].contains(&&**format), "logging.format", format, "must be text or json");
        let flush = logging.flush_frequency.0;
        found.unless(flush > Duration::ZERO, "logging.flushFrequency", flush, "must be greater than 0");
        let fits = |verbosity: u32| i32::try_from(verbosity).is_ok();
        found.unless(
            fits(logging.verbosity),
            "logging.verbosity",
            logging.verbosity,
            "must be at most 2147483647",
        );
        for (index, item) in logging.vmodule.iter().enumerate() {
            let field = format!("logging.vmodule[{index}]");
            let pattern = &item.file_pattern;
            found.unless(format == "text", &field, pattern, "is for the text format only");
            let is_pattern = !pattern.is_empty() && !pattern.contains(['=', ',']);
            found.unless(is_pattern, &field, pattern, "must be the name of a file, without = and comma");
            found.unless(fits(item.verbosity), &field, item.verbosity, "must be at most 2147483647");
        }
        if !gates::is_on(&self.feature_gates, "LoggingAlphaOptions") && !self.alpha_is_on() {
            let options = &logging.options;
            for (format, routing) in [("text", &options.text), ("json", &options.json)] {
                let field = format!("logging.options.{format}");
                let wanted = "needs the feature gate LoggingAlphaOptions";
                found.unless(!routing.split_stream, &format!("{field}.splitStream"), true, wanted);
                let size = &routing.info_buffer_size.0;
                found.unless(size == "0", &format!("{field}.infoBufferSize"), size, wanted);
            }
        }
    }

    fn alpha_is_on(&self) -> bool {
        gates::is_on(&self.feature_gates, "AllAlpha")
            && !self.feature_gates.contains_key("LoggingAlphaOptions")
    }
}

const IS_NO_RANGE: &str = "must be a range of addresses, as in 10.0.0.0/8";

fn conntrack_fits(conntrack: &Conntrack, found: &mut Found) {
    for (field, entries) in
        [("conntrack.maxPerCore", conntrack.max_per_core), ("conntrack.min", conntrack.min)]
    {
        let entries = entries.unwrap_or_default();
        found.unless(entries >= 0, field, entries, "must not be negative");
    }
    for (field, timeout) in [
        ("conntrack.tcpEstablishedTimeout", conntrack.tcp_established_timeout.unwrap_or_default()),
        ("conntrack.tcpCloseWaitTimeout", conntrack.tcp_close_wait_timeout.unwrap_or_default()),
        ("conntrack.udpTimeout", conntrack.udp_timeout),
        ("conntrack.udpStreamTimeout", conntrack.udp_stream_timeout),
    ] {
        found.not_negative(field, timeout);
    }
}

#[derive(Default)]
struct Found(Vec<Misfit>);

impl Found {
    fn add(&mut self, field: &str, value: String, wanted: &str) {
        self.0.push(Misfit { field: field.to_owned(), value, wanted: wanted.to_owned() });
    }

    fn unless(&mut self, fits: bool, field: &str, value: impl fmt::Display, wanted: &str) {
        if !fits {
            self.add(field, value.to_string(), wanted);
        }
    }

    fn not_negative(&mut self, field: &str, duration: Duration) {
        self.unless(!duration.is_negative(), field, duration, "must not be negative");
    }
}
