//! What becomes of a packet.
//!
//! A flow through a node has three names, and each packet gets from one to the next:
//!
//! ```text
//!              arrives            inside the node            leaves
//! to backend   C:cp → V:vp        C:sp → B:bp                S:sp → B:bp  (masqueraded)
//!                                                            C:sp → B:bp  (otherwise)
//! to client    B:bp → S:sp        B:bp → C:sp                V:vp → C:cp
//!              B:bp → C:sp
//! ```
//!
//! C the client, V the VIP, B the backend, S an address of the node. Destinations are translated where a packet comes
//! in, the kernel routes it under the middle name (which is also what other programs, netfilter and conntrack see,
//! as under kube-proxy), and sources are translated where it goes out. `sp` is the client's own port `cp`, unless the
//! flow is masqueraded or another flow has the middle name already.
//!
//! - [`ingress`](mod@ingress): where a packet comes in;
//! - [`opening`]: a new flow: its backend, its names;
//! - [`egress`](mod@egress): where it goes out;
//! - [`state`]: what a packet says about its flow.

pub mod egress;
pub mod ingress;
pub mod opening;
pub mod state;

pub use egress::{disown, egress};
pub use ingress::ingress;

use super::Client;
use crate::{
    address::{Address, Port},
    layout::{Arrival, Backend, Counter, Flow, Frontend, Queued, Tuple, flow_state},
};

/// The maps of flows, as the decision sees them.
pub trait Flows {
    /// Where a flow that was found lies, to write to it without a second look-up.
    type Place: Copy;
    /// The same for an arrival.
    type Entry: Copy;

    /// What to do with a packet that arrives, as read: the caller checks the seal.
    fn arrival(&self, tuple: &Tuple) -> Option<(Arrival, Self::Entry)>;
    /// Writes that; over what there is, unless `only_new`.
    fn put_arrival(&self, tuple: &Tuple, arrival: &Arrival, only_new: bool) -> Put;
    /// Writes in which tick the flow was looked at, if the arrival is still that of the flow born then.
    fn stamp(&self, entry: Self::Entry, born: u64, tick: u16);
    /// Says that an answer's arrival is in use, if it is still that of the flow born then; `false` if it is not.
    fn use_arrival(&self, tuple: &Tuple, born: u64) -> bool;
    /// Deletes it.
    fn remove_arrival(&self, tuple: &Tuple);
    /// The flow of an ordered tuple, as read: the caller checks the seal.
    fn flow(&self, key: &Tuple) -> Option<(Flow, Self::Place)>;
    /// Writes a flow where there is none.
    fn put_flow(&self, key: &Tuple, flow: &Flow) -> Put;
    /// Deletes it.
    fn remove_flow(&self, key: &Tuple);
    /// Writes when the flow was last seen, and its state, if it is still the one born then.
    fn touch(&self, place: Self::Place, born: u64, seen: u64, state: u32);
    /// Writes which place in a queue the flow has.
    fn note_place(&self, flow: Self::Place, place: u32);
    /// Says that packets from this backend must be looked at, and those to it if the client's address is not theirs.
    fn watch_backend(&self, backend: &Address, is_masqueraded: bool);
    /// Whose turn it is: the next place in a queue.
    fn turn(&self, queue: Queue) -> u32;
    /// Takes a place; returns who had it.
    fn take_place(&self, queue: Queue, place: u32, entry: &Queued) -> Option<Queued>;
    /// Gives a place up again, if the flow that was born then still has it.
    fn leave_place(&self, queue: Queue, place: u32, born: u64);
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// Written.
    Done,
    /// There is something already.
    Taken,
    /// The map is full.
    Full,
}

/// A queue of flows that make room for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// Flows the client has not confirmed.
    Nascent = 0,
    /// Flows that are over.
    Closing = 1,
}

/// The node a packet passes, and the side it came from.
pub trait Node: Client {
    /// Whether the packet came by a device to the world outside: the answer may take another way than through this node.
    fn is_by_outer_device(&self) -> bool;
    /// A number that changes every few seconds at least, and is not 0: a clock to be read with each packet.
    fn tick(&self) -> u16;
    /// Under which address the node talks to a backend; `None` if there is no route, or no address of the family.
    fn masquerade_address(&self, backend: &Address) -> Option<Address>;
    /// A source port for a masqueraded flow, drawn at random; `None` if there are none at all.
    fn masquerade_port(&self) -> Option<Port>;
    /// Whether a socket of the node's own is connected that way: packets with that tuple would be its.
    fn has_socket(&self, answer: &Tuple) -> bool;
}

/// What a packet's transport header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signals(pub u32);

impl Signals {
    /// A packet in the middle of a flow.
    pub const NONE: Self = Self(Self::CONFIRMS);
    /// It may begin a flow: TCP SYN without ACK, SCTP INIT, any UDP datagram.
    pub const OPENS: u32 = 1;
    /// Its sender will send no more: TCP FIN, SCTP SHUTDOWN-ACK and SHUTDOWN-COMPLETE.
    pub const DONE: u32 = 2;
    /// It breaks the flow off: TCP RST, SCTP ABORT.
    pub const RESET: u32 = 4;
    /// It takes two to get so far: what follows a handshake's first packet, and any UDP datagram.
    pub const CONFIRMS: u32 = 8;
    /// It answers a packet that opens a flow: TCP SYN with ACK, SCTP INIT-ACK.
    pub const ANSWERS: u32 = 16;
    /// A UDP datagram.
    pub const UDP: Self = Self(Self::OPENS | Self::CONFIRMS);

    /// Whether a bit is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// From byte 13 of a TCP header (RFC 9293 section 3.1).
    #[inline(always)]
    #[must_use]
    pub const fn tcp(flags: u8) -> Self {
        let opens = match flags & 0x12 {
            0x02 => Self::OPENS,
            0x12 => Self::ANSWERS | Self::CONFIRMS,
            _ => Self::CONFIRMS,
        };
        let done = if flags & 0x01 != 0 { Self::DONE } else { 0 };
        let reset = if flags & 0x04 != 0 { Self::RESET } else { 0 };
        Self(opens | done | reset)
    }

    /// From the type of an SCTP packet's first chunk (RFC 9260 section 3.2).
    #[inline(always)]
    #[must_use]
    pub const fn sctp(chunk: u8) -> Self {
        Self(match chunk {
            1 => Self::OPENS,
            2 => Self::ANSWERS | Self::CONFIRMS,
            6 => Self::RESET,
            8 | 14 => Self::DONE | Self::CONFIRMS,
            _ => Self::CONFIRMS,
        })
    }
}

/// New ends for a packet: at ingress the address is the destination's, at egress the source's. Ports are both as
/// they shall be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// The new address.
    pub address: Address,
    /// The source port.
    pub source_port: Port,
    /// The destination port.
    pub destination_port: Port,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Verdict {
    /// Not ours: hands off.
    Pass = 0,
    /// It goes on with other ends.
    Rewrite(Rewrite),
    /// The same, and it has opened a flow; counted.
    Open(Rewrite),
    /// It ends here, silently; counted.
    Drop(Counter),
    /// It ends here, and its sender is told that nobody is there; counted.
    Refuse(Counter),
}

/// What the decision writes down while it opens or closes flows. It is handed in because a BPF program's stack has 512
/// bytes: programs keep one per CPU in a map. What stands on it when a decision begins does not matter.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Desk {
    asked: Tuple,
    key: Tuple,
    answer: Tuple,
    tuple: Tuple,
    flow: Flow,
    other: Flow,
    other_key: Tuple,
    other_tuple: Tuple,
    other_answer: Tuple,
    arrival: Arrival,
    queued: Queued,
    backend: Backend,
    frontend: Frontend,
    verdict: Verdict,
}

impl Desk {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        // SAFETY: map types are plain integers, and the first verdict is `Pass`.
        unsafe { core::mem::zeroed() }
    }
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

/// Deletes a flow and the arrivals that lead to it: those first, because without the flow they would lead packets to
/// a backend whose answers nobody knows any more. Arrivals of a later flow stay.
pub fn remove<F: Flows>(flows: &F, key: &Tuple, flow: &Flow) {
    remove_other(flows, &mut Desk { other: *flow, other_key: *key, ..Desk::new() });
}

#[inline(always)]
fn remove_arrival<F: Flows>(flows: &F, tuple: &Tuple, born: u64) {
    if let Some((arrival, _)) = flows.arrival(tuple)
        && arrival.born == born
    {
        flows.remove_arrival(tuple);
    }
}

/// Gives the flow on the desk a place in a queue, and removes the one that had it if that one may still go.
#[inline(always)]
fn enqueue<F: Flows>(flows: &F, desk: &mut Desk, queue: Queue, place: u32) {
    if takes_anothers(flows, desk, queue, place) {
        remove_other(flows, desk);
    }
}

/// Takes the place, and puts on the desk who had it; whether that one may go.
#[inline(never)]
fn takes_anothers<F: Flows>(flows: &F, desk: &mut Desk, queue: Queue, place: u32) -> bool {
    desk.queued.key = desk.key;
    desk.queued.born = desk.flow.born;
    let Some(previous) = flows.take_place(queue, place, &desk.queued) else { return false };
    // Nobody, or itself: it has been over before.
    if previous.born == 0 || previous.born == desk.flow.born && previous.key == desk.key {
        return false;
    }
    desk.other_key = previous.key;
    let Some((flow, _)) = flows.flow(&desk.other_key) else { return false };
    const ESTABLISHED: u32 = flow_state::ESTABLISHED;
    const CLOSING: u32 = flow_state::CLOSING;
    let may_go = match queue {
        // One that is over has its place in the other queue.
        Queue::Nascent => flow.state & (ESTABLISHED | CLOSING) == 0,
        // One that goes on after all does so unconfirmed if it has missed its turn among the nascent.
        Queue::Closing => flow.state & (ESTABLISHED | CLOSING) != ESTABLISHED,
    };
    if flow.born != previous.born || !flow.belongs_to(&desk.other_key) || !may_go {
        return false;
    }
    desk.other = flow;
    true
}

/// Deletes the flow on the desk.
#[inline(always)]
fn remove_own<F: Flows>(flows: &F, desk: &mut Desk) {
    desk.other = desk.flow;
    desk.other_key = desk.key;
    remove_other(flows, desk);
}

/// Deletes the flow that lies on the desk as the other one, and gives up its place in a queue: who takes that next has
/// nobody to look for.
#[inline(never)]
fn remove_other<F: Flows>(flows: &F, desk: &mut Desk) {
    if desk.other.client_is_source() {
        desk.other_tuple = desk.other_key;
    } else {
        desk.other_key.reverse_into(&mut desk.other_tuple);
    }
    desk.other_tuple.reverse_into(&mut desk.other_answer);
    desk.other_answer.destination = desk.other.masquerade;
    desk.other_tuple.destination = desk.other.vip;
    desk.other_tuple.destination_port = desk.other.vip_port;
    desk.other_tuple.source_port = desk.other.client_port;
    remove_arrival(flows, &desk.other_tuple, desk.other.born);
    if desk.other.is_masqueraded() {
        remove_arrival(flows, &desk.other_answer, desk.other.born);
    }
    flows.remove_flow(&desk.other_key);
    let queue = if desk.other.state & flow_state::CLOSING != 0 { Queue::Closing } else { Queue::Nascent };
    flows.leave_place(queue, desk.other.place, desk.other.born);
}
