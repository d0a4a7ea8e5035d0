//! Who sees whom under which name.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proxy_common::{
    address::{Address, Port},
    layout::{PortRanges, Tuple, flow_state, protocol},
};

use crate::network::{
    CLUSTER_IP, FRONTENDS, Fate, NODE, NODE_PORT, Network, PORT, SYN, TARGET, address, outside, pod, remote,
    tuple,
};
use proxy_common::decision::packet::Signals;

#[test]
fn a_client_outside_keeps_its_name_towards_a_backend_here() {
    let network = Network::roomy().with(&[pod(1)]);
    let asked = tuple(outside(1), 5000, (NODE, NODE_PORT), protocol::TCP);
    let seen = network.establish(asked);
    assert_eq!((seen.source, seen.source_port), (outside(1), Port::new(5000)));
    assert_eq!((seen.destination, seen.destination_port), (pod(1), Port::new(TARGET)));
    network.check_consistent();
}

#[test]
fn a_client_outside_has_the_nodes_name_towards_a_backend_elsewhere() {
    let network = Network::roomy().with(&[remote(1)]);
    let asked = tuple(outside(1), 5000, (NODE, NODE_PORT), protocol::TCP);
    let seen = network.establish(asked);
    assert_eq!(seen.source, address(NODE));
    assert!(network.node.ports.get().contains(seen.source_port));
    network.check_consistent();
}

#[test]
fn a_pod_keeps_its_name_towards_every_backend_but_itself() {
    for (backend, expected) in [(pod(2), pod(1)), (remote(1), pod(1)), (pod(1), address(NODE))] {
        let network = Network::roomy().with(&[backend]);
        for (port, frontend) in (5000..).zip(FRONTENDS) {
            let seen = network.establish(tuple(pod(1), port, frontend, protocol::TCP));
            assert_eq!((seen.source, seen.destination), (expected, backend), "{frontend:?}");
        }
        network.check_consistent();
    }
}

#[test]
fn a_backend_that_is_the_node_itself_is_served() {
    let network = Network::roomy().with(&[address(NODE)]);
    for client in [pod(1), outside(1)] {
        for protocol in [protocol::TCP, protocol::UDP] {
            let seen = network.establish(tuple(client, 5000, (CLUSTER_IP, PORT), protocol));
            assert_eq!((seen.source, seen.destination), (client, address(NODE)));
        }
    }
    let states = network.memory.flows.borrow();
    assert!(
        states.values().all(|flow| flow.state & flow_state::ALL == 3),
        "noted where it arrives: {states:?}"
    );
}

#[test]
fn one_port_of_a_client_serves_several_frontends_with_one_backend() {
    for (client, backend) in
        [(pod(1), pod(2)), (outside(1), pod(2)), (outside(1), remote(2)), (pod(1), pod(1))]
    {
        let network = Network::roomy().with(&[backend]);
        let asked = FRONTENDS.map(|frontend| tuple(client, 5000, frontend, protocol::TCP));
        let seen = asked.map(|asked| network.establish(asked));
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "the backend tells them apart");
        for (asked, seen) in asked.into_iter().zip(seen) {
            network.check_alive(asked, seen);
        }
        network.check_consistent();
    }
}

#[test]
fn a_pod_that_reaches_itself_never_from_the_very_port_it_serves() {
    // Both ends of such a packet would be equal, and its direction a riddle.
    let network = Network::roomy().with(&[pod(1)]);
    network.node.ports.set(PortRanges::new((TARGET, 1), (TARGET + 1, 1)));
    let seen = network.establish(tuple(pod(1), 5000, (CLUSTER_IP, PORT), protocol::TCP));
    assert_eq!(seen.source_port, Port::new(TARGET + 1));
}

#[test]
fn two_peers_that_serve_and_ask_from_one_port_do_not_disturb_each_other() {
    // As SIP does: each is a client of the service and a backend of the other.
    let mut network = Network::roomy().with(&[pod(2)]);
    let there = tuple(pod(1), TARGET, (CLUSTER_IP, PORT), protocol::UDP);
    let back = tuple(pod(2), TARGET, (CLUSTER_IP, PORT), protocol::UDP);
    let seen_there = network.establish(there);
    network.publish(&[pod(1)], |sets| sets);
    let seen_back = network.establish(back);
    for _ in 0..2 {
        network.check_alive(there, seen_there);
        network.check_alive(back, seen_back);
    }
    network.check_consistent();
}

#[test]
fn connections_of_the_nodes_own_keep_their_ports() {
    let network = Network::roomy().with(&[remote(1)]);
    network.node.ports.set(PortRanges::new((20_000, 2), (0, 0)));
    let own = tuple(address(NODE), 20_000, ("10.244.2.1", TARGET), protocol::TCP);
    network.node.sockets.borrow_mut().insert(own.reversed());
    let seen = network.establish(tuple(outside(1), 5000, (NODE, NODE_PORT), protocol::TCP));
    assert_eq!(seen.source_port, Port::new(20_001));
    assert_eq!(network.carry(own, SYN), Fate::Arrived(own));
    assert_eq!(network.carry(own.reversed(), Signals::NONE), Fate::Arrived(own.reversed()));
}

#[test]
fn an_answer_to_a_name_that_netfilter_has_given_is_left_to_netfilter() {
    // Which masquerades what the kernel forwards, before we see it, and may draw a port that a flow of ours has drawn.
    let network = Network::roomy().with(&[remote(1)]);
    for protocol in [protocol::TCP, protocol::UDP] {
        let asked = tuple(outside(1), 5000, (NODE, NODE_PORT), protocol);
        let inside = network.come_in(asked, SYN);
        let answer = Tuple { destination: address(NODE), ..inside.reversed() };
        assert_eq!(network.carry(answer, Signals::NONE), Fate::Arrived(answer));
        // What left under that name after all is answered.
        let seen = network.ask(asked, SYN);
        assert_eq!(seen, answer.reversed());
        network.answer(seen, asked, Signals::NONE);
        network.check_alive(asked, seen);
    }
    network.check_consistent();
}

#[test]
fn an_answer_is_no_question_though_netfilter_has_drawn_a_node_port() {
    let network = Network::roomy().with(&[remote(1)]);
    let drawn = tuple(address(NODE), NODE_PORT, ("10.244.2.1", TARGET), protocol::UDP);
    // From the node itself nothing comes in by a device, as nothing does that netfilter has masqueraded.
    assert_eq!(network.carry(drawn, Signals::UDP), Fate::Arrived(drawn));
    assert_eq!(network.carry(drawn.reversed(), Signals::UDP), Fate::Arrived(drawn.reversed()));
    assert_eq!(network.len().0, 0, "nothing was asked");
    // Whoever else asks there is served.
    let asked = tuple(outside(1), TARGET, (NODE, NODE_PORT), protocol::UDP);
    let seen = network.establish(asked);
    network.check_alive(asked, seen);
}

#[test]
fn what_nobody_but_netfilter_may_send_is_noted_and_renewed() {
    const SECOND: u64 = 1_000_000_000;
    let network = Network::roomy().with(&[remote(1)]);
    let from = |source, port| tuple(source, port, ("10.244.2.1", TARGET), protocol::UDP);
    // A ClusterIP is no address of the node: whoever sends from it has forged it.
    network.carry(from(address(CLUSTER_IP), PORT), Signals::UDP);
    assert_eq!(network.len(), (0, 0));
    let noted = || network.memory.arrivals.borrow().values().next().map(|arrival| arrival.born);
    let drawn = from(address(NODE), NODE_PORT);
    network.carry(drawn, Signals::UDP);
    let first = noted().expect("noted");
    network.carry(drawn, Signals::UDP);
    assert_eq!(noted(), Some(first), "not with every packet");
    network.node.now.set(network.node.now.get() + 21 * SECOND);
    network.carry(drawn, Signals::UDP);
    assert!(noted() > Some(first + 20 * SECOND), "it would go while it is needed");
}

#[test]
fn a_name_that_is_not_in_use_yet_is_taken() {
    let network = Network::roomy().with(&[remote(1)]);
    network.node.ports.set(PortRanges::new((20_000, 2), (0, 0)));
    let asked = [1, 2].map(|client| tuple(outside(client), 5000, (NODE, NODE_PORT), protocol::TCP));
    let inside = asked.map(|asked| network.come_in(asked, SYN));
    assert_ne!(inside[0].source_port, inside[1].source_port);
    for asked in asked {
        network.establish(asked);
    }
    network.check_consistent();
}

#[test]
fn without_a_name_of_its_own_the_node_refuses_to_stand_for_a_client() {
    use proxy_common::layout::Counter;
    let network = Network::roomy().with(&[remote(1)]);
    network.node.masquerade.set(None);
    let asked = tuple(outside(1), 5000, (NODE, NODE_PORT), protocol::TCP);
    assert_eq!(network.carry(asked, SYN), Fate::Dropped(Counter::PacketNoRoute));
    assert_eq!(network.len(), (0, 0));
}

/// A connection through a frontend, or one that concerns no Service.
#[derive(Clone, Debug)]
enum Connection {
    Service(Tuple),
    Direct(Tuple),
}

fn any_client() -> impl Strategy<Value = Address> {
    prop_oneof![(1u8..4).prop_map(pod), (1u32..4).prop_map(outside)]
}

fn any_protocol() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![protocol::TCP, protocol::UDP])
}

fn any_connection() -> impl Strategy<Value = Connection> {
    let port = prop::sample::select(vec![TARGET, 5000, 5001]);
    let service = (any_client(), port, prop::sample::select(FRONTENDS.to_vec()), any_protocol());
    let peer = prop_oneof![(1u8..4).prop_map(pod), (1u8..4).prop_map(remote), (1u32..4).prop_map(outside)];
    let direct =
        (any_client(), 6000u16..6003, peer, prop::sample::select(vec![TARGET, 9090]), any_protocol());
    prop_oneof![
        4 => service.prop_map(|(client, port, to, protocol)| Connection::Service(tuple(client, port, to, protocol))),
        1 => direct.prop_filter_map("to itself", |(client, port, peer, to, protocol)| {
            let own = tuple(client, port, (&peer.to_string(), to), protocol);
            (own.source != own.destination).then_some(Connection::Direct(own))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever mixture of connections there is: each has its own name at its backend, every answer comes from what
    /// was asked, and what concerns no Service is left alone.
    #[test]
    fn every_answer_comes_from_what_was_asked(
        connections in prop::collection::vec(any_connection(), 1..40),
        backends in prop::sample::subsequence(vec![pod(1), pod(2), remote(1), remote(2), address(NODE)], 1..4),
        seed in any::<u64>(),
    ) {
        let mut network = Network::roomy().with(&backends);
        network.node.seed = seed;
        // Few ports, some of which clients and backends use as well.
        network.node.ports.set(PortRanges::new((TARGET - 2, 5), (61_000, 60)));
        let mut open: Vec<(Tuple, Tuple)> = Vec::new();
        for connection in connections {
            match connection {
                Connection::Service(asked) if open.iter().any(|(known, _)| *known == asked) => {}
                Connection::Service(asked) => open.push((asked, network.establish(asked))),
                Connection::Direct(own) => {
                    for packet in [own, own.reversed(), own] {
                        prop_assert_eq!(network.carry(packet, SYN), Fate::Arrived(packet));
                    }
                }
            }
            network.check_consistent();
        }
        for (asked, seen) in &open {
            network.check_alive(*asked, *seen);
        }
        let names: BTreeSet<Tuple> = open.iter().map(|(_, seen)| *seen).collect();
        prop_assert_eq!(names.len(), open.len());
    }
}
