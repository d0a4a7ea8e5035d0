//! Keys and values of every map: the layout the controller writes and the programs read.
//!
//! Every type is `repr(C)` without padding (checked below, at compile time) and holds no niche: any bit
//! pattern is a value, so a map written by another build can be read without undefined behaviour.
//! Addresses and ports are in network byte order, everything else in the host's.
//!
//! # How a Service is published
//!
//! ```text
//! frontends HASH            services ARRAY (mapped)         backends ARRAY (mapped)
//! VIP:port/proto ──► id ──► sets u64: start, lengths  ──►   start .. cluster ..│.. local ..
//! ```
//!
//! A changed endpoint set is written to backend slots nobody reads, then published by **one atomic 64-bit
//! store** to the service's `sets` word. All frontends of the service switch in that instant, and a reader
//! sees the old list or the new one, never a mix. Old slots and ids are reused only after an RCU grace period.

mod client;
mod counter;
mod device;
mod flow;
mod frontend;
mod seal;
mod service;
mod source;

pub use client::{Affinity, AffinityKey, Origin, Sender, SenderKey, client_kind, origin_flag};
pub use counter::{Counter, Fate, Fates};
pub use device::Device;
pub use flow::{
    Arrival, CELLS, CELLS_PER_ROW, Flow, FragmentKey, Fragments, PUT_BY_LEN, PortRanges, Prefix, PutBy,
    Queued, Tuple, arrival_flag, cell, flow_flag, flow_state, fragments_fate,
};
pub use frontend::{Frontend, FrontendKey, Revision, frontend_kind, scope};
pub use service::{Backend, Range, Service, Sets, Traits, backend_flag};
pub use source::Source;

/// Version of everything in this file. Pinned maps live in a folder named after it, so that a build with
/// another layout never reads ours. It does not count what only gets longer: where keys or values have got new fields at
/// their ends, for which zero means what was meant before, builds hand maps over to each other in both directions.
pub const ABI_VERSION: u32 = 4;

/// Names of maps, in the object file and under the pin folder.
pub mod map {
    /// [`super::FrontendKey`] → [`super::Frontend`], a hash.
    pub const FRONTENDS: &str = "FRONTENDS";
    /// Service id → [`super::Service`], an array the controller maps into its memory.
    pub const SERVICES: &str = "SERVICES";
    /// Slot → [`super::Backend`], an array the controller maps into its memory.
    pub const BACKENDS: &str = "BACKENDS";
    /// One [`super::Revision`], an array the controller maps into its memory.
    pub const REVISION: &str = "REVISION";
    /// [`crate::address::Address`] → bits of [`super::node_address`], a hash: the node's own addresses.
    pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
    /// [`super::Source`] → 0, a trie: the clients whom a restricted service admits to its load-balancer addresses.
    pub const SOURCES: &str = "SOURCES";
    /// [`super::AffinityKey`] → [`super::Affinity`], an LRU hash written by the programs.
    pub const AFFINITY: &str = "AFFINITY";
    /// cgroup id → 0, a hash: pods whose sockets are left alone, because their packets are to be translated instead.
    pub const LEFT_CGROUPS: &str = "LEFT_CGROUPS";
    /// One u64, how many there are in [`LEFT_CGROUPS`], an array the controller maps into its memory.
    pub const LEFT_COUNT: &str = "LEFT_COUNT";
    /// Socket → [`super::Origin`], socket storage written by the programs.
    pub const ORIGINS: &str = "ORIGINS";
    /// [`super::SenderKey`] → [`super::Sender`], an LRU hash written by the programs.
    pub const SENDERS: &str = "SENDERS";
    /// [`super::Counter`] → u64 per CPU, an array.
    pub const COUNTERS: &str = "COUNTERS";
    /// Service id → [`super::Fates`], an array the controller maps into its memory: what became of who asked.
    pub const FATES: &str = "FATES";
    /// Interface index → [`super::Device`], a hash.
    pub const DEVICES: &str = "DEVICES";
    /// [`super::Tuple`], ordered → [`super::Flow`], a hash written by the programs.
    pub const FLOWS: &str = "FLOWS";
    /// [`super::Tuple`] → [`super::Arrival`], a hash written by the programs.
    pub const ARRIVALS: &str = "ARRIVALS";
    /// Place → [`super::Queued`], an array written by the programs; each CPU has a run of places.
    pub const NASCENT: &str = "NASCENT";
    /// The same for flows that are over.
    pub const CLOSING: &str = "CLOSING";
    /// Queue (0 nascent, 1 closing) → how many times this CPU has taken a place, per CPU.
    pub const TURNS: &str = "TURNS";
    /// Row → [`super::CELLS_PER_ROW`] bytes, an array the controller maps into its memory: 1 where an address may
    /// be a VIP or one of the node's, see [`super::cell`].
    pub const VIP_CELLS: &str = "VIP_CELLS";
    /// The same for backends that have flows, written by the programs.
    pub const BACKEND_CELLS: &str = "BACKEND_CELLS";
    /// [`super::FragmentKey`] → [`super::Fragments`], an LRU hash written by the programs.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Place → [`super::PutBy`], an array written by the programs.
    pub const PUT_BY: &str = "PUT_BY";
    /// Place → [`super::Prefix`], an array the controller maps into its memory: where ClusterIPs are taken from.
    pub const SERVICE_CIDRS: &str = "SERVICE_CIDRS";
    /// Place → [`super::Prefix`], the same: whose packets count as those of this node's pods. Without any, those that come
    /// by a device to pods.
    pub const POD_CIDRS: &str = "POD_CIDRS";
}

/// Names of programs in the object file; the hook they attach to has the same name.
pub mod program {
    /// All of them, in the order in which they are attached: what undoes a translation comes before what
    /// translates, so that no socket ever sees half of the pair.
    pub const ALL: [&str; 8] = [
        "recvmsg4",
        "recvmsg6",
        "getpeername4",
        "getpeername6",
        "sendmsg4",
        "sendmsg6",
        "connect4",
        "connect6",
    ];
}

/// Names of the programs for packets in the object file.
pub mod packet_program {
    /// Sees packets that come in by a device.
    pub const INGRESS: &str = "packet_ingress";
    /// Sees packets that leave by a device.
    pub const EGRESS: &str = "packet_egress";
}

/// Name of the program that tells what sockets remember ([`map::ORIGINS`]).
pub const ORIGINS_PROGRAM: &str = "origins";

/// Names of the constants that the loader sets in the programs.
pub mod constant {
    /// u64: SO_NETNS_COOKIE of the host's network namespace; 0 where the kernel cannot tell (before 5.14),
    /// which stands for the initial namespace.
    pub const HOST_NETNS_COOKIE: &str = "HOST_NETNS_COOKIE";
    /// u8: 1 where `bpf_set_retval` may be called from the sock_addr hooks (6.1).
    pub const CAN_SET_ERRNO: &str = "CAN_SET_ERRNO";
    /// u8: 1 to log decisions through aya-log.
    pub const LOG_DECISIONS: &str = "LOG_DECISIONS";
    /// u32: bytes of link-layer header in front of the network header: 14 on Ethernet devices, 0 on devices
    /// without one (wireguard, tun, ipip).
    pub const LINK_HEADER: &str = "LINK_HEADER";
    /// u8: 1 in programs for devices behind which this node's pods are, 0 for those to the world outside.
    pub const POD_SIDE: &str = "POD_SIDE";
    /// u64: [`super::PortRanges`] from which masqueraded flows take their source ports.
    pub const MASQUERADE_PORTS: &str = "MASQUERADE_PORTS";
    /// u32: places per CPU in [`super::map::NASCENT`] and [`super::map::CLOSING`] each.
    pub const QUEUE_LENGTH: &str = "QUEUE_LENGTH";
}

/// Default capacity of [`map::FRONTENDS`].
pub const DEFAULT_FRONTENDS: u32 = 131_072;
/// Default capacity of [`map::SERVICES`]: service ports times families. 16 bytes each.
pub const DEFAULT_SERVICES: u32 = 131_072;
/// Default capacity of [`map::BACKENDS`]. 24 bytes each, allocated by the kernel at start.
pub const DEFAULT_BACKENDS: u32 = 524_288;
/// Capacity of [`map::NODE_ADDRESSES`].
pub const NODE_ADDRESSES: u32 = 4_096;
/// Capacity of [`map::SOURCES`].
pub const SOURCES: u32 = 131_072;
/// Capacity of [`map::LEFT_CGROUPS`].
pub const LEFT_CGROUPS: u32 = 4_096;
/// One more than the deepest level of a cgroup that can be left alone.
pub const CGROUP_LEVELS: u32 = 16;
/// Capacity of [`map::DEVICES`].
pub const DEVICES: u32 = 4_096;
/// Default capacity of [`map::FLOWS`]; [`map::ARRIVALS`] has twice as many, because a masqueraded flow has two.
pub const DEFAULT_FLOWS: u32 = 262_144;
/// Default places per CPU in [`map::NASCENT`] and [`map::CLOSING`]. 48 bytes each.
pub const DEFAULT_QUEUE_LENGTH: u32 = 16_384;
/// Capacity of [`map::SERVICE_CIDRS`] and of [`map::POD_CIDRS`].
pub const RANGES: u32 = 8;
/// Capacity of [`map::FRAGMENTS`].
pub const FRAGMENTED: u32 = 8_192;
/// Capacity of [`map::PUT_BY`], a power of two: about 2 KiB each.
pub const PUT_BY: u32 = 256;
/// Capacity of [`map::AFFINITY`].
pub const AFFINITY_ROWS: u32 = 65_536;
/// Capacity of [`map::SENDERS`].
pub const SENDER_ROWS: u32 = 16_384;

/// Bits of the values of [`map::NODE_ADDRESSES`].
pub mod node_address {
    /// NodePorts answer there. 127.0.0.1 and `::1` stand for all loopback addresses of their family.
    pub const NODE_PORTS: u32 = 1;
    /// It is one of the node's beyond loopback.
    pub const OWN: u32 = 2;
}

/// IP protocol numbers the programs know (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// How much longer some values are with the feature `later-layout`, in bytes: as they may be in a later version.
const LATER: usize = if cfg!(feature = "later-layout") { 8 } else { 0 };

/// Declares a map type: plain bytes, of the size and alignment given, which leaves no room for padding
/// because the fields' sizes are summed up.
macro_rules! map_type {
    ($(#[$meta:meta])* pub struct $name:ident [$size:expr] { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }

        const _: () = assert!(size_of::<$name>() == $size);
        #[allow(unused_doc_comments, reason = "a field's attributes are repeated for the sake of `cfg`")]
        const _: () = {
            let mut sum = 0;
            $($(#[$fmeta])* { sum += size_of::<$ty>(); })*
            assert!(sum == $size);
        };

        // SAFETY: repr(C), Copy, without padding (just asserted) and without niches: every field is an
        // integer or a transparent or repr(C) wrapper of integers.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}
use map_type;

// SAFETY: repr(C) around four integers.
#[cfg(feature = "user")]
unsafe impl aya::Pod for crate::address::Address {}

#[cfg(test)]
mod tests;
