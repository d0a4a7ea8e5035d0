//! Real sockets through every hook: what programs on a node see of Services, in both families.

mod affinity;
mod datagrams;
mod edges;
mod frontends;
mod isolation;
mod model;
mod refusals;
mod removed;
mod spread;
mod steady;
mod translation;

use std::net::SocketAddr;

use anyhow::Result;
use kubeshunt_tests::Station;
use kubeshunt_tests::protocol::{AskReport, Method, Target};

/// Every method of asking, by a name for messages.
const METHODS: [(&str, Method); 4] = [
    ("TCP", Method::Tcp),
    ("connected UDP", Method::UdpConnected),
    ("unconnected UDP", Method::UdpUnconnected { peek: false }),
    ("unconnected UDP with MSG_PEEK", Method::UdpUnconnected { peek: true }),
];

/// Asks ten times by every method, and wants `server` to answer under the name that was asked.
fn assert_reaches(client: &Station, to: SocketAddr, server: &str) -> Result<()> {
    for (name, method) in METHODS {
        let report = client.probe().ask(&Target { method, ..Target::tcp(to) }, 10, 1)?;
        assert_answers(&report, to, server, 10, &format!("{name} from {} to {to}", client.name()));
    }
    Ok(())
}

/// Wants all answers from `server`, and all of them under the name that was asked.
#[track_caller]
fn assert_answers(report: &AskReport, to: SocketAddr, server: &str, times: u64, what: &str) {
    assert_eq!(report.failed(), 0, "{what}: {:?} {:?}", report.errors, report.failures);
    assert_eq!(report.answered.get(server), Some(&times), "{what}: {:?}", report.answered);
    assert_eq!(report.senders.keys().collect::<Vec<_>>(), [&to], "{what}: the name that the client saw");
}

/// Wants all questions to fail in that very call with that error, and at once.
#[track_caller]
fn assert_refused(report: &AskReport, error: &str, call: &str, what: &str) {
    assert_eq!(report.successes(), 0, "{what}: {:?}", report.answered);
    for failure in &report.failures {
        assert_eq!((&*failure.error, &*failure.call), (error, call), "{what}");
        assert!(failure.elapsed_ns < 500_000_000, "{what}: only after {} ms", failure.elapsed_ns / 1_000_000);
    }
}
