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

use crate::address::{Address, Port};

/// Version of everything in this file. Pinned maps live in a folder named after it, so that a build with
/// another layout never reads ours.
pub const ABI_VERSION: u32 = 1;

/// Names of maps, in the object file and under the pin folder.
pub mod map {
    /// [`super::FrontendKey`] → [`super::Frontend`], a hash.
    pub const FRONTENDS: &str = "FRONTENDS";
    /// Service id → [`super::Service`], an array the controller maps into its memory.
    pub const SERVICES: &str = "SERVICES";
    /// Slot → [`super::Backend`], an array the controller maps into its memory.
    pub const BACKENDS: &str = "BACKENDS";
    /// [`super::Address`] → flags (0), a hash: the node's own addresses that answer NodePorts.
    pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
    /// [`super::AffinityKey`] → [`super::Affinity`], an LRU hash written by the programs.
    pub const AFFINITY: &str = "AFFINITY";
    /// Socket → [`super::Origin`], socket storage written by the programs.
    pub const ORIGINS: &str = "ORIGINS";
    /// [`super::SenderKey`] → [`super::Sender`], an LRU hash written by the programs.
    pub const SENDERS: &str = "SENDERS";
    /// [`super::Counter`] → u64 per CPU, an array.
    pub const COUNTERS: &str = "COUNTERS";
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

/// Names of the constants that the loader sets in the programs.
pub mod constant {
    /// u64: SO_NETNS_COOKIE of the host's network namespace; 0 where the kernel cannot tell (before 5.14),
    /// which stands for the initial namespace.
    pub const HOST_NETNS_COOKIE: &str = "HOST_NETNS_COOKIE";
    /// u8: 1 where `bpf_set_retval` may be called from the sock_addr hooks (6.1).
    pub const CAN_SET_ERRNO: &str = "CAN_SET_ERRNO";
    /// u8: 1 to log decisions through aya-log.
    pub const LOG_DECISIONS: &str = "LOG_DECISIONS";
}

/// Default capacity of [`map::FRONTENDS`].
pub const DEFAULT_FRONTENDS: u32 = 131_072;
/// Default capacity of [`map::SERVICES`]: service ports times families. 16 bytes each.
pub const DEFAULT_SERVICES: u32 = 131_072;
/// Default capacity of [`map::BACKENDS`]. 24 bytes each, allocated by the kernel at start.
pub const DEFAULT_BACKENDS: u32 = 524_288;
/// Capacity of [`map::NODE_ADDRESSES`].
pub const NODE_ADDRESSES: u32 = 4_096;
/// Capacity of [`map::AFFINITY`].
pub const AFFINITY_ROWS: u32 = 65_536;
/// Capacity of [`map::SENDERS`].
pub const SENDER_ROWS: u32 = 16_384;

/// IP protocol numbers the programs know (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Declares a map type: plain bytes, of the size and alignment given, which leaves no room for padding
/// because the fields' sizes are summed up.
macro_rules! map_type {
    ($(#[$meta:meta])* pub struct $name:ident [$size:literal] { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }

        const _: () = assert!(size_of::<$name>() == $size);
        const _: () = assert!(0 $(+ size_of::<$ty>())* == $size);

        // SAFETY: repr(C), Copy, without padding (just asserted) and without niches: every field is an
        // integer or a transparent or repr(C) wrapper of integers.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

map_type! {
    /// What a client asks for.
    pub struct FrontendKey [20] {
        /// The VIP; for NodePorts the wildcard of the family.
        address: Address,
        /// The VIP's port.
        port: Port,
        /// IP protocol number.
        protocol: u8,
        /// One of [`scope`].
        scope: u8,
    }
}

/// Values of [`FrontendKey::scope`].
pub mod scope {
    /// The address is the one asked for: ClusterIP, external IP, load-balancer IP.
    pub const VIP: u8 = 0;
    /// The address is a wildcard: whichever address of the node was asked for.
    pub const NODE_PORT: u8 = 1;
}

map_type! {
    /// What a frontend leads to.
    pub struct Frontend [12] {
        /// Index into [`map::SERVICES`].
        service: u32,
        /// One of [`frontend_kind`].
        kind: u32,
        /// [`Frontend::sealed`]: proves to a reader that key and value belong together.
        seal: u32,
    }
}

/// Values of [`Frontend::kind`]: which field of the Service it comes from. Their order is the order in which
/// Services that claim the same frontend are served.
pub mod frontend_kind {
    /// `spec.clusterIPs`.
    pub const CLUSTER_IP: u32 = 1;
    /// `spec.ports[].nodePort`.
    pub const NODE_PORT: u32 = 2;
    /// `status.loadBalancer.ingress[].ip`.
    pub const LOAD_BALANCER: u32 = 3;
    /// `spec.externalIPs`. Last, because whoever may create a Service may write any address here
    /// (CVE-2020-8554): it must not take a ClusterIP over.
    pub const EXTERNAL_IP: u32 = 4;
}

impl Frontend {
    /// A frontend sealed for `key`.
    ///
    /// The kernel may reuse a hash element the moment it is deleted, under the eyes of a program that was
    /// preempted between its look-up and its read (`kernel/bpf/hashtab.c`, preallocated or `bpf_mem_alloc`).
    /// The seal covers key and value, so such a reader notices that it holds somebody else's value, whole
    /// or in parts, and looks up again.
    pub const fn sealed(key: &FrontendKey, service: u32, kind: u32) -> Self {
        Self { service, kind, seal: seal(key, service, kind) }
    }

    /// Whether this value was written for `key`.
    #[inline(always)]
    pub const fn belongs_to(&self, key: &FrontendKey) -> bool {
        self.seal == seal(key, self.service, self.kind)
    }
}

#[inline(always)]
const fn seal(key: &FrontendKey, service: u32, kind: u32) -> u32 {
    let [a, b, c, d] = *key.address.words();
    let rest = (key.port.wire() as u32) << 16 | (key.protocol as u32) << 8 | key.scope as u32;
    let sum = weigh(0, pair(a, b))
        .wrapping_add(weigh(1, pair(c, d)))
        .wrapping_add(weigh(2, pair(rest, kind)))
        .wrapping_add(weigh(3, service as u64));
    (sum >> 32) as u32
}

/// One term of a multilinear hash: a sum of words times odd constants. It is not cryptographic; it tells
/// neighbours and mixtures of two values apart, and its terms do not wait for each other.
#[inline(always)]
const fn weigh(index: usize, word: u64) -> u64 {
    // Digits of the golden ratio and of pi, made odd: any odd constants without structure would do.
    const WEIGHTS: [u64; 8] = [
        0x9e37_79b9_7f4a_7c15,
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7345,
        0xa409_3822_299f_31d1,
        0x082e_fa98_ec4e_6c89,
        0x4528_21e6_38d0_1377,
        0xbe54_66cf_34e9_0c6d,
        0xc0ac_29b7_c97c_50dd,
    ];
    // The product alone would leave a word's high bits out of the sum's low ones, and the other way round.
    (word ^ word >> 29).wrapping_mul(WEIGHTS[index])
}

#[inline(always)]
const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

map_type! {
    /// One service port of one family. Both words are written and read as single 64-bit accesses.
    pub struct Service [16] {
        /// [`Sets`].
        sets: u64,
        /// [`Traits`].
        traits: u64,
    }
}

/// Where a service's backends are: a snapshot in one word.
///
/// Bits 0..30 the first slot; bit 30 whether internalTrafficPolicy is Local; bit 31 whether any endpoint
/// exists anywhere in the cluster; bits 32..48 the length of the cluster set, bits 48..64 that of the local
/// set, which follows it. The policy stands here rather than in the frontends so that it changes in the same
/// instant as the sets it chooses between.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sets(pub u64);

/// A run of backend slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first slot.
    pub start: u32,
    /// How many.
    pub len: u32,
}

impl Sets {
    /// The longest set that fits: 65,535 endpoints.
    pub const MAX_LEN: usize = u16::MAX as usize;
    /// One more than the highest slot that fits.
    pub const MAX_SLOTS: u32 = 1 << 30;
    /// A service without endpoints.
    pub const EMPTY: Self = Self(0);

    const INTERNAL_LOCAL: u64 = 1 << 30;
    const ANY_ENDPOINT: u64 = 1 << 31;

    /// Packs a snapshot; `start` below [`Sets::MAX_SLOTS`].
    pub const fn new(start: u32, cluster: u16, local: u16) -> Self {
        assert!(start < Self::MAX_SLOTS);
        Self(start as u64 | (cluster as u64) << 32 | (local as u64) << 48)
    }

    /// The same, with the word on whether an endpoint exists anywhere.
    #[must_use]
    pub const fn with_any_endpoint(self, any: bool) -> Self {
        if any { Self(self.0 | Self::ANY_ENDPOINT) } else { Self(self.0 & !Self::ANY_ENDPOINT) }
    }

    /// The same, with internalTrafficPolicy Local or Cluster.
    #[must_use]
    pub const fn with_internal_local(self, local: bool) -> Self {
        if local { Self(self.0 | Self::INTERNAL_LOCAL) } else { Self(self.0 & !Self::INTERNAL_LOCAL) }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "masked to 30 bits")]
    const fn start(self) -> u32 {
        (self.0 & (Self::MAX_SLOTS - 1) as u64) as u32
    }

    /// Backends by the Cluster policy.
    #[inline(always)]
    pub const fn cluster(self) -> Range {
        Range { start: self.start(), len: (self.0 >> 32 & 0xffff) as u32 }
    }

    /// Backends by the Local policy.
    #[inline(always)]
    pub const fn local(self) -> Range {
        Range { start: self.start() + self.cluster().len, len: (self.0 >> 48) as u32 }
    }

    /// Both sets: every slot the snapshot owns.
    pub const fn all(self) -> Range {
        Range { start: self.start(), len: self.cluster().len + self.local().len }
    }

    /// Whether the service has an endpoint somewhere, though perhaps none for this caller. kube-proxy
    /// rejects where there is none at all and drops where there is none here.
    #[inline(always)]
    pub const fn any_endpoint(self) -> bool {
        self.0 & Self::ANY_ENDPOINT != 0
    }

    /// Whether the ClusterIP leads to the local set (internalTrafficPolicy Local).
    #[inline(always)]
    pub const fn internal_local(self) -> bool {
        self.0 & Self::INTERNAL_LOCAL != 0
    }
}

/// Properties of a service in one word: bits 0..32 the ClientIP affinity timeout in seconds, 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Traits(pub u64);

impl Traits {
    /// Packs; `affinity_seconds` 0 for no affinity, else 1..=86400.
    pub const fn new(affinity_seconds: u32) -> Self {
        Self(affinity_seconds as u64)
    }

    /// The ClientIP affinity timeout in seconds, 0 for none.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    pub const fn affinity_seconds(self) -> u32 {
        self.0 as u32
    }
}

map_type! {
    /// Where connections go. Within a set, sorted by [`Backend::rank`].
    pub struct Backend [24] {
        /// The endpoint's address.
        address: Address,
        /// The endpoint's port.
        port: Port,
        /// Bits of [`backend_flag`].
        flags: u16,
        /// Zero. Array elements are 8-byte aligned anyway.
        reserved: u32,
    }
}

/// Bits of [`Backend::flags`].
pub mod backend_flag {
    /// The endpoint's nodeName is this node.
    pub const LOCAL: u16 = 1;
}

impl Backend {
    /// The order of backends within a set.
    #[inline(always)]
    pub const fn rank(&self) -> (u64, u64, u16) {
        let (high, low) = self.address.rank();
        (high, low, self.port.wire())
    }

    /// Whether this is the endpoint at `address`:`port`.
    #[inline(always)]
    pub fn is_at(&self, address: &Address, port: Port) -> bool {
        self.address == *address && self.port == port
    }
}

map_type! {
    /// Who keeps coming back to the same backend: a client and a service port, whichever of the service's
    /// frontends it came through.
    pub struct AffinityKey [24] {
        /// The client's address, or its network namespace's cookie in the last two words.
        client: Address,
        /// Index into [`map::SERVICES`].
        service: u32,
        /// One of [`client_kind`].
        kind: u32,
    }
}

/// Values of [`AffinityKey::kind`].
pub mod client_kind {
    /// An address, known on the packet path.
    pub const ADDRESS: u32 = 0;
    /// A network namespace, that is, a pod: at the socket its address is not known yet.
    pub const NAMESPACE: u32 = 1;
}

map_type! {
    /// The backend a client keeps.
    pub struct Affinity [32] {
        /// The backend's address.
        address: Address,
        /// The backend's port.
        port: Port,
        /// Zero.
        reserved: [u16; 3],
        /// When the client last opened a connection, `CLOCK_MONOTONIC` nanoseconds.
        last_used: u64,
    }
}

map_type! {
    /// What a socket asked for and what it got.
    pub struct Origin [64] {
        /// The service's `sets` word when the backend was chosen.
        sets: u64,
        /// The address asked for.
        vip: Address,
        /// The backend's address.
        backend: Address,
        /// The port asked for.
        vip_port: Port,
        /// The backend's port.
        backend_port: Port,
        /// Index into [`map::SERVICES`].
        service: u32,
        /// The backend's slot when it was chosen.
        slot: u32,
        /// Bits of [`origin_flag`].
        flags: u32,
        /// [`Origin::sealed`]: proves that all of this was written together.
        seal: u64,
    }
}

impl Origin {
    /// The same, sealed. Threads may send through one socket at the same time, and nothing locks its storage:
    /// a reader must be able to tell a mixture of two origins from either.
    #[inline(always)]
    #[must_use]
    pub const fn sealed(mut self) -> Self {
        self.seal = self.weight();
        self
    }

    /// Whether all of it was written together.
    #[inline(always)]
    pub const fn is_whole(&self) -> bool {
        self.seal == self.weight()
    }

    #[inline(always)]
    const fn weight(&self) -> u64 {
        let (vip_high, vip_low) = self.vip.rank();
        let (backend_high, backend_low) = self.backend.rank();
        weigh(0, self.sets)
            .wrapping_add(weigh(1, vip_high))
            .wrapping_add(weigh(2, vip_low))
            .wrapping_add(weigh(3, backend_high))
            .wrapping_add(weigh(4, backend_low))
            .wrapping_add(weigh(5, pair(self.vip_port.wire() as u32, self.backend_port.wire() as u32)))
            .wrapping_add(weigh(6, pair(self.service, self.slot)))
            .wrapping_add(weigh(7, self.flags as u64))
    }
}

/// Bits of [`Origin::flags`].
pub mod origin_flag {
    /// Set by connect(): the association is the socket's peer.
    pub const CONNECTED: u32 = 1;
    /// The socket has talked to more than one service: [`super::map::SENDERS`] has the others.
    pub const MANY: u32 = 2;
}

map_type! {
    /// A socket that sends to many services without connecting, and one backend it talked to.
    pub struct SenderKey [32] {
        /// The socket's cookie.
        socket: u64,
        /// The backend's address.
        address: Address,
        /// The backend's port.
        port: Port,
        /// Zero.
        reserved: [u16; 3],
    }
}

map_type! {
    /// The name under which that socket knows the backend.
    pub struct Sender [20] {
        /// The VIP.
        vip: Address,
        /// The VIP's port.
        port: Port,
        /// Zero.
        reserved: u16,
    }
}

/// Index into [`map::COUNTERS`].
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    /// A connect() was sent to a backend.
    Connected = 0,
    /// A datagram of an unconnected socket chose a backend (datagrams that reuse the choice do not count).
    Associated = 1,
    /// Refused: the service has no endpoint.
    Refused = 2,
    /// Refused: the service has endpoints, but none for this caller.
    Unreachable = 3,
    /// Refused: no memory for the socket's state.
    NoMemory = 4,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 5;
    /// All of them, in order of their index.
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::Connected, Self::Associated, Self::Refused, Self::Unreachable, Self::NoMemory];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Associated => "associated",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoMemory => "no_memory",
        }
    }
}

// SAFETY: repr(C) around four integers.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Address {}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8, port: u16) -> FrontendKey {
        FrontendKey {
            address: Address::from_v4_word(u32::from_ne_bytes([10, 96, 0, last])),
            port: Port::new(port),
            protocol: protocol::TCP,
            scope: scope::VIP,
        }
    }

    #[test]
    fn sets_keep_their_parts_apart() {
        let sets = Sets::new(0x3fff_fffe, 65_535, 1);
        assert!(!sets.any_endpoint() && !sets.internal_local());
        for (any, local) in [(false, true), (true, false), (true, true)] {
            let sets = sets.with_any_endpoint(any).with_internal_local(local);
            assert_eq!((sets.any_endpoint(), sets.internal_local()), (any, local));
            assert_eq!(sets.cluster(), Range { start: 0x3fff_fffe, len: 65_535 });
            assert_eq!(sets.local().len, 1);
        }
        assert_eq!(Sets::new(7, 2, 3).local(), Range { start: 9, len: 3 });
        assert_eq!(Sets::new(7, 2, 3).all(), Range { start: 7, len: 5 });
    }

    #[test]
    fn a_seal_tells_neighbouring_frontends_and_values_apart() {
        let mut seen = std::collections::HashSet::new();
        for last in 0..=255 {
            for port in [80u16, 81, 443, 20_480] {
                for service in [0u32, 1, 2, 256, 65_536] {
                    assert!(seen.insert(Frontend::sealed(&key(last, port), service, 0).seal));
                }
            }
        }
    }

    #[test]
    fn a_mixture_of_two_origins_is_not_whole() {
        let origin = |last: u8, service: u32| {
            Origin {
                sets: Sets::new(service * 4, 4, 0).0,
                vip: key(last, 53).address,
                backend: key(last + 100, 53).address,
                vip_port: Port::new(53),
                backend_port: Port::new(5353),
                service,
                slot: service * 4 + 1,
                flags: 0,
                seal: 0,
            }
            .sealed()
        };
        let (a, b) = (origin(1, 1), origin(2, 2));
        assert!(a.is_whole() && b.is_whole());
        for mixture in [
            Origin { vip: b.vip, ..a },
            Origin { service: b.service, slot: b.slot, ..a },
            Origin { backend: b.backend, ..a },
            Origin { sets: b.sets, ..a },
            Origin { seal: b.seal, ..a },
            Origin { flags: origin_flag::CONNECTED, ..a },
        ] {
            assert!(!mixture.is_whole(), "{mixture:?}");
        }
    }

    #[test]
    fn a_torn_frontend_does_not_pass() {
        let mine = Frontend::sealed(&key(1, 80), 5, frontend_kind::CLUSTER_IP);
        let other = Frontend::sealed(&key(2, 80), 6, frontend_kind::CLUSTER_IP);
        assert!(mine.belongs_to(&key(1, 80)));
        assert!(!other.belongs_to(&key(1, 80)));
        assert!(!Frontend { seal: mine.seal, ..other }.belongs_to(&key(1, 80)));
        assert!(!Frontend { service: other.service, ..mine }.belongs_to(&key(1, 80)));
    }
}
