//! Every field, kube-proxy's flag for it, and what becomes of it here.

use serde_json::Value;

use super::{KubeProxyConfiguration, Mode, gates, validation::sloppy_ip};

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is obeyed.
    Obeyed,
    /// It is obeyed in part, or depends on other fields.
    Depends,
    /// It changes nothing, because...
    Nothing(&'static str),
}
use Effect::{Depends, Nothing, Obeyed};

/// A field of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its place, as in `conntrack.min`.
    pub path: &'static str,
    /// The flag that sets it, if there is one.
    pub flag: Option<&'static str>,
    /// What becomes of it.
    pub effect: Effect,
}

const fn field(path: &'static str, flag: &'static str, effect: Effect) -> Field {
    Field { path, flag: Some(flag), effect }
}

const fn unflagged(path: &'static str, effect: Effect) -> Field {
    Field { path, flag: None, effect }
}

const NO_MARK: &str = "packets are not marked; what is masqueraded is translated on the spot";
const AT_ONCE: &str = "changes are applied at once, and cost what they change";
const NO_HIDING: &str = "a client is hidden only where its answer would miss the node; \
                         at the socket there is no address to hide yet";
const NO_SCHEDULER: &str = "there is no IPVS here; endpoints are drawn at random";
const NO_VIRTUAL_SERVERS: &str = "there is no IPVS here, and virtual servers are left alone";
const NO_WINDOWS: &str = "it is for Windows";
const RELISTED: &str = "a list that came once is kept true by its watch";
const JSON: &str = "the API server is spoken to in JSON";
const FEW_REQUESTS: &str = "there are a handful of lists and watches, paced by a backoff";
const UNBUFFERED: &str = "each line of the log is written at once, to standard error";

/// All of them, but kind and apiVersion.
pub const FIELDS: &[Field] = &[
    field("featureGates", "feature-gates", Depends),
    field("clientConnection.kubeconfig", "kubeconfig", Obeyed),
    unflagged("clientConnection.acceptContentTypes", Nothing(JSON)),
    field("clientConnection.contentType", "kube-api-content-type", Nothing(JSON)),
    field("clientConnection.qps", "kube-api-qps", Nothing(FEW_REQUESTS)),
    field("clientConnection.burst", "kube-api-burst", Nothing(FEW_REQUESTS)),
    field("logging.format", "logging-format", Obeyed),
    field("logging.flushFrequency", "log-flush-frequency", Nothing(UNBUFFERED)),
    field("logging.verbosity", "v", Obeyed),
    field(
        "logging.vmodule",
        "vmodule",
        Nothing("it names files of kube-proxy's source; --log takes a filter by module"),
    ),
    field("logging.options.text.splitStream", "log-text-split-stream", Nothing(UNBUFFERED)),
    field("logging.options.text.infoBufferSize", "log-text-info-buffer-size", Nothing(UNBUFFERED)),
    field("logging.options.json.splitStream", "log-json-split-stream", Nothing(UNBUFFERED)),
    field("logging.options.json.infoBufferSize", "log-json-info-buffer-size", Nothing(UNBUFFERED)),
    field("hostnameOverride", "hostname-override", Obeyed),
    field("bindAddress", "bind-address", Depends),
    field("healthzBindAddress", "healthz-bind-address", Obeyed),
    field("metricsBindAddress", "metrics-bind-address", Obeyed),
    field("bindAddressHardFail", "bind-address-hard-fail", Obeyed),
    field("enableProfiling", "profiling", Nothing("there is no Go runtime to be profiled")),
    field("showHiddenMetricsForVersion", "show-hidden-metrics-for-version", Nothing("no metric is hidden")),
    field("mode", "proxy-mode", Obeyed),
    field("iptables.masqueradeBit", "iptables-masquerade-bit", Nothing(NO_MARK)),
    field("iptables.masqueradeAll", "masquerade-all", Nothing(NO_HIDING)),
    field("iptables.localhostNodePorts", "iptables-localhost-nodeports", Depends),
    field("iptables.syncPeriod", "iptables-sync-period", Obeyed),
    field("iptables.minSyncPeriod", "iptables-min-sync-period", Nothing(AT_ONCE)),
    field("ipvs.syncPeriod", "ipvs-sync-period", Obeyed),
    field("ipvs.minSyncPeriod", "ipvs-min-sync-period", Nothing(AT_ONCE)),
    field("ipvs.scheduler", "ipvs-scheduler", Nothing(NO_SCHEDULER)),
    field("ipvs.excludeCIDRs", "ipvs-exclude-cidrs", Nothing(NO_VIRTUAL_SERVERS)),
    field(
        "ipvs.strictARP",
        "ipvs-strict-arp",
        Nothing("no device holds the addresses of Services, so nothing answers ARP for them"),
    ),
    field(
        "ipvs.tcpTimeout",
        "ipvs-tcp-timeout",
        Nothing("there is no IPVS here; conntrack.tcpEstablishedTimeout counts"),
    ),
    field(
        "ipvs.tcpFinTimeout",
        "ipvs-tcpfin-timeout",
        Nothing("there is no IPVS here; conntrack.tcpCloseWaitTimeout counts"),
    ),
    field(
        "ipvs.udpTimeout",
        "ipvs-udp-timeout",
        Nothing("there is no IPVS here; conntrack.udpStreamTimeout counts"),
    ),
    unflagged("nftables.masqueradeBit", Nothing(NO_MARK)),
    field("nftables.masqueradeAll", "masquerade-all", Nothing(NO_HIDING)),
    field("nftables.syncPeriod", "iptables-sync-period", Obeyed),
    field("nftables.minSyncPeriod", "iptables-min-sync-period", Nothing(AT_ONCE)),
    unflagged("winkernel.networkName", Nothing(NO_WINDOWS)),
    unflagged("winkernel.sourceVip", Nothing(NO_WINDOWS)),
    unflagged("winkernel.enableDSR", Nothing(NO_WINDOWS)),
    unflagged("winkernel.rootHnsEndpointName", Nothing(NO_WINDOWS)),
    unflagged("winkernel.forwardHealthCheckVip", Nothing(NO_WINDOWS)),
    field("detectLocalMode", "detect-local-mode", Obeyed),
    field("detectLocal.bridgeInterface", "pod-bridge-interface", Obeyed),
    field("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix", Obeyed),
    field("clusterCIDR", "cluster-cidr", Obeyed),
    field("nodePortAddresses", "nodeport-addresses", Obeyed),
    field("oomScoreAdj", "oom-score-adj", Obeyed),
    field("conntrack.maxPerCore", "conntrack-max-per-core", Obeyed),
    field("conntrack.min", "conntrack-min", Obeyed),
    field("conntrack.tcpEstablishedTimeout", "conntrack-tcp-timeout-established", Obeyed),
    field("conntrack.tcpCloseWaitTimeout", "conntrack-tcp-timeout-close-wait", Obeyed),
    field("conntrack.tcpBeLiberal", "conntrack-tcp-be-liberal", Obeyed),
    field("conntrack.udpTimeout", "conntrack-udp-timeout", Obeyed),
    field("conntrack.udpStreamTimeout", "conntrack-udp-timeout-stream", Obeyed),
    field("configSyncPeriod", "config-sync-period", Nothing(RELISTED)),
    unflagged("portRange", Nothing("it is of a mode that kube-proxy no longer has")),
    unflagged("windowsRunAsService", Nothing(NO_WINDOWS)),
];

/// What is set, other than by default, and changes nothing: one sentence each, for the log.
#[must_use]
pub fn without_effect(configuration: &KubeProxyConfiguration) -> Vec<String> {
    let mut default = KubeProxyConfiguration::defaulted();
    // So that its defaults, too, are those of the mode.
    configuration.mode.clone_into(&mut default.mode);
    default.set_platform_defaults();
    let (Ok(chosen), Ok(default)) = (serde_json::to_value(configuration), serde_json::to_value(&default))
    else {
        return Vec::new(); // No value of it is one that JSON lacks.
    };
    let is_set = |path: &str| at(&chosen, path) != at(&default, path);
    let sentence = |path: &str, why: &str| format!("{path} has no effect: {why}");
    let fields = FIELDS.iter().filter_map(|field| match field.effect {
        Nothing(why) if is_set(field.path) => Some(sentence(field.path, why)),
        _ => None,
    });
    let gates = gates::without_effect(&configuration.feature_gates);
    let gates = gates.map(|(name, why)| sentence(&format!("featureGates.{name}"), why));
    fields.chain(gates).chain(depending(configuration, is_set)).collect()
}

/// What has no effect because of something else that is said, or is not.
fn depending(configuration: &KubeProxyConfiguration, is_set: impl Fn(&str) -> bool) -> Vec<String> {
    let mode = configuration.mode();
    let mut said = Vec::new();
    for (own, path) in [
        (Mode::Iptables, "iptables.syncPeriod"),
        (Mode::Ipvs, "ipvs.syncPeriod"),
        (Mode::Nftables, "nftables.syncPeriod"),
        (Mode::Iptables, "iptables.localhostNodePorts"),
    ] {
        if mode != own && is_set(path) {
            said.push(format!("{path} has no effect: the mode is {}", configuration.mode));
        }
    }
    let bind = sloppy_ip(&configuration.bind_address);
    if bind.is_some_and(|ip| !ip.is_unspecified()) && configuration.node_port_addresses != ["primary"] {
        said.push(
            "bindAddress has no effect: it is the node's primary address, for which only nodePortAddresses: \
             [primary] asks"
                .to_owned(),
        );
    }
    let detects = &*configuration.detect_local_mode;
    for (own, path) in [
        ("BridgeInterface", "detectLocal.bridgeInterface"),
        ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix"),
    ] {
        if detects != own && is_set(path) {
            said.push(format!("{path} has no effect: detectLocalMode is not {own}"));
        }
    }
    if detects == "ClusterCIDR" && configuration.cluster_cidr.is_empty() {
        said.push(
            "detectLocalMode ClusterCIDR has no effect: clusterCIDR is empty; pods of this node are told by device"
                .to_owned(),
        );
    }
    if detects != "ClusterCIDR" && !configuration.cluster_cidr.is_empty() {
        let instead =
            if detects.is_empty() { "empty: pods of this node are told by device" } else { detects };
        said.push(format!("clusterCIDR has no effect: detectLocalMode is {instead}"));
    }
    said
}

/// What a configuration says in the field of a flag, as the command line would.
#[must_use]
pub fn of_flag(configuration: &KubeProxyConfiguration, flag: &str) -> Option<String> {
    let field = FIELDS.iter().find(|field| field.flag == Some(flag))?;
    let value = serde_json::to_value(configuration).ok()?;
    Some(match at(&value, field.path) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(value) => value.to_string(),
    })
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}
