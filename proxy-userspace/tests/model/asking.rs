//! How the decision answers, on the maps in memory: everything that it may answer, and what it does answer.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_common::address::{Address, Port};
use proxy_common::decision::packet::{self, Desk, Signals, Verdict, ingress};
use proxy_common::decision::{self, Client, ClientAddress, Destination, Outcome};
use proxy_common::layout::{Tuple, client_kind, protocol};
use proxy_userspace::plan::simulated::{Maps, Socket};
use proxy_userspace::plan::simulated_flows::{Memory, Room};

use super::oracle::objects::Protocol;
use super::oracle::{Answer, Probe, Source, Who};

/// More endpoints than any service port of the histories has.
const MOST: u32 = 20;
/// Sockets that choose by their hash: so many miss one of seven endpoints once in 10^12 times.
const SOCKETS: u64 = 200;

/// What may come out of a question. Nothing is remembered of it.
pub(crate) fn possible(maps: &Maps, probe: &Probe, is_unconnected: bool) -> Answer {
    let before = maps.affinity.borrow().clone();
    let forget = || maps.affinity.borrow_mut().clone_from(&before);
    let answers: Vec<Answer> = if probe.who.is_socket() && is_unconnected {
        let draw = |cookie| {
            let answer = datagram(maps, &socket(probe, cookie), probe);
            forget();
            answer
        };
        (1..SOCKETS).map(draw).collect()
    } else {
        // Each draw moves the dice on by the golden section: 3n draws reach all of n.
        let dice = Dice::new(0);
        let draw = |port| {
            let answer = connection(maps, probe, &dice, port);
            forget();
            answer
        };
        (0..3 * MOST).map(draw).collect()
    };
    merged(answers)
}

/// One new connection, of which the maps remember what they do.
pub(crate) fn once(maps: &Maps, probe: &Probe, seed: u32) -> Answer {
    connection(maps, probe, &Dice::new(seed), 0)
}

fn connection(maps: &Maps, probe: &Probe, dice: &Dice, port: u32) -> Answer {
    match probe.who {
        Who::PodSocket(_) | Who::HostSocket(_) => {
            let socket = socket(probe, 1);
            socket.random.set(dice.next());
            told(decision::connect(maps, &socket, &destination(probe)))
        }
        Who::PodPacket(source) | Who::OutsidePacket(source) => packet(maps, probe, source, dice, port),
    }
}

/// A datagram of a socket that is not connected.
pub(crate) fn datagram(maps: &Maps, socket: &Socket, probe: &Probe) -> Answer {
    told(decision::datagram(maps, socket, &destination(probe)).0)
}

/// A socket of whoever asks.
pub(crate) fn socket(probe: &Probe, cookie: u64) -> Socket {
    let (namespace, is_host) = match probe.who {
        Who::PodSocket(pod) => (100 + u64::from(pod), false),
        _ => (1, true),
    };
    let socket = Socket::new(namespace, cookie);
    socket.host_namespace.set(is_host);
    socket.bound.set(probe.who.address().map(Address::from));
    socket.now.set(probe.now);
    socket
}

fn told(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Translate(address, port) => {
            Answer::To([(SocketAddr::new(address.to_ip(), port.number()), Source::Kept)].into())
        }
        Outcome::Pass => Answer::NotAService,
        Outcome::Refuse => Answer::Refused,
        Outcome::Unreachable | Outcome::Denied => Answer::Dropped,
        Outcome::NoMemory => panic!("simulated sockets have memory"),
    }
}

fn number(own: Protocol) -> u8 {
    match own {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    }
}

fn destination(probe: &Probe) -> Destination {
    Destination {
        address: Address::from(probe.to.ip()),
        port: Port::new(probe.to.port()),
        protocol: number(probe.protocol),
    }
}

/// Where the node's own source ports begin.
const DRAWN: u16 = 61_000;

/// The first packet of a flow, through a node that knows no other.
fn packet(maps: &Maps, probe: &Probe, source: IpAddr, dice: &Dice, port: u32) -> Answer {
    let tuple = Tuple {
        source: Address::from(source),
        destination: Address::from(probe.to.ip()),
        source_port: Port::new(u16::try_from(5000 + port).expect("few")),
        destination_port: Port::new(probe.to.port()),
        protocol: number(probe.protocol),
        reserved: [0; 3],
    };
    let signals = if probe.protocol == Protocol::Udp { Signals::UDP } else { Signals(Signals::OPENS) };
    let memory = Memory::new(Room { flows: 4, arrivals: 8, cpus: 1, places: 2 });
    let is_outside = matches!(probe.who, Who::OutsidePacket(_));
    let passage = Passage { client: tuple.source, is_outside, now: Cell::new(probe.now), dice };
    match ingress(maps, &memory, &passage, &mut Desk::new(), (&tuple, signals)) {
        Verdict::Pass => Answer::NotAService,
        Verdict::Drop(_) => Answer::Dropped,
        Verdict::Refuse(_) => Answer::Refused,
        Verdict::Rewrite(to) | Verdict::Open(to) => {
            let flows = memory.flows.borrow();
            let (_, flow) = flows.first_key_value().expect("a flow has been opened");
            let seen = if flow.is_masqueraded() { Source::Masqueraded } else { Source::Kept };
            Answer::To([(SocketAddr::new(to.address.to_ip(), to.destination_port.number()), seen)].into())
        }
    }
}

/// See [`Socket::random`].
struct Dice(Cell<u32>);

impl Dice {
    fn new(seed: u32) -> Self {
        Self(Cell::new(seed))
    }

    fn next(&self) -> u32 {
        // 2^32 divided by the golden ratio.
        self.0.replace(self.0.get().wrapping_add(0x9e37_79b9))
    }
}

/// A packet's way into the node.
struct Passage<'a> {
    client: Address,
    is_outside: bool,
    now: Cell<u64>,
    dice: &'a Dice,
}

impl Client for Passage<'_> {
    fn random(&self) -> u32 {
        self.dice.next()
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn identity(&self) -> (Address, u32) {
        (self.client, client_kind::ADDRESS)
    }

    fn address(&self) -> ClientAddress {
        ClientAddress::Known(self.client)
    }

    fn is_outside(&self) -> bool {
        self.is_outside
    }
}

impl packet::Node for Passage<'_> {
    fn is_by_outer_device(&self) -> bool {
        self.is_outside
    }

    fn tick(&self) -> u16 {
        1
    }

    fn masquerade_address(&self, backend: &Address) -> Option<Address> {
        let own: IpAddr = if backend.is_v4() {
            Ipv4Addr::new(192, 168, 0, 1).into()
        } else {
            Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 1).into()
        };
        Some(Address::from(own))
    }

    fn masquerade_port(&self) -> Option<Port> {
        Some(Port::new(DRAWN))
    }

    fn has_socket(&self, _: &Tuple) -> bool {
        false
    }
}

/// One question, one kind of answer.
fn merged(answers: Vec<Answer>) -> Answer {
    let mut endpoints = BTreeMap::new();
    let mut others: Vec<Answer> = Vec::new();
    for answer in answers {
        match answer {
            Answer::To(own) => endpoints.extend(own),
            other => others.push(other),
        }
    }
    others.dedup();
    if !endpoints.is_empty() {
        others.push(Answer::To(endpoints));
    }
    assert_eq!(others.len(), 1, "one question, different kinds of answers: {others:?}");
    others.remove(0)
}
