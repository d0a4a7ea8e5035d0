//! What kube-proxy leaves when it dies: found, named exactly, removed; and everything else as it was, byte by byte.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::apiserver::ADMIN_TOKEN;
use kubeshunt_tests::kube_proxy::{KubeProxy, Mode};
use kubeshunt_tests::proxy;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::stage::Stage;

const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// What others have in iptables' tables: the kubelet, a CNI, an administrator who likes kube-proxy's names.
const FOREIGN: [&str; 11] = [
    "-t filter -N KUBE-FIREWALL",
    "-t filter -I INPUT -j KUBE-FIREWALL",
    "-t filter -I OUTPUT -j KUBE-FIREWALL",
    "-t mangle -N KUBE-KUBELET-CANARY",
    "-t nat -N KUBE-SERVICES-MINE",
    "-t nat -A PREROUTING -p tcp --dport 4000 -m comment --comment mine -j KUBE-SERVICES-MINE",
    "-t nat -A KUBE-SERVICES-MINE -p tcp -j REDIRECT --to-ports 4001",
    "-t nat -N CNI-MASQ",
    "-t nat -A POSTROUTING -m comment --comment cni -j CNI-MASQ",
    "-t nat -A CNI-MASQ -p tcp --dport 4002 -j MASQUERADE --random-fully",
    "-t filter -A FORWARD -p tcp --dport 4003 -j ACCEPT",
];

/// And what a living kube-proxy would remove as its own.
const FOREIGN_LATE: [&str; 2] =
    ["-t nat -N KUBE-SVC-MINE", "-t nat -A KUBE-SERVICES-MINE -p tcp -j KUBE-SVC-MINE"];

/// The names of chains that kube-proxy makes, of those that a table has.
fn is_kube_proxys(chain: &str) -> bool {
    let per_service = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-"];
    let single = [
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
        "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL",
        "KUBE-PROXY-CANARY",
    ];
    single.contains(&chain)
        || chain != "KUBE-SVC-MINE" && per_service.iter().any(|prefix| chain.starts_with(prefix))
}

/// Every line of every table, the packets that policies have counted aside.
fn saved(stage: &Stage, mode: Mode) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for save in ["iptables-save", "ip6tables-save"] {
        for table in TABLES {
            let text = stage.tool(mode, &[save, "-t", table])?;
            let rules = text.lines().filter(|line| !line.starts_with('#'));
            lines.extend(
                rules.map(|line| format!("{save} {table} {}", line.split(" [").next().unwrap_or(line))),
            );
        }
    }
    lines.push(stage.tool(mode, &["nft", "-s", "list", "table", "ip", "cni"])?);
    lines.push(stage.tool(mode, &["nft", "-s", "list", "table", "ip6", "cni"])?);
    Ok(lines)
}

/// Is the line about a chain of kube-proxy's: does it make one, belong to one, or lead to one?
fn concerns_kube_proxy(line: &str) -> bool {
    line.split([' ', ':']).any(is_kube_proxys)
}

/// Chains of kube-proxy's, by family and table, as `-o json` has them.
fn chains(lines: &[String]) -> BTreeSet<(String, String)> {
    let made = lines.iter().filter_map(|line| line.split_once(" :"));
    let own = made.filter_map(|(place, chain)| {
        let chain = chain.split(' ').next()?;
        let (save, table) = place.split_once(' ')?;
        let family = if save == "iptables-save" { "ip" } else { "ip6" };
        is_kube_proxys(chain).then(|| (format!("{family} {table}"), chain.to_owned()))
    });
    own.collect()
}

fn named(found: &[Value], kind: &str) -> BTreeSet<(String, String)> {
    let of_kind = found.iter().filter(|leftover| leftover["kind"] == kind);
    let names = of_kind.flat_map(|leftover| {
        let names = leftover["names"].as_array().into_iter().flatten();
        names.map(|name| (leftover["place"].as_str(), name.as_str()))
    });
    names.filter_map(|(place, name)| Some((place?.to_owned(), name?.to_owned()))).collect()
}

/// A stage with rules of others, and those of a kube-proxy that was killed.
fn abandoned(mode: Mode) -> Result<Stage> {
    let stage = Stage::new()?;
    stage.node.add_cni_rules()?;
    install(&stage, mode, &FOREIGN)?;
    let kube_proxy = stage.kube_proxy(mode)?;
    stage.wait_until_served(&kube_proxy)?;
    kube_proxy.end(Signal::SIGKILL)?;
    install(&stage, mode, &FOREIGN_LATE)?;
    Ok(stage)
}

fn install(stage: &Stage, mode: Mode, rules: &[&str]) -> Result<()> {
    for rule in rules {
        for iptables in ["iptables", "ip6tables"] {
            stage.tool(mode, &[&[iptables], rule.split(' ').collect::<Vec<_>>().as_slice()].concat())?;
        }
    }
    Ok(())
}

/// What `kubeshunt check` says about kube-proxy.
fn checked(stage: &Stage) -> Result<String> {
    let output = stage.invoke(&["check", "-o", "json"])?;
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let finding = findings.iter().find(|finding| finding["subject"] == "kube-proxy");
    Ok(finding.context("nothing about kube-proxy")?.to_string())
}

fn of_iptables(mode: Mode, kind: &str) -> Result<()> {
    let stage = abandoned(mode)?;
    let before = saved(&stage, mode)?;
    let left = chains(&before);
    ensure!(left.len() > 2 * 15, "kube-proxy has left more than that: {before:#?}");
    let said = checked(&stage)?;
    assert!(said.contains("none at work") && said.contains("KUBE-"), "{said}");
    assert_eq!(saved(&stage, mode)?, before, "a check changes nothing");

    let removed = stage.clean_up()?;
    assert_eq!(named(&removed, kind), left);
    let others: Vec<_> = before.into_iter().filter(|line| !concerns_kube_proxy(line)).collect();
    assert!(others.iter().any(|line| line.contains("-j KUBE-SVC-MINE")), "{others:#?}");
    assert_eq!(saved(&stage, mode)?, others);
    assert_eq!(stage.clean_up()?, [] as [Value; 0], "twice is as good as once");
    assert!(checked(&stage)?.contains("none has left anything"));
    Ok(())
}

#[test]
fn chains_that_iptables_nft_keeps_are_named_and_removed_and_no_other_rule_changes() -> Result<()> {
    of_iptables(Mode::IptablesNft, "iptables-nft chains")
}

#[test]
fn chains_of_the_old_iptables_are_named_and_removed_and_no_other_rule_changes() -> Result<()> {
    of_iptables(Mode::IptablesLegacy, "iptables-legacy chains")
}

#[test]
fn tables_of_nftables_are_named_and_removed_and_no_other_rule_changes() -> Result<()> {
    let mode = Mode::Nftables;
    let stage = abandoned(mode)?;
    let before = saved(&stage, mode)?;
    for family in ["ip", "ip6"] {
        let table = stage.tool(mode, &["nft", "list", "table", family, "kube-proxy"])?;
        assert!(table.contains("service-"), "{table}");
    }
    let removed = stage.clean_up()?;
    let table = |family: &str| (family.to_owned(), "kube-proxy".to_owned());
    assert_eq!(named(&removed, "nftables table"), BTreeSet::from([table("ip"), table("ip6")]));
    let tables = stage.tool(mode, &["nft", "list", "tables"])?;
    assert!(!tables.contains("kube-proxy"), "{tables}");
    assert_eq!(saved(&stage, mode)?, before);
    assert_eq!(stage.clean_up()?, [] as [Value; 0], "twice is as good as once");
    Ok(())
}

#[test]
fn nothing_is_removed_while_a_kube_proxy_inside_another_program_answers_unless_forced() -> Result<()> {
    let mode = Mode::Nftables;
    let stage = Stage::new()?;
    // Called after the link: as k3s', it has no process of its name.
    let program = stage.bed.folder().join("k3s");
    std::os::unix::fs::symlink(Stage::kube_proxy_program()?, &program)?;
    let kubeconfig = stage.kubeconfig(ADMIN_TOKEN)?;
    let kube_proxy = KubeProxy::start_program(&stage.node, &kubeconfig, mode, &program, proxy::METRICS)?;
    stage.wait_until_served(&kube_proxy)?;
    let refused = stage.invoke(&["cleanup", "--kube-proxy"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("127.0.0.1:10249 answers as a kube-proxy in mode nftables"), "{said}");
    let tables = stage.tool(mode, &["nft", "list", "tables"])?;
    assert!(tables.contains("ip kube-proxy"), "nothing was removed: {tables}");
    assert!(checked(&stage)?.contains("at work: 127.0.0.1:10249"));
    let forced = stage.invoke(&["cleanup", "--kube-proxy", "--force"])?;
    assert!(forced.status.success(), "{forced:?}");
    Ok(())
}
