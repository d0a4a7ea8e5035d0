//! How flows begin and end, and what happens when there is no room.

use proxy_common::{
    address::{Address, Port},
    decision::packet::{Desk, Signals, Verdict, ingress, remove},
    layout::{Arrival, Counter, PortRanges, Tuple, flow_state, protocol},
};
use proxy_userspace::plan::simulated_flows::Room;

use crate::network::{
    BALANCER, CLUSTER_IP, FIN, Fate, NODE, NODE_PORT, Network, PORT, RST, SYN, SYN_ACK, address, outside,
    pod, remote, tuple,
};

fn from_outside(port: u16) -> Tuple {
    tuple(outside(1), port, (NODE, NODE_PORT), protocol::TCP)
}

fn backends() -> [Address; 8] {
    [pod(4), pod(5), pod(6), pod(7), remote(4), remote(5), remote(6), remote(7)]
}

fn close(network: &Network, asked: Tuple, seen: Tuple) {
    assert_eq!(network.ask(asked, FIN), seen);
    network.answer(seen, asked, FIN);
}

fn states(network: &Network) -> Vec<u32> {
    network.memory.flows.borrow().values().map(|flow| flow.state & flow_state::ALL).collect()
}

#[test]
fn a_repeated_syn_keeps_its_backend() {
    let network = Network::roomy().with(&backends());
    for port in 5000..5050 {
        let seen = network.ask(from_outside(port), SYN);
        assert_eq!(network.ask(from_outside(port), SYN), seen, "while the flow is young");
        network.answer(seen, from_outside(port), Signals::NONE);
        assert_eq!(network.ask(from_outside(port), SYN), seen, "while it lives");
    }
    network.check_consistent();
}

#[test]
fn only_the_first_packet_opens() {
    let network = Network::roomy().with(&backends());
    let asked = from_outside(5000);
    let verdict = || {
        ingress(
            &network.maps,
            &network.memory,
            &network.passage(asked.source),
            &mut Desk::new(),
            (&asked, SYN),
        )
    };
    assert!(matches!(verdict(), Verdict::Open(_)));
    assert!(matches!(verdict(), Verdict::Rewrite(_)));
}

#[test]
fn a_syn_on_a_connection_that_is_over_opens_another() {
    fn reset(network: &Network, asked: Tuple, seen: Tuple) {
        assert_eq!(network.ask(asked, RST), seen);
    }
    for end in [close, reset] {
        let network = Network::roomy().with(&backends());
        let asked = from_outside(5000);
        let mut reached = std::collections::BTreeSet::new();
        for _ in 0..64 {
            let seen = network.establish(asked);
            reached.insert(seen.destination);
            end(&network, asked, seen);
            network.check_consistent();
        }
        assert_eq!((reached.len(), network.len().0), (8, 1));
    }
}

#[test]
fn one_side_that_is_done_does_not_end_the_flow() {
    let network = Network::roomy().with(&backends());
    let asked = from_outside(5000);
    let seen = network.establish(asked);
    network.ask(asked, FIN);
    for _ in 0..3 {
        network.answer(seen, asked, Signals::NONE);
    }
    assert_eq!(network.ask(asked, SYN), seen);
    assert_eq!(states(&network)[0] & flow_state::CLOSING, 0);
}

#[test]
fn the_last_packets_of_a_connection_still_arrive() {
    let network = Network::roomy().with(&backends());
    let asked = from_outside(5000);
    let seen = network.establish(asked);
    close(&network, asked, seen);
    network.check_alive(asked, seen);
    assert_ne!(states(&network)[0] & flow_state::CLOSING, 0, "which does not bring it back");
}

#[test]
fn a_forged_reset_does_not_end_a_connection_that_goes_on() {
    let room = Room { flows: 1000, arrivals: 2000, cpus: 1, places: 4 };
    let network = Network::new(0, room).with(&backends());
    let asked = from_outside(5000);
    let seen = network.establish(asked);
    for _ in 0..3 {
        network.ask(asked, RST);
        assert_ne!(states(&network)[0] & flow_state::CLOSING, 0);
        network.check_alive(asked, seen);
        assert_eq!(states(&network)[0] & flow_state::CLOSING, 0);
    }
    for port in 6000..6010 {
        let seen = network.establish(from_outside(port));
        close(&network, from_outside(port), seen);
    }
    network.check_alive(asked, seen);
    network.check_consistent();
}

#[test]
fn a_new_connection_takes_the_name_of_one_that_is_over_but_never_a_live_one() {
    let network = Network::roomy().with(&[pod(8)]);
    let [first, second] =
        [(CLUSTER_IP, PORT), (BALANCER, PORT)].map(|to| tuple(pod(1), 5000, to, protocol::TCP));
    let seen = network.establish(first);
    assert_ne!(network.establish(second), seen);
    close(&network, first, seen);
    let third = tuple(pod(1), 5000, (NODE, NODE_PORT), protocol::TCP);
    assert_eq!(network.establish(third), seen);
    network.check_consistent();
    assert_eq!(network.carry(first, Signals::NONE), Fate::Arrived(first), "nothing of the first is left");
}

#[test]
fn whoever_removes_a_flow_removes_what_leads_to_it_and_nothing_else() {
    let network = Network::roomy().with(&backends());
    let asked: Vec<Tuple> = (5000..5020).map(from_outside).collect();
    let seen: Vec<Tuple> = asked.iter().map(|asked| network.establish(*asked)).collect();
    let flows = network.memory.flows.borrow().clone();
    for (number, (key, flow)) in flows.iter().enumerate() {
        remove(&network.memory, key, flow);
        network.check_consistent();
        assert_eq!(network.len().0, flows.len() - number - 1);
        for (asked, seen) in asked.iter().zip(&seen) {
            if network.memory.arrivals.borrow().contains_key(asked) {
                network.check_alive(*asked, *seen);
            }
        }
    }
    assert_eq!(network.len(), (0, 0));
}

#[test]
fn a_late_removal_leaves_the_next_flow_of_that_name_its_arrivals() {
    let network = Network::roomy().with(&[pod(8)]);
    let asked = from_outside(5000);
    let seen = network.establish(asked);
    let (key, old) = network.memory.flows.borrow().iter().map(|(key, flow)| (*key, *flow)).next().unwrap();
    close(&network, asked, seen);
    network.establish(asked);
    let arrivals = network.memory.arrivals.borrow().clone();
    remove(&network.memory, &key, &old);
    assert_eq!(*network.memory.arrivals.borrow(), arrivals);
    // The flow itself is gone; the client's next SYN repairs that.
    network.establish(asked);
    network.check_consistent();
}

#[test]
fn a_queue_does_not_take_the_next_flow_of_a_name_for_the_one_that_stood_there() {
    let room = Room { flows: 100, arrivals: 200, cpus: 1, places: 4 };
    let network = Network::new(0, room).with(&[pod(8)]);
    for signals in [SYN, RST, SYN] {
        network.ask(from_outside(5000), signals);
    }
    for port in 6000..6003 {
        network.ask(from_outside(port), SYN);
    }
    assert!(network.memory.arrivals.borrow().contains_key(&from_outside(5000)), "its own turn has not come");
    network.ask(from_outside(6003), SYN);
    assert!(!network.memory.arrivals.borrow().contains_key(&from_outside(5000)));
}

#[test]
fn an_arrival_that_leads_to_a_later_flow_of_that_name_is_not_followed() {
    let network = Network::roomy().with(&[pod(8)]);
    let [first, second] =
        [(CLUSTER_IP, PORT), (BALANCER, PORT)].map(|to| tuple(pod(1), 5000, to, protocol::TCP));
    let seen = network.establish(first);
    let stale = network.memory.arrivals.borrow()[&first];
    close(&network, first, seen);
    assert_eq!(network.establish(second), seen);
    // Written late, by another CPU.
    network.memory.arrivals.borrow_mut().insert(first, stale);
    let own = network.establish(first);
    network.check_alive(first, own);
    network.check_alive(second, seen);
    network.check_consistent();
}

#[test]
fn an_arrival_without_its_flow_is_repaired_by_the_next_opening_packet() {
    for backend in [pod(8), remote(8), address(NODE)] {
        let network = Network::roomy().with(&[backend]);
        let asked = from_outside(5000);
        network.establish(asked);
        network.memory.flows.borrow_mut().clear();
        network.memory.arrivals.borrow_mut().retain(|tuple, _| *tuple == asked);
        network.establish(asked);
        network.check_consistent();
    }
}

#[test]
fn a_full_map_refuses_the_newcomer_and_changes_nothing_else() {
    // Too few flows; or too few arrivals, so that the second of a masqueraded flow, or the first, finds no room.
    for (flows, arrivals) in [(8, 100), (100, 8), (100, 9)] {
        let room = Room { flows, arrivals, cpus: 1, places: 100 };
        let network = Network::new(1, room).with(&backends());
        let mut open = Vec::new();
        for port in 5000..5040 {
            let before = (network.memory.flows.borrow().clone(), network.memory.arrivals.borrow().clone());
            match network.carry(from_outside(port), SYN) {
                Fate::Arrived(seen) => {
                    network.answer(seen, from_outside(port), Signals::NONE);
                    assert_eq!(network.ask(from_outside(port), Signals::NONE), seen);
                    open.push((from_outside(port), seen));
                }
                other => {
                    assert_eq!(other, Fate::Refused(Counter::PacketFlowsFull));
                    let now =
                        (network.memory.flows.borrow().clone(), network.memory.arrivals.borrow().clone());
                    assert_eq!(now, before);
                }
            }
            network.check_consistent();
        }
        assert!(open.len() >= 4);
        for (asked, seen) in open {
            network.check_alive(asked, seen);
        }
    }
}

#[test]
fn when_all_ports_are_taken_the_newcomer_is_refused() {
    let network = Network::roomy().with(&[remote(8)]);
    network.node.ports.set(PortRanges::new((20_000, 3), (61_000, 2)));
    let mut open = Vec::new();
    for port in 5000..5200 {
        match network.carry(from_outside(port), SYN) {
            Fate::Arrived(seen) => open.push((from_outside(port), seen)),
            other => assert_eq!(other, Fate::Refused(Counter::PacketPortsExhausted)),
        }
        network.check_consistent();
    }
    assert_eq!(open.len(), 5, "each port once");
    for (asked, seen) in &open {
        network.answer(*seen, *asked, Signals::NONE);
        network.check_alive(*asked, *seen);
    }
    // Another backend has the same ports to give.
    let mut network = network;
    network.publish(&[remote(9)], |sets| sets);
    network.establish(from_outside(6000));

    network.node.ports.set(PortRanges::new((0, 0), (0, 0)));
    assert_eq!(network.carry(from_outside(6001), SYN), Fate::Refused(Counter::PacketPortsExhausted));
}

#[test]
fn what_belongs_to_another_key_is_not_believed() {
    let network = Network::roomy().with(&[pod(8)]);
    let (mine, other) = (from_outside(5000), from_outside(5001));
    let seen = network.establish(mine);
    network.establish(other);
    // Elements reused under a reader's eyes.
    let foreign: Arrival = network.memory.arrivals.borrow()[&other];
    network.memory.arrivals.borrow_mut().insert(mine, foreign);
    assert_eq!(network.carry(mine, Signals::NONE), Fate::Arrived(mine), "left alone");
    let flows: Vec<_> = network.memory.flows.borrow().iter().map(|(key, flow)| (*key, *flow)).collect();
    let (_, foreign) = flows.iter().find(|(_, flow)| flow.client_port == Port::new(5001)).copied().unwrap();
    let (key, _) = flows.iter().find(|(_, flow)| flow.client_port == Port::new(5000)).copied().unwrap();
    network.memory.flows.borrow_mut().insert(key, foreign);
    assert_eq!(network.carry(seen.reversed(), Signals::NONE), Fate::Arrived(seen.reversed()), "left alone");
}

#[test]
fn a_client_that_comes_directly_from_a_port_it_had_used_is_answered() {
    let network = Network::roomy().with(&[pod(2)]);
    let asked = from_outside(5000);
    let seen = network.establish(asked);
    assert_eq!(seen.source_port, asked.source_port, "the client's own port");
    close(&network, asked, seen);
    // The backend answers to the pod's own name; this flow is over, and gone.
    assert_eq!(network.carry(seen, SYN), Fate::Arrived(seen));
    assert_eq!(network.carry(seen.reversed(), SYN_ACK), Fate::Arrived(seen.reversed()));
    assert_eq!(network.carry(seen, Signals::NONE), Fate::Arrived(seen));
    assert_eq!(network.len(), (0, 0));
    // One that is not over stays: an answer may come twice.
    let seen = network.establish(asked);
    network.answer(seen, asked, SYN_ACK);
    network.check_alive(asked, seen);
    // Where the backend sees the node, nobody can have gone to it directly.
    let network = Network::roomy().with(&[remote(2)]);
    let seen = network.establish(asked);
    close(&network, asked, seen);
    network.answer(seen, asked, SYN_ACK);
    assert_eq!(network.len().0, 1);
}

#[test]
fn an_established_flow_is_looked_at_once_a_tick() {
    let network = Network::roomy().with(&[pod(2)]);
    let asked = from_outside(5000);
    network.establish(asked);
    let last = || network.memory.flows.borrow().values().next().expect("a flow").seen;
    let before = last();
    network.ask(asked, Signals::NONE);
    assert_eq!(last(), before, "the same second");
    network.node.now.set(network.node.now.get() + 1_000_000_000);
    network.ask(asked, Signals::NONE);
    assert!(last() > before + 900_000_000, "the next");
    let before = states(&network)[0];
    network.ask(asked, FIN);
    assert_ne!(states(&network)[0], before, "news");
}

#[test]
fn a_flow_that_netfilter_masquerades_lives_and_ends_as_any_other() {
    let network = Network::roomy().with(&[remote(1)]);
    let asked = from_outside(5000);
    // Its packets leave under a name that we do not know. Its answers pass us when netfilter has undone that.
    let inside = network.come_in(asked, SYN);
    let answer = |signals| {
        network.go_out(&network.passage(inside.destination), (&inside.reversed(), signals));
    };
    answer(Signals::NONE);
    network.come_in(asked, Signals::NONE);
    assert_eq!(states(&network), [flow_state::REPLIED | flow_state::ESTABLISHED]);
    network.node.now.set(network.node.now.get() + 50_000_000_000);
    network.come_in(asked, Signals::NONE);
    let seen = network.memory.flows.borrow().values().next().unwrap().seen;
    assert!(seen > 50_000_000_000, "seen when it came in");
    network.come_in(asked, FIN);
    answer(FIN);
    assert_ne!(states(&network)[0] & flow_state::CLOSING, 0);
    network.check_consistent();
}
