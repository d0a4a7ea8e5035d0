//! What clients should get.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use kubeshunt_tests::Station;
use kubeshunt_tests::protocol::{AskReport, Method, Target};

use crate::{METHODS, SOON_MS};

/// Asks that often by every method, and wants an answer each time, under the name that was asked.
pub(crate) fn ask(client: &Station, to: SocketAddr, times: u32, what: &str) -> Result<Vec<AskReport>> {
    let ask = |(name, method)| {
        let target = Target { method, ..Target::tcp(to) }.timeout_ms(SOON_MS);
        // The first failure tells it all; the others would only cost time.
        let mut first = client.probe().ask(&target, 1, 1)?;
        if method != Method::Tcp && first.errors.contains_key("TIMEOUT") {
            // Nobody sends a lost datagram again. On a busy machine the first one to a new neighbour may be.
            first = client.probe().ask(&target, 1, 1)?;
        }
        assert_answered(&first, to, 1, &format!("{what}, {name}"));
        let report = client.probe().ask(&target, times, 1)?;
        assert_answered(&report, to, times, &format!("{what}, {name}"));
        Ok(report)
    };
    METHODS.into_iter().map(ask).collect()
}

#[track_caller]
fn assert_answered(report: &AskReport, to: SocketAddr, times: u32, what: &str) {
    assert_eq!(report.failed(), 0, "{what}: {:?} {:?}", report.errors, report.failures.first());
    assert_eq!(report.successes(), u64::from(times), "{what}");
    assert_eq!(report.senders.keys().collect::<Vec<_>>(), [&to], "{what}: the name that the client saw");
}

/// Asks, and wants exactly these servers to answer, and to see one of these addresses as the client's.
pub(crate) fn reaches(
    client: &Station,
    to: SocketAddr,
    servers: &[&str],
    seen: &BTreeSet<IpAddr>,
    what: &str,
) -> Result<()> {
    for report in ask(client, to, 30, what)? {
        let answered: Vec<_> = report.answered.keys().map(String::as_str).collect();
        assert_eq!(answered, servers, "{what}");
        assert!(report.seen_as.is_subset(seen), "{what}: seen as {:?}, not {seen:?}", report.seen_as);
    }
    Ok(())
}

/// Asks by every method, and wants that error, at once, from whichever call learns of it.
pub(crate) fn is_refused(client: &Station, to: SocketAddr, what: &str) -> Result<()> {
    // An unconnected socket is not told.
    for (name, method) in &METHODS[..2] {
        let target = Target { method: *method, ..Target::tcp(to) }.timeout_ms(SOON_MS);
        let report = client.probe().ask(&target, 3, 1)?;
        assert_eq!(report.errors.get("ECONNREFUSED"), Some(&3), "{what}, {name}: {report:?}");
        for failure in report.failures {
            assert!(failure.elapsed_ns < 500_000_000, "{what}, {name}: after {} ns", failure.elapsed_ns);
        }
    }
    Ok(())
}

/// Asks by every method, and wants no word.
pub(crate) fn is_met_with_silence(client: &Station, to: SocketAddr, what: &str) -> Result<()> {
    for (name, method) in METHODS {
        let target = Target { method, ..Target::tcp(to) }.timeout_ms(300);
        let report = client.probe().ask(&target, 1, 1)?;
        assert_eq!(report.errors.get("TIMEOUT"), Some(&1), "{what}, {name}: {report:?}");
    }
    Ok(())
}
