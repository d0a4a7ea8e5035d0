//! What the packet path remembers, in ordinary collections, and a node around it: for tests.
//!
//! Pure. Contract: [`Memory`] behaves as the kernel's maps do, one program at a time: hashes of bounded size, and
//! queues in which each CPU takes places in turn. [`Node`] has dice that depend on its seed alone, and a clock that
//! ticks with each look at it, so that no two flows are born at the same time.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

use proxy_common::{
    address::{Address, Port},
    decision::{
        Client, ClientAddress, choice,
        packet::{self, Flows, Put, Queue},
    },
    layout::{Arrival, Flow, PortRanges, Prefix, Queued, Tuple, client_kind},
};

/// How much a [`Memory`] holds.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Entries of the flows map.
    pub flows: usize,
    /// Entries of the arrivals map.
    pub arrivals: usize,
    /// CPUs that take turns.
    pub cpus: usize,
    /// Places per CPU in each queue.
    pub places: usize,
}

/// Flows, arrivals and queues.
#[derive(Clone, Debug)]
pub struct Memory {
    /// The flows map.
    pub flows: RefCell<BTreeMap<Tuple, Flow>>,
    /// The arrivals map.
    pub arrivals: RefCell<BTreeMap<Tuple, Arrival>>,
    /// The backends that are watched.
    pub watched: RefCell<BTreeSet<Address>>,
    /// Those of them that are asked under an address of the node.
    pub masqueraded: RefCell<BTreeSet<Address>>,
    /// On which CPU the program runs.
    pub cpu: Cell<usize>,
    /// How much fits.
    pub room: Room,
    /// By queue: the places of all CPUs.
    places: RefCell<[Vec<Queued>; 2]>,
    /// By queue and CPU: how many places have been taken.
    turns: RefCell<[Vec<usize>; 2]>,
}

impl Memory {
    /// Empty maps.
    #[must_use]
    pub fn new(room: Room) -> Self {
        let queue = || vec![FREE; room.places * room.cpus];
        let turns = || vec![0; room.cpus];
        Self {
            flows: RefCell::default(),
            arrivals: RefCell::default(),
            watched: RefCell::default(),
            masqueraded: RefCell::default(),
            cpu: Cell::new(0),
            room,
            places: RefCell::new([queue(), queue()]),
            turns: RefCell::new([turns(), turns()]),
        }
    }

    /// Whether the flow stands in the queue.
    #[must_use]
    pub fn stands_in(&self, queue: Queue, key: &Tuple, born: u64) -> bool {
        let entry = Queued { key: *key, born };
        self.places.borrow()[queue as usize].contains(&entry)
    }
}

impl Flows for Memory {
    type Place = Tuple;
    type Entry = Tuple;

    fn arrival(&self, tuple: &Tuple) -> Option<(Arrival, Tuple)> {
        self.arrivals.borrow().get(tuple).map(|arrival| (*arrival, *tuple))
    }

    fn stamp(&self, entry: Tuple, born: u64, tick: u16) {
        if let Some(arrival) = self.arrivals.borrow_mut().get_mut(&entry)
            && arrival.born == born
        {
            arrival.noted = tick;
        }
    }

    fn put_arrival(&self, tuple: &Tuple, arrival: &Arrival, only_new: bool) -> Put {
        put(&mut self.arrivals.borrow_mut(), self.room.arrivals, only_new, (*tuple, *arrival))
    }

    fn use_arrival(&self, tuple: &Tuple, born: u64) -> bool {
        let mut arrivals = self.arrivals.borrow_mut();
        let Some(arrival) = arrivals.get_mut(tuple).filter(|arrival| arrival.born == born) else {
            return false;
        };
        arrival.noted = 1;
        true
    }

    fn remove_arrival(&self, tuple: &Tuple) {
        self.arrivals.borrow_mut().remove(tuple);
    }

    fn flow(&self, key: &Tuple) -> Option<(Flow, Tuple)> {
        self.flows.borrow().get(key).map(|flow| (*flow, *key))
    }

    fn put_flow(&self, key: &Tuple, flow: &Flow) -> Put {
        put(&mut self.flows.borrow_mut(), self.room.flows, true, (*key, *flow))
    }

    fn remove_flow(&self, key: &Tuple) {
        self.flows.borrow_mut().remove(key);
    }

    fn touch(&self, place: Tuple, born: u64, seen: u64, state: u32) {
        if let Some(flow) = self.flows.borrow_mut().get_mut(&place)
            && flow.born == born
        {
            (flow.seen, flow.state) = (seen, state);
        }
    }

    fn note_place(&self, flow: Tuple, place: u32) {
        if let Some(flow) = self.flows.borrow_mut().get_mut(&flow) {
            flow.place = place;
        }
    }

    fn watch_backend(&self, backend: &Address, is_masqueraded: bool) {
        self.watched.borrow_mut().insert(*backend);
        if is_masqueraded {
            self.masqueraded.borrow_mut().insert(*backend);
        }
    }

    fn turn(&self, queue: Queue) -> u32 {
        let cpu = self.cpu.get();
        let turn = &mut self.turns.borrow_mut()[queue as usize][cpu];
        let place = cpu * self.room.places + *turn % self.room.places;
        *turn += 1;
        u32::try_from(place).expect("as many as a map has")
    }

    fn take_place(&self, queue: Queue, place: u32, entry: &Queued) -> Option<Queued> {
        let place = &mut self.places.borrow_mut()[queue as usize][place as usize];
        Some(std::mem::replace(place, *entry))
    }

    fn leave_place(&self, queue: Queue, place: u32, born: u64) {
        let place = &mut self.places.borrow_mut()[queue as usize][place as usize];
        if place.born == born {
            place.born = 0;
        }
    }
}

/// A place nobody has taken is all zero.
const FREE: Queued = Queued {
    key: Tuple {
        source: Address::ANY_V6,
        destination: Address::ANY_V6,
        source_port: Port::new(0),
        destination_port: Port::new(0),
        protocol: 0,
        reserved: [0; 3],
    },
    born: 0,
};

/// As `bpf_map_update_elem` does.
fn put<V>(map: &mut BTreeMap<Tuple, V>, room: usize, only_new: bool, (key, value): (Tuple, V)) -> Put {
    let is_known = map.contains_key(&key);
    if is_known && only_new {
        return Put::Taken;
    }
    if !is_known && map.len() >= room {
        return Put::Full;
    }
    map.insert(key, value);
    Put::Done
}

/// A node: its clock and dice, its addresses and sockets.
#[derive(Clone, Debug)]
pub struct Node {
    /// What the dice began with.
    pub seed: u64,
    /// The address under which it talks to backends; `None` if it has none.
    pub masquerade: Cell<Option<Address>>,
    /// Source ports for masqueraded flows.
    pub ports: Cell<PortRanges>,
    /// The tuples of answers that sockets of its own wait for.
    pub sockets: RefCell<BTreeSet<Tuple>>,
    /// Whose packets count as those of the node's pods, if that is to be told by addresses.
    pub pods: RefCell<Vec<Prefix>>,
    /// The time, nanoseconds.
    pub now: Cell<u64>,
    /// The tick, if it does not follow from the time.
    pub tick: Cell<Option<u16>>,
    draws: Cell<u64>,
}

impl Node {
    /// A node whose dice begin with `seed`.
    #[must_use]
    pub fn new(seed: u64, masquerade: Address, ports: PortRanges) -> Self {
        Self {
            seed,
            masquerade: Cell::new(Some(masquerade)),
            ports: Cell::new(ports),
            sockets: RefCell::default(),
            pods: RefCell::default(),
            now: Cell::new(1),
            tick: Cell::new(None),
            draws: Cell::new(0),
        }
    }

    /// SplitMix64.
    fn draw(&self) -> u32 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        self.draws.set(self.draws.get() + 1);
        let mut bits = self.seed.wrapping_add(self.draws.get().wrapping_mul(GAMMA));
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits >> 32) as u32
    }
}

/// Nanoseconds.
const TICK: u64 = 1_000_000_000;

/// A packet's way into a node.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// Which node.
    pub node: &'a Node,
    /// Whose packet.
    pub client: Address,
    /// Whether it comes by a device to the world outside.
    pub is_outside: bool,
}

impl Client for Passage<'_> {
    fn random(&self) -> u32 {
        self.node.draw()
    }

    fn now(&self) -> u64 {
        self.node.now.set(self.node.now.get() + 1);
        self.node.now.get()
    }

    fn identity(&self) -> (Address, u32) {
        (self.client, client_kind::ADDRESS)
    }

    fn is_outside(&self) -> bool {
        match &self.node.pods.borrow()[..] {
            [] => self.is_outside,
            ranges => !ranges.iter().any(|range| range.contains(&self.client)),
        }
    }

    fn address(&self) -> ClientAddress {
        ClientAddress::Known(self.client)
    }
}

impl packet::Node for Passage<'_> {
    fn is_by_outer_device(&self) -> bool {
        self.is_outside
    }

    fn tick(&self) -> u16 {
        // A look at the clock that does not move it.
        let seconds = || u16::try_from(self.node.now.get() / TICK % u64::from(u16::MAX)).expect("smaller");
        self.node.tick.get().unwrap_or_else(|| seconds() + 1)
    }

    fn masquerade_address(&self, backend: &Address) -> Option<Address> {
        self.node.masquerade.get().filter(|own| own.is_v4() == backend.is_v4())
    }

    fn masquerade_port(&self) -> Option<Port> {
        let ports = self.node.ports.get();
        (!ports.is_empty()).then(|| ports.port(choice::scale(self.node.draw(), ports.len())))
    }

    fn has_socket(&self, answer: &Tuple) -> bool {
        self.node.sockets.borrow().contains(answer)
    }
}
