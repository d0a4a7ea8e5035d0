//! Whole command lines, and files with them.

use std::path::Path;

use clap::CommandFactory as _;

use super::{effective::Settings, *};
use crate::source::kubernetes::requests::Requests;

/// What these arguments of `kubeshunt run` lead to.
pub(super) fn settings(args: &[&str]) -> Result<Settings, String> {
    called("kubeshunt", &[&["run"], args].concat())
}

fn called(name: &str, args: &[&str]) -> Result<Settings, String> {
    let line = Line::of(std::iter::once(&name).chain(args).copied());
    match line.parse().map_err(|error| error.to_string())? {
        (Command::Run(run), said) => Settings::load(&line, *run, &said).map_err(|error| error.to_string()),
        _ => unreachable!("the line above says run"),
    }
}

/// A file with these lines below kind and version, and what it leads to.
fn with_file(lines: &str, args: &[&str]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), lines);
    settings(&[&["--config", &file], args].concat())
}

fn write(folder: &Path, lines: &str) -> String {
    let file = folder.join("config.conf");
    let head = "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\n";
    std::fs::write(&file, format!("{head}{lines}")).unwrap();
    file.display().to_string()
}

#[test]
fn the_command_line_is_consistent() {
    CommandLine::command().debug_assert();
    Line::of(["kube-proxy"]).command().debug_assert();
}

#[test]
fn manifests_and_an_api_server_exclude_each_other() {
    assert!(settings(&["--manifests", "d"]).is_ok());
    assert!(settings(&["--manifests", "d", "--kubeconfig", "f"]).is_err());
    assert!(settings(&["--max-backends", "0"]).is_err());
    assert!(settings(&["--max-backends", "536870912"]).is_err());
}

#[test]
fn external_ips_have_a_switch() {
    let serves = |args: &[&str]| settings(args).map(|settings| settings.serves_external_ips());
    assert_eq!(serves(&[]), Ok(true));
    assert_eq!(serves(&["--feature-gates=AllowServiceExternalIPs=false"]), Ok(false));
    let last = ["--feature-gates=AllowServiceExternalIPs=false,AllowServiceExternalIPs=True"];
    assert_eq!(serves(&last), Ok(true), "the last word counts");
    for bad in ["AllowServiceExternalIPs", "AllowServiceExternalIPs=no", "Magic=true"] {
        assert!(serves(&["--feature-gates", bad]).is_err(), "{bad}");
    }
}

#[test]
fn node_names_are_trimmed_and_lower_case() {
    let name =
        |text: &str| settings(&["--hostname-override", text]).map(|settings| settings.node_name().unwrap());
    assert_eq!(name(" Node-A "), Ok("node-a".to_owned()));
    assert!(name("  ").is_err());
    let in_file = with_file("hostnameOverride: Node-B\n", &[]).unwrap();
    assert_eq!(in_file.node_name().unwrap(), "node-b");
    let over_file = with_file("hostnameOverride: Node-B\n", &["--hostname-override=c"]).unwrap();
    assert_eq!(over_file.node_name().unwrap(), "c");
}

#[test]
fn flags_make_the_configuration_that_a_file_would() {
    let by_flags = settings(&[
        "--bind_address=10.0.0.1",
        "--proxy-mode=nftables",
        "--iptables-sync-period=1m",
        "--masquerade-all",
        "--oom-score-adj",
        "-5",
        "--nodeport-addresses=10.0.0.0/8",
        "--nodeport-addresses=fd00::/8",
        "--healthz-bind-address=::",
        "--conntrack-tcp-be-liberal=false",
        "--feature-gates=AllAlpha=false,NativeHistograms=true",
        "-v=4",
    ])
    .unwrap();
    let by_file = with_file(
        "bindAddress: 10.0.0.1\nmode: nftables\nnftables: {syncPeriod: 1m, masqueradeAll: true}\noomScoreAdj: -5\n\
         nodePortAddresses: [10.0.0.0/8, fd00::/8]\nhealthzBindAddress: '[::]'\nlogging: {verbosity: 4}\n\
         featureGates: {AllAlpha: false, NativeHistograms: true}\n",
        &[],
    )
    .unwrap();
    assert_eq!(by_flags.configuration, by_file.configuration);
    assert_eq!(by_flags.remarks, by_file.remarks);
    assert_eq!(by_flags.log_filter(), "debug");
    assert_eq!(by_flags.expectations().patience.as_secs(), 120);
    assert_eq!(by_flags.serving().unwrap().health, "[::]:10256".parse().ok());
    assert_eq!(by_flags.node_ports().unwrap().primary, "10.0.0.1".parse().ok());
}

#[test]
fn the_file_takes_the_place_of_flags_and_says_so() {
    let line =
        ["--proxy-mode=iptables", "--kubeconfig=/k", "--masquerade-all", "-v", "6", "--master=https://a"];
    let both = with_file("mode: nftables\nlogging: {verbosity: 1}\n", &line).unwrap();
    assert_eq!(both.configuration.mode, "nftables");
    let access = both.access(Requests::default());
    assert_eq!((access.kubeconfig, access.servers), (None, vec!["https://a".to_owned()]));
    assert_eq!(both.log_filter(), "trace", "flags of the log count all the same");
    let said = ["--config takes the place of these flags: --kubeconfig, --proxy-mode, --masquerade-all"];
    assert_eq!(both.remarks, said);
}

#[test]
fn our_own_settings_stand_in_a_stanza_or_on_the_command_line_which_wins() {
    let stanza = "kubeshunt:\n  maxBackends: 7\n  podsByPackets: [annotated, runtimeclass/gvisor]\n  packetPath: on\n  \
                  logDecisions: true\n  resetConnectionsToRemovedEndpoints: false\n  serviceCidr: 10.96.0.0/12\n  \
                  bpffsRoot: null\n";
    let own = with_file(stanza, &[]).unwrap().own;
    assert_eq!((own.room.max_backends, own.packets.pods_by_packets.len()), (7, 2));
    assert!(own.logging.log_decisions && !own.sockets.reset_connections_to_removed_endpoints);
    assert!(own.flows.service_cidr.is_some());
    let own = with_file(stanza, &["--max-backends=9", "--pods-by-packets=annotated"]).unwrap().own;
    assert_eq!((own.room.max_backends, own.packets.pods_by_packets.len()), (9, 1));
    for (wrong, words) in [
        ("maxBackend: 7", "kubeshunt.maxBackend: no such setting"),
        ("maxBackends: none", "--max-backends"),
        ("maxBackends: {a: 1}", "kubeshunt.maxBackends: {\"a\":1} is neither a word nor a list"),
        ("logDecisions: 5", "kubeshunt.logDecisions: 5 is neither true nor false"),
        ("clusterCidr: 10.0.0.0/8", "kubeshunt.clusterCidr: it is a setting of kube-proxy's"),
        ("config: f", "kubeshunt.config: it is a setting of kube-proxy's"),
        ("help: true", "kubeshunt.help: "),
    ] {
        let said = with_file(&format!("kubeshunt: {{{wrong}}}\n"), &[]).unwrap_err();
        assert!(said.contains(words) && said.contains("config.conf"), "{wrong} leads to {said}");
    }
}

#[test]
fn kubeadms_daemon_set_starts_with_nothing_but_its_own_command() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.conf");
    std::fs::write(&file, include_str!("../configuration/testdata/kubeadm.yaml")).unwrap();
    let config = format!("--config={}", file.display());
    let settings = called("/usr/local/bin/kube-proxy", &[&config, "--hostname-override=Node-A"]).unwrap();
    assert_eq!(settings.node_name().unwrap(), "node-a");
    let kubeconfig = Path::new("/var/lib/kube-proxy/kubeconfig.conf");
    assert_eq!(settings.access(Requests::default()).kubeconfig.as_deref(), Some(kubeconfig));
    let serving = settings.serving().unwrap();
    assert_eq!(serving.metrics, "127.0.0.1:10249".parse().unwrap());
    assert_eq!(
        (&serving.configz["kind"], &serving.configz["mode"]),
        (&"KubeProxyConfiguration".into(), &"iptables".into())
    );
}

#[test]
fn health_can_be_switched_off_and_metrics_cannot() {
    let off = settings(&["--healthz-port=0"]).unwrap();
    assert_eq!((off.serving().unwrap().health, off.remarks.len()), (None, 0));
    assert!(settings(&["--metrics-port=0"]).unwrap_err().contains("metricsBindAddress"));
    let with_port = settings(&["--healthz-bind-address=10.0.0.1", "--healthz-port=7"]).unwrap();
    assert_eq!(with_port.serving().unwrap().health, "10.0.0.1:7".parse().ok());
    let in_vain = settings(&["--metrics-port=7"]).unwrap();
    assert_eq!(in_vain.serving().unwrap().metrics, "127.0.0.1:10249".parse().unwrap());
    assert!(in_vain.remarks[0].starts_with("--metrics-port has no effect: "), "{:?}", in_vain.remarks);
    let default = settings(&["--metrics-bind-address="]).unwrap().serving().unwrap().metrics;
    assert_eq!(default, "127.0.0.1:10249".parse().unwrap());
}

#[test]
fn another_text_of_the_file_differs_if_it_means_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "mode: ipvs\nkubeshunt: {maxBackends: 7}\n");
    let settings = settings(&["--config", &file]).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let differs = |text: &str| settings.differ_with(text).map_err(|error| error.to_string());
    assert_eq!(differs(&text), Ok(false));
    assert_eq!(differs(&format!("# a word\n{text}configSyncPeriod: 15m\n")), Ok(false));
    assert_eq!(differs(&text.replace("ipvs", "nftables")), Ok(true));
    assert_eq!(differs(&text.replace('7', "8")), Ok(true));
    assert!(differs(&text.replace("ipvs", "magic")).is_err());
    assert!(differs(&text.replace("maxBackends", "magic")).is_err());
}

#[test]
fn a_command_line_can_be_told_flag_by_flag() {
    let flags = settings(&["--devices=eth*,wg0", "--manifests", "d"]).unwrap().flags;
    let value = |name: &str| flags.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    assert_eq!((value("devices"), value("manifests")), (Some("eth*,wg0"), Some("d")));
    assert_eq!((value("metrics-bind-address"), value("master")), (Some("127.0.0.1:10249"), None));
    assert_eq!((value("conntrack-min"), value("oom-score-adj")), (Some("131072"), Some("-999")));
}

/// kube-proxy's flags on Linux (`cmd/kube-proxy/app/options.go`, release 1.36), each with a value that it takes, and the
/// field it sets.
const FLAGS: &[(&str, &str)] = &[
    ("bind-address=10.0.0.1", "bindAddress"),
    ("bind-address-hard-fail", "bindAddressHardFail"),
    ("bind-address-hard-fail=false", ""),
    ("boot-id-file=/proc/sys/kernel/random/boot_id", ""),
    ("cleanup", ""),
    ("cluster-cidr=10.244.0.0/16,fd00::/48", "clusterCIDR"),
    ("config-sync-period=10m", "configSyncPeriod"),
    ("conntrack-max-per-core=5", "conntrack.maxPerCore"),
    ("conntrack-min=0", "conntrack.min"),
    ("conntrack-tcp-be-liberal=T", "conntrack.tcpBeLiberal"),
    ("conntrack-tcp-timeout-close-wait=1m", "conntrack.tcpCloseWaitTimeout"),
    ("conntrack-tcp-timeout-established=0", "conntrack.tcpEstablishedTimeout"),
    ("conntrack-udp-timeout=1m", "conntrack.udpTimeout"),
    ("conntrack-udp-timeout-stream=2h22m", "conntrack.udpStreamTimeout"),
    ("detect-local-mode=NodeCIDR", "detectLocalMode"),
    ("feature-gates=AllAlpha=true,ComponentFlagz=false", "featureGates"),
    ("healthz-bind-address=127.0.0.1", "healthzBindAddress"),
    ("healthz-port=10256", ""),
    ("hostname-override=node", "hostnameOverride"),
    ("init-only", ""),
    ("iptables-localhost-nodeports=false", "iptables.localhostNodePorts"),
    ("iptables-masquerade-bit=0", "iptables.masqueradeBit"),
    ("iptables-min-sync-period=0", "iptables.minSyncPeriod"),
    ("iptables-sync-period=2h22m", "iptables.syncPeriod"),
    ("ipvs-exclude-cidrs=10.0.0.0/8,fd00::/8", "ipvs.excludeCIDRs"),
    ("ipvs-min-sync-period=5s", "ipvs.minSyncPeriod"),
    ("ipvs-scheduler=lc", "ipvs.scheduler"),
    ("ipvs-strict-arp", "ipvs.strictARP"),
    ("ipvs-sync-period=5s", "ipvs.syncPeriod"),
    ("ipvs-tcp-timeout=5s", "ipvs.tcpTimeout"),
    ("ipvs-tcpfin-timeout=5s", "ipvs.tcpFinTimeout"),
    ("ipvs-udp-timeout=5s", "ipvs.udpTimeout"),
    ("kube-api-burst=20", "clientConnection.burst"),
    ("kube-api-content-type=application/json", "clientConnection.contentType"),
    ("kube-api-qps=7.5", "clientConnection.qps"),
    ("kubeconfig=/k", "clientConnection.kubeconfig"),
    ("log-flush-frequency=1s", "logging.flushFrequency"),
    ("log-json-info-buffer-size=0", ""),
    ("log-json-split-stream=false", ""),
    ("log-text-info-buffer-size=0", ""),
    ("log-text-split-stream=false", ""),
    ("logging-format=json", "logging.format"),
    ("machine-id-file=/etc/machine-id,/var/lib/dbus/machine-id", ""),
    ("masquerade-all", "iptables.masqueradeAll"),
    ("master=https://10.0.0.1:6443", ""),
    ("metrics-bind-address=[::1]:9", "metricsBindAddress"),
    ("metrics-port=10249", ""),
    ("nodeport-addresses=10.0.0.0/8,fd00::/8", "nodePortAddresses"),
    ("oom-score-adj=-1000", "oomScoreAdj"),
    ("pod-bridge-interface=cni0", "detectLocal.bridgeInterface"),
    ("pod-interface-name-prefix=cali", "detectLocal.interfaceNamePrefix"),
    ("profiling=true", "enableProfiling"),
    ("proxy-mode=ipvs", "mode"),
    ("show-hidden-metrics-for-version=1.35", "showHiddenMetricsForVersion"),
    ("v=5", "logging.verbosity"),
    ("vmodule=proxier=5,serv*=6", "logging.vmodule"),
    ("write-config-to=/dev/null", ""),
];

#[test]
fn every_flag_of_kube_proxys_is_accepted_and_sets_its_field() {
    fn at<'a>(value: &'a serde_json::Value, path: &str) -> Option<&'a serde_json::Value> {
        path.split('.').try_fold(value, |value, key| value.get(key))
    }
    let shown = |settings: &Settings| serde_json::to_value(&settings.configuration).unwrap();
    let default = shown(&settings(&[]).unwrap());
    for (flag, field) in FLAGS {
        let set = settings(&[&format!("--{flag}")]).unwrap_or_else(|error| panic!("--{flag}: {error}"));
        let set = shown(&set);
        if field.is_empty() {
            assert_eq!(set, default, "--{flag} sets nothing");
        } else {
            assert_ne!(at(&set, field), at(&default, field), "--{flag} sets {field}");
        }
    }
}

/// What is accepted and changes nothing says so in one line, and what is obeyed says nothing.
#[test]
fn every_flag_that_changes_nothing_says_so() {
    use crate::configuration::fields::{Effect, FIELDS};
    for (flag, field) in FLAGS {
        let Some(known) = FIELDS.iter().find(|known| known.path == *field) else { continue };
        let mut line = vec![format!("--{flag}")];
        // Flags that are obeyed together with another.
        line.extend(match *field {
            "bindAddress" => Some("--nodeport-addresses=primary".to_owned()),
            "clusterCIDR" => Some("--detect-local-mode=ClusterCIDR".to_owned()),
            "detectLocal.bridgeInterface" => Some("--detect-local-mode=BridgeInterface".to_owned()),
            "detectLocal.interfaceNamePrefix" => Some("--detect-local-mode=InterfaceNamePrefix".to_owned()),
            "ipvs.syncPeriod" | "ipvs.minSyncPeriod" => Some("--proxy-mode=ipvs".to_owned()),
            _ => None,
        });
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let remarks = settings(&line).unwrap().remarks;
        let is_said =
            remarks.iter().filter(|remark| remark.starts_with(&format!("{field} has no effect: "))).count();
        match known.effect {
            Effect::Nothing(_) => assert_eq!((is_said, remarks.len()), (1, 1), "--{flag}: {remarks:?}"),
            Effect::Obeyed => assert_eq!(remarks, Vec::<String>::new(), "--{flag}"),
            Effect::Depends => {}
        }
    }
}

#[test]
fn every_flag_is_explained_and_has_its_row_in_the_documentation() {
    let page = include_str!("../../../docs/configuration.md");
    let run = Line::of(["kube-proxy"]).command();
    for flag in run.get_arguments() {
        let Some(name) = flag.get_long() else { continue };
        assert!(flag.get_help().is_some(), "--{name} has no help");
        assert!(page.contains(&format!("`--{name}`")), "docs/configuration.md does not speak of --{name}");
        let listed =
            FLAGS.iter().any(|(listed, _)| listed.split('=').next() == Some(name)) || name == "config";
        let heading = flag.get_help_heading().unwrap_or_default();
        assert_eq!(listed, heading.starts_with("kube-proxy's"), "--{name} is under {heading:?}");
    }
    for (flag, _) in FLAGS {
        let name = flag.split('=').next().unwrap();
        assert!(run.get_arguments().any(|known| known.get_long() == Some(name)), "{name}");
    }
    for field in crate::configuration::fields::FIELDS {
        assert!(
            page.contains(&format!("`{}`", field.path)),
            "docs/configuration.md does not speak of {}",
            field.path
        );
    }
    for line in EXIT_CODES.lines().filter(|line| line.starts_with("  ")) {
        let code = line.trim().split(' ').next().unwrap();
        assert!(
            page.contains(&format!("| {code} |")),
            "docs/configuration.md does not speak of exit code {code}"
        );
    }
}
