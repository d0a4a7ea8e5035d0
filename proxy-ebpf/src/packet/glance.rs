//! A first look: whether a packet can concern a Service at all. Most of a node's packets do not, and each of them pays
//! for this on every device it passes; so it reads the packet's bytes where they lie, without a call of a helper, and
//! only what it needs. What is not plain at first sight is left to [`super::view`].

use core::mem;
use proxy_common::{address::Address, layout::protocol};

use super::{
    filter,
    icmp::{ICMP, ICMPV6},
    rewrite::End,
    skb::Skb,
    view::{IPV4, IPV6, link_header},
};

/// Whether the packet is sound, and to no address of ours.
#[inline(always)]
pub fn is_foreign_arrival(skb: Skb) -> bool {
    match skb.protocol() {
        IPV4 => ipv4(skb).is_some_and(|ends| !filter::is_vip(&ends.destination)),
        IPV6 => ipv6(skb).is_some_and(|ends| !filter::is_vip(&ends.destination)),
        _ => false,
    }
}

/// Whether the packet is sound, and neither from a backend, nor to one under an address of the node, nor lost on its
/// way to a Service.
#[inline(always)]
pub fn is_foreign_departure(skb: Skb, is_pod_side: bool) -> bool {
    let ends = match skb.protocol() {
        IPV4 => ipv4(skb),
        IPV6 => ipv6(skb),
        _ => None,
    };
    // What it quotes may concern us where its ends do not.
    ends.is_some_and(|ends| {
        !matches!(ends.protocol, ICMP | ICMPV6)
            && !filter::is_backend(&ends.source, End::Source)
            && !filter::is_backend(&ends.destination, End::Destination)
            && (is_pod_side || !filter::is_in_service_cidr(&ends.destination))
    })
}

struct Ends {
    source: Address,
    destination: Address,
    protocol: u8,
}

/// A header without options, of a packet as long as it says.
#[inline(always)]
fn ipv4(skb: Skb) -> Option<Ends> {
    let header = skb.direct::<10>(link_header())?;
    let [version, _] = header[0].to_ne_bytes();
    let total = u32::from(u16::from_be(header[1]));
    if version != 0x45 || total < 20 || link_header() + total > skb.len() {
        return None;
    }
    let [_, protocol] = header[4].to_ne_bytes();
    Some(Ends {
        source: Address::from_v4_word(word(header[6], header[7])),
        destination: Address::from_v4_word(word(header[8], header[9])),
        protocol,
    })
}

/// The same; what follows the header is a transport protocol's.
#[inline(always)]
fn ipv6(skb: Skb) -> Option<Ends> {
    let header = skb.direct::<20>(link_header())?;
    let [version, _] = header[0].to_ne_bytes();
    let payload = u32::from(u16::from_be(header[2]));
    let [protocol, _] = header[3].to_ne_bytes();
    if version >> 4 != 6
        || link_header() + 40 + payload > skb.len()
        || !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP | ICMPV6)
    {
        return None;
    }
    let address = |at: usize| {
        Address::from_v6_words([
            word(header[at], header[at + 1]),
            word(header[at + 2], header[at + 3]),
            word(header[at + 4], header[at + 5]),
            word(header[at + 6], header[at + 7]),
        ])
    };
    Some(Ends { source: address(4), destination: address(12), protocol })
}

/// Two halves as they lie in memory.
#[inline(always)]
const fn word(first: u16, second: u16) -> u32 {
    // SAFETY: integers of one size, without padding.
    unsafe { mem::transmute::<[u16; 2], u32>([first, second]) }
}
