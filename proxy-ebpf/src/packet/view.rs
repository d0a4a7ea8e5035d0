//! Headers as they stand in a packet: IPv4 with options, IPv6 with extension headers, VLAN tags in front of both.

use core::ptr;
use proxy_common::{
    address::{Address, Port},
    decision::packet::Signals,
    layout::{Tuple, protocol},
};

use super::skb::Skb;
use crate::kernel::opaque;

#[unsafe(no_mangle)]
static LINK_HEADER: u32 = 14;

/// EtherTypes, as in `include/uapi/linux/if_ether.h`.
pub const IPV4: u16 = 0x0800u16.to_be();
pub const IPV6: u16 = 0x86ddu16.to_be();
const VLAN: u16 = 0x8100u16.to_be();
const QINQ: u16 = 0x88a8u16.to_be();

/// IPv6 extension headers (RFC 8200 section 4, RFC 4302).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// How many of them are read. RFC 8200 has each occur once, and one of them twice.
const MAX_EXTENSIONS: u64 = 6;

/// Where in its datagram a packet lies.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// It is whole.
    Whole,
    /// It begins one: it has the transport header.
    First,
    /// It continues one: it has no ports.
    Later,
}

/// A packet's headers.
#[repr(C)]
pub struct View {
    /// Both ends; the ports only after [`transport`].
    pub tuple: Tuple,
    /// Where the IP header begins.
    pub network: u32,
    /// Where the transport header begins.
    pub transport: u32,
    /// Where the packet ends; the device may have padded it.
    pub end: u32,
    /// Identification of the datagram, for fragments.
    pub id: u32,
    /// Where the checksum stands that covers addresses and ports; 0 for none. Only after [`transport`].
    pub checksum: u32,
    /// What the transport header says about its flow.
    pub signals: Signals,
    /// Whether it is IPv6.
    pub is_v6: bool,
    /// The IPv4 header's checksum, as it stands there.
    pub header_checksum: u16,
    /// Whether it is a fragment.
    pub fragment: Fragment,
}

/// Bytes of link-layer header.
#[inline(always)]
pub fn link_header() -> u32 {
    // SAFETY: a reference to a static is valid and aligned.
    unsafe { ptr::read_volatile(&LINK_HEADER) }
}

/// What reading headers came to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reading {
    /// They are there.
    Read = 0,
    /// It is none of what Services have.
    Other = 1,
    /// They do not hold together.
    Malformed = 2,
}

/// Reads the IP header.
///
/// Not inlined, and into memory that the verifier does not follow: what comes after it is verified once, and not for
/// each combination of headers.
#[inline(never)]
pub fn network(skb: Skb, view: &mut View) -> Reading {
    let mut ether_type = skb.protocol();
    let mut offset = link_header();
    // Tags that the device has not taken off.
    let mut tags = 0;
    while tags < 2 && (ether_type == VLAN || ether_type == QINQ) {
        let Some([_, inner]) = skb.load::<[u16; 2]>(offset) else { return Reading::Malformed };
        ether_type = inner;
        offset += 4;
        tags += 1;
    }
    view.network = offset;
    let read = match ether_type {
        IPV4 => ipv4(skb, view),
        IPV6 => ipv6(skb, view),
        _ => return Reading::Other,
    };
    // Quotations end early, packets do not. What follows a packet, the device's padding, is none of its headers.
    if read.is_some() && view.transport <= view.end && view.end <= skb.len() {
        Reading::Read
    } else {
        Reading::Malformed
    }
}

/// Reads the headers of a packet that an ICMP error quotes behind its own, as far as they are needed: addresses and
/// ports.
#[inline(never)]
pub fn quoted(skb: Skb, error: &View, view: &mut View) -> Reading {
    view.network = error.transport + 8;
    let read = if error.is_v6 { ipv6(skb, view) } else { ipv4(skb, view) };
    if read.is_none() {
        return Reading::Malformed;
    }
    if !matches!(view.tuple.protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
        || view.fragment == Fragment::Later
    {
        return Reading::Other;
    }
    let Some([source, destination]) = skb.load::<[u16; 2]>(view.transport) else {
        return Reading::Malformed;
    };
    if view.transport + 4 > error.end {
        return Reading::Malformed;
    }
    view.tuple.source_port = Port::from_wire(source);
    view.tuple.destination_port = Port::from_wire(destination);
    Reading::Read
}

/// RFC 791 section 3.1.
#[inline(always)]
fn ipv4(skb: Skb, view: &mut View) -> Option<()> {
    let words = skb.load::<[u32; 5]>(view.network)?;
    let first = u32::from_be(words[0]);
    let header = (first >> 24 & 0xf) * 4;
    let total = first & 0xffff;
    if first >> 28 != 4 || header < 20 || total < header {
        return None;
    }
    view.end = view.network + total;
    let second = u32::from_be(words[1]);
    view.is_v6 = false;
    view.transport = view.network + header;
    view.tuple.source = Address::from_v4_word(words[3]);
    view.tuple.destination = Address::from_v4_word(words[4]);
    view.tuple.protocol = (u32::from_be(words[2]) >> 16) as u8;
    view.header_checksum = (u32::from_be(words[2]) as u16).to_be();
    view.fragment = fragment(second & 0x2000 != 0, second & 0x1fff);
    view.id = second >> 16;
    Some(())
}

/// RFC 8200 section 3.
#[inline(always)]
fn ipv6(skb: Skb, view: &mut View) -> Option<()> {
    let words = skb.load::<[u32; 10]>(view.network)?;
    let second = u32::from_be(words[1]);
    if u32::from_be(words[0]) >> 28 != 6 {
        return None;
    }
    // A jumbogram says 0; no Service has such.
    view.end = view.network + 40 + (second >> 16);
    view.is_v6 = true;
    view.tuple.source = Address::from_v6_words([words[2], words[3], words[4], words[5]]);
    view.tuple.destination = Address::from_v6_words([words[6], words[7], words[8], words[9]]);
    view.fragment = Fragment::Whole;
    view.id = 0;
    let mut kind = (second >> 8) as u8;
    let mut offset = view.network + 40;
    let mut extensions = 0;
    // Of an unknown continuation there is nothing more to read.
    while extensions < MAX_EXTENSIONS && view.fragment != Fragment::Later {
        if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            break;
        }
        let [low, high] = skb.load::<[u32; 2]>(offset)?;
        let low = u32::from_be(low);
        let units = low >> 16 & 0xff;
        offset += match kind {
            FRAGMENT => 8,
            AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        if kind == FRAGMENT {
            view.id = high;
            view.fragment = fragment(low & 1 != 0, low & 0xfff8);
        }
        kind = (low >> 24) as u8;
        // Not unrolled: that would take more stack than there is.
        extensions = opaque(extensions + 1);
    }
    view.tuple.protocol = kind;
    view.transport = offset;
    Some(())
}

#[inline(always)]
const fn fragment(more: bool, position: u32) -> Fragment {
    match (more, position) {
        (false, 0) => Fragment::Whole,
        (true, 0) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// Reads the transport header, after [`network`]. The whole of it must be there, so that its checksum is.
#[inline(never)]
pub fn transport(skb: Skb, view: &mut View) -> Reading {
    let offset = view.transport;
    let read = match view.tuple.protocol {
        protocol::TCP => skb.load::<[u16; 10]>(offset).map(|header| {
            let [_, flags] = header[6].to_ne_bytes();
            (header[0], header[1], Signals::tcp(flags), 20, offset + 16)
        }),
        protocol::UDP => skb.load::<[u16; 4]>(offset).map(|header| {
            // Zero: there is none (RFC 768), and there shall be none.
            let checksum = if header[3] == 0 { 0 } else { offset + 6 };
            (header[0], header[1], Signals::UDP, 8, checksum)
        }),
        protocol::SCTP => skb.load::<[u16; 8]>(offset).map(|header| {
            let [chunk, _] = header[6].to_ne_bytes();
            (header[0], header[1], Signals::sctp(chunk), 16, 0)
        }),
        _ => return Reading::Other,
    };
    let Some((source, destination, signals, len, checksum)) = read else { return Reading::Malformed };
    if offset + len > view.end {
        return Reading::Malformed;
    }
    view.tuple.source_port = Port::from_wire(source);
    view.tuple.destination_port = Port::from_wire(destination);
    view.signals = signals;
    view.checksum = checksum;
    Reading::Read
}
