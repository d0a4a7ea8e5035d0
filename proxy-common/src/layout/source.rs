//! Which clients may reach a service's load-balancer addresses.

use super::map_type;
use crate::address::Address;

map_type! {
    /// A client of a service, or with less than all bits a range of its clients: what [`super::map::SOURCES`] is asked
    /// for, behind the number of bits that count (`struct bpf_lpm_trie_key` in `include/uapi/linux/bpf.h`).
    pub struct Source [20] {
        /// Index into [`crate::layout::map::SERVICES`].
        service: u32,
        /// The client's address.
        address: Address,
    }
}

impl Source {
    /// Bits of a whole key.
    pub const BITS: u32 = 160;
    /// Bits in front of the address, those of an IPv4 address' mapping not counted.
    const BITS_OF_SERVICE: u32 = 32;

    /// How many bits of the key count for a range of addresses of which the first `length` bits do: at most 32 for
    /// IPv4, 128 for IPv6; more count as all.
    #[must_use]
    pub const fn bits(address: &Address, length: u8) -> u32 {
        let before = if address.is_v4() { 96 } else { 0 };
        let bits = Self::BITS_OF_SERVICE + before + length as u32;
        if bits < Self::BITS { bits } else { Self::BITS }
    }
}
