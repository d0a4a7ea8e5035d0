//! Addresses and ports in network byte order, both families in one type.
//!
//! IPv4 is kept v4-mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2), so that every map has one key for
//! both families and a v4-mapped IPv6 socket needs no case of its own.

use core::{fmt, net::IpAddr};

/// An IPv4 or IPv6 address: 16 bytes in network byte order, IPv4 as v4-mapped IPv6.
///
/// Kept as four 32-bit words because the BPF target has no unaligned access: a byte array would be copied
/// byte by byte. A word holds the bytes as they lie in memory, so its numeric value depends on the host's
/// byte order; nothing but equality and [`Address::rank`] is ever asked of it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    words: [u32; 4],
}

/// The third word of a v4-mapped address: the bytes 00 00 ff ff.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// `::`, which stands for "any IPv6 address of the node" in NodePort frontends.
    pub const ANY_V6: Self = Self { words: [0; 4] };
    /// `::ffff:0.0.0.0`, which stands for "any IPv4 address of the node" in NodePort frontends.
    pub const ANY_V4: Self = Self { words: [0, 0, MAPPED, 0] };

    /// 127.0.0.1
    pub const LOOPBACK_V4: Self = Self { words: [0, 0, MAPPED, u32::from_ne_bytes([127, 0, 0, 1])] };
    /// `::1`
    pub const LOOPBACK_V6: Self = Self { words: [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])] };

    /// From an IPv4 address in network byte order, as the kernel's `user_ip4` has it.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// From the kernel's `user_ip6`: four words in network byte order.
    #[inline(always)]
    pub const fn from_v6_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// From 16 bytes in network byte order.
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    /// The 16 bytes in network byte order.
    pub const fn octets(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let mut i = 0;
        while i < 16 {
            bytes[i] = self.words[i / 4].to_ne_bytes()[i % 4];
            i += 1;
        }
        bytes
    }

    /// The four words, in network byte order in memory.
    #[inline(always)]
    pub const fn words(&self) -> &[u32; 4] {
        &self.words
    }

    /// Whether this is a v4-mapped address, that is, IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// Whether connecting here stays on this host by definition: 127.0.0.0/8, `::1`, and the unspecified
    /// address, which Linux takes for loopback in `connect()` and `sendto()` (`ip_route_output_key`,
    /// `ip6_datagram_connect`).
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return self.words[3] == 0 || self.words[3].to_ne_bytes()[0] == 127;
        }
        self.words[0] == 0
            && self.words[1] == 0
            && self.words[2] == 0
            && (self.words[3] == 0 || self.words[3] == u32::from_ne_bytes([0, 0, 0, 1]))
    }

    /// The wildcard of this address' family, under which NodePort frontends stand.
    #[inline(always)]
    pub const fn any_of_family(&self) -> Self {
        if self.is_v4() { Self::ANY_V4 } else { Self::ANY_V6 }
    }

    /// The address that stands for all loopback addresses of this address' family.
    #[inline(always)]
    #[must_use]
    pub const fn loopback_of_family(&self) -> Self {
        if self.is_v4() { Self::LOOPBACK_V4 } else { Self::LOOPBACK_V6 }
    }

    /// The address as the standard library has it.
    pub const fn to_ip(self) -> IpAddr {
        let octets = self.octets();
        if self.is_v4() {
            IpAddr::V4(core::net::Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]))
        } else {
            IpAddr::V6(core::net::Ipv6Addr::from_octets(octets))
        }
    }

    /// Two numbers that order addresses totally; the order means nothing beyond being the same for the
    /// controller, which sorts backends by it, and the programs, which search them by it.
    #[inline(always)]
    pub const fn rank(&self) -> (u64, u64) {
        let [a, b, c, d] = self.words;
        ((a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64)
    }
}

impl From<IpAddr> for Address {
    /// A v4-mapped IPv6 address and the IPv4 address it holds are the same [`Address`].
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_octets(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_ip(), f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

/// A port in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(u16);

impl Port {
    /// From a number as people write it.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// From the 16 bits as they stand on the wire.
    #[inline(always)]
    pub const fn from_wire(bits: u16) -> Self {
        Self(bits)
    }

    /// The 16 bits as they stand on the wire.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// The number as people write it.
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in ["10.96.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "fd00:10:96::a"] {
            assert_eq!(address(text).to_ip().to_string(), text);
        }
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
        assert_eq!(Address::from_octets(address("fd00::1:2").octets()), address("fd00::1:2"));
    }

    #[test]
    fn a_v4_word_is_the_kernels_user_ip4() {
        let word = u32::from_ne_bytes([10, 96, 0, 1]);
        assert_eq!(Address::from_v4_word(word), address("10.96.0.1"));
    }

    #[test]
    fn loopback_is_what_linux_routes_to_lo() {
        for text in ["127.0.0.1", "127.255.0.9", "0.0.0.0", "::1", "::"] {
            assert!(address(text).is_loopback(), "{text}");
        }
        for text in ["128.0.0.1", "10.0.0.127", "::2", "fe80::1", "1.0.0.127"] {
            assert!(!address(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn wildcards_keep_the_families_apart() {
        assert_eq!(address("192.168.1.1").any_of_family(), Address::ANY_V4);
        assert_eq!(address("fd00::1").any_of_family(), Address::ANY_V6);
        assert_ne!(Address::ANY_V4, Address::ANY_V6);
    }

    #[test]
    fn ports_are_big_endian_in_memory() {
        assert_eq!(Port::new(443).wire().to_ne_bytes(), [1, 0xbb]);
        assert_eq!(Port::new(443).number(), 443);
    }
}
