//! The decision: which backend, which refusal, which name to show.
//!
//! Pure functions over traits. [`Tables`] is what the controller (and, for affinity, the programs
//! themselves) keep; [`Caller`] is the socket that asks; [`packet::Flows`] and [`packet::Node`] are what a packet
//! meets. `proxy-ebpf` implements them on BPF maps and helpers, tests and commands on ordinary collections.
//!
//! - [`frontend`]: is this destination a Service's?
//! - [`admission`]: may this client come in by a load-balancer address?
//! - [`choice`]: which backend, by endpoint set and affinity;
//! - [`mod@connect`]: what a connect() gets;
//! - [`mod@datagram`]: what a datagram of an unconnected socket gets;
//! - [`reverse`]: under which name a socket sees its peer;
//! - [`packet`]: what becomes of a packet that did not pass a socket hook.
//!
//! What is not a function of its own for the verifier's sake is `inline(always)`: the BPF target passes at most five
//! arguments and no structures.

pub mod admission;
pub mod choice;
pub mod connect;
pub mod datagram;
pub mod frontend;
pub mod packet;
pub mod reverse;

use crate::{
    address::{Address, Port},
    layout::{
        Affinity, AffinityKey, Backend, Fate, Frontend, FrontendKey, Origin, Revision, Sender, SenderKey,
        Sets, Source, Traits,
    },
};

pub use connect::connect;
pub use datagram::datagram;
pub use reverse::{peer_name, sender_name};

/// The maps, as the decision sees them.
pub trait Tables {
    /// The frontend under `key`, as read: the caller checks the seal.
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// Which state of the frontends is in force, read in one access.
    fn revision(&self) -> Revision;
    /// What `address` is to the node: bits of [`crate::layout::node_address`], 0 for nothing.
    fn node_address(&self, address: &Address) -> u32;
    /// Whether the source is in one of the ranges that its service admits.
    fn admits(&self, source: &Source) -> bool;
    /// A service's snapshot, read in one access.
    fn sets(&self, service: u32) -> Option<Sets>;
    /// A service's properties, read in one access.
    fn traits(&self, service: u32) -> Option<Traits>;
    /// The backend in `slot`.
    fn backend(&self, slot: u32) -> Option<Backend>;
    /// The affinity row under `key`.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Writes an affinity row. A failure costs affinity, not the connection, and is not reported.
    fn keep_affinity(&self, key: &AffinityKey, row: &Affinity);
    /// Under which name `key.socket` knows a backend it talked to earlier.
    fn sender(&self, key: &SenderKey) -> Option<Sender>;
    /// Records that name.
    fn keep_sender(&self, key: &SenderKey, sender: &Sender);
    /// Counts what became of somebody who asked for a service.
    fn tally(&self, service: u32, fate: Fate);
}

/// Who asks for a backend, and where he stands.
pub trait Client {
    /// Uniformly random bits.
    fn random(&self) -> u32;
    /// `CLOCK_MONOTONIC`, nanoseconds.
    fn now(&self) -> u64;
    /// Whom affinity is for: an address, or a network namespace's cookie in an address' clothes, and which of
    /// the two, one of [`crate::layout::client_kind`].
    fn identity(&self) -> (Address, u32);
    /// Whether he is neither a pod nor a process of this node: to such, externalTrafficPolicy applies.
    fn is_outside(&self) -> bool;
    /// What his packets come from.
    fn address(&self) -> ClientAddress;
}

/// What a client's packets come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAddress {
    /// This address.
    Known(Address),
    /// One of the node's, which the kernel has yet to choose.
    Node,
    /// A pod's, which the kernel has yet to choose.
    Pod,
}

/// The socket that asks, and its surroundings.
pub trait Caller: Client {
    /// Whether the socket's pod wants to be left alone: its packets are translated instead.
    fn is_left_to_packets(&self) -> bool;
    /// Whether the socket lives in the host's network namespace.
    fn in_host_namespace(&self) -> bool;
    /// The socket's own cookie.
    fn cookie(&self) -> u64;
    /// Whether the socket is connected right now.
    fn is_connected(&self) -> bool;
    /// Whether it is connected to that address and port.
    fn is_connected_to(&self, destination: &Destination) -> bool;
    /// What the socket was translated to.
    fn origin(&self) -> Option<Origin>;
    /// Remembers it; `false` when there is no memory.
    fn keep_origin(&self, origin: &Origin) -> bool;
    /// Forgets it.
    fn forget_origin(&self);
}

/// Where a socket wants to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: Port,
    /// IP protocol number, one of [`crate::layout::protocol`].
    pub protocol: u8,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// No Service's destination: hands off.
    Pass,
    /// Goes to this endpoint.
    Translate(Address, Port),
    /// The Service has no endpoint in the whole cluster: ECONNREFUSED, as kube-proxy's REJECT.
    Refuse,
    /// The Service has endpoints, but its policy allows this caller none: EHOSTUNREACH, where kube-proxy
    /// drops. At the socket a prompt error serves better than silence.
    Unreachable,
    /// The Service keeps this client out.
    Denied,
    /// No memory for the state without which the answer would come from a stranger: ENOMEM.
    NoMemory,
}

impl Outcome {
    /// What it is for who is not led to a backend; `None` if he is left alone.
    #[inline(always)]
    const fn fate(self) -> Option<Fate> {
        match self {
            Self::Refuse => Some(Fate::Refused),
            Self::Unreachable => Some(Fate::NoLocalEndpoint),
            Self::Denied => Some(Fate::Denied),
            Self::NoMemory => Some(Fate::Failed),
            Self::Pass | Self::Translate(..) => None,
        }
    }
}
