//! connect, sendto, recvfrom, getpeername: there and back.

use anyhow::Result;
use kubeshunt_tests::protocol::{KeptSocket, Method, OneSocket, Target};
use kubeshunt_tests::stage::{self, PATIENCE, Stage, at4, at6};
use kubeshunt_tests::wait;

use crate::{METHODS, assert_answers};

/// By one method, in every way of naming the Service.
fn reaches_by(index: usize) -> Result<()> {
    let stage = Stage::serving(1)?;
    let (name, method) = METHODS[index];
    for (to, mapped, way) in [(at4(1), false, "IPv4"), (at6(1), false, "IPv6"), (at4(1), true, "v4-mapped")] {
        let report = stage.ask(&Target { method, mapped, ..Target::tcp(to) }, 10)?;
        let what = format!("{name}, {way}");
        assert_answers(&report, to, "backend-0", 10, &what);
        let own = stage.client.ip(to.ip());
        assert_eq!(report.seen_as.into_iter().collect::<Vec<_>>(), [own], "{what}: whom the server saw");
    }
    Ok(())
}

#[test]
fn tcp_reaches_a_service_and_shows_its_name() -> Result<()> {
    reaches_by(0)
}

#[test]
fn connected_udp_reaches_a_service_and_shows_its_name() -> Result<()> {
    reaches_by(1)
}

#[test]
fn unconnected_udp_is_answered_by_the_name_it_asked() -> Result<()> {
    reaches_by(2)
}

#[test]
fn a_peeked_datagram_shows_the_name_too() -> Result<()> {
    reaches_by(3)
}

#[test]
fn datagrams_of_several_fragments_pass() -> Result<()> {
    let stage = Stage::serving(1)?;
    for to in [at4(1), at6(1)] {
        let report = stage.ask(&Target::udp(to).padding(5000), 5)?;
        assert_answers(&report, to, "backend-0", 5, "5000 bytes");
    }
    Ok(())
}

#[test]
fn a_nonblocking_connect_reaches_a_service() -> Result<()> {
    let stage = Stage::serving(1)?;
    for to in [at4(1), at6(1)] {
        for target in [Target::tcp(to), Target::udp_connected(to), Target::udp(to)] {
            let report = stage.ask(&target.nonblocking(), 5)?;
            assert_answers(&report, to, "backend-0", 5, &format!("non-blocking {:?}", report.senders));
        }
    }
    Ok(())
}

#[test]
fn getpeername_shows_the_service_and_getsockname_the_pod() -> Result<()> {
    let stage = Stage::serving(1)?;
    for to in [at4(1), at6(1)] {
        for target in [Target::tcp(to), Target::udp_connected(to)] {
            let names = stage.client.probe().names(&target)?;
            assert_eq!((names.peer, names.local.ip()), (to, stage.client.ip(to.ip())), "{target:?}");
        }
    }
    let names = stage.client.probe().names(&Target::tcp(at4(1)).mapped())?;
    assert_eq!((names.peer, names.local.ip()), (at4(1), stage.client.v4().into()), "v4-mapped");
    Ok(())
}

/// Connects one socket to a Service, to the backend itself, and to the Service again.
fn peer_follows_the_socket(method: Method) -> Result<()> {
    let stage = Stage::serving(2)?;
    for (vip, v6) in [(at4(1), false), (at6(1), true), (at4(1), true)] {
        let direct = if vip.is_ipv4() { stage.backends[0].at4(8080) } else { stage.backends[0].at6(8080) };
        let socket = stage.client.probe().socket(KeptSocket { method, v6, timeout_ms: 2000 })?;
        let turns = [vip, direct, vip, direct];
        for (turn, exchange) in socket.ask(&turns)?.into_iter().enumerate() {
            let answer = exchange.result.unwrap_or_else(|failure| panic!("turn {turn}: {failure:?}"));
            assert_eq!(answer.sender, turns[turn], "getpeername in turn {turn} of {turns:?}, v6 {v6}");
        }
        socket.close()?;
    }
    Ok(())
}

#[test]
fn a_tcp_socket_connected_anew_elsewhere_shows_the_new_peer() -> Result<()> {
    peer_follows_the_socket(Method::Tcp)
}

#[test]
fn a_udp_socket_connected_anew_elsewhere_shows_the_new_peer() -> Result<()> {
    peer_follows_the_socket(Method::UdpConnected)
}

#[test]
fn a_udp_socket_connected_in_turn_to_two_services_is_answered_by_each() -> Result<()> {
    let mut stage = Stage::new(2)?;
    for (name, number, backend) in [("one", 1, 0), ("two", 2, 1)] {
        stage.publish(&stage::service(name, number), name, &[backend])?;
    }
    stage.start()?;
    for mapped in [false, true] {
        let to = vec![at4(1), at4(2), at4(1), at4(2)];
        let plan = OneSocket { to: to.clone(), reconnect: true, mapped, timeout_ms: 2000 };
        for (turn, exchange) in stage.client.probe().one_socket(plan)?.into_iter().enumerate() {
            let answer = exchange.result.unwrap_or_else(|failure| panic!("turn {turn}: {failure:?}"));
            let server = format!("backend-{}", turn % 2);
            assert_eq!((answer.by, answer.sender), (server, to[turn]), "turn {turn}, mapped {mapped}");
        }
    }
    Ok(())
}

#[test]
fn a_destination_that_is_no_service_is_untouched() -> Result<()> {
    let stage = Stage::serving(2)?;
    for (index, backend) in stage.backends.iter().enumerate() {
        for to in [backend.at4(8080), backend.at6(8080)] {
            crate::assert_reaches(&stage.client, to, &format!("backend-{index}"))?;
        }
    }
    let refused = stage.ask(&Target::tcp(stage.backends[0].at4(81)), 3)?;
    assert_eq!(refused.errors.get("ECONNREFUSED"), Some(&3), "nobody listens there: {refused:?}");
    Ok(())
}

#[test]
fn a_port_of_a_service_address_that_no_service_has_is_untouched() -> Result<()> {
    let stage = Stage::serving(1)?;
    // The Service's addresses on the node itself, where something else serves another port.
    let host = stage.node.host();
    for (address, length) in [(stage::vip4(1), 32), (stage::vip6(1), 128)] {
        host.add_address((address, length))?;
        // Packets for ports that the Service lacks are refused unless the node is known to have the address.
        wait::until_true("the node's address is known", PATIENCE, || {
            let known = stage.services()?["node_addresses"].clone();
            Ok(known.as_array().is_some_and(|known| known.contains(&address.to_string().into())))
        })?;
        let there = std::net::SocketAddr::new(address, 81);
        host.probe().serve(kubeshunt_tests::protocol::Service::Tcp, there)?;
        host.probe().serve(kubeshunt_tests::protocol::Service::Udp, there)?;
        crate::assert_reaches(&stage.client, there, "node-a")?;
        crate::assert_reaches(&stage.client, std::net::SocketAddr::new(address, 80), "backend-0")?;
    }
    Ok(())
}
