//! The type, field by field. `Default` is Go's zero value, that is "nothing said"; what kube-proxy makes of that is in
//! [`super::defaults`].

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::duration::{Duration, or_nanoseconds};

/// The group and version, as a document names it.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The kind, as a document names it.
pub const KIND: &str = "KubeProxyConfiguration";

/// A struct whose fields may be missing, or null, as `encoding/json` has it: kubeadm writes null for most of them.
macro_rules! stanza {
    ($(#[$of:meta])* $name:ident { $($(#[$field_of:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$of])*
        #[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $(
                $(#[$field_of])*
                #[serde(deserialize_with = "null_is_nothing")]
                pub $field: $type,
            )*
        }
    };
}

stanza! {
    /// What kube-proxy is told.
    KubeProxyConfiguration {
        /// [`API_VERSION`].
        api_version: String,
        /// [`KIND`].
        kind: String,
        /// Features switched on and off.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        feature_gates: BTreeMap<String, bool>,
        /// How the API server is spoken to.
        client_connection: ClientConnection,
        /// The log.
        logging: Logging,
        /// The node's name, if it is not the host's.
        hostname_override: String,
        /// Not bound to: the node's primary address, unless unspecified.
        bind_address: String,
        /// Where health is served.
        healthz_bind_address: String,
        /// Where metrics are served.
        metrics_bind_address: String,
        /// Whether it is fatal when these addresses are taken.
        bind_address_hard_fail: bool,
        /// Whether profiles are served.
        enable_profiling: bool,
        /// Whose hidden metrics to show.
        show_hidden_metrics_for_version: String,
        /// `iptables`, `ipvs`, `nftables` or nothing.
        mode: String,
        /// For that mode.
        iptables: Iptables,
        /// For that mode.
        ipvs: Ipvs,
        /// For that mode.
        nftables: Nftables,
        /// For Windows.
        winkernel: Winkernel,
        /// How packets of this node's pods are told from others.
        detect_local_mode: String,
        /// By which device, if by device.
        detect_local: DetectLocal,
        /// By which address, if by address: one range, or one of each family.
        #[serde(rename = "clusterCIDR")]
        cluster_cidr: String,
        /// Where NodePorts answer: ranges, or `primary` alone.
        #[serde(serialize_with = "null_if_empty")]
        node_port_addresses: Vec<String>,
        /// How readily the kernel kills the process when memory runs out, -1000 to 1000.
        oom_score_adj: Option<i32>,
        /// The kernel's connection tracking.
        conntrack: Conntrack,
        /// Between deliveries of the same objects.
        config_sync_period: Duration,
        /// Of a mode that is gone.
        port_range: String,
        /// For Windows.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        windows_run_as_service: bool,
    }
}

stanza! {
    /// How the API server is spoken to.
    ClientConnection {
        /// The file with its address and credentials; none means the pod's service account.
        kubeconfig: String,
        /// What answers may be written in.
        accept_content_types: String,
        /// What requests are written in.
        content_type: String,
        /// Requests a second.
        #[serde(serialize_with = "whole_if_whole")]
        qps: f32,
        /// Requests at once.
        burst: i32,
    }
}

stanza! {
    /// The log.
    Logging {
        /// `text` or `json`.
        #[serde(skip_serializing_if = "String::is_empty")]
        format: String,
        /// How long lines may be held back.
        flush_frequency: FlushFrequency,
        /// 0 says the least.
        verbosity: u32,
        /// Verbosity by source file.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        vmodule: Vec<VmoduleItem>,
        /// By format.
        options: FormatOptions,
    }
}

stanza! {
    /// Verbosity of the source files that match.
    VmoduleItem {
        /// The files' names, `*` for anything.
        file_pattern: String,
        /// As in [`Logging`].
        verbosity: u32,
    }
}

stanza! {
    /// Options by format of the log.
    FormatOptions {
        /// For `text`.
        text: OutputRouting,
        /// For `json`.
        json: OutputRouting,
    }
}

stanza! {
    /// Where a log goes.
    OutputRouting {
        /// Errors to standard error, the rest to standard output.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        split_stream: bool,
        /// Bytes held back, as Kubernetes writes quantities.
        info_buffer_size: Quantity,
    }
}

stanza! {
    /// For the iptables mode; some of it for ipvs and for no mode, too.
    Iptables {
        /// Of the packet's mark.
        masquerade_bit: Option<i32>,
        /// Hide all clients of ClusterIPs.
        masquerade_all: bool,
        /// Whether NodePorts answer on 127.0.0.0/8.
        localhost_node_ports: Option<bool>,
        /// Between attempts.
        sync_period: Duration,
        /// Between changes, at least.
        min_sync_period: Duration,
    }
}

stanza! {
    /// For the ipvs mode.
    Ipvs {
        /// Between attempts.
        sync_period: Duration,
        /// Between changes, at least.
        min_sync_period: Duration,
        /// How endpoints are chosen.
        scheduler: String,
        /// Whose virtual servers are left alone.
        #[serde(rename = "excludeCIDRs", serialize_with = "null_if_empty")]
        exclude_cidrs: Vec<String>,
        /// Whether arp_ignore and arp_announce are set.
        #[serde(rename = "strictARP")]
        strict_arp: bool,
        /// For idle connections.
        tcp_timeout: Duration,
        /// For connections half closed.
        tcp_fin_timeout: Duration,
        /// For idle flows.
        udp_timeout: Duration,
    }
}

stanza! {
    /// For the nftables mode.
    Nftables {
        /// Of the packet's mark.
        masquerade_bit: Option<i32>,
        /// Hide all clients of ClusterIPs.
        masquerade_all: bool,
        /// Between attempts.
        sync_period: Duration,
        /// Between changes, at least.
        min_sync_period: Duration,
    }
}

stanza! {
    /// For Windows.
    Winkernel {
        /// The network.
        network_name: String,
        /// The address for clients that must be hidden.
        source_vip: String,
        /// Direct server return.
        #[serde(rename = "enableDSR")]
        enable_dsr: bool,
        /// The endpoint of the host.
        root_hns_endpoint_name: String,
        /// Health checks to the address itself.
        forward_health_check_vip: bool,
    }
}

stanza! {
    /// The devices of this node's pods.
    DetectLocal {
        /// The bridge they are on.
        bridge_interface: String,
        /// What their names begin with.
        interface_name_prefix: String,
    }
}

stanza! {
    /// The kernel's connection tracking. 0 leaves the kernel's value alone.
    Conntrack {
        /// Entries per CPU.
        max_per_core: Option<i32>,
        /// Entries at least.
        min: Option<i32>,
        /// For idle connections.
        tcp_established_timeout: Option<Duration>,
        /// For connections that one side has closed.
        tcp_close_wait_timeout: Option<Duration>,
        /// Whether packets out of the window pass.
        tcp_be_liberal: bool,
        /// For flows without an answer.
        udp_timeout: Duration,
        /// For flows with answers.
        udp_stream_timeout: Duration,
    }
}

/// A duration that may also be written as a number of nanoseconds.
#[derive(Serialize, Clone, Copy, Debug, Default, PartialEq)]
pub struct FlushFrequency(pub Duration);

impl<'de> Deserialize<'de> for FlushFrequency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        or_nanoseconds(deserializer).map(Self)
    }
}

/// A quantity as Kubernetes writes it. Only whether it is none matters here.
#[derive(Serialize, Clone, Debug, Default, PartialEq)]
pub struct Quantity(pub String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(u64),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Text(text) => Self(text),
            Written::Number(number) => Self(number.to_string()),
        })
    }
}

fn null_is_nothing<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// As Go writes a slice that nobody has made.
fn null_if_empty<S: Serializer>(list: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { serializer.serialize_unit() } else { list.serialize(serializer) }
}

/// As Go writes a float: 5, not 5.0.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
#[expect(clippy::cast_possible_truncation, reason = "looked at before")]
fn whole_if_whole<S: Serializer>(number: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    if number.fract() == 0.0 && number.abs() < 1e9 {
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f32(*number)
    }
}
