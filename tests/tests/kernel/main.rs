//! What the running kernel decides: that all programs load, that a small cluster works, and that kubeshunt makes use of what
//! the kernel has, and no more than that. `cargo xtask test --rung kernels` runs this in kernels from 5.10 on.

mod version;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::attached::{self, Way};
use kubeshunt_tests::cluster::{NODE_PORT, everywhere};
use kubeshunt_tests::protocol::{Method, Target};
use kubeshunt_tests::stage::{Stage, at4, at6};
use kubeshunt_tests::{Station, netns::NetNs};
use serde_json::Value;

use crate::version::expected;

const METHODS: [(&str, Method); 3] = [
    ("TCP", Method::Tcp),
    ("connected UDP", Method::UdpConnected),
    ("unconnected UDP", Method::UdpUnconnected { peek: false }),
];

/// So long nobody answers who does not refuse.
const SILENCE_MS: u64 = 1500;

/// A stage with the Service `web`, number 1, on so many backends, at every kind of address.
fn serving(backends: usize) -> Result<Stage> {
    let mut stage = Stage::new(backends)?;
    let all: Vec<_> = (0..backends).collect();
    stage.publish(&everywhere("web", 1), "web", &all)?;
    stage.start()?;
    Ok(stage)
}

/// Asks by every method; answers come from backends, under the name that was asked.
fn assert_reaches(client: &Station, to: SocketAddr) -> Result<()> {
    for (name, method) in METHODS {
        let report = client.probe().ask(&Target { method, ..Target::tcp(to) }, 5, 1)?;
        let what = format!("{name} from {} to {to}", client.name());
        assert_eq!((report.successes(), report.failed()), (5, 0), "{what}: {:?}", report.failures);
        assert!(
            report.answered.keys().all(|name| name.starts_with("backend-")),
            "{what}: {:?}",
            report.answered
        );
        assert_eq!(report.senders.keys().collect::<Vec<_>>(), [&to], "{what}: the name that the client saw");
    }
    Ok(())
}

#[test]
fn a_small_cluster_works() -> Result<()> {
    let stage = serving(2)?;
    for to in [at4(1), at6(1)] {
        assert_reaches(&stage.client, to)?;
        assert_reaches(stage.node.host(), to)?;
    }
    // No socket hook sees who is outside: these are translated as packets.
    for to in [stage.node.host().at4(NODE_PORT), stage.node.host().at6(NODE_PORT)] {
        assert_reaches(&stage.client, to)?;
        assert_reaches(stage.bed.outside(), to)?;
    }
    Ok(())
}

/// Wants a connection to be refused, or to be met with silence.
fn assert_refused(client: &Station, to: SocketAddr, is_refused: bool) -> Result<()> {
    let report = client.probe().ask(&Target::tcp(to).timeout_ms(SILENCE_MS), 1, 1)?;
    let what = format!("from {} to {to}", client.name());
    assert_eq!(report.successes(), 0, "{what}: {:?}", report.answered);
    let failure = report.failures.first().with_context(|| format!("{what}: no failure is reported"))?;
    assert_eq!(failure.error == "ECONNREFUSED", is_refused, "{what}: {failure:?}");
    Ok(())
}

/// Of pods and clients outside the wire refuses, whatever the kernel; of the node's own processes only the hook can.
#[test]
fn without_endpoints_a_connection_is_refused_where_the_kernel_can() -> Result<()> {
    let stage = serving(0)?;
    for (vip, node_port) in
        [(at4(1), stage.node.host().at4(NODE_PORT)), (at6(1), stage.node.host().at6(NODE_PORT))]
    {
        assert_refused(&stage.client, vip, true)?;
        assert_refused(stage.bed.outside(), node_port, true)?;
        assert_refused(stage.node.host(), vip, expected()?.refuses_at_sockets)?;
    }
    let log = std::fs::read_to_string(stage.kubeshunt().log())?;
    let times =
        log.lines().filter(|line| line.contains("cannot refuse a connection from a socket hook")).count();
    assert_eq!(times, usize::from(!expected()?.refuses_at_sockets), "said once if it is so: {log}");
    Ok(())
}

#[test]
fn programs_for_packets_are_attached_by_tcx_where_the_kernel_has_it() -> Result<()> {
    let stage = serving(1)?;
    let netns: &NetNs = stage.node.netns();
    for way in Way::ALL {
        let links = attached::by_tcx(netns, "eth0", way).unwrap_or_default();
        let filters = attached::by_filters(netns, "eth0", way)?;
        let expected = if expected()?.has_tcx { (1, 0) } else { (0, 1) };
        assert_eq!((links.len(), filters.len()), expected, "{way:?}: {links:?} {filters:?}");
    }
    Ok(())
}

/// What `kubeshunt check` finds about a subject: `good`, `limited` or `bad`.
fn verdict(findings: &Value, subject: &str) -> Result<String> {
    let findings = findings.as_array().context("no list of findings")?;
    let found = findings.iter().find(|finding| finding["subject"] == subject);
    let found = found.with_context(|| format!("nothing is found about: {subject}"))?;
    Ok(found["verdict"].as_str().context("no verdict")?.to_owned())
}

#[test]
fn what_the_kernel_lacks_is_said_and_nothing_else() -> Result<()> {
    let stage = Stage::new(0)?;
    let output = stage.invoke(&["check", "-o", "json"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(!output.stdout.is_empty(), "nothing is said: {output:?}");
    let findings: Value =
        serde_json::from_slice(&output.stdout).with_context(|| said.clone().into_owned())?;
    let expected = expected()?;
    for (subject, has) in [
        ("kernel", true),
        ("refusal", expected.refuses_at_sockets),
        ("localhost NodePorts", expected.tells_namespaces),
        ("packet path", expected.has_tcx),
    ] {
        assert_eq!(verdict(&findings, subject)?, if has { "good" } else { "limited" }, "{subject}: {said}");
    }
    Ok(())
}
