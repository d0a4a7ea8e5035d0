//! ICMP errors quote the packet they complain about. The quoted ends are translated like those of an answer to it, the
//! other way round, so that whoever sent the packet recognises it.

use proxy_common::{
    decision::packet::{egress::leaving, ingress::arriving},
    layout::{Tuple, protocol},
};

use crate::network::{FRONTENDS, NODE, Network, address, arrive, leave, outside, pod, remote, tuple};

/// An error about `packet` comes in and goes out again: what it quotes then.
fn quoted_at_the_end(network: &Network, packet: Tuple) -> Tuple {
    let mut back = packet.reversed();
    if let Some(rewrite) = arriving(&network.memory, &back) {
        back = arrive(back, rewrite);
    }
    if let Some(rewrite) = leaving(&network.memory, &back) {
        back = leave(back, rewrite);
    }
    back.reversed()
}

#[test]
fn whoever_sent_a_packet_recognises_it_in_an_error() {
    for (client, backend) in [
        (outside(1), pod(8)),
        (outside(1), remote(8)),
        (pod(1), pod(8)),
        (pod(1), remote(8)),
        (pod(1), pod(1)),
    ] {
        let network = Network::roomy().with(&[backend]);
        for frontend in FRONTENDS {
            let asked = tuple(client, 5000, frontend, protocol::TCP);
            let seen = network.establish(asked);
            let before = network.memory.clone();
            assert_eq!(quoted_at_the_end(&network, seen), asked, "about what the backend got");
            assert_eq!(quoted_at_the_end(&network, asked.reversed()), seen.reversed(), "about its answer");
            assert_eq!(
                *network.memory.flows.borrow(),
                *before.flows.borrow(),
                "which says nothing of the flow"
            );
            assert_eq!(*network.memory.arrivals.borrow(), *before.arrivals.borrow());
        }
    }
}

#[test]
fn an_error_from_the_nodes_own_stack_quotes_what_the_client_sent() {
    // The backend is the node itself and its port closed (UDP), or a hop fails between ingress and egress.
    for backend in [address(NODE), remote(8), pod(8)] {
        let network = Network::roomy().with(&[backend]);
        let asked = tuple(outside(1), 5000, FRONTENDS[0], protocol::UDP);
        network.establish(asked);
        let (key, flow) =
            network.memory.flows.borrow().iter().map(|(key, flow)| (*key, *flow)).next().unwrap();
        let back = flow.inside(&key).reversed();
        assert_eq!(leave(back, leaving(&network.memory, &back).unwrap()).reversed(), asked);
    }
}

#[test]
fn errors_about_what_concerns_no_service_are_left_alone() {
    let network = Network::roomy().with(&[pod(8)]);
    network.establish(tuple(pod(1), 5000, FRONTENDS[0], protocol::TCP));
    let direct = tuple(pod(1), 5001, ("10.244.1.8", 8080), protocol::TCP);
    assert_eq!(quoted_at_the_end(&network, direct), direct);
}
