//! A node in a small network, through which packets are carried one by one.
//!
//! A packet comes in by a device (or from the node's own stack), is routed, and goes out by another. Devices may be
//! stacked, as a bridge and its ports are: a packet then meets the programs several times, which must translate it
//! once. [`Network::carry`] checks that for every packet.

use proxy_common::{
    address::{Address, Port},
    decision::packet::{self, Desk, Rewrite, Signals, Verdict, disown, egress, ingress},
    layout::{
        Backend, Counter, Flow, Frontend, FrontendKey, PortRanges, Sets, Traits, Tuple, backend_flag,
        frontend_kind, node_address, protocol, scope,
    },
};
use proxy_userspace::plan::{
    Capacity, SourceRange,
    simulated::Maps,
    simulated_flows::{Memory, Node, Passage, Room},
};

pub(crate) const NODE: &str = "192.168.0.1";
pub(crate) const CLUSTER_IP: &str = "10.96.0.1";
pub(crate) const BALANCER: &str = "203.0.113.1";
pub(crate) const EXTERNAL: &str = "203.0.113.2";
pub(crate) const PORT: u16 = 80;
pub(crate) const NODE_PORT: u16 = 30_080;
pub(crate) const TARGET: u16 = 8080;
/// Every way to ask for a service.
pub(crate) const FRONTENDS: [(&str, u16); 4] =
    [(CLUSTER_IP, PORT), (NODE, NODE_PORT), (BALANCER, PORT), (EXTERNAL, PORT)];

pub(crate) const SYN: Signals = Signals(Signals::OPENS);
pub(crate) const SYN_ACK: Signals = Signals(Signals::ANSWERS | Signals::CONFIRMS);
pub(crate) const FIN: Signals = Signals(Signals::DONE | Signals::CONFIRMS);
pub(crate) const RST: Signals = Signals(Signals::RESET);

pub(crate) fn address(text: &str) -> Address {
    Address::from(text.parse::<std::net::IpAddr>().unwrap())
}

/// Pods of this node.
pub(crate) fn pod(number: u8) -> Address {
    address(&format!("10.244.1.{number}"))
}

/// Pods of another node.
pub(crate) fn remote(number: u8) -> Address {
    address(&format!("10.244.2.{number}"))
}

/// Clients in the world outside.
pub(crate) fn outside(number: u32) -> Address {
    let [_, b, c, d] = number.to_be_bytes();
    Address::from(std::net::IpAddr::from([100, b, c, d]))
}

pub(crate) fn tuple(source: Address, port: u16, to: (&str, u16), protocol: u8) -> Tuple {
    Tuple {
        source,
        destination: address(to.0),
        source_port: Port::new(port),
        destination_port: Port::new(to.1),
        protocol,
        reserved: [0; 3],
    }
}

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// With these ends.
    Arrived(Tuple),
    Dropped(Counter),
    Refused(Counter),
}

impl Fate {
    #[track_caller]
    pub(crate) fn arrived(self) -> Tuple {
        match self {
            Self::Arrived(tuple) => tuple,
            other => panic!("it should have arrived, but {other:?}"),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) maps: Maps,
    pub(crate) memory: Memory,
    pub(crate) node: Node,
}

impl Network {
    /// A service without endpoints that answers at [`FRONTENDS`], for all protocols.
    pub(crate) fn new(seed: u64, room: Room) -> Self {
        let mut maps = Maps::new(Capacity { frontends: 100, services: 4, backends: 1000 });
        maps.node_addresses.insert(address(NODE), node_address::OWN | node_address::NODE_PORTS);
        let kinds = [
            (frontend_kind::CLUSTER_IP, scope::VIP),
            (frontend_kind::NODE_PORT, scope::NODE_PORT),
            (frontend_kind::LOAD_BALANCER, scope::VIP),
            (frontend_kind::EXTERNAL_IP, scope::VIP),
        ];
        for ((ip, port), (kind, scope)) in FRONTENDS.into_iter().zip(kinds) {
            let ip = if scope == scope::NODE_PORT { Address::ANY_V4 } else { address(ip) };
            for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
                let key = FrontendKey { address: ip, port: Port::new(port), protocol, scope };
                maps.frontends.insert(key, Frontend::sealed(&key, 0, kind));
            }
        }
        let ip = address(CLUSTER_IP);
        let key = FrontendKey { address: ip, port: Port::new(0), protocol: 0, scope: scope::ADDRESS };
        maps.frontends.insert(key, Frontend::sealed(&key, 0, frontend_kind::CLUSTER_IP));
        let ports = PortRanges::new((20_000, 10_000), (61_000, 4_000));
        Self { maps, memory: Memory::new(room), node: Node::new(seed, address(NODE), ports) }
    }

    /// Admits only these clients to the load-balancer address.
    pub(crate) fn restrict(&mut self, ranges: &[(Address, u8)]) {
        let traits = Traits(self.maps.services[0].traits);
        self.maps.services[0].traits = traits.restricted(false).0;
        let range = |&(address, length)| SourceRange { service: 0, address, length };
        self.maps.sources.extend(ranges.iter().map(range));
    }

    pub(crate) fn roomy() -> Self {
        Self::new(0, Room { flows: 1000, arrivals: 2000, cpus: 1, places: 1000 })
    }

    /// Gives the service these endpoints, of which pods of this node and the node itself are local.
    pub(crate) fn publish(&mut self, endpoints: &[Address], policy: impl Fn(Sets) -> Sets) {
        let backend = |own: &Address| Backend {
            address: *own,
            port: Port::new(TARGET),
            flags: if is_pod(own) || *own == address(NODE) { backend_flag::LOCAL } else { 0 },
            reserved: 0,
        };
        let mut cluster: Vec<Backend> = endpoints.iter().map(backend).collect();
        cluster.sort_by_key(Backend::rank);
        let local: Vec<Backend> =
            cluster.iter().copied().filter(|own| own.flags & backend_flag::LOCAL != 0).collect();
        let len = |set: &[Backend]| u16::try_from(set.len()).unwrap();
        let sets = Sets::new(0, len(&cluster), len(&local)).with_any_endpoint(!cluster.is_empty());
        for (slot, backend) in cluster.iter().chain(&local).enumerate() {
            self.maps.backends[slot] = *backend;
        }
        self.maps.services[0].sets = policy(sets).0;
    }

    pub(crate) fn with(mut self, endpoints: &[Address]) -> Self {
        self.publish(endpoints, |sets| sets);
        self
    }

    pub(crate) fn keep_clients_for(&mut self, seconds: u32) {
        self.maps.services[0].traits = Traits::new(seconds).0;
    }

    pub(crate) fn passage(&self, client: Address) -> Passage<'_> {
        Passage { node: &self.node, client, is_outside: !is_pod(&client) }
    }

    /// Carries a packet from its sender to whoever gets it.
    #[track_caller]
    pub(crate) fn carry(&self, mut packet: Tuple, signals: Signals) -> Fate {
        // Of a datagram nobody can tell whether it is the first.
        let signals = if packet.protocol == protocol::UDP { Signals::UDP } else { signals };
        if packet.source != address(NODE) {
            let passage = self.passage(packet.source);
            match ingress(&self.maps, &self.memory, &passage, &mut Desk::new(), (&packet, signals)) {
                Verdict::Drop(counter) => return Fate::Dropped(counter),
                Verdict::Refuse(counter) => return Fate::Refused(counter),
                Verdict::Pass => {}
                Verdict::Rewrite(rewrite) | Verdict::Open(rewrite) => packet = arrive(packet, rewrite),
            }
            let again = ingress(&self.maps, &self.memory, &passage, &mut Desk::new(), (&packet, signals));
            assert_eq!(again, Verdict::Pass, "{packet:?} comes in by a second device");
        }
        if packet.destination == address(NODE) {
            return Fate::Arrived(packet);
        }
        let passage = self.passage(packet.source);
        match self.go_out(&passage, (&packet, signals)) {
            Verdict::Rewrite(rewrite) => packet = leave(packet, rewrite),
            Verdict::Pass => {}
            other => panic!("{other:?}"),
        }
        let flows = self.memory.flows.borrow().clone();
        match self.go_out(&passage, (&packet, signals)) {
            Verdict::Pass => {}
            Verdict::Rewrite(rewrite) => assert_eq!(leave(packet, rewrite), packet, "by a second device"),
            other => panic!("{other:?}"),
        }
        assert_eq!(*self.memory.flows.borrow(), flows, "a second device changes nothing");
        Fate::Arrived(packet)
    }

    /// What becomes of a packet that goes out by a device.
    pub(crate) fn go_out(&self, passage: &Passage<'_>, packet: (&Tuple, Signals)) -> Verdict {
        let verdict = egress(&self.memory, passage, &mut Desk::new(), packet);
        if verdict == Verdict::Pass {
            disown(&self.maps, &self.memory, passage, &mut Desk::new(), packet.0);
        }
        verdict
    }

    /// Has a client's packet come in, and no further; returns what it is inside the node.
    #[track_caller]
    pub(crate) fn come_in(&self, packet: Tuple, signals: Signals) -> Tuple {
        let signals = if packet.protocol == protocol::UDP { Signals::UDP } else { signals };
        let passage = self.passage(packet.source);
        match ingress(&self.maps, &self.memory, &passage, &mut Desk::new(), (&packet, signals)) {
            Verdict::Rewrite(rewrite) | Verdict::Open(rewrite) => arrive(packet, rewrite),
            other => panic!("{packet:?} should be translated, but {other:?}"),
        }
    }

    /// What the backend sees of a client's packet.
    #[track_caller]
    pub(crate) fn ask(&self, asked: Tuple, signals: Signals) -> Tuple {
        self.carry(asked, signals).arrived()
    }

    /// The backend's answer, which must reach the client under the name it asked.
    #[track_caller]
    pub(crate) fn answer(&self, seen: Tuple, asked: Tuple, signals: Signals) {
        let answer = self.carry(seen.reversed(), signals);
        assert_eq!(answer, Fate::Arrived(asked.reversed()), "the answer to {asked:?}, seen as {seen:?}");
    }

    /// A connection with both sides at work.
    #[track_caller]
    pub(crate) fn establish(&self, asked: Tuple) -> Tuple {
        let seen = self.ask(asked, SYN);
        self.answer(seen, asked, Signals::NONE);
        assert_eq!(self.ask(asked, Signals::NONE), seen, "{asked:?} keeps its backend");
        seen
    }

    /// Both directions of a connection work.
    #[track_caller]
    pub(crate) fn check_alive(&self, asked: Tuple, seen: Tuple) {
        assert_eq!(self.ask(asked, Signals::NONE), seen, "{asked:?} keeps its backend");
        self.answer(seen, asked, Signals::NONE);
    }

    pub(crate) fn len(&self) -> (usize, usize) {
        (self.memory.flows.borrow().len(), self.memory.arrivals.borrow().len())
    }

    /// What holds at any time: each flow has its arrivals and each arrival its flow, and who may make room for others
    /// stands in a queue.
    #[track_caller]
    pub(crate) fn check_consistent(&self) {
        use proxy_common::layout::flow_state::{CLOSING, ESTABLISHED, LEFT};
        let (flows, arrivals) = (self.memory.flows.borrow(), self.memory.arrivals.borrow());
        let mut expected = std::collections::BTreeMap::new();
        for (key, flow) in flows.iter() {
            assert!(flow.belongs_to(key));
            let names = [Some(flow.asked(key)), flow.is_masqueraded().then(|| flow.answered(key))];
            for name in names.into_iter().flatten() {
                assert_eq!(expected.insert(name, flow.born), None, "{name:?} is of two flows");
            }
            let queued = |queue| self.memory.stands_in(queue, key, flow.born);
            let is_queued = queued(packet::Queue::Nascent) || queued(packet::Queue::Closing);
            assert!(flow.state & (ESTABLISHED | CLOSING) == ESTABLISHED || is_queued, "{flow:?} never goes");
            assert!(self.memory.watched.borrow().contains(&flow.inside(key).destination));
        }
        assert!(arrivals.iter().all(|(tuple, arrival)| arrival.belongs_to(tuple)));
        let is_in_use = |(key, flow): (&Tuple, &Flow)| arrivals[&flow.answered(key)].noted != 0;
        let mut left = flows.iter().filter(|(_, flow)| flow.state & LEFT != 0);
        assert!(left.all(is_in_use), "what has left is answered");
        assert!(arrivals.iter().map(|(tuple, arrival)| (tuple, &arrival.born)).eq(expected.iter()));
    }
}

pub(crate) fn is_pod(address: &Address) -> bool {
    address.octets()[12..15] == [10, 244, 1]
}

pub(crate) fn arrive(packet: Tuple, rewrite: Rewrite) -> Tuple {
    let Rewrite { address, source_port, destination_port } = rewrite;
    Tuple { destination: address, source_port, destination_port, ..packet }
}

pub(crate) fn leave(packet: Tuple, rewrite: Rewrite) -> Tuple {
    let Rewrite { address, source_port, destination_port } = rewrite;
    Tuple { source: address, source_port, destination_port, ..packet }
}
