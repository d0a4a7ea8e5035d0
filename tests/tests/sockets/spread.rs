//! Which backend: spread evenly, by port, with the port translated.

use std::collections::BTreeMap;

use anyhow::Result;
use kubeshunt_tests::manifests::{EndpointSlice, Port};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{self, PORT, Stage, at4, at6, vip4, vip6};

use crate::{METHODS, assert_answers};

/// How far from its fair share the worst backend is, in standard deviations.
fn worst_deviation(answered: &BTreeMap<String, u64>, backends: u32, total: u32) -> f64 {
    let share = 1.0 / f64::from(backends);
    let mean = f64::from(total) * share;
    let sigma = (mean * (1.0 - share)).sqrt();
    let count = |count: &u64| f64::from(u32::try_from(*count).unwrap_or(u32::MAX));
    answered.values().map(|answers| (count(answers) - mean).abs() / sigma).fold(0.0, f64::max)
}

/// Spreads by one method. A second sample is taken when the first is off: chance takes one of four backends
/// three sigma away once in a hundred samples, twice in a row once in ten thousand.
fn spreads_by(index: usize) -> Result<()> {
    const TIMES: u32 = 1200;
    let (what, method) = METHODS[index];
    let stage = Stage::serving(4)?;
    for to in [at4(1), at6(1)] {
        let mut off = Vec::new();
        while off.last().is_none_or(|(deviation, _)| *deviation >= 3.0) {
            assert!(off.len() < 2, "{what} to {to} is uneven twice in a row: {off:?}");
            let report = stage.ask(&Target { method, ..Target::tcp(to) }, TIMES)?;
            assert_eq!(report.failed(), 0, "{what} to {to}: {:?}", report.errors);
            assert_eq!(report.answered.len(), 4, "{what} to {to}: {:?}", report.answered);
            off.push((worst_deviation(&report.answered, 4, TIMES), report.answered));
        }
    }
    Ok(())
}

#[test]
fn tcp_connections_spread_evenly() -> Result<()> {
    spreads_by(0)
}

#[test]
fn connected_udp_sockets_spread_evenly() -> Result<()> {
    spreads_by(1)
}

#[test]
fn unconnected_udp_sockets_spread_evenly() -> Result<()> {
    spreads_by(2)
}

#[test]
fn different_ports_of_a_service_have_their_own_backends() -> Result<()> {
    let mut stage = Stage::new(2)?;
    stage::serve(&stage.backends[1], 9090)?;
    // The port is translated to another number in both, and not the same.
    let service = stage::bare("web", 1)
        .port(Port::tcp(PORT).named("plain").target(8080))
        .port(Port::tcp(443).named("secure").target(9090));
    let mut slices = Vec::new();
    for (index, (port, target)) in [("plain", 8080), ("secure", 9090)].into_iter().enumerate() {
        let backend = &stage.backends[index];
        let v4 = EndpointSlice::v4("web").named(&format!("{port}-4")).tcp(Some(port), target);
        let v6 = EndpointSlice::v6("web").named(&format!("{port}-6")).tcp(Some(port), target);
        slices.extend([v4.ready([backend.v4()]), v6.ready([backend.v6()])]);
    }
    let mut objects: Vec<&dyn std::fmt::Display> = vec![&service];
    objects.extend(slices.iter().map(|slice| slice as &dyn std::fmt::Display));
    stage.folder.write("web", &objects)?;
    stage.start()?;
    for ip in [vip4(1), vip6(1)] {
        for (port, server) in [(80, "backend-0"), (443, "backend-1")] {
            let to = std::net::SocketAddr::new(ip, port);
            assert_answers(&stage.ask(&Target::tcp(to), 10)?, to, server, 10, "each port its backend");
        }
    }
    Ok(())
}

#[test]
fn one_port_number_may_lead_to_different_backends_by_protocol() -> Result<()> {
    let mut stage = Stage::new(2)?;
    let service = stage::service("web", 1);
    let tcp = EndpointSlice::v4("web").named("t").tcp(Some("tcp"), 8080).ready([stage.backends[0].v4()]);
    let udp = EndpointSlice::v4("web").named("u").udp(Some("udp"), 8080).ready([stage.backends[1].v4()]);
    stage.folder.write("web", &[&service, &tcp, &udp])?;
    stage.start()?;
    assert_answers(&stage.ask(&Target::tcp(at4(1)), 10)?, at4(1), "backend-0", 10, "TCP");
    assert_answers(&stage.ask(&Target::udp(at4(1)), 10)?, at4(1), "backend-1", 10, "UDP");
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> Result<()> {
    let stage = Stage::serving(1)?;
    let itself = &stage.backends[0];
    for to in [at4(1), at6(1)] {
        crate::assert_reaches(itself, to, "backend-0")?;
        let report = itself.probe().ask(&Target::tcp(to), 5, 1)?;
        assert_eq!(report.seen_as.into_iter().collect::<Vec<_>>(), [itself.ip(to.ip())], "its own address");
    }
    Ok(())
}
