//! Unconnected UDP sockets over time: they stay with their backend, and know each answer's name.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use kubeshunt_tests::probe::Socket;
use kubeshunt_tests::protocol::{Answer, KeptSocket, Method, Target};
use kubeshunt_tests::stage::{self, Stage, at4, at6};

use crate::assert_answers;

const UNCONNECTED: Method = Method::UdpUnconnected { peek: false };

fn open(stage: &Stage, v6: bool) -> Result<Socket<'_>> {
    stage.client.probe().socket(KeptSocket { method: UNCONNECTED, v6, timeout_ms: 2000 })
}

/// One datagram there and its answer.
#[track_caller]
fn ask(socket: &Socket<'_>, to: SocketAddr) -> Answer {
    let mut exchanges = socket.ask(&[to]).expect("the probe works");
    exchanges.remove(0).result.unwrap_or_else(|failure| panic!("asking {to}: {failure:?}"))
}

#[test]
fn a_socket_that_alternates_between_services_gets_each_answer_from_the_name_it_asked() -> Result<()> {
    let mut stage = Stage::new(4)?;
    stage.publish(&stage::service("one", 1), "one", &[0, 1])?;
    stage.publish(&stage::service("two", 2), "two", &[2, 3])?;
    stage.start()?;
    for (one, two, v6) in [(at4(1), at4(2), false), (at6(1), at6(2), true), (at4(1), at4(2), true)] {
        let socket = open(&stage, v6)?;
        let mut servers = [BTreeSet::new(), BTreeSet::new()];
        for turn in 0..20 {
            let to = [one, two][turn % 2];
            let answer = ask(&socket, to);
            assert_eq!(answer.sender, to, "turn {turn}, answered by {}", answer.by);
            servers[turn % 2].insert(answer.by);
        }
        // Else a protocol that keeps state per peer would break.
        assert!(servers.iter().all(|servers| servers.len() == 1), "the socket wandered: {servers:?}");
    }
    Ok(())
}

#[test]
fn a_socket_follows_an_address_that_moves_to_another_service() -> Result<()> {
    let mut stage = Stage::new(2)?;
    let address = SocketAddr::new([198, 51, 100, 7].into(), at4(1).port());
    let with = |name: &str, number| stage::service(name, number).external_ip(address.ip());
    stage.publish(&with("one", 1), "one", &[0])?;
    stage.publish(&stage::service("two", 2), "two", &[1])?;
    stage.start()?;
    let socket = open(&stage, false)?;
    assert_eq!(ask(&socket, address).by, stage.backends[0].name());
    // Service one stays as it is but for the address.
    stage.publish(&stage::service("one", 1), "one", &[0])?;
    stage.publish(&with("two", 2), "two", &[1])?;
    kubeshunt_tests::wait::until_true("the address is the other Service's", stage::PATIENCE, || {
        let endpoints = stage.endpoints(address, "UDP")?.unwrap_or_default();
        Ok(endpoints.contains(&stage.backends[1].v4().into()))
    })?;
    let answer = ask(&socket, address);
    assert_eq!((answer.by.as_str(), answer.sender), (stage.backends[1].name(), address));
    Ok(())
}

#[test]
fn a_socket_that_asks_two_services_with_one_backend_gets_the_name_it_asked_last() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&stage::service("one", 1), "one", &[0])?;
    stage.publish(&stage::service("two", 2), "two", &[0])?;
    stage.start()?;
    let socket = open(&stage, false)?;
    for turn in 0..10 {
        let to = [at4(1), at4(2)][turn % 2];
        assert_eq!(ask(&socket, to).sender, to, "turn {turn}");
    }
    Ok(())
}

#[test]
fn a_socket_that_asks_a_service_and_its_backend_in_turn_is_answered_by_both() -> Result<()> {
    let stage = Stage::serving(1)?;
    let socket = open(&stage, false)?;
    assert_eq!(ask(&socket, at4(1)).sender, at4(1), "first the Service");
    // Two names for one peer: the kernel gives no means to tell its answers apart. It does answer.
    assert_eq!(ask(&socket, stage.backends[0].at4(8080)).by, "backend-0");
    assert_eq!(ask(&socket, at4(1)).sender, at4(1), "and the Service again");
    Ok(())
}

#[test]
fn a_socket_stays_with_its_backend_while_the_set_changes_around_it() -> Result<()> {
    let stage = Stage::serving(4)?;
    for (to, v6) in [(at4(1), false), (at6(1), true)] {
        stage.publish(&stage::service("web", 1), "web", &[0, 1, 2, 3])?;
        stage.wait_for_backends(1, &[0, 1, 2, 3])?;
        let socket = open(&stage, v6)?;
        let first = ask(&socket, to).by;
        let own: usize = first.trim_start_matches("backend-").parse()?;
        let others: Vec<_> = (0..4).filter(|index| *index != own).collect();
        for set in [vec![own], vec![own, others[0]], vec![others[1], own, others[2]], vec![0, 1, 2, 3]] {
            stage.publish(&stage::service("web", 1), "web", &set)?;
            stage.wait_for_backends(1, &set)?;
            for _ in 0..5 {
                assert_eq!(ask(&socket, to).by, first, "with {set:?} as backends of {to}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_socket_moves_within_one_datagram_when_its_backend_is_removed() -> Result<()> {
    let stage = Stage::serving(3)?;
    let socket = open(&stage, false)?;
    let mut set = vec![0, 1, 2];
    while set.len() > 1 {
        let before = ask(&socket, at4(1)).by;
        set.retain(|index| format!("backend-{index}") != before);
        stage.publish(&stage::service("web", 1), "web", &set)?;
        stage.wait_for_backends(1, &set)?;
        let after = ask(&socket, at4(1));
        assert_ne!(after.by, before, "the very first datagram after the removal goes elsewhere");
        assert_eq!(after.sender, at4(1), "and is answered by the Service's name");
    }
    Ok(())
}

#[test]
fn a_socket_is_refused_when_its_last_backend_is_removed_and_served_when_one_is_back() -> Result<()> {
    let stage = Stage::serving(1)?;
    let socket = open(&stage, false)?;
    assert_eq!(ask(&socket, at4(1)).by, "backend-0");
    stage.publish(&stage::service("web", 1), "web", &[])?;
    stage.wait_for_backends(1, &[])?;
    let refused = socket.ask(&[at4(1)])?.remove(0).result.expect_err("nobody is left");
    assert_eq!((&*refused.error, &*refused.call), ("ECONNREFUSED", "sendto"));
    stage.publish(&stage::service("web", 1), "web", &[0])?;
    stage.wait_for_backends(1, &[0])?;
    assert_eq!(ask(&socket, at4(1)).by, "backend-0");
    Ok(())
}

#[test]
fn sockets_that_talk_to_no_service_are_untouched() -> Result<()> {
    let stage = Stage::serving(2)?;
    for v6 in [false, true] {
        let socket = open(&stage, v6)?;
        for turn in 0..6 {
            let backend = &stage.backends[turn % 2];
            let to = if v6 && turn < 3 { backend.at6(8080) } else { backend.at4(8080) };
            let answer = ask(&socket, to);
            assert_eq!((&*answer.by, answer.sender), (backend.name(), to), "turn {turn}, v6 {v6}");
        }
    }
    Ok(())
}

#[test]
fn a_server_sees_its_clients_own_addresses() -> Result<()> {
    let stage = Stage::serving(1)?;
    stage::serve(&stage.client, 9090)?;
    let backend = &stage.backends[0];
    // From the very address and port that a Service leads to: only a socket that asked the Service may see
    // the Service's name in its place. Its server's own port is taken, so this one is a Service of its own.
    let (v4, v6) = (backend.at4(7070), backend.at6(7070));
    let service = stage::bare("odd", 2).port(kubeshunt_tests::manifests::Port::udp(80).target(7070));
    let slices = [
        kubeshunt_tests::manifests::EndpointSlice::v4("odd").udp(None, 7070).ready([backend.v4()]),
        kubeshunt_tests::manifests::EndpointSlice::v6("odd").udp(None, 7070).ready([backend.v6()]),
    ];
    stage.folder.write("odd", &[&service, &slices[0], &slices[1]])?;
    for (to, from, odd) in [(stage.client.at4(9090), v4, at4(2)), (stage.client.at6(9090), v6, at6(2))] {
        kubeshunt_tests::wait::until_true("the Service is served", stage::PATIENCE, || {
            Ok(stage.endpoints(odd, "UDP")?.is_some())
        })?;
        let report = backend.probe().ask(&Target::udp(to).sent_from(from), 1, 1)?;
        assert_answers(&report, to, "client", 1, "a plain exchange");
        assert_eq!(report.seen_as.into_iter().collect::<Vec<_>>(), [from.ip()], "what the server saw");
    }
    Ok(())
}
