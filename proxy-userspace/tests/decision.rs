//! The decision core on the maps in memory: what the kernel runs, line by line, without a kernel.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use proxy_common::{
    address::{Address, Port},
    decision::{self, Destination, Outcome, Tables as _, choice},
    layout::{
        Backend, Frontend, FrontendKey, Origin, Range, Service, Sets, Traits, frontend_kind, node_address,
        origin_flag, protocol, scope,
    },
};
use proxy_userspace::plan::{
    Capacity,
    simulated::{Maps, Socket},
};

const SECOND: u64 = 1_000_000_000;

fn address(text: &str) -> Address {
    Address::from(text.parse::<std::net::IpAddr>().unwrap())
}

fn to(text: &str, port: u16, protocol: u8) -> Destination {
    Destination { address: address(text), port: Port::new(port), protocol }
}

fn backend(number: usize) -> Backend {
    let octets = u32::try_from(number).unwrap().to_be_bytes();
    Backend {
        address: Address::from(std::net::IpAddr::from([10, octets[1], octets[2], octets[3]])),
        port: Port::new(8080),
        flags: 0,
        reserved: 0,
    }
}

/// Maps with one service per entry: its VIP 10.96.0.n for TCP and UDP port 80, its endpoints, its affinity.
fn maps(services: &[(std::ops::Range<usize>, u32)]) -> Maps {
    let mut maps = Maps::new(Capacity { frontends: 100, services: 10, backends: 70_000 });
    for (id, (endpoints, affinity)) in services.iter().enumerate() {
        let id = u32::try_from(id).unwrap();
        publish(&mut maps, id, endpoints.clone());
        maps.services[id as usize].traits = Traits::new(*affinity).0;
        for protocol in [protocol::TCP, protocol::UDP] {
            put(&mut maps, &format!("10.96.0.{id}"), 80, protocol, scope::VIP, id, frontend_kind::CLUSTER_IP);
        }
    }
    maps
}

fn put(maps: &mut Maps, vip: &str, port: u16, protocol: u8, scope: u8, id: u32, kind: u32) {
    let key = FrontendKey { address: address(vip), port: Port::new(port), protocol, scope };
    maps.frontends.insert(key, Frontend::sealed(&key, id, kind));
}

/// Publishes endpoints at a place of their own, as a plan would.
fn publish(maps: &mut Maps, id: u32, endpoints: std::ops::Range<usize>) {
    let mut set: Vec<Backend> = endpoints.map(backend).collect();
    set.sort_unstable_by_key(Backend::rank);
    let after = maps.services.iter().map(|s| Sets(s.sets).all()).map(|r| r.start + r.len).max().unwrap_or(0);
    let start = after as usize;
    maps.backends[start..start + set.len()].copy_from_slice(&set);
    let sets = Sets::new(after, u16::try_from(set.len()).unwrap(), 0).with_any_endpoint(!set.is_empty());
    maps.services[id as usize].sets = sets.0;
}

fn target(outcome: Outcome) -> (Address, Port) {
    match outcome {
        Outcome::Translate(address, port) => (address, port),
        other => panic!("not translated but {other:?}"),
    }
}

/// Where datagrams of `socket` to `destination` go.
fn send(maps: &Maps, socket: &Socket, destination: &Destination) -> (Address, Port) {
    target(decision::datagram(maps, socket, destination).0)
}

const VIP0: &str = "10.96.0.0";
const VIP1: &str = "10.96.0.1";

#[test]
fn what_is_no_service_passes() {
    let maps = maps(&[(0..3, 0)]);
    let socket = Socket::new(1, 1);
    for destination in [
        to("10.96.0.9", 80, protocol::TCP),
        to(VIP0, 81, protocol::TCP),
        to(VIP0, 80, protocol::SCTP),
        to("fd00::1", 80, protocol::TCP),
    ] {
        assert_eq!(decision::connect(&maps, &socket, &destination), Outcome::Pass, "{destination:?}");
        assert_eq!(decision::datagram(&maps, &socket, &destination).0, Outcome::Pass);
    }
    assert_eq!(socket.origin.take(), None);
}

#[test]
fn every_endpoint_is_chosen_about_equally() {
    let maps = maps(&[(0..7, 0)]);
    let mut counts = [0u32; 7];
    for number in 0..70_000u32 {
        let socket = Socket::new(1, u64::from(number));
        socket.random.set(number.wrapping_mul(0x9e37_79b9));
        let (chosen, _) = target(decision::connect(&maps, &socket, &to(VIP0, 80, protocol::TCP)));
        counts[(0..7).find(|n| backend(*n).address == chosen).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (9_900..=10_100).contains(count)), "{counts:?}");
}

#[test]
fn sockets_of_one_process_spread_over_endpoints_though_their_cookies_count_up() {
    let mut counts = [0u32; 5];
    for cookie in 1..=50_000u64 {
        counts[choice::scale(decision::datagram::spread(cookie, 7), 5) as usize] += 1;
    }
    // Three sigma of a binomial distribution: sqrt(50,000 * 0.2 * 0.8) = 89.
    assert!(counts.iter().all(|count| count.abs_diff(10_000) < 270), "{counts:?}");
}

#[test]
fn nothing_anywhere_is_refused_and_nothing_here_is_unreachable() {
    let mut maps = maps(&[(0..0, 0)]);
    let ask =
        |maps: &Maps, destination: &Destination| decision::connect(maps, &Socket::new(1, 1), destination);
    let cluster_ip = to(VIP0, 80, protocol::TCP);
    assert_eq!(ask(&maps, &cluster_ip), Outcome::Refuse);
    let (outcome, anew) = decision::datagram(&maps, &Socket::new(1, 1), &to(VIP0, 80, protocol::UDP));
    assert_eq!((outcome, anew), (Outcome::Refuse, true));

    maps.services[0].sets = Sets::new(0, 1, 0).with_any_endpoint(true).with_internal_local(true).0;
    maps.backends[0] = backend(1);
    put(&mut maps, "192.0.2.1", 80, protocol::TCP, scope::VIP, 0, frontend_kind::LOAD_BALANCER);
    assert_eq!(ask(&maps, &cluster_ip), Outcome::Unreachable);
    // internalTrafficPolicy is about the ClusterIP only.
    assert_eq!(target(ask(&maps, &to("192.0.2.1", 80, protocol::TCP))).0, backend(1).address);

    // A frontend whose service has been cleared: it is being deleted.
    maps.services[0] = Service { sets: 0, traits: 0 };
    assert_eq!(ask(&maps, &cluster_ip), Outcome::Refuse);
}

#[test]
fn node_ports_answer_on_the_nodes_addresses_and_on_loopback_for_the_host_alone() {
    let mut maps = maps(&[(0..1, 0)]);
    put(&mut maps, "0.0.0.0", 30_080, protocol::TCP, scope::NODE_PORT, 0, frontend_kind::NODE_PORT);
    put(&mut maps, "::", 30_080, protocol::TCP, scope::NODE_PORT, 0, frontend_kind::NODE_PORT);
    for own in ["192.168.1.1", "fd00::1", "127.0.0.1", "::1"] {
        let loopback = address(own).is_loopback();
        let own_bit = if loopback { 0 } else { node_address::OWN };
        maps.node_addresses.insert(address(own), node_address::NODE_PORTS | own_bit);
    }
    maps.node_addresses.insert(address("192.168.1.3"), node_address::OWN);
    let asks = |maps: &Maps, destination: &str, host: bool| {
        let socket = Socket::new(1, 1);
        socket.host_namespace.set(host);
        decision::connect(maps, &socket, &to(destination, 30_080, protocol::TCP)) != Outcome::Pass
    };
    let is_served = |destination: &str, host: bool| asks(&maps, destination, host);
    for own in ["192.168.1.1", "fd00::1"] {
        assert!(is_served(own, true) && is_served(own, false), "{own}");
    }
    for loopback in ["127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::"] {
        assert!(is_served(loopback, true) && !is_served(loopback, false), "{loopback}");
    }
    for other in ["192.168.1.2", "192.168.1.3", "fd00::2", "10.96.0.0"] {
        assert!(!is_served(other, true) && !is_served(other, false), "{other}");
    }
    maps.node_addresses.remove(&address("127.0.0.1"));
    assert!(!asks(&maps, "127.0.0.1", true), "not everybody wants NodePorts on loopback");
}

#[test]
fn a_frontend_that_belongs_to_another_key_is_not_followed() {
    let mut maps = maps(&[(0..1, 0), (1..2, 0)]);
    let key = |vip| FrontendKey {
        address: address(vip),
        port: Port::new(80),
        protocol: protocol::TCP,
        scope: scope::VIP,
    };
    // As a preempted reader would see it: the element now holds another frontend's value.
    let other = maps.frontends[&key(VIP1)];
    maps.frontends.insert(key(VIP0), other);
    let outcome = decision::connect(&maps, &Socket::new(1, 1), &to(VIP0, 80, protocol::TCP));
    assert_eq!(outcome, Outcome::Pass);
}

#[test]
fn a_connected_socket_knows_its_peer_by_the_name_it_asked_for() {
    let maps = maps(&[(0..3, 0)]);
    let socket = Socket::new(1, 1);
    let (peer, port) = target(decision::connect(&maps, &socket, &to(VIP0, 80, protocol::TCP)));
    let vip = Some((address(VIP0), Port::new(80)));
    assert_eq!(decision::peer_name(&socket, &peer, port), vip);
    assert_eq!(decision::sender_name(&maps, &socket, &peer, port), vip);
    assert_eq!(decision::peer_name(&socket, &peer, Port::new(1)), None);
    assert_eq!(decision::peer_name(&socket, &backend(99).address, port), None);

    // Connected anew, to no service: the peer is what it is, even if it is the same backend.
    assert_eq!(decision::connect(&maps, &socket, &to("10.1.2.3", 80, protocol::TCP)), Outcome::Pass);
    assert_eq!(decision::peer_name(&socket, &peer, port), None);
}

#[test]
fn an_unconnected_socket_keeps_its_backend_while_the_service_has_it() {
    let mut maps = maps(&[(0..5, 0)]);
    let socket = Socket::new(1, 77);
    let vip = to(VIP0, 80, protocol::UDP);
    let first = send(&maps, &socket, &vip);
    assert_eq!(decision::datagram(&maps, &socket, &vip), (Outcome::Translate(first.0, first.1), false));

    for endpoints in [0..6, 0..9, 0..5, 0..300] {
        publish(&mut maps, 0, endpoints);
        assert_eq!(send(&maps, &socket, &vip), first);
        // The new snapshot is known by now: no more searching.
        assert!(!decision::datagram(&maps, &socket, &vip).1);
    }
    // Its backend goes: the next datagram goes elsewhere.
    publish(&mut maps, 0, 1_000..1_005);
    let second = send(&maps, &socket, &vip);
    assert_ne!(second, first);
    let name = |from: (Address, Port)| decision::sender_name(&maps, &socket, &from.0, from.1);
    assert_eq!(name(second), Some((vip.address, vip.port)));
    assert_eq!(name(first), Some((vip.address, vip.port)), "a late answer of the one that is gone");
    assert_eq!(name((backend(5_000).address, Port::new(8080))), None);

    publish(&mut maps, 0, 0..0);
    assert_eq!(decision::datagram(&maps, &socket, &vip).0, Outcome::Refuse);
}

#[test]
fn a_snapshot_word_that_comes_back_with_other_backends_is_not_trusted() {
    let mut maps = maps(&[(0..1, 0)]);
    let socket = Socket::new(1, 1);
    let vip = to(VIP0, 80, protocol::UDP);
    send(&maps, &socket, &vip);
    let slot = Sets(maps.services[0].sets).cluster().start as usize;
    maps.backends[slot] = backend(42);
    assert_eq!(send(&maps, &socket, &vip).0, backend(42).address);
}

#[test]
fn an_unconnected_socket_follows_its_frontend_to_another_service() {
    let mut maps = maps(&[(0..5, 0), (100..105, 0)]);
    let socket = Socket::new(1, 9);
    let vip = to(VIP0, 80, protocol::UDP);
    let first = send(&maps, &socket, &vip);
    // The frontend becomes another service's; its old one lives on, unchanged.
    maps.revision = maps.revision.next();
    assert!(
        decision::datagram(&maps, &socket, &vip).1,
        "while frontends change nobody trusts what he remembers"
    );
    put(&mut maps, VIP0, 80, protocol::UDP, scope::VIP, 1, frontend_kind::CLUSTER_IP);
    maps.revision = maps.revision.next();
    let second = send(&maps, &socket, &vip);
    assert!((100..105).any(|n| backend(n).address == second.0), "{second:?}, before {first:?}");
    assert!(!decision::datagram(&maps, &socket, &vip).1, "from now on it is remembered again");

    // Somebody else's frontend changes: the backend stays.
    maps.revision = maps.revision.next().next();
    assert_eq!(send(&maps, &socket, &vip), second);
    // The frontend goes away: the destination is nobody's.
    maps.frontends.retain(|key, _| key.address != address(VIP0));
    maps.revision = maps.revision.next().next();
    assert_eq!(decision::datagram(&maps, &socket, &vip).0, Outcome::Pass);
}

#[test]
fn a_socket_that_alternates_between_services_gets_each_answer_from_the_name_it_asked() {
    let maps = maps(&[(0..5, 0), (100..105, 0)]);
    let socket = Socket::new(1, 9);
    let (a, b) = (to(VIP0, 80, protocol::UDP), to(VIP1, 80, protocol::UDP));
    let (from_a, from_b) = (send(&maps, &socket, &a), send(&maps, &socket, &b));
    for _ in 0..3 {
        assert_eq!((send(&maps, &socket, &a), send(&maps, &socket, &b)), (from_a, from_b), "does not wander");
        for (from, vip) in [(from_a, a), (from_b, b)] {
            let name = decision::sender_name(&maps, &socket, &from.0, from.1);
            assert_eq!(name, Some((vip.address, vip.port)));
        }
    }
    let other = Socket::new(1, 10);
    assert_eq!(decision::sender_name(&maps, &other, &from_a.0, from_a.1), None);
}

#[test]
fn sendto_on_a_connected_socket_leaves_its_peer_alone() {
    let maps = maps(&[(0..5, 0), (100..105, 0)]);
    let socket = Socket::new(1, 9);
    let peer = target(decision::connect(&maps, &socket, &to(VIP0, 80, protocol::UDP)));
    socket.peer.set(Some(peer));
    send(&maps, &socket, &to(VIP1, 80, protocol::UDP));
    assert_eq!(decision::peer_name(&socket, &peer.0, peer.1), Some((address(VIP0), Port::new(80))));

    // Disconnected by connect(AF_UNSPEC), which passes no hook, it is a sender like any other.
    socket.peer.set(None);
    let from = send(&maps, &socket, &to(VIP1, 80, protocol::UDP));
    let name = decision::sender_name(&maps, &socket, &from.0, from.1);
    assert_eq!(name, Some((address(VIP1), Port::new(80))));
}

#[test]
fn what_a_connected_socket_sends_to_its_peer_passes() {
    let mut maps = maps(&[(0..5, 0)]);
    let vip = to(VIP0, 80, protocol::UDP);
    let socket = Socket::new(1, 9);
    // Connected before there was such a Service.
    let frontends = std::mem::take(&mut maps.frontends);
    assert_eq!(decision::connect(&maps, &socket, &vip), Outcome::Pass);
    socket.peer.set(Some((vip.address, vip.port)));
    maps.frontends = frontends;
    assert_eq!(decision::datagram(&maps, &socket, &vip).0, Outcome::Pass);
    assert_eq!(*socket.origin.borrow(), None);
    // By us: its peer is the backend, which may be a frontend, too.
    let peer = target(decision::connect(&maps, &socket, &vip));
    socket.peer.set(Some(peer));
    put(&mut maps, &peer.0.to_string(), 8080, protocol::UDP, scope::VIP, 0, frontend_kind::EXTERNAL_IP);
    let backend = to(&peer.0.to_string(), 8080, protocol::UDP);
    assert_eq!((backend.address, backend.port), peer);
    assert_eq!(decision::datagram(&maps, &socket, &backend).0, Outcome::Pass);
    assert_eq!(decision::peer_name(&socket, &peer.0, peer.1), Some((vip.address, vip.port)));
}

#[test]
fn a_connected_socket_is_told_from_others_by_its_cookie() {
    let maps = maps(&[(0..5, 0)]);
    let (one, other) = (Socket::new(1, 9), Socket::new(2, 10));
    for socket in [&one, &other] {
        decision::connect(&maps, socket, &to(VIP0, 80, protocol::UDP));
        let origin = socket.origin.borrow().unwrap();
        assert_eq!((origin.stamp, origin.is_whole()), (socket.cookie.get(), true));
    }
}

#[test]
fn a_torn_origin_is_never_believed() {
    let maps = maps(&[(0..5, 0), (100..105, 0)]);
    let socket = Socket::new(1, 9);
    let (a, b) = (to(VIP0, 80, protocol::UDP), to(VIP1, 80, protocol::UDP));
    send(&maps, &socket, &a);
    let of_a = socket.origin.borrow().unwrap();
    send(&maps, &socket, &b);
    let of_b = socket.origin.borrow().unwrap();
    // Two threads wrote at once: the name of one, the rest of the other.
    socket.origin.replace(Some(Origin { vip: of_a.vip, vip_port: of_a.vip_port, ..of_b }));
    let chosen = send(&maps, &socket, &a);
    assert!((0..5).any(|n| backend(n).address == chosen.0), "{chosen:?} is none of the service's");

    socket.origin.replace(Some(Origin { backend: of_a.backend, ..of_b }));
    let name = decision::sender_name(&maps, &socket, &of_a.backend, of_a.backend_port);
    assert_eq!(name, Some((a.address, a.port)), "the senders map knows");
    socket.origin.replace(Some(Origin { flags: origin_flag::CONNECTED, ..of_b }));
    assert_eq!(decision::peer_name(&socket, &of_b.backend, of_b.backend_port), None);
}

#[test]
fn affinity_binds_a_namespace_to_a_backend_for_all_of_a_services_frontends() {
    let mut maps = maps(&[(0..50, 10)]);
    put(&mut maps, "192.0.2.7", 8000, protocol::TCP, scope::VIP, 0, frontend_kind::EXTERNAL_IP);
    let connect = |namespace: u64, draw: u32, at: u64, destination: &Destination| {
        let socket = Socket::new(namespace, u64::from(draw));
        socket.random.set(draw.wrapping_mul(0x9e37_79b9));
        socket.now.set(at);
        target(decision::connect(&maps, &socket, destination))
    };
    let (vip, external) = (to(VIP0, 80, protocol::TCP), to("192.0.2.7", 8000, protocol::TCP));
    let first = connect(1, 1, SECOND, &vip);
    for draw in 2..50 {
        assert_eq!(connect(1, draw, SECOND, if draw % 2 == 0 { &vip } else { &external }), first);
    }
    let others: BTreeSet<_> = (2..40u32).map(|pod| connect(pod.into(), 7 * pod, 0, &vip)).collect();
    assert!(others.len() > 5, "other namespaces are independent");

    // Each connection starts the time anew: 9 s after the last one it still holds, 10 s after it does not.
    assert_eq!(connect(1, 60, 10 * SECOND, &vip), first);
    assert_eq!(connect(1, 61, 19 * SECOND, &vip), first);
    let later: BTreeSet<_> =
        (0..20u32).map(|n| connect(1, n * 3, (30 + 11 * u64::from(n)) * SECOND, &vip)).collect();
    assert!(later.len() > 3, "{later:?}");
}

#[test]
fn affinity_lasts_for_as_long_as_its_timeout_says_from_one_second_to_a_day() {
    for seconds in [1, 86_400] {
        let maps = maps(&[(0..100, seconds)]);
        let connect = |draw: u32, at: u64| {
            let socket = Socket::new(1, u64::from(draw));
            socket.random.set(draw.wrapping_mul(0x9e37_79b9));
            socket.now.set(at);
            target(decision::connect(&maps, &socket, &to(VIP0, 80, protocol::TCP)))
        };
        let timeout = u64::from(seconds) * SECOND;
        let first = connect(1, SECOND);
        assert_eq!(connect(2, SECOND + timeout - 1), first, "a nanosecond before {seconds} s are over");
        assert_ne!(
            connect(3, SECOND + timeout - 1 + timeout),
            first,
            "{seconds} s after the last connection"
        );
    }
}

#[test]
fn a_changed_timeout_counts_at_once_also_for_clients_that_came_before() {
    let mut maps = maps(&[(0..100, 10)]);
    let connect = |maps: &Maps, draw: u32, at: u64| {
        let socket = Socket::new(1, u64::from(draw));
        socket.random.set(draw.wrapping_mul(0x9e37_79b9));
        socket.now.set(at * SECOND);
        target(decision::connect(maps, &socket, &to(VIP0, 80, protocol::TCP)))
    };
    let first = connect(&maps, 1, 1);
    maps.services[0].traits = Traits::new(1000).0;
    assert_eq!(connect(&maps, 2, 500), first, "longer");
    maps.services[0].traits = Traits::new(5).0;
    assert_ne!(connect(&maps, 3, 506), first, "shorter");
}

#[test]
fn without_affinity_nothing_is_remembered_and_what_was_remembered_does_not_count() {
    let mut maps = maps(&[(0..100, 10)]);
    let connect = |maps: &Maps, draw: u32| {
        let socket = Socket::new(1, u64::from(draw));
        socket.random.set(draw.wrapping_mul(0x9e37_79b9));
        target(decision::connect(maps, &socket, &to(VIP0, 80, protocol::TCP)))
    };
    let first = connect(&maps, 1);
    maps.services[0].traits = Traits::new(0).0;
    let free: BTreeSet<_> = (2..40).map(|draw| connect(&maps, draw)).collect();
    assert!(free.len() > 10, "{} backends in 38 connections", free.len());
    maps.affinity.borrow_mut().clear();
    connect(&maps, 50);
    assert!(maps.affinity.borrow().is_empty());
    maps.services[0].traits = Traits::new(10).0;
    let second = connect(&maps, 51);
    assert_ne!(second, first, "the dice of the 51st");
    assert!(
        (52..80).all(|draw| connect(&maps, draw) == second),
        "turned on, it binds from the next connection on"
    );
}

#[test]
fn affinity_leaves_a_backend_that_is_gone_and_stays_with_the_next() {
    let mut maps = maps(&[(0..3, 100)]);
    let vip = to(VIP0, 80, protocol::TCP);
    let connect = |maps: &Maps, draw: u32| {
        let socket = Socket::new(1, u64::from(draw));
        socket.random.set(draw.wrapping_mul(0x9e37_79b9));
        target(decision::connect(maps, &socket, &vip))
    };
    let first = connect(&maps, 0);
    publish(&mut maps, 0, 10..13);
    let second = connect(&maps, 1);
    assert_ne!(first, second);
    publish(&mut maps, 0, 0..13);
    assert!((2..30).all(|draw| connect(&maps, draw) == second), "it does not flap back");
}

proptest! {
    /// Binary search finds exactly what is there, in sets of every size up to the largest.
    #[test]
    fn position_finds_what_is_there(len in 0usize..3_000, probe in 0usize..3_500, largest in any::<bool>()) {
        let len = if largest { Sets::MAX_LEN } else { len };
        let maps = maps(&[(0..len, 0)]);
        let range = Sets(maps.services[0].sets).cluster();
        prop_assert_eq!(range.len as usize, len);
        let wanted = backend(probe);
        let found = choice::position(&maps, range, &wanted.address, wanted.port);
        prop_assert_eq!(found.is_some(), probe < len);
        if let Some(slot) = found {
            prop_assert_eq!(maps.backend(slot), Some(wanted));
        }
        prop_assert_eq!(choice::position(&maps, range, &wanted.address, Port::new(1)), None);
        prop_assert_eq!(choice::position(&maps, Range { start: range.start, len: 0 }, &wanted.address, wanted.port), None);
    }

    /// A choice never leaves the set.
    #[test]
    fn scale_stays_within_bounds(random in any::<u32>(), len in 1u32..=65_535) {
        prop_assert!(choice::scale(random, len) < len);
    }
}
