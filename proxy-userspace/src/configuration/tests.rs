//! Files as kubeadm and kube-proxy write them, and what is wrong with others.

use super::{document, fields, *};

const KUBEADM: &str = include_str!("testdata/kubeadm.yaml");
/// `pkg/proxy/apis/config/scheme/testdata/KubeProxyConfiguration/roundtrip/default/v1alpha1.yaml` of Kubernetes 1.36: what
/// kube-proxy writes when nothing is said.
const DEFAULTS: &str = include_str!("testdata/defaults.yaml");

const HEAD: &str = "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\n";

/// A file of these lines, with defaults.
fn configuration(lines: &str) -> KubeProxyConfiguration {
    let mut read = document::read(&format!("{HEAD}{lines}")).unwrap().configuration;
    read.set_defaults();
    read.set_platform_defaults();
    read
}

/// What is wrong with a file of these lines.
fn misfits(lines: &str) -> String {
    configuration(lines).validate().map_or_else(|misfits| misfits.to_string(), |()| String::new())
}

fn unreadable(text: &str) -> String {
    document::read(text).unwrap_err().to_string()
}

#[test]
fn nothing_said_is_written_as_kube_proxy_writes_it() {
    let mut read = document::read(HEAD).unwrap().configuration;
    read.set_defaults();
    read.forget_other_modes();
    // Quoted or not, it is the same text.
    assert_eq!(document::write(&read).unwrap().replace("\"0.0.0.0\"", "0.0.0.0"), DEFAULTS);
}

#[test]
fn what_is_written_reads_back_as_the_same() {
    let chosen = configuration(
        "mode: nftables\nnftables: {syncPeriod: 1m, minSyncPeriod: 2s}\nfeatureGates: {NativeHistograms: true}\n\
         clientConnection: {qps: 7.5}\nlogging: {vmodule: [{filePattern: 'pro*', verbosity: 9}]}\noomScoreAdj: 0\n",
    );
    let text = document::write(&chosen).unwrap();
    let mut again = document::read(&text).unwrap();
    again.configuration.set_defaults();
    assert_eq!((again.configuration, again.tolerated), (chosen, Vec::new()));
}

#[test]
fn what_kubeadm_writes_is_the_defaults_and_three_words() {
    let read = document::read(KUBEADM).unwrap();
    assert_eq!((read.tolerated, read.stanza.len()), (Vec::<String>::new(), 0));
    let mut configuration = read.configuration;
    configuration.set_defaults();
    let mut wanted = KubeProxyConfiguration::defaulted();
    wanted.client_connection.kubeconfig = "/var/lib/kube-proxy/kubeconfig.conf".to_owned();
    wanted.cluster_cidr = "10.244.0.0/16".to_owned();
    assert_eq!(configuration, wanted);
    assert_eq!(configuration.validate(), Ok(()));
    configuration.set_platform_defaults();
    let said = ["clusterCIDR has no effect: detectLocalMode is empty: pods of this node are told by device"];
    assert_eq!(fields::without_effect(&configuration), said);
}

#[test]
fn defaults_depend_on_the_mode_and_on_the_family_of_the_bind_address() {
    let v6 = configuration("bindAddress: 'fd00::1'\n");
    assert_eq!((&*v6.healthz_bind_address, &*v6.metrics_bind_address), ("[::]:10256", "[::1]:10249"));
    let bare = configuration("healthzBindAddress: 10.0.0.1\nmetricsBindAddress: '::'\n");
    assert_eq!((&*bare.healthz_bind_address, &*bare.metrics_bind_address), ("10.0.0.1:10256", "[::]:10249"));
    let iptables = configuration("");
    assert_eq!((&*iptables.mode, iptables.node_port_addresses.len()), ("iptables", 0));
    assert_eq!(configuration("mode: nftables\n").node_port_addresses, ["primary"]);
    let chosen = configuration("mode: nftables\nnodePortAddresses: [10.0.0.0/8]\n");
    assert_eq!(chosen.node_port_addresses, ["10.0.0.0/8"]);
    // 0 is not "at once" in a file, other than in the stanza of ipvs.
    let stanzas = "iptables: {minSyncPeriod: 0s}\nipvs: {minSyncPeriod: 0s}\nnftables: {minSyncPeriod: 0s}\n";
    for (mode, seconds) in [("iptables", 1), ("ipvs", 0), ("nftables", 1), ("''", 1)] {
        let periods = configuration(&format!("mode: {mode}\n{stanzas}")).periods();
        let wanted = Periods { sync: Duration::from_secs(30), min_sync: Duration::from_secs(seconds) };
        assert_eq!(periods, wanted, "{mode}");
    }
}

#[test]
fn unknown_and_duplicate_fields_are_tolerated_and_named() {
    let text =
        format!("{HEAD}mode: ipvs\nmagic: 1\niptables:\n  bit: 3\n  masqueradeBit: 3\nmode: nftables\n");
    let read = document::read(&text).unwrap();
    assert_eq!(
        (&*read.configuration.mode, read.configuration.iptables.masquerade_bit),
        ("nftables", Some(3))
    );
    assert_eq!(read.tolerated[..2], ["unknown field \"magic\"", "unknown field \"iptables.bit\""]);
    assert!(
        read.tolerated[2].contains("mode") && read.tolerated[2].contains("line 8"),
        "{:?}",
        read.tolerated
    );
    assert_eq!(read.tolerated.len(), 3);
}

#[test]
fn our_stanza_is_ours() {
    let read =
        document::read(&format!("{HEAD}kubeshunt:\n  maxBackends: 5\n  devices: [eth0, eth1]\n")).unwrap();
    assert_eq!(read.tolerated, Vec::<String>::new());
    assert_eq!(read.stanza["maxBackends"], 5);
    assert_eq!(read.stanza["devices"], serde_json::json!(["eth0", "eth1"]));
}

#[test]
fn what_cannot_be_read_is_said_with_its_place() {
    for (text, words) in [
        (String::new(), &["neither kind nor apiVersion", "kind: KubeProxyConfiguration"][..]),
        (
            "kind: Pod\napiVersion: v1\n".to_owned(),
            &["a Pod of v1", "has to be kind: KubeProxyConfiguration"],
        ),
        ("kind: KubeProxyConfiguration\n".to_owned(), &["no apiVersion"]),
        (HEAD.replace("v1alpha1", "v1beta1"), &["v1beta1"]),
        (format!("{HEAD}mode: [\n"), &["line "]),
        (format!("{HEAD}mode: 5\n"), &["line 3", "mode"]),
        (format!("{HEAD}bindAddressHardFail: maybe\n"), &["line 3", "bindAddressHardFail", "boolean"]),
        (format!("{HEAD}conntrack:\n  min: many\n"), &["line 4", "conntrack.min"]),
        (format!("{HEAD}iptables:\n  syncPeriod: 30\n"), &["line 4", "iptables.syncPeriod"]),
        (format!("{HEAD}iptables:\n  syncPeriod: 30 parsecs\n"), &["line 4", "iptables.syncPeriod", "30s"]),
        (format!("{HEAD}nodePortAddresses: primary\n"), &["line 3", "nodePortAddresses", "sequence"]),
        (format!("{HEAD}featureGates: {{A: 1}}\n"), &["line 3", "featureGates.A"]),
        (format!("{HEAD}kubeshunt: [1]\n"), &["line 3", "kubeshunt"]),
        (format!("{HEAD}oomScoreAdj: 99999999999\n"), &["line 3", "oomScoreAdj"]),
    ] {
        let said = unreadable(&text);
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said:?}, of:\n{text}");
        }
    }
}

#[test]
fn what_cannot_be_meant_is_said_with_its_field() {
    for (lines, wanted) in [
        ("mode: userspace", "mode: \"userspace\" must be iptables, ipvs or nftables"),
        ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit: \"32\" must be within 0 to 31"),
        ("mode: nftables\nnftables: {masqueradeBit: -1}", "nftables.masqueradeBit"),
        (
            "iptables: {syncPeriod: 1s, minSyncPeriod: 2s}",
            "iptables.syncPeriod: \"1s\" must be greater than or equal",
        ),
        ("iptables: {syncPeriod: -1s}", "iptables.syncPeriod: \"-1s\" must be greater than 0"),
        ("mode: ipvs\nipvs: {udpTimeout: -1s}", "ipvs.udpTimeout"),
        ("mode: ipvs\nipvs: {excludeCIDRs: [x]}", "ipvs.excludeCIDRs[0]: \"x\""),
        ("hostnameOverride: '  '", "hostnameOverride: \"  \" must not be blank"),
        ("bindAddress: here", "bindAddress: \"here\" must be an IP address"),
        ("healthzBindAddress: 'localhost:10256'", "healthzBindAddress"),
        ("metricsBindAddress: '127.0.0.1:0'", "metricsBindAddress"),
        ("metricsBindAddress: '::1:10249x'", "metricsBindAddress"),
        ("nodePortAddresses: [10.0.0.0/8, primary]", "nodePortAddresses[1]: \"primary\" stands alone"),
        ("nodePortAddresses: [10.0.0.1]", "nodePortAddresses[0]: \"10.0.0.1\" must be a range"),
        ("detectLocalMode: Magic", "detectLocalMode: \"Magic\" must be ClusterCIDR"),
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface"),
        ("detectLocalMode: InterfaceNamePrefix", "detectLocal.interfaceNamePrefix"),
        ("detectLocalMode: ClusterCIDR\nclusterCIDR: '10.0.0.0/8,10.0.0.0/9'", "clusterCIDR"),
        ("detectLocalMode: ClusterCIDR\nclusterCIDR: '10.0.0.0/8,fd00::/8,fd01::/16'", "clusterCIDR"),
        ("oomScoreAdj: 1001", "oomScoreAdj: \"1001\" must be within -1000 to 1000"),
        ("conntrack: {maxPerCore: -1}", "conntrack.maxPerCore: \"-1\" must not be negative"),
        ("conntrack: {min: -1}", "conntrack.min"),
        ("conntrack: {tcpCloseWaitTimeout: -1s}", "conntrack.tcpCloseWaitTimeout"),
        ("clientConnection: {burst: -1}", "clientConnection.burst"),
        ("configSyncPeriod: -1s", "configSyncPeriod"),
        ("featureGates: {Magic: true}", "featureGates.Magic: \"true\" no component of Kubernetes"),
        ("logging: {format: xml}", "logging.format"),
        ("logging: {format: json, vmodule: [{filePattern: a, verbosity: 1}]}", "logging.vmodule[0]"),
        ("logging: {options: {text: {splitStream: true}}}", "logging.options.text.splitStream"),
    ] {
        let said = misfits(lines);
        assert!(said.starts_with(wanted) && !said.contains("; "), "{lines} leads to {said:?}");
    }
}

#[test]
fn everything_that_cannot_be_meant_is_said_at_once() {
    let said = misfits("mode: userspace\nconntrack: {min: -1}\noomScoreAdj: 2000\n");
    assert_eq!(said.split("; ").count(), 3, "{said}");
}

#[test]
fn what_kube_proxy_takes_is_taken() {
    for lines in [
        "bindAddress: 010.0.0.1",
        "detectLocalMode: ClusterCIDR",
        "detectLocalMode: ClusterCIDR\nclusterCIDR: '10.0.0.0/8,fd00::/8'",
        // Only looked at in its mode.
        "clusterCIDR: '10.0.0.0/8,10.0.0.0/9,x'",
        "ipvs: {excludeCIDRs: [x], syncPeriod: 1s, minSyncPeriod: 2s}",
        "nftables: {syncPeriod: 1s, minSyncPeriod: 2s}",
        "logging: {flushFrequency: 5000000000}",
        "logging: {options: {text: {infoBufferSize: 0}}}",
        "featureGates: {LoggingAlphaOptions: true}\nlogging: {options: {json: {infoBufferSize: 1Ki}}}",
        "featureGates: {AllAlpha: true}\nlogging: {options: {json: {splitStream: true}}}",
    ] {
        assert_eq!(misfits(lines), "", "{lines}");
    }
}

#[test]
fn what_changes_nothing_is_said_once_and_defaults_are_not_spoken_of() {
    assert_eq!(fields::without_effect(&configuration("")), Vec::<String>::new());
    assert_eq!(fields::without_effect(&configuration("mode: nftables")), Vec::<String>::new());
    assert_eq!(fields::without_effect(&configuration("mode: ipvs")), Vec::<String>::new());
    for (lines, beginning) in [
        (
            "iptables: {masqueradeAll: true}",
            "iptables.masqueradeAll has no effect: a client is hidden only where",
        ),
        (
            "iptables: {minSyncPeriod: 5s}",
            "iptables.minSyncPeriod has no effect: changes are applied at once",
        ),
        ("ipvs: {scheduler: lc}", "ipvs.scheduler has no effect: there is no IPVS here"),
        ("nftables: {syncPeriod: 5s}", "nftables.syncPeriod has no effect: the mode is iptables"),
        (
            "mode: nftables\niptables: {localhostNodePorts: false}",
            "iptables.localhostNodePorts has no effect: the mode",
        ),
        ("enableProfiling: true", "enableProfiling has no effect: "),
        ("featureGates: {NativeHistograms: true}", "featureGates.NativeHistograms has no effect: "),
        ("bindAddress: 10.0.0.1", "bindAddress has no effect: it is the node's primary address"),
        ("detectLocalMode: ClusterCIDR", "detectLocalMode ClusterCIDR has no effect: clusterCIDR is empty"),
        ("detectLocal: {bridgeInterface: cni0}", "detectLocal.bridgeInterface has no effect: "),
        ("windowsRunAsService: true", "windowsRunAsService has no effect: it is for Windows"),
    ] {
        let said = fields::without_effect(&configuration(lines));
        assert!(said.len() == 1 && said[0].starts_with(beginning), "{lines} leads to {said:#?}");
    }
    for obeyed in [
        "iptables: {syncPeriod: 5s, localhostNodePorts: false}",
        "mode: nftables\nbindAddress: 10.0.0.1",
        "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
        "featureGates: {KubeletInUserNamespace: true}",
    ] {
        assert_eq!(fields::without_effect(&configuration(obeyed)), Vec::<String>::new(), "{obeyed}");
    }
}

#[test]
fn the_table_of_fields_has_each_field_once() {
    fn leaves(prefix: &str, value: &serde_json::Value, found: &mut Vec<String>) {
        match value.as_object() {
            Some(fields) => {
                for (name, value) in fields {
                    leaves(&format!("{prefix}.{name}"), value, found);
                }
            }
            None => found.push(prefix.trim_start_matches('.').to_owned()),
        }
    }
    let mut full = KubeProxyConfiguration::defaulted();
    // What is left out when it is empty.
    full.windows_run_as_service = true;
    full.logging.vmodule.push(v1alpha1::VmoduleItem::default());
    full.logging.options.text.split_stream = true;
    full.logging.options.json.split_stream = true;
    let mut found = Vec::new();
    leaves("", &serde_json::to_value(&full).unwrap(), &mut found);
    found.push("featureGates".to_owned());
    found.retain(|path| path != "kind" && path != "apiVersion");
    found.sort();
    let mut listed: Vec<&str> = fields::FIELDS.iter().map(|field| field.path).collect();
    listed.sort_unstable();
    assert_eq!(listed, found);
}
