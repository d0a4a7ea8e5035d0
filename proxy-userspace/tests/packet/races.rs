//! Two CPUs at work on one flow: one of them is interrupted between any two of its operations on the maps, and the
//! other does all of its work there.

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use proxy_common::{
    address::Address,
    decision::packet::{Desk, Flows, Put, Queue, Verdict, ingress, remove},
    layout::{Arrival, Flow, Queued, Tuple, protocol},
};
use proxy_userspace::plan::simulated_flows::Memory;

use crate::network::{CLUSTER_IP, NODE, NODE_PORT, Network, PORT, SYN, outside, pod, remote, tuple};

/// Maps of which an operation, counted down, is preceded by somebody else's work.
struct Interrupted<'a> {
    memory: &'a Memory,
    countdown: Cell<u32>,
    work: RefCell<Option<Box<dyn FnOnce() + 'a>>>,
}

impl Interrupted<'_> {
    fn memory(&self) -> &Memory {
        self.countdown.set(self.countdown.get().wrapping_sub(1));
        if self.countdown.get() == 0
            && let Some(work) = self.work.take()
        {
            work();
        }
        self.memory
    }
}

impl Flows for Interrupted<'_> {
    type Place = Tuple;
    type Entry = Tuple;

    fn arrival(&self, tuple: &Tuple) -> Option<(Arrival, Tuple)> {
        self.memory().arrival(tuple)
    }
    fn stamp(&self, entry: Tuple, born: u64, tick: u16) {
        self.memory().stamp(entry, born, tick);
    }
    fn put_arrival(&self, tuple: &Tuple, arrival: &Arrival, only_new: bool) -> Put {
        self.memory().put_arrival(tuple, arrival, only_new)
    }
    fn use_arrival(&self, tuple: &Tuple, born: u64) -> bool {
        self.memory().use_arrival(tuple, born)
    }
    fn remove_arrival(&self, tuple: &Tuple) {
        self.memory().remove_arrival(tuple);
    }
    fn flow(&self, key: &Tuple) -> Option<(Flow, Tuple)> {
        self.memory().flow(key)
    }
    fn put_flow(&self, key: &Tuple, flow: &Flow) -> Put {
        self.memory().put_flow(key, flow)
    }
    fn remove_flow(&self, key: &Tuple) {
        self.memory().remove_flow(key);
    }
    fn touch(&self, place: Tuple, born: u64, seen: u64, state: u32) {
        self.memory().touch(place, born, seen, state);
    }
    fn watch_backend(&self, backend: &Address, is_masqueraded: bool) {
        self.memory().watch_backend(backend, is_masqueraded);
    }
    fn turn(&self, queue: Queue) -> u32 {
        self.memory().turn(queue)
    }
    fn take_place(&self, queue: Queue, place: u32, entry: &Queued) -> Option<Queued> {
        self.memory().take_place(queue, place, entry)
    }
    fn note_place(&self, flow: Tuple, place: u32) {
        self.memory().note_place(flow, place);
    }
    fn leave_place(&self, queue: Queue, place: u32, born: u64) {
        self.memory().leave_place(queue, place, born);
    }
}

/// One CPU opens `asked`, and before its operation number `at` another CPU does `work`.
fn open_interrupted<'a>(network: &'a Network, asked: Tuple, at: u32, work: impl FnOnce() + 'a) -> Verdict {
    let flows = Interrupted {
        memory: &network.memory,
        countdown: Cell::new(at),
        work: RefCell::new(Some(Box::new(work))),
    };
    ingress(&network.maps, &flows, &network.passage(asked.source), &mut Desk::new(), (&asked, SYN))
}

/// Removes every flow there is, as its turn in a queue would.
fn remove_all(network: &Network) {
    let flows: Vec<_> = network.memory.flows.borrow().iter().map(|(key, flow)| (*key, *flow)).collect();
    flows.iter().for_each(|(key, flow)| remove(&network.memory, key, flow));
}

fn any_asked() -> impl Strategy<Value = Tuple> {
    let client = prop::sample::select(vec![pod(1), outside(1)]);
    let frontend = prop::sample::select(vec![(CLUSTER_IP, PORT), (NODE, NODE_PORT)]);
    let protocol = prop::sample::select(vec![protocol::TCP, protocol::UDP]);
    (client, frontend, protocol).prop_map(|(client, to, protocol)| tuple(client, 5000, to, protocol))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Two threads of a client send their first packets at once, on two CPUs: the flow works, and once it has gone
    /// nothing is left that leads packets to where nobody knows their answers.
    #[test]
    fn two_first_packets_at_once_open_a_flow_that_works(
        asked in any_asked(), at in 1u32..12, seed in any::<u64>(),
        backends in prop::sample::subsequence(vec![pod(1), pod(8), remote(8)], 1..=3),
    ) {
        let mut network = Network::roomy().with(&backends);
        network.node.seed = seed;
        let verdict = open_interrupted(&network, asked, at, || {
            network.carry(asked, SYN).arrived();
        });
        prop_assert!(matches!(verdict, Verdict::Open(_) | Verdict::Rewrite(_)), "{:?}", verdict);
        let seen = network.establish(asked);
        network.check_alive(asked, seen);
        remove_all(&network);
        prop_assert_eq!(network.len(), (0, 0), "something is left");
    }

    /// Two clients open flows at once: neither is in the other's way.
    #[test]
    fn two_clients_at_once_do_not_get_in_each_others_way(
        first in any_asked(), second in any_asked(), at in 1u32..12, seed in any::<u64>(),
    ) {
        prop_assume!(first != second);
        let mut network = Network::roomy().with(&[remote(8)]);
        network.node.seed = seed;
        network.node.ports.set(proxy_common::layout::PortRanges::new((20_000, 4), (0, 0)));
        let mut other = None;
        let work = || other = Some(network.carry(second, SYN));
        // Both have a handful of ports to draw from.
        let verdict = open_interrupted(&network, first, at, work);
        prop_assert!(matches!(verdict, Verdict::Open(_)), "{:?}", verdict);
        let opened = [Some(first), other.map(|fate| { fate.arrived(); second })];
        for asked in opened.into_iter().flatten() {
            network.establish(asked);
        }
        network.check_consistent();
        prop_assert_eq!(network.len().0, opened.into_iter().flatten().count());
    }
}
