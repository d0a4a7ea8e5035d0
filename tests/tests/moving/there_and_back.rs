//! Ours in kube-proxy's place, and the other way round, under traffic from pods, from the host and from outside.

use anyhow::{Result, ensure};
use kubeshunt_tests::kube_proxy::Mode;
use kubeshunt_tests::protocol::Target;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::traffic::{IN_FLIGHT, Line, Outcome, through};

/// From everywhere to everything that `web` has.
fn lines(stage: &Stage) -> Result<[Line; 3]> {
    let (cluster_ips, node_ports) = (stage.cluster_ips("web")?, stage.node_ports("web")?);
    Ok([
        Line::open("pod to ClusterIP", &stage.client, cluster_ips)?,
        Line::open("host to ClusterIP", stage.node.host(), cluster_ips)?,
        Line::open("outside to NodePort", stage.bed.outside(), node_ports)?,
    ])
}

/// Nobody has noticed anything.
fn assert_unnoticed(outcome: &Outcome) {
    assert!(outcome.alive == outcome.held && outcome.broken.is_empty(), "{outcome}");
    assert!(outcome.failed.is_empty() && outcome.answered > 0, "{outcome}");
}

fn move_in(mode: Mode, with_cni_rules: bool) -> Result<Vec<Outcome>> {
    let stage = Stage::new()?;
    if with_cni_rules {
        stage.node.add_cni_rules()?;
    }
    let kube_proxy = stage.kube_proxy(mode)?;
    stage.wait_until_served(&kube_proxy)?;
    let lines = lines(&stage)?;
    through(&lines, |pulse| {
        pulse.beat()?;
        let _kubeshunt = stage.kubeshunt(|setup| setup)?;
        pulse.beat()?;
        let refused = stage.invoke(&["cleanup", "--kube-proxy"])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(1) && said.contains("a kube-proxy is at work"), "{said}");
        kube_proxy.end(Signal::SIGTERM)?;
        pulse.beat()?;
        let removed = stage.clean_up()?;
        ensure!(!removed.is_empty(), "kube-proxy has left nothing");
        pulse.beat()
    })
}

#[test]
fn nobody_notices_a_move_from_kube_proxy_in_mode_nftables() -> Result<()> {
    move_in(Mode::Nftables, true)?.iter().for_each(assert_unnoticed);
    Ok(())
}

#[test]
fn nobody_notices_a_move_from_kube_proxy_in_mode_iptables() -> Result<()> {
    move_in(Mode::IptablesNft, true)?.iter().for_each(assert_unnoticed);
    Ok(())
}

#[test]
fn nobody_notices_a_move_from_kube_proxy_with_the_old_iptables() -> Result<()> {
    move_in(Mode::IptablesLegacy, true)?.iter().for_each(assert_unnoticed);
    Ok(())
}

/// With kube-proxy's rules go the last ones that track and translate, and nobody masquerades what comes from outside: its
/// ports are ours to draw, beside those that conntrack has given to kube-proxy's connections.
fn move_in_alone(mode: Mode) -> Result<()> {
    for outcome in move_in(mode, false)? {
        assert!(outcome.alive == outcome.held && outcome.broken.is_empty(), "{outcome}");
        if outcome.what == "host to ClusterIP" {
            // docs/migrate.md says why, and until when: conntrack gives some of them another port, perhaps one of ours.
            assert!(outcome.failed.keys().all(|error| error == "TIMEOUT"), "{outcome}");
            assert!(outcome.failed.values().sum::<u64>() * 100 < outcome.answered, "{outcome}");
        } else {
            assert!(outcome.failed.is_empty(), "{outcome}");
        }
    }
    Ok(())
}

#[test]
fn where_nobody_else_translates_no_connection_breaks_with_kube_proxys_table() -> Result<()> {
    move_in_alone(Mode::Nftables)
}

#[test]
fn where_nobody_else_translates_no_connection_breaks_with_kube_proxys_chains() -> Result<()> {
    move_in_alone(Mode::IptablesNft)
}

#[test]
fn where_nobody_else_translates_no_connection_breaks_with_chains_of_the_old_iptables() -> Result<()> {
    move_in_alone(Mode::IptablesLegacy)
}

#[test]
fn while_both_run_ours_serves_new_connections_and_kube_proxys_conntrack_sees_none() -> Result<()> {
    for mode in [Mode::Nftables, Mode::IptablesNft] {
        let stage = Stage::new()?;
        stage.node.add_cni_rules()?;
        let kube_proxy = stage.kube_proxy(mode)?;
        stage.wait_until_served(&kube_proxy)?;
        let tracked = stage.tracked(&stage.cluster_ips("web")?)?;
        assert!(!tracked.is_empty(), "kube-proxy's connections to the ClusterIP are tracked");
        let _kubeshunt = stage.kubeshunt(|setup| setup)?;
        stage.publish("shop", json!({"type": "NodePort"}), &[0, 1])?;
        stage.wait_for_rules(&kube_proxy, mode)?;
        let (cluster_ips, node_ports) = (stage.cluster_ips("shop")?, stage.node_ports("shop")?);
        stage.wait_until_listed(cluster_ips[1])?;
        for (client, to) in [
            (&stage.client, cluster_ips),
            (stage.node.host(), cluster_ips),
            (&stage.client, node_ports),
            (stage.bed.outside(), node_ports),
        ] {
            for to in to {
                let report = client.probe().ask(&Target::tcp(to), 40, 2)?;
                assert!(report.failed() == 0 && report.answered.len() == 2, "{mode:?}, {to}: {report:?}");
            }
        }
        let tracked = stage.tracked(&[cluster_ips, node_ports].concat())?;
        assert!(tracked.is_empty(), "{mode:?}: {tracked:#?}");
        drop(kube_proxy);
    }
    Ok(())
}

fn move_out(mode: Mode) -> Result<Vec<Outcome>> {
    let stage = Stage::new()?;
    stage.node.add_cni_rules()?;
    let mut kubeshunt = stage.kubeshunt(|setup| setup)?;
    let lines = lines(&stage)?;
    through(&lines, |pulse| {
        pulse.beat()?;
        let kube_proxy = stage.kube_proxy(mode)?;
        stage.wait_for_rules(&kube_proxy, mode)?;
        pulse.beat()?;
        kubeshunt.terminate()?;
        pulse.beat()?;
        let output = kubeshunt.command(&["cleanup"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        pulse.beat()?;
        drop(kube_proxy);
        Ok(())
    })
}

/// Those of sockets are plain connections to endpoints. Those of packets are known to our flow table only: with the
/// programs their translation goes.
#[test]
fn back_to_kube_proxy_only_the_connections_break_that_packets_have_made_and_those_with_the_programs()
-> Result<()> {
    for mode in [Mode::Nftables, Mode::IptablesNft] {
        for outcome in move_out(mode)? {
            if outcome.what == "outside to NodePort" {
                // Of the new ones at most as many as are open at a time.
                assert!(outcome.failed.values().sum::<u64>() <= IN_FLIGHT, "{mode:?}: {outcome}");
                assert_eq!(outcome.alive, 0, "{mode:?}: {outcome}; docs/migrate.md says that all break");
            } else {
                assert_unnoticed(&outcome);
            }
        }
    }
    Ok(())
}

#[test]
fn leftovers_are_removed_by_a_running_kubeshunt_once_kube_proxy_is_gone() -> Result<()> {
    let mode = Mode::Nftables;
    let stage = Stage::new()?;
    let kube_proxy = stage.kube_proxy(mode)?;
    stage.wait_until_served(&kube_proxy)?;
    let kubeshunt = stage.kubeshunt(|setup| setup.arg("--kube-proxy-leftovers=remove"))?;
    stage.wait_for_log(&kubeshunt, "its rules are removed when it is gone")?;
    stage.wait_for_rules(&kube_proxy, mode)?;
    kube_proxy.end(Signal::SIGTERM)?;
    stage.wait_for_log(&kubeshunt, "removed what kube-proxy has left: nftables table ip: kube-proxy")?;
    assert_eq!(stage.clean_up()?, [] as [Value; 0]);
    Ok(())
}

#[test]
fn leftovers_are_named_at_the_start() -> Result<()> {
    let mode = Mode::IptablesNft;
    let stage = Stage::new()?;
    let kube_proxy = stage.kube_proxy(mode)?;
    stage.wait_until_served(&kube_proxy)?;
    kube_proxy.end(Signal::SIGKILL)?;
    let kubeshunt = stage.kubeshunt(|setup| setup)?;
    let line = stage.wait_for_log(&kubeshunt, "kube-proxy is gone and has left")?;
    assert!(line.contains("ip nat: KUBE-") && line.contains("kubeshunt cleanup --kube-proxy"), "{line}");
    assert!(!stage.clean_up()?.is_empty(), "they were only named");
    Ok(())
}
