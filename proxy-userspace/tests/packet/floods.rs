//! Random operations and floods, after which everything still holds.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proxy_common::{
    address::Address,
    decision::packet::Signals,
    layout::{PortRanges, Tuple, protocol},
};
use proxy_userspace::plan::simulated_flows::Room;

use crate::network::{FIN, FRONTENDS, Fate, NODE, Network, RST, SYN, address, outside, pod, remote, tuple};

const CPUS: usize = 2;
const PLACES: usize = 16;
/// Flows that may go stand in two queues; there is room for these, and for some that live.
const ROOM: Room =
    Room { flows: 2 * CPUS * PLACES + 40, arrivals: 4 * CPUS * PLACES + 80, cpus: CPUS, places: PLACES };

/// What happens next. Numbers choose among the connections there are.
#[derive(Clone, Debug)]
enum Step {
    /// A client connects, and both sides speak.
    Connect(Tuple),
    /// A live connection goes on.
    Speak(usize),
    /// A live connection is ended by both sides, or broken off.
    End(usize, bool),
    /// Somebody forges a reset on a live connection, which goes on. Once: it then stands among those that are over, and
    /// a second reset in the very moment of its turn would be believed.
    ForgeReset(usize, bool),
    /// The client repeats its first packet, though the connection lives.
    Repeat(usize),
    /// Packets that open flows nobody confirms, from forged sources; of some the backend answers or refuses.
    Flood(u32, u16),
    /// Any packet at all, of a connection or of none.
    Stray(Tuple, Signals),
    /// Other endpoints.
    Publish(Vec<Address>),
    /// The next packets are another CPU's.
    Cpu(usize),
    /// Time passes, milliseconds.
    Wait(u16),
}

fn backends() -> Vec<Address> {
    vec![pod(1), pod(2), remote(1), remote(2), address(NODE)]
}

fn any_asked() -> impl Strategy<Value = Tuple> {
    let client = prop_oneof![(1u8..4).prop_map(pod), (1u32..4).prop_map(outside)];
    let port = prop::sample::select(vec![8080u16, 5000, 5001, 5002]);
    let protocol = prop::sample::select(vec![protocol::TCP, protocol::UDP, protocol::SCTP]);
    (client, port, prop::sample::select(FRONTENDS.to_vec()), protocol)
        .prop_map(|(client, port, to, protocol)| tuple(client, port, to, protocol))
}

/// A packet that belongs to no connection of ours: from addresses that nobody else has.
fn any_stray() -> impl Strategy<Value = (Tuple, Signals)> {
    let ends = (200u8..203, prop::sample::select(FRONTENDS.to_vec()), 7000u16..7003);
    (ends, 0u32..8, any::<bool>()).prop_map(|((last, to, port), signals, back)| {
        let packet = tuple(pod(last), port, to, protocol::TCP);
        (if back { packet.reversed() } else { packet }, Signals(signals))
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_asked().prop_map(Step::Connect),
        4 => any::<usize>().prop_map(Step::Speak),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, reset)| Step::End(which, reset)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, client)| Step::ForgeReset(which, client)),
        1 => any::<usize>().prop_map(Step::Repeat),
        2 => (1000u32..100_000, 1u16..40).prop_map(|(first, count)| Step::Flood(first, count)),
        2 => any_stray().prop_map(|(packet, signals)| Step::Stray(packet, signals)),
        1 => prop::sample::subsequence(backends(), 1..4).prop_map(Step::Publish),
        1 => (0..CPUS).prop_map(Step::Cpu),
        1 => any::<u16>().prop_map(Step::Wait),
    ]
}

/// A network, and the connections that live: as their clients and as their backends see them.
struct World {
    network: Network,
    live: Vec<(Tuple, Tuple)>,
    forged: BTreeSet<Tuple>,
}

impl World {
    fn pick(&self, which: usize) -> Option<(Tuple, Tuple)> {
        self.live.get(which.checked_rem(self.live.len())?).copied()
    }

    fn step(&mut self, step: Step) {
        let network = &mut self.network;
        match step {
            // More would be turned away, which other tests are about.
            Step::Connect(asked) if self.live.len() < 30 && self.live.iter().all(|live| live.0 != asked) => {
                let seen = network.establish(asked);
                self.live.push((asked, seen));
                self.forged.remove(&seen);
            }
            Step::Flood(first, count) => (0..count).for_each(|n| flood(network, first + u32::from(n))),
            Step::Stray(packet, signals) => drop(network.carry(packet, signals)),
            Step::Publish(endpoints) => network.publish(&endpoints, |sets| sets),
            Step::Cpu(cpu) => network.memory.cpu.set(cpu),
            Step::Wait(milliseconds) => {
                network.node.now.set(network.node.now.get() + 1_000_000 * u64::from(milliseconds));
            }
            Step::Speak(which) | Step::End(which, _) | Step::ForgeReset(which, _) | Step::Repeat(which) => {
                if let Some(pair) = self.pick(which) {
                    self.go_on(step, pair);
                }
            }
            Step::Connect(_) => {}
        }
    }

    fn go_on(&mut self, step: Step, (asked, seen): (Tuple, Tuple)) {
        let network = &self.network;
        match step {
            Step::End(_, is_reset) if asked.protocol != protocol::UDP => {
                let signals = if is_reset { RST } else { FIN };
                assert_eq!(network.ask(asked, signals), seen);
                let answer = network.carry(seen.reversed(), signals);
                // See `ForgeReset`.
                assert!(self.forged.contains(&seen) || answer == Fate::Arrived(asked.reversed()));
                self.live.retain(|live| live.0 != asked);
            }
            Step::ForgeReset(..) if !self.forged.insert(seen) => {}
            Step::ForgeReset(_, true) => drop(network.carry(asked, RST)),
            Step::ForgeReset(_, false) => drop(network.carry(seen.reversed(), RST)),
            Step::Repeat(_) => assert_eq!(network.ask(asked, SYN), seen),
            _ => {}
        }
        if self.live.contains(&(asked, seen)) {
            self.network.check_alive(asked, seen);
        }
    }

    fn check(&self) {
        self.network.check_consistent();
        for (asked, seen) in &self.live {
            self.network.check_alive(*asked, *seen);
        }
    }
}

/// One packet with a forged source. It is refused only when no port is left.
fn flood(network: &Network, number: u32) {
    let frontend = FRONTENDS[number as usize % FRONTENDS.len()];
    let protocol = if number.is_multiple_of(5) { protocol::UDP } else { protocol::TCP };
    let asked = tuple(outside(number), 1234, frontend, protocol);
    let Fate::Arrived(seen) = network.carry(asked, SYN) else { return };
    match number % 3 {
        0 => network.answer(seen, asked, Signals::NONE),
        1 => network.answer(seen, asked, RST),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Live connections keep their backends and their names, whatever else happens; and what is remembered is always
    /// whole.
    #[test]
    fn live_connections_live_whatever_happens(
        steps in prop::collection::vec(any_step(), 1..80), seed in any::<u64>()
    ) {
        let mut world = World { network: Network::new(seed, ROOM).with(&backends()), live: Vec::new(), forged: BTreeSet::new() };
        world.network.node.ports.set(PortRanges::new((8070, 30), (61_000, 50)));
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}

#[test]
fn a_flood_makes_room_for_itself_and_for_others() {
    let network = Network::new(0, ROOM).with(&backends());
    let live: Vec<Tuple> =
        (5000..5020).map(|port| tuple(outside(1), port, FRONTENDS[1], protocol::TCP)).collect();
    let seen: Vec<Tuple> = live.iter().map(|asked| network.establish(*asked)).collect();
    for number in 1000..3000 {
        network.memory.cpu.set(number as usize % CPUS);
        assert!(matches!(
            network.carry(tuple(outside(number), 1, FRONTENDS[2], protocol::TCP), SYN),
            Fate::Arrived(_)
        ));
        if number % 100 == 0 {
            let late = tuple(outside(2), u16::try_from(number).unwrap(), FRONTENDS[3], protocol::TCP);
            let seen = network.establish(late);
            network.check_alive(late, seen);
        }
    }
    for (asked, seen) in live.into_iter().zip(seen) {
        network.check_alive(asked, seen);
    }
    network.check_consistent();
    assert!(network.len().0 <= CPUS * PLACES + 40);
}

#[test]
fn connections_that_are_over_make_room() {
    let network = Network::new(0, ROOM).with(&backends());
    for port in 5000..7000 {
        let asked = tuple(outside(1), port, FRONTENDS[1], protocol::TCP);
        let seen = network.establish(asked);
        assert_eq!(network.ask(asked, FIN), seen);
        network.answer(seen, asked, FIN);
    }
    network.check_consistent();
    assert_eq!(network.len().0, PLACES, "those of one CPU's last turns");
}

#[test]
fn a_flow_reset_before_it_was_established_makes_room_though_it_goes_on() {
    let network = Network::new(0, ROOM).with(&backends());
    let from = |number| tuple(outside(number), 1, FRONTENDS[1], protocol::TCP);
    network.ask(from(1), SYN);
    network.ask(from(1), RST);
    for number in 1000..1100 {
        network.ask(from(number), SYN);
        // By now its turn among the young has passed, because it seemed to be over.
        if number == 1050 {
            network.ask(from(1), Signals::NONE);
        }
        if number > 1050 {
            network.ask(from(number), RST);
        }
        network.check_consistent();
    }
    assert!(!network.memory.arrivals.borrow().contains_key(&from(1)));
}
