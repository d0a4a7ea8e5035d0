//! What the packet path remembers: flows, and what to do with packets that arrive.

use super::{
    map_type,
    seal::{pair, weigh},
};
use crate::address::{Address, Port};

map_type! {
    /// The two ends of a packet as it stands in its headers; key of [`crate::layout::map::ARRIVALS`], and,
    /// [`Tuple::ordered`], of [`crate::layout::map::FLOWS`].
    pub struct Tuple [40] {
        /// Source address.
        source: Address,
        /// Destination address.
        destination: Address,
        /// Source port.
        source_port: Port,
        /// Destination port.
        destination_port: Port,
        /// IP protocol number.
        protocol: u8,
        /// Zero.
        reserved: [u8; 3],
    }
}

impl Tuple {
    /// The tuple of an answer.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            reserved: [0; 3],
        }
    }

    /// The same for both directions, so that one look-up finds the flow of either; and whether it is this
    /// tuple reversed.
    #[inline(always)]
    #[must_use]
    pub fn ordered(&self) -> (Self, bool) {
        if self.is_ordered() { (*self, false) } else { (self.reversed(), true) }
    }

    /// Whether it is the one of the two directions under which a flow is kept.
    #[inline(always)]
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        let source = (self.source.rank(), self.source_port.wire());
        let destination = (self.destination.rank(), self.destination_port.wire());
        source <= destination
    }

    /// Writes the tuple with its ends swapped to `into`.
    #[inline(always)]
    pub const fn reverse_into(&self, into: &mut Self) {
        into.source = self.destination;
        into.destination = self.source;
        into.source_port = self.destination_port;
        into.destination_port = self.source_port;
        into.protocol = self.protocol;
        // Zero here as there. Written as such it would be a call of `memset`, which takes stack as well.
        into.reserved = self.reserved;
    }

    /// Writes the ordered tuple to `into`; whether it is this one reversed.
    #[inline(always)]
    pub fn order_into(&self, into: &mut Self) -> bool {
        if self.is_ordered() {
            *into = *self;
            false
        } else {
            self.reverse_into(into);
            true
        }
    }

    #[inline(always)]
    const fn weight(&self) -> u64 {
        let (source_high, source_low) = self.source.rank();
        let (destination_high, destination_low) = self.destination.rank();
        let ports = pair(self.source_port.wire() as u32, self.destination_port.wire() as u32);
        weigh(0, source_high)
            .wrapping_add(weigh(1, source_low))
            .wrapping_add(weigh(2, destination_high))
            .wrapping_add(weigh(3, destination_low))
            .wrapping_add(weigh(4, ports ^ (self.protocol as u64) << 16))
    }
}

map_type! {
    /// What becomes of a packet that arrives with a certain [`Tuple`]: its new destination.
    pub struct Arrival [40] {
        /// Where it goes: from the client the backend, from the backend the client.
        address: Address,
        /// [`Flow::born`] of its flow.
        born: u64,
        /// Its new destination port.
        port: Port,
        /// Its new source port.
        source_port: Port,
        /// Bits of [`arrival_flag`].
        flags: u16,
        /// Of a client's: the tick in which the flow was last looked at on its behalf, 0 as long as each packet may say
        /// something new about it. Of a [`arrival_flag::REPLY`]: not 0 once a packet has left to which it would be the
        /// answer; before that the name is only taken, or somebody else's. Not sealed: written by itself, and true too
        /// soon it does little harm.
        noted: u16,
        /// Proves that key and value belong together, see [`crate::layout::Frontend::sealed`].
        seal: u64,
    }
}

/// Bits of [`Arrival::flags`].
pub mod arrival_flag {
    /// It comes from the backend of a masqueraded flow.
    pub const REPLY: u16 = 1;
}

impl Arrival {
    /// The same, sealed for `key`.
    #[inline(always)]
    #[must_use]
    pub const fn sealed(mut self, key: &Tuple) -> Self {
        self.seal_for(key);
        self
    }

    /// Seals it for `key`.
    #[inline(always)]
    pub const fn seal_for(&mut self, key: &Tuple) {
        self.seal = self.weight(key);
    }

    /// Whether this value was written for `key`.
    #[inline(always)]
    pub const fn belongs_to(&self, key: &Tuple) -> bool {
        self.seal == self.weight(key)
    }

    #[inline(always)]
    const fn weight(&self, key: &Tuple) -> u64 {
        let (high, low) = self.address.rank();
        let ports = pair(self.port.wire() as u32, self.source_port.wire() as u32);
        key.weight()
            .wrapping_add(weigh(5, high))
            .wrapping_add(weigh(6, low))
            .wrapping_add(weigh(7, self.born))
            .wrapping_add(weigh(8, ports ^ (self.flags as u64) << 16))
    }
}

map_type! {
    /// A flow between a client and a backend, under the tuple that its packets have inside the node: the client's
    /// address with a source port that may be ours, and the backend's address and port; [`Tuple::ordered`].
    pub struct Flow [80] {
        /// The address the client asked for.
        vip: Address,
        /// The node's address that stands for the client towards the backend; all zero: the client's own.
        masquerade: Address,
        /// When it began, `CLOCK_MONOTONIC` nanoseconds: tells it from a later flow with the same tuple.
        born: u64,
        /// When a packet of it was last seen, within a tick (2.6 s at most), `CLOCK_MONOTONIC` nanoseconds. Not sealed.
        seen: u64,
        /// The port the client asked for.
        vip_port: Port,
        /// The client's own port.
        client_port: Port,
        /// Index into [`crate::layout::map::SERVICES`] when it began; for people.
        service: u32,
        /// Bits of [`flow_state`], and from [`flow_state::TICK_SHIFT`] on the tick in which it was last seen. Not
        /// sealed.
        state: u32,
        /// Bits of [`flow_flag`].
        flags: u32,
        /// Its place in [`crate::layout::map::CLOSING`] if it stands there, else that in
        /// [`crate::layout::map::NASCENT`]. Not sealed.
        place: u32,
        /// Zero.
        reserved: u32,
        /// Proves that key and the rest belong together.
        seal: u64,
    }
}

/// Bits of [`Flow::flags`].
pub mod flow_flag {
    /// The client is the source of the ordered tuple.
    pub const CLIENT_IS_SOURCE: u32 = 1;
}

/// Bits of [`Flow::state`].
pub mod flow_state {
    /// The backend has answered.
    pub const REPLIED: u32 = 1;
    /// The client has sent something after the answer: not a spoofed source.
    pub const ESTABLISHED: u32 = 2;
    /// The client will send no more.
    pub const CLIENT_DONE: u32 = 4;
    /// The backend will send no more.
    pub const BACKEND_DONE: u32 = 8;
    /// One side broke it off.
    pub const RESET: u32 = 16;
    /// It stands in [`crate::layout::map::CLOSING`].
    pub const CLOSING: u32 = 32;
    /// A packet of the client's has left under the node's address: the answer's [`super::Arrival::noted`] is set.
    pub const LEFT: u32 = 64;
    /// Where the tick begins.
    pub const TICK_SHIFT: u32 = 16;
    /// All bits in front of it.
    pub const ALL: u32 = (1 << TICK_SHIFT) - 1;
}

impl Flow {
    /// The same, sealed for `key`.
    #[inline(always)]
    #[must_use]
    pub const fn sealed(mut self, key: &Tuple) -> Self {
        self.seal_for(key);
        self
    }

    /// Seals it for `key`.
    #[inline(always)]
    pub const fn seal_for(&mut self, key: &Tuple) {
        self.seal = self.weight(key);
    }

    /// Whether this value was written for `key`.
    #[inline(always)]
    pub const fn belongs_to(&self, key: &Tuple) -> bool {
        self.seal == self.weight(key)
    }

    /// Whether the backend sees an address of the node instead of the client's.
    #[inline(always)]
    pub fn is_masqueraded(&self) -> bool {
        self.masquerade != Address::ANY_V6
    }

    /// Whether the client is the source of the ordered tuple.
    #[inline(always)]
    pub const fn client_is_source(&self) -> bool {
        self.flags & flow_flag::CLIENT_IS_SOURCE != 0
    }

    /// The packets' tuple on their way from client to backend, inside the node.
    #[inline(always)]
    #[must_use]
    pub const fn inside(&self, key: &Tuple) -> Tuple {
        if self.client_is_source() { *key } else { key.reversed() }
    }

    /// The tuple with which the client's packets arrive.
    #[inline(always)]
    #[must_use]
    pub const fn asked(&self, key: &Tuple) -> Tuple {
        let inside = self.inside(key);
        Tuple {
            destination: self.vip,
            destination_port: self.vip_port,
            source_port: self.client_port,
            ..inside
        }
    }

    /// The tuple with which the backend's packets arrive, if it answers to the node.
    #[inline(always)]
    #[must_use]
    pub const fn answered(&self, key: &Tuple) -> Tuple {
        let back = self.inside(key).reversed();
        Tuple { destination: self.masquerade, ..back }
    }

    #[inline(always)]
    const fn weight(&self, key: &Tuple) -> u64 {
        let (vip_high, vip_low) = self.vip.rank();
        let (own_high, own_low) = self.masquerade.rank();
        let ports = pair(self.vip_port.wire() as u32, self.client_port.wire() as u32);
        key.weight()
            .wrapping_add(weigh(5, vip_high))
            .wrapping_add(weigh(6, vip_low))
            .wrapping_add(weigh(7, own_high))
            .wrapping_add(weigh(8, own_low))
            .wrapping_add(weigh(9, self.born))
            .wrapping_add(weigh(10, ports))
            .wrapping_add(weigh(11, pair(self.service, self.flags)))
    }
}

map_type! {
    /// A place in a queue of flows that make room for others: [`crate::layout::map::NASCENT`] for those the
    /// client has not confirmed, [`crate::layout::map::CLOSING`] for those that are over. Who takes the place
    /// next removes the flow, if it is still that and no other.
    pub struct Queued [48] {
        /// Key of the flow.
        key: Tuple,
        /// Its [`Flow::born`]; 0 for a place nobody has taken.
        born: u64,
    }
}

map_type! {
    /// A datagram in fragments, of which only the first has ports (RFC 791 section 2.3, RFC 8200 section 4.5).
    pub struct FragmentKey [40] {
        /// Source address, as the fragments arrive at the hook.
        source: Address,
        /// Destination address.
        destination: Address,
        /// Identification.
        id: u32,
        /// IP protocol number.
        protocol: u8,
        /// 0 where packets come in, 1 where they leave.
        hook: u8,
        /// Zero.
        reserved: u16,
    }
}

map_type! {
    /// What becomes of the fragments that follow the first.
    pub struct Fragments [32] {
        /// The new address.
        address: Address,
        /// When this was written, `CLOCK_MONOTONIC` nanoseconds. Identifications are used again.
        seen: u64,
        /// One of [`fragments_fate`].
        fate: u32,
        /// How many that came before the first one are put by.
        waiting: u32,
    }
}

/// Values of [`Fragments::fate`].
pub mod fragments_fate {
    /// The first has not come yet.
    pub const UNKNOWN: u32 = 0;
    /// They pass.
    pub const PASS: u32 = 1;
    /// They get a new address.
    pub const REWRITE: u32 = 2;
    /// They are dropped.
    pub const DROP: u32 = 3;
}

/// The longest packet that is put by, with its link-layer header.
pub const PUT_BY_LEN: u32 = 2048;

map_type! {
    /// A fragment that came before the first one.
    pub struct PutBy [2096] {
        /// Whose it is.
        key: FragmentKey,
        /// How many of that datagram were put by before it.
        index: u32,
        /// Bytes that count; 0 for a place that is free.
        len: u32,
        /// The packet with its link-layer header.
        bytes: [u8; PUT_BY_LEN as usize],
    }
}

/// Cells of the filters [`crate::layout::map::VIP_CELLS`] and [`crate::layout::map::BACKEND_CELLS`]: one byte each.
pub const CELLS: u32 = 1 << 18;
/// Cells in one element of those maps.
pub const CELLS_PER_ROW: u32 = 4096;

/// Which cell says whether an address may concern us: row and column. Different addresses may share a cell, which
/// costs a look-up in vain.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the top 18 bits")]
pub const fn cell(address: &Address) -> (u32, u32) {
    let (high, low) = address.rank();
    let sum = weigh(0, high).wrapping_add(weigh(1, low));
    let cell = (sum >> (64 - CELLS.trailing_zeros())) as u32;
    (cell / CELLS_PER_ROW, cell % CELLS_PER_ROW)
}

map_type! {
    /// A range of addresses.
    pub struct Prefix [32] {
        /// Its first address.
        address: Address,
        /// The mask. All zero for a place that is not used; those come last.
        mask: Address,
    }
}

impl Prefix {
    /// No prefix.
    pub const NONE: Self = Self { address: Address::ANY_V6, mask: Address::ANY_V6 };

    /// The prefix of `len` leading bits, of 32 for IPv4 and of 128 for IPv6.
    #[must_use]
    pub fn new(address: core::net::IpAddr, len: u8) -> Self {
        let bits = if address.is_ipv4() { u32::from(len) + 96 } else { u32::from(len) };
        let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
        let first = u128::from_be_bytes(Address::from(address).octets()) & mask;
        Self {
            address: Address::from_octets(first.to_be_bytes()),
            mask: Address::from_octets(mask.to_be_bytes()),
        }
    }

    /// Whether the address is within.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, address: &Address) -> bool {
        let ([a, b, c, d], [m, n, o, p], [w, x, y, z]) =
            (*address.words(), *self.mask.words(), *self.address.words());
        (a & m) ^ w | (b & n) ^ x | (c & o) ^ y | (d & p) ^ z == 0
    }

    /// Whether the place is in use.
    #[inline(always)]
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.mask != Address::ANY_V6
    }
}

/// Two ranges of port numbers as one row, from which masqueraded flows take their source ports.
///
/// Bits 0..16 the first number of the first range, 16..32 its length, 32..48 and 48..64 the same of the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRanges(pub u64);

impl PortRanges {
    /// Two ranges: first number and length; a length may be 0.
    #[must_use]
    pub const fn new(first: (u16, u16), second: (u16, u16)) -> Self {
        Self(first.0 as u64 | (first.1 as u64) << 16 | (second.0 as u64) << 32 | (second.1 as u64) << 48)
    }

    /// How many ports there are.
    #[inline(always)]
    #[must_use]
    pub const fn len(self) -> u32 {
        (self.0 >> 16 & 0xffff) as u32 + (self.0 >> 48) as u32
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The port number `index`, below [`PortRanges::len`].
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "port numbers, masked")]
    pub const fn port(self, index: u32) -> Port {
        let len = (self.0 >> 16 & 0xffff) as u32;
        if index < len {
            Port::new((self.0 as u32 & 0xffff).wrapping_add(index) as u16)
        } else {
            Port::new(((self.0 >> 32) as u32 & 0xffff).wrapping_add(index - len) as u16)
        }
    }

    /// Whether the port is among them.
    #[must_use]
    pub fn contains(self, port: Port) -> bool {
        let number = u64::from(port.number());
        [self.0, self.0 >> 32].iter().any(|range| {
            let (first, len) = (range & 0xffff, range >> 16 & 0xffff);
            first <= number && number < first + len
        })
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
