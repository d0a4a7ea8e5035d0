//! Sockets that were connected to a Service, and whose endpoint is gone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use kubeshunt_tests::manifests::{Endpoint, EndpointSlice, Port};
use kubeshunt_tests::probe::Socket;
use kubeshunt_tests::protocol::{Failure, KeptSocket, Method, Target};
use kubeshunt_tests::stage::{self, Stage, TARGET_PORT, at4, at6};
use kubeshunt_tests::wait::monotonic_ns;
use kubeshunt_tests::{Station, wait};

const UNCONNECTED: Method = Method::UdpUnconnected { peek: false };

/// Within which whoever lost an endpoint is to know.
const LIMIT: Duration = Duration::from_secs(1);

/// How long one is waited for that must be woken.
const WOKEN_MS: u64 = 5_000;

/// How long a socket that must not be disturbed is watched.
const UNDISTURBED_MS: u64 = 200;

fn open(station: &Station, method: Method, v6: bool, timeout_ms: u64) -> Result<Socket<'_>> {
    station.probe().socket(KeptSocket { method, v6, timeout_ms })
}

/// A socket of the client that is connected there, and to whom that led.
#[track_caller]
fn connected(station: &Station, to: SocketAddr, v6: bool, timeout_ms: u64) -> Result<(Socket<'_>, String)> {
    let socket = open(station, Method::UdpConnected, v6, timeout_ms)?;
    let answer = socket.ask(&[to])?.remove(0).result;
    let by = answer.unwrap_or_else(|failure| panic!("asking {to}: {failure:?}")).by;
    Ok((socket, by))
}

/// A socket that is connected by the Service to that backend.
fn connected_to<'a>(
    station: &'a Station,
    to: SocketAddr,
    v6: bool,
    backend: &str,
    timeout_ms: u64,
) -> Result<Socket<'a>> {
    wait::until(&format!("{to} leads to {backend}"), stage::PATIENCE, || {
        let (socket, by) = connected(station, to, v6, timeout_ms)?;
        if by == backend {
            return Ok(Some(socket));
        }
        socket.close()?;
        Ok(None)
    })
}

/// Wants the socket to be woken, in time after what happened at `since_ns`.
#[track_caller]
fn assert_woken(socket: &Socket<'_>, since_ns: u64, what: &str) -> Result<()> {
    let woken = socket.wait()?.expect_err("nobody sends anything");
    let after = Duration::from_nanos(woken.at_ns.saturating_sub(since_ns));
    assert_eq!((&*woken.error, &*woken.call), ("ECONNABORTED", "recv"), "{what}: after {after:?}");
    assert!(after <= LIMIT, "{what}: only after {after:?}");
    println!("{what}: woken after {after:?}");
    Ok(())
}

/// Wants the socket to sleep on.
#[track_caller]
fn assert_undisturbed(socket: &Socket<'_>, what: &str) -> Result<()> {
    let failure: Failure = socket.wait()?.expect_err("nobody sends anything");
    assert_eq!(failure.error, "TIMEOUT", "{what}: {failure:?}");
    Ok(())
}

/// The ways to a Service: IPv4, IPv6, and IPv4 from an IPv6 socket.
fn ways() -> [(&'static str, SocketAddr, bool); 3] {
    [("IPv4", at4(1), false), ("IPv6", at6(1), true), ("v4-mapped", at4(1), true)]
}

#[test]
fn a_connected_socket_is_woken_when_its_endpoint_is_removed_and_no_other_is() -> Result<()> {
    let stage = Stage::serving(2)?;
    let backend = &stage.backends[0];
    let (gone, stays) = (backend.name(), stage.backends[1].name());
    let (pod, host) = (&stage.client, stage.node.host());
    let mut lost = Vec::new();
    let mut others = Vec::new();
    for (name, to, v6) in ways() {
        for station in [pod, host] {
            let at = format!("{name} of {}", station.name());
            lost.push((format!("{at}, to the one removed"), connected_to(station, to, v6, gone, WOKEN_MS)?));
            // The same peer, but not by us.
            let direct = if to.is_ipv4() { backend.at4(TARGET_PORT) } else { backend.at6(TARGET_PORT) };
            others.push((
                format!("{at}, connected directly"),
                connected(station, direct, v6, UNDISTURBED_MS)?.0,
            ));
            // Connected by the Service to whom stays.
            let stays = connected_to(station, to, v6, stays, UNDISTURBED_MS)?;
            others.push((format!("{at}, to the one that stays"), stays));
            // Served, and sent through a Service once.
            let server = open(station, UNCONNECTED, v6, UNDISTURBED_MS)?;
            server.ask(&[to])?.remove(0).result.expect("it is answered");
            others.push((format!("{at}, unconnected"), server));
        }
    }
    let removed_ns = monotonic_ns();
    stage.publish(&stage::service("web", 1), "web", &[1])?;
    for (what, socket) in &lost {
        assert_woken(socket, removed_ns, what)?;
    }
    let count = || stage.kubeshunt().metric("kubeshunt_sockets_aborted_total{protocol=\"UDP\"}");
    // Told when the look at all sockets has ended, a moment after the last of them was woken.
    wait::until_true("six were woken", stage::PATIENCE, || Ok(count().is_ok_and(|count| count > 5.5)))?;
    for (what, socket) in &others {
        assert_undisturbed(socket, what)?;
    }
    assert!((count()? - 6.0).abs() < 0.5, "{} were woken", count()?);
    for ((_, to, _), (_, socket)) in ways().iter().flat_map(|way| [way, way]).zip(&lost) {
        let answer = socket.ask(&[*to])?.remove(0).result.expect("it connects anew");
        assert_eq!(answer.by, stays);
    }
    Ok(())
}

#[test]
fn a_connected_socket_is_woken_when_nobody_is_left_and_when_its_service_is_gone() -> Result<()> {
    let stage = Stage::serving(1)?;
    for (what, to, v6) in ways() {
        for is_deleted in [false, true] {
            stage.publish(&stage::service("web", 1), "web", &[0])?;
            stage.wait_for_backends(1, &[0])?;
            let socket = connected_to(&stage.client, to, v6, "backend-0", WOKEN_MS)?;
            let removed_ns = monotonic_ns();
            if is_deleted {
                stage.folder.remove("web")?;
            } else {
                stage.publish(&stage::service("web", 1), "web", &[])?;
            }
            assert_woken(&socket, removed_ns, &format!("{what}, deleted: {is_deleted}"))?;
        }
    }
    Ok(())
}

#[test]
fn sockets_of_a_deleted_service_stay_with_endpoints_that_its_slices_name() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let [v4, v6] = stage.slices("web", &[0]);
    stage.folder.write("service", &[&stage::service("web", 1)])?;
    stage.folder.write("slices", &[&v4, &v6])?;
    stage.publish(&stage::service("other", 2), "other", &[0])?;
    stage.start()?;
    let socket = connected_to(&stage.client, at4(1), false, "backend-0", WOKEN_MS)?;
    let (stays, _) = connected(&stage.client, at4(1), false, UNDISTURBED_MS)?;
    let other = connected_to(&stage.client, at4(2), false, "backend-0", WOKEN_MS)?;
    stage.folder.remove("service")?;
    let removed_ns = monotonic_ns();
    stage.publish(&stage::service("other", 2), "other", &[])?;
    assert_woken(&other, removed_ns, "another Service's")?;
    assert_undisturbed(&stays, "the pod is there")?;
    let removed_ns = monotonic_ns();
    stage.folder.remove("slices")?;
    assert_woken(&socket, removed_ns, "the slices are gone")
}

#[test]
fn a_connected_socket_is_woken_when_its_frontend_is_another_services_by_now() -> Result<()> {
    let mut stage = Stage::new(2)?;
    let address = SocketAddr::new([198, 51, 100, 7].into(), at4(1).port());
    let with = |name: &str, number| stage::service(name, number).external_ip(address.ip());
    stage.publish(&with("one", 1), "one", &[0])?;
    // It claims it, too, and gets it when the first gives it up: nothing else changes for it then.
    stage.publish(&with("two", 2), "two", &[1])?;
    stage.start()?;
    let lost = connected_to(&stage.client, address, false, "backend-0", WOKEN_MS)?;
    let (stays, _) = connected(&stage.client, at4(1), false, UNDISTURBED_MS)?;
    let moved_ns = monotonic_ns();
    stage.publish(&stage::service("one", 1), "one", &[0])?;
    assert_woken(&lost, moved_ns, "the address is the other Service's")?;
    assert_undisturbed(&stays, "the ClusterIP is not")
}

#[test]
fn node_ports_wake_their_sockets_at_every_address() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let udp = Port::udp(80).named("udp").target(TARGET_PORT).node_port(30_053);
    let service = stage::bare("web", 1).kind("NodePort").port(udp);
    stage.publish(&service, "web", &[0])?;
    stage.start()?;
    let host = stage.node.host();
    let mut lost = Vec::new();
    for (station, address) in [
        (&stage.client, host.at4(30_053)),
        (&stage.client, host.at6(30_053)),
        (host, host.at4(30_053)),
        (host, "127.0.0.1:30053".parse()?),
        (host, "[::1]:30053".parse()?),
    ] {
        lost.push((address, connected_to(station, address, address.is_ipv6(), "backend-0", WOKEN_MS)?));
    }
    let removed_ns = monotonic_ns();
    stage.publish(&service, "web", &[])?;
    for (address, socket) in &lost {
        assert_woken(socket, removed_ns, &address.to_string())?;
    }
    Ok(())
}

#[test]
fn a_terminating_endpoint_that_answers_keeps_its_sockets_until_it_is_gone() -> Result<()> {
    let stage = Stage::serving(2)?;
    let gone = &stage.backends[0];
    let lost = connected_to(&stage.client, at4(1), false, gone.name(), WOKEN_MS)?;
    let stays = connected_to(&stage.client, at4(1), false, gone.name(), UNDISTURBED_MS)?;
    let slice = |serving| {
        EndpointSlice::v4("web")
            .tcp(Some("tcp"), TARGET_PORT)
            .udp(Some("udp"), TARGET_PORT)
            .endpoint(Endpoint::ready(gone.v4()).terminating(serving))
            .ready([stage.backends[1].v4()])
    };
    stage.folder.write("web", &[&stage::service("web", 1), &slice(true)])?;
    kubeshunt_tests::wait::until_true("it is chosen no more", stage::PATIENCE, || {
        Ok(stage.endpoints(at4(1), "UDP")?.is_some_and(|ends| !ends.contains(&gone.v4().into())))
    })?;
    assert_undisturbed(&stays, "it answers")?;
    let removed_ns = monotonic_ns();
    stage.folder.write("web", &[&stage::service("web", 1), &slice(false)])?;
    assert_woken(&lost, removed_ns, "it answers no more")
}

#[test]
fn what_was_removed_while_the_process_was_down_is_found_by_the_next() -> Result<()> {
    let mut stage = Stage::new(2)?;
    let pod = stage.node.pod("pod")?;
    stage.publish(&stage::service("web", 1), "web", &[0, 1])?;
    stage.publish(&stage::service("gone", 2), "gone", &[0])?;
    stage.start()?;
    stage.kubeshunt_mut().kill9()?;
    let (gone, stays) = ("backend-0", "backend-1");
    // Pods, and what they are connected to, are older than the process.
    let lost: Vec<_> = ways()
        .into_iter()
        .map(|(what, to, v6)| Ok((what, connected_to(&pod, to, v6, gone, WOKEN_MS)?)))
        .collect::<Result<_>>()?;
    let of_the_deleted = connected_to(&pod, at4(2), false, gone, WOKEN_MS)?;
    let kept = connected_to(&pod, at4(1), false, stays, UNDISTURBED_MS)?;
    let unconnected = open(&pod, UNCONNECTED, false, UNDISTURBED_MS)?;
    unconnected.ask(&[at4(1)])?.remove(0).result.expect("it is answered");
    stage.publish(&stage::service("web", 1), "web", &[1])?;
    stage.folder.remove("gone")?;
    stage.kubeshunt_mut().restart()?;
    let ready_ns = monotonic_ns();
    for (what, socket) in &lost {
        assert_woken(socket, ready_ns, what)?;
    }
    assert_woken(&of_the_deleted, ready_ns, "of a Service that was deleted")?;
    assert_undisturbed(&kept, "to the one that stays")?;
    assert_undisturbed(&unconnected, "unconnected")
}

#[test]
fn tcp_connections_are_left_alone() -> Result<()> {
    let stage = Stage::serving(1)?;
    let probe = stage.client.probe();
    let session = probe.session(&Target::tcp(at4(1)))?.session;
    let socket = connected_to(&stage.client, at4(1), false, "backend-0", WOKEN_MS)?;
    let removed_ns = monotonic_ns();
    stage.publish(&stage::service("web", 1), "web", &[])?;
    assert_woken(&socket, removed_ns, "UDP")?;
    assert_eq!(probe.exchange(session, 5)?.broken, None);
    Ok(())
}

#[test]
fn tcp_connections_to_removed_endpoints_are_reset_on_demand() -> Result<()> {
    let mut stage = Stage::new(2)?;
    stage.publish(&stage::service("web", 1), "web", &[0, 1])?;
    stage.start_with(|setup| setup.arg("--reset-connections-to-removed-endpoints"))?;
    let (probe, gone) = (stage.client.probe(), &stage.backends[0]);
    let to = |backend: &str, target: &Target| -> Result<u64> {
        loop {
            let opened = probe.session(target)?;
            if opened.answer.by == backend {
                return Ok(opened.session);
            }
        }
    };
    let targets = [Target::tcp(at4(1)), Target::tcp(at6(1)), Target::tcp(at4(1)).mapped()];
    let lost = targets.iter().map(|target| to(gone.name(), target)).collect::<Result<Vec<_>>>()?;
    let stays = to(stage.backends[1].name(), &targets[0])?;
    let direct = probe.session(&Target::tcp(gone.at4(TARGET_PORT)))?.session;
    // Neither ready nor serving, but there.
    let [v4, v6] = stage.slices("web", &[1]);
    let slices = [
        v4.endpoint(Endpoint::ready(gone.v4()).terminating(false)),
        v6.endpoint(Endpoint::ready(gone.v6()).terminating(false)),
    ];
    let udp = connected_to(&stage.client, at4(1), false, gone.name(), WOKEN_MS)?;
    let removed_ns = monotonic_ns();
    stage.folder.write("web", &[&stage::service("web", 1), &slices[0], &slices[1]])?;
    assert_woken(&udp, removed_ns, "UDP")?;
    for session in &lost {
        assert_eq!(probe.exchange(*session, 1)?.broken, None, "it is there");
    }
    stage.publish(&stage::service("web", 1), "web", &[1])?;
    for session in &lost {
        let what = "the connection is reset";
        let broken = wait::until(what, stage::PATIENCE, || Ok(probe.exchange(*session, 1)?.broken))?;
        assert_eq!(broken.error, "ECONNABORTED");
    }
    assert_eq!(probe.exchange(stays, 5)?.broken, None, "to the one that stays");
    assert_eq!(probe.exchange(direct, 5)?.broken, None, "connected directly");
    Ok(())
}
