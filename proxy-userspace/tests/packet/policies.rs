//! Which endpoints a client gets, and whether they see its address: what kube-proxy does.

use std::collections::BTreeSet;

use proxy_common::{
    address::{Address, Port},
    decision::{
        frontend::is_cluster_ip,
        packet::{Desk, Signals, Verdict, ingress},
    },
    layout::{Counter, Frontend, FrontendKey, Prefix, Sets, frontend_kind, protocol, scope},
};

use proxy_userspace::{cluster::model::NodeInfo, tables::node_ports};

use crate::network::{
    BALANCER, CLUSTER_IP, EXTERNAL, FRONTENDS, Fate, NODE, NODE_PORT, Network, PORT, SYN, address, outside,
    pod, remote, tuple,
};

/// Where the service's endpoints are.
const HERE: u8 = 1;
const THERE: u8 = 2;

fn endpoints(places: u8) -> Vec<Address> {
    let all = [(HERE, pod(8)), (HERE, pod(9)), (THERE, remote(8)), (THERE, remote(9))];
    all.into_iter().filter(|(place, _)| places & place != 0).map(|(_, own)| own).collect()
}

/// Everything that new connections of this client to this frontend meet.
fn outcomes(network: &Network, client: Address, frontend: (&str, u16)) -> BTreeSet<Result<Address, Fated>> {
    let ports = 5000u16..5064;
    let fate = |port| network.carry(tuple(client, port, frontend, protocol::TCP), SYN);
    ports
        .map(|port| match fate(port) {
            Fate::Arrived(seen) => Ok(seen.destination),
            Fate::Dropped(counter) => Err(Fated { drops: true, counter: counter as u32 }),
            Fate::Refused(counter) => Err(Fated { drops: false, counter: counter as u32 }),
        })
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fated {
    drops: bool,
    counter: u32,
}

const NO_ENDPOINT: Fated = Fated { drops: false, counter: Counter::PacketNoEndpoint as u32 };
const NONE_HERE: Fated = Fated { drops: true, counter: Counter::PacketNoLocalEndpoint as u32 };

#[test]
fn each_client_gets_the_endpoints_that_the_policy_gives_it() {
    for bits in 0u8..16 {
        let (internal_local, external_local, places) = (bits & 1 != 0, bits & 2 != 0, bits >> 2);
        let mut network = Network::roomy();
        let policy =
            |sets: Sets| sets.with_internal_local(internal_local).with_external_local(external_local);
        network.publish(&endpoints(places), policy);
        for client in [pod(1), outside(1), remote(1)] {
            for frontend in FRONTENDS {
                let is_local = match frontend.0 {
                    CLUSTER_IP => internal_local,
                    _ => external_local && client != pod(1),
                };
                let reachable = endpoints(if is_local { places & HERE } else { places });
                let expected: BTreeSet<_> = match (reachable.is_empty(), places) {
                    (true, 0) => [Err(NO_ENDPOINT)].into(),
                    (true, _) => [Err(NONE_HERE)].into(),
                    (false, _) => reachable.into_iter().map(Ok).collect(),
                };
                let case =
                    format!("{client} to {frontend:?}, policies {internal_local} {external_local}, {places}");
                assert_eq!(outcomes(&network, client, frontend), expected, "{case}");
            }
        }
        network.check_consistent();
    }
}

#[test]
fn who_comes_from_a_pods_address_is_a_pod_if_that_is_how_pods_are_told_apart() {
    let mut network = Network::roomy();
    network.publish(&endpoints(HERE | THERE), |sets| sets.with_external_local(true));
    network.node.pods.replace(vec![Prefix::new(outside(0).to_ip(), 9), Prefix::new(pod(0).to_ip(), 30)]);
    let everybody: BTreeSet<_> = endpoints(HERE | THERE).into_iter().map(Ok).collect();
    let local: BTreeSet<_> = endpoints(HERE).into_iter().map(Ok).collect();
    for (client, expected) in
        [(outside(1), &everybody), (outside(0x0080_0001), &local), (pod(1), &everybody), (pod(7), &local)]
    {
        assert_eq!(&outcomes(&network, client, (BALANCER, PORT)), expected, "{client}");
    }
    // Whether its answer would miss the node is another question.
    let network = Network::roomy().with(&[remote(8)]);
    network.node.pods.replace(vec![Prefix::new(outside(0).to_ip(), 9)]);
    let packet = network.ask(tuple(outside(1), 5000, (BALANCER, PORT), protocol::TCP), SYN);
    assert_eq!(packet.source, address(NODE));
}

/// No such packet should come by a device, but the programs see it before the kernel does (CVE-2020-8558).
#[test]
fn a_packet_for_loopback_reaches_no_node_port() {
    for (loopback, node, backend) in [("127.0.0.1", NODE, pod(1)), ("::1", "fd00::1", address("fd00:244::8"))]
    {
        let mut network = Network::roomy().with(&[backend]);
        let any = address(loopback).any_of_family();
        let key = FrontendKey {
            address: any,
            port: Port::new(NODE_PORT),
            protocol: protocol::TCP,
            scope: scope::NODE_PORT,
        };
        network.maps.frontends.insert(key, Frontend::sealed(&key, 0, frontend_kind::NODE_PORT));
        let own = [address(node)];
        let addresses = node_ports::addresses(&own, &node_ports::Choice::All, &NodeInfo::default());
        assert!(addresses.contains_key(&address(loopback)), "sockets of the node are served there");
        network.maps.node_addresses = addresses;
        for client in [pod(1), outside(1)] {
            let asked = tuple(client, 5000, (loopback, NODE_PORT), protocol::TCP);
            assert_eq!(network.carry(asked, SYN), Fate::Arrived(asked), "{client} to {loopback}");
        }
        assert_eq!(network.len(), (0, 0));
    }
}

#[test]
fn a_restricted_load_balancer_address_drops_whoever_is_in_no_range() {
    let kept_out = Fated { drops: true, counter: Counter::PacketDenied as u32 };
    for places in [0, HERE, THERE] {
        let mut network = Network::roomy();
        network.publish(&endpoints(places), |sets| sets);
        network.restrict(&[(outside(0), 9), (pod(3), 32)]);
        let served: BTreeSet<_> = match places {
            0 => [Err(NO_ENDPOINT)].into(),
            _ => endpoints(places).into_iter().map(Ok).collect(),
        };
        for (client, is_admitted) in
            [(outside(1), true), (outside(0x0080_0001), false), (pod(1), false), (pod(3), true)]
        {
            for frontend in FRONTENDS {
                let is_free = is_admitted || frontend.0 != BALANCER;
                let expected = if is_free { served.clone() } else { [Err(kept_out)].into() };
                let case = format!("{client} to {frontend:?}, endpoints {places}");
                assert_eq!(outcomes(&network, client, frontend), expected, "{case}");
            }
        }
        network.check_consistent();
    }
}

#[test]
fn a_refused_or_dropped_packet_leaves_no_trace() {
    for places in [0, THERE] {
        let mut network = Network::roomy();
        network.publish(&endpoints(places), |sets| sets.with_external_local(true));
        outcomes(&network, outside(1), (BALANCER, PORT));
        assert_eq!(network.len(), (0, 0));
    }
}

#[test]
fn the_client_is_seen_unless_its_answer_would_miss_the_node() {
    let node = address(NODE);
    for (client, backend, seen) in [
        (outside(1), pod(1), outside(1)),
        (outside(1), remote(1), node),
        (outside(1), node, outside(1)),
        (remote(1), pod(1), remote(1)),
        (remote(1), remote(2), node),
        (remote(1), remote(1), node),
        (pod(1), pod(2), pod(1)),
        (pod(1), remote(1), pod(1)),
        (pod(1), node, pod(1)),
        (pod(1), pod(1), node),
    ] {
        let network = Network::roomy().with(&[backend]);
        for frontend in FRONTENDS {
            let packet = network.ask(tuple(client, 5000, frontend, protocol::TCP), SYN);
            assert_eq!(packet.source, seen, "{client} asks {frontend:?} with the backend {backend}");
        }
    }
}

#[test]
fn what_a_cluster_ip_does_not_serve_is_refused_and_other_addresses_are_left_alone() {
    let network = Network::roomy().with(&[pod(1)]);
    for client in [pod(1), outside(1)] {
        let other = tuple(client, 5000, (CLUSTER_IP, 81), protocol::TCP);
        assert_eq!(network.carry(other, SYN), Fate::Refused(Counter::PacketClosedPort));
        for frontend in
            [(BALANCER, 81), (EXTERNAL, 81), (NODE, NODE_PORT + 1), (NODE, PORT), ("192.0.2.9", PORT)]
        {
            let other = tuple(client, 5000, frontend, protocol::TCP);
            assert_eq!(network.carry(other, SYN), Fate::Arrived(other), "{frontend:?}");
        }
    }
    // Pings, which have no port.
    assert!(is_cluster_ip(&network.maps, &address(CLUSTER_IP)));
    assert!(!is_cluster_ip(&network.maps, &address(BALANCER)));
}

#[test]
fn the_middle_of_a_flow_that_nobody_knows_passes() {
    // It may be a connection from before we were here.
    let network = Network::roomy().with(&[pod(1)]);
    for frontend in FRONTENDS {
        let asked = tuple(outside(1), 5000, frontend, protocol::TCP);
        let passage = network.passage(asked.source);
        for signals in [Signals::NONE, Signals(Signals::DONE), Signals(Signals::RESET)] {
            let verdict =
                ingress(&network.maps, &network.memory, &passage, &mut Desk::new(), (&asked, signals));
            assert_eq!(verdict, Verdict::Pass);
        }
    }
    assert_eq!(network.len(), (0, 0));
}

#[test]
fn affinity_binds_an_address_to_a_backend_whichever_frontend_it_asks() {
    const SECOND: u64 = 1_000_000_000;
    let mut network = Network::roomy().with(&[pod(6), pod(7), pod(8), remote(7), remote(8)]);
    network.keep_clients_for(10);
    let connect = |client: Address, port: u16, frontend| {
        network.ask(tuple(client, port, frontend, protocol::TCP), SYN).destination
    };
    for client in [pod(1), outside(1)] {
        let first = connect(client, 4999, (CLUSTER_IP, PORT));
        for port in 5000..5010 {
            for frontend in FRONTENDS {
                // Each connection starts the time anew.
                network.node.now.set(network.node.now.get() + 9 * SECOND);
                assert_eq!(connect(client, port, frontend), first);
            }
        }
    }
    let others: BTreeSet<Address> = (2..60).map(|n| connect(outside(n), 5000, (NODE, NODE_PORT))).collect();
    assert_eq!(others.len(), 5, "other clients are independent");
    let later: BTreeSet<Address> = (6000..6060)
        .map(|port| {
            network.node.now.set(network.node.now.get() + 11 * SECOND);
            connect(outside(1), port, (NODE, NODE_PORT))
        })
        .collect();
    assert_eq!(later.len(), 5, "after a pause it is a client like any other");
}

/// kube-proxy remembers a client at each endpoint that it has had; we remember the last one, which serves under both
/// policies as soon as it is a local one.
#[test]
fn a_client_that_comes_under_both_policies_settles_at_one_local_backend() {
    let all = [pod(6), pod(7), pod(8), remote(6), remote(7), remote(8)];
    let mut network = Network::roomy();
    network.publish(&all, |sets| sets.with_external_local(true));
    network.keep_clients_for(10);
    let connect =
        |port: u16, frontend| network.ask(tuple(outside(1), port, frontend, protocol::TCP), SYN).destination;
    // By the ClusterIP it may get any; by the NodePort a local one only.
    connect(4998, (CLUSTER_IP, PORT));
    let local = connect(4999, (NODE, NODE_PORT));
    assert!(all[..3].contains(&local), "{local}");
    for port in 5000..5030 {
        for frontend in FRONTENDS {
            assert_eq!(connect(port, frontend), local, "{frontend:?}");
        }
    }
}
