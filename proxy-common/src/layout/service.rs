//! A service's snapshot and properties, one word each, and its backends.

use super::map_type;
use crate::address::{Address, Port};

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
/// Bits 0..29 the first slot; bit 29 whether externalTrafficPolicy is Local; bit 30 whether internalTrafficPolicy
/// is; bit 31 whether any endpoint exists anywhere in the cluster; bits 32..48 the length of the cluster set, bits 48..64 that of the local
/// set, which follows it. The policies stand here rather than in the frontends so that they change in the same
/// instant as the sets they choose between.
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
    pub const MAX_SLOTS: u32 = 1 << 29;
    /// A service without endpoints.
    pub const EMPTY: Self = Self(0);

    const EXTERNAL_LOCAL: u64 = 1 << 29;
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

    /// The same, with externalTrafficPolicy Local or Cluster.
    #[must_use]
    pub const fn with_external_local(self, local: bool) -> Self {
        if local { Self(self.0 | Self::EXTERNAL_LOCAL) } else { Self(self.0 & !Self::EXTERNAL_LOCAL) }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "masked to 29 bits")]
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

    /// Whether the other frontends lead clients outside to the local set (externalTrafficPolicy Local).
    #[inline(always)]
    pub const fn external_local(self) -> bool {
        self.0 & Self::EXTERNAL_LOCAL != 0
    }

    /// Whether the ClusterIP leads to the local set (internalTrafficPolicy Local).
    #[inline(always)]
    pub const fn internal_local(self) -> bool {
        self.0 & Self::INTERNAL_LOCAL != 0
    }
}

/// Properties of a service in one word: bits 0..32 the ClientIP affinity timeout in seconds, 0 for none; bit 32
/// whether its load-balancer addresses admit some clients only; bit 33 whether the node itself is one of those.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Traits(pub u64);

impl Traits {
    const RESTRICTED: u64 = 1 << 32;
    const NODE_ADMITTED: u64 = 1 << 33;

    /// Packs; `affinity_seconds` 0 for no affinity, else 1..=86400.
    pub const fn new(affinity_seconds: u32) -> Self {
        Self(affinity_seconds as u64)
    }

    /// The same, with load-balancer addresses that admit only the clients in [`crate::layout::map::SOURCES`], the node
    /// being one of them or not.
    #[must_use]
    pub const fn restricted(self, is_node_admitted: bool) -> Self {
        let node = if is_node_admitted { Self::NODE_ADMITTED } else { 0 };
        Self(self.0 & !Self::NODE_ADMITTED | Self::RESTRICTED | node)
    }

    /// Whether load-balancer addresses admit only the clients in [`crate::layout::map::SOURCES`].
    #[inline(always)]
    pub const fn is_restricted(self) -> bool {
        self.0 & Self::RESTRICTED != 0
    }

    /// Whether they admit the node itself, under whichever of its addresses.
    #[inline(always)]
    pub const fn is_node_admitted(self) -> bool {
        self.0 & Self::NODE_ADMITTED != 0
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
    /// The order of backends within a set: a number of 144 bits, most significant digits first. They have 48 bits, so that
    /// what is borrowed when one is taken from another can be read off the result.
    #[inline(always)]
    pub const fn rank(&self) -> [u64; 3] {
        Self::rank_of(&self.address, self.port)
    }

    /// The rank of the endpoint at `address`:`port`.
    #[inline(always)]
    pub const fn rank_of(address: &Address, port: Port) -> [u64; 3] {
        let (high, low) = address.rank();
        [high >> 16, (high & 0xffff) << 32 | low >> 32, (low & 0xffff_ffff) << 16 | port.wire() as u64]
    }

    /// Whether this is the endpoint at `address`:`port`.
    #[inline(always)]
    pub fn is_at(&self, address: &Address, port: Port) -> bool {
        self.address == *address && self.port == port
    }
}
