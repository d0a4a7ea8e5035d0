//! New addresses and ports, and checksums that fit.
//!
//! Checksums are adapted, not computed anew: the kernel's helpers know whether the device will compute it, has
//! computed it over the whole packet, or has not looked at it. A checksum that was wrong stays wrong.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use proxy_common::{
    address::{Address, Port},
    checksum,
    decision::packet::Rewrite,
    layout::protocol,
};

use super::{
    skb::{self, Skb},
    view::{Fragment, View},
};

/// Which address is translated.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum End {
    /// Where it comes from.
    Source = 0,
    /// Where it goes.
    Destination = 1,
}

/// Gives a packet its new ends; `false` if the kernel does not let us, and then the packet may be half-written.
#[inline(never)]
pub fn apply(skb: Skb, view: &View, end: End, new: &Rewrite) -> bool {
    (view.tuple.protocol != protocol::SCTP || sctp(skb, view, new).is_some())
        && checksums(skb, view, end, new).is_some()
        && ends(skb, view, end, new).is_some()
}

/// Adapts the transport checksum, and the device's over the whole packet where nothing in the packet makes up.
#[inline(always)]
fn checksums(skb: Skb, view: &View, end: End, new: &Rewrite) -> Option<()> {
    let old = old_address(view, end);
    let address = skb::difference(old.words(), new.address.words(), 0);
    let (before, after) = ports(view, new);
    let ports = skb::difference(&[before], &[after], 0);
    if view.checksum == 0 {
        skb.add_to_complete(ports);
    } else {
        // A sum that comes out as zero is written as all ones.
        let flags = if view.tuple.protocol == protocol::UDP { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        skb.replace_in_transport(view.checksum, 0, address.into(), PSEUDO | flags)?;
        if before != after {
            skb.replace_in_transport(view.checksum, 0, ports.into(), flags)?;
        }
    }
    if view.is_v6 {
        // With a transport checksum: the helper takes for granted that an IPv4 header's makes up for the addresses
        // (`inet_proto_csum_replace_by_diff` in `net/core/utils.c`). IPv6 has none.
        skb.add_to_complete(address);
    }
    Some(())
}

/// Writes addresses and ports, all at once where they are next to each other.
#[inline(always)]
fn ends(skb: Skb, view: &View, end: End, new: &Rewrite) -> Option<()> {
    let (source, destination) = match end {
        End::Source => (&new.address, &view.tuple.destination),
        End::Destination => (&view.tuple.source, &new.address),
    };
    let (_, ports) = ports(view, new);
    let in_header = if view.is_v6 {
        let ([a, b, c, d], [e, f, g, h]) = (*source.words(), *destination.words());
        let words = [a, b, c, d, e, f, g, h, ports];
        if view.transport == view.network + 40 {
            return skb.store(view.network + 8, &words);
        }
        let [words @ .., _] = words;
        skb.store(view.network + 8, &words)
    } else {
        let (old, to) = (old_address(view, end).words()[3], new.address.words()[3]);
        let checksum = skb::fold(skb::difference(&[old], &[to], u32::from(!view.header_checksum)));
        let [(a, b), (c, d), (e, f)] = [source.words()[3], destination.words()[3], ports].map(halves);
        if view.transport == view.network + 20 {
            return skb.store(view.network + 10, &[checksum, a, b, c, d, e, f]);
        }
        skb.store(view.network + 10, &[checksum, a, b, c, d])
    };
    in_header?;
    skb.store(view.transport, &ports)
}

/// The address that is translated, as it stands in the packet.
#[inline(always)]
pub const fn old_address(view: &View, end: End) -> &Address {
    match end {
        End::Source => &view.tuple.source,
        End::Destination => &view.tuple.destination,
    }
}

/// Both ports as they lie next to each other: before and after.
#[inline(always)]
fn ports(view: &View, new: &Rewrite) -> (u32, u32) {
    let pair = |a: Port, b: Port| u32::from(a.wire()) | u32::from(b.wire()) << 16;
    (pair(view.tuple.source_port, view.tuple.destination_port), pair(new.source_port, new.destination_port))
}

/// A word as the two halves that lie next to each other.
#[inline(always)]
const fn halves(word: u32) -> (u16, u16) {
    (word as u16, (word >> 16) as u16)
}

const PSEUDO: u64 = BPF_F_PSEUDO_HDR as u64;

/// Writes an address, and adapts the checksums that cover it: the IPv4 header's, and that at `transport` with its
/// flags. What no checksum in the packet makes up for changes the device's sum over the whole packet.
#[inline(always)]
pub fn address(
    skb: Skb,
    view: &View,
    end: End,
    old: &Address,
    new: &Address,
    transport: Option<(u32, u64)>,
) -> Option<()> {
    if view.is_v6 {
        let difference = skb::difference(old.words(), new.words(), 0);
        if let Some((checksum, flags)) = transport {
            skb.replace_in_transport(checksum, 0, difference.into(), PSEUDO | flags)?;
        }
        // With a transport checksum: the helper takes for granted that an IPv4 header's makes up for the addresses
        // (`inet_proto_csum_replace_by_diff` in `net/core/utils.c`). IPv6 has none.
        skb.add_to_complete(difference);
        return skb.store(address_offset(view, end), new.words());
    }
    let offset = address_offset(view, end);
    let (from, to) = (old.words()[3], new.words()[3]);
    if let Some((checksum, flags)) = transport {
        skb.replace_in_transport(checksum, from.into(), to.into(), PSEUDO | flags | 4)?;
    }
    skb.replace_in_header(view.network + 10, from, to)?;
    skb.store(offset, &to)
}

/// Where an address stands.
#[inline(always)]
pub const fn address_offset(view: &View, end: End) -> u32 {
    let in_header = match (view.is_v6, end) {
        (true, End::Source) => 8,
        (true, End::Destination) => 24,
        (false, End::Source) => 12,
        (false, End::Destination) => 16,
    };
    view.network + in_header
}

/// Adapts SCTP's checksum to new ports. It covers the whole packet, but not the addresses. Zero stands for one that
/// the device will compute.
#[inline(always)]
fn sctp(skb: Skb, view: &View, new: &Rewrite) -> Option<()> {
    let (before, after) = ports(view, new);
    let difference = before ^ after;
    if difference == 0 {
        return Some(());
    }
    let crc = skb.load::<u32>(view.transport + 8)?;
    if crc == 0 {
        return Some(());
    }
    // Of a fragment's packet the length is not known.
    if view.fragment != Fragment::Whole {
        return None;
    }
    let following = view.end - view.transport - 4;
    let adapted = checksum::adapt_crc32c(u32::from_le(crc), u32::from_le(difference), following).to_le();
    skb.add_to_complete(skb::difference(&[crc], &[adapted], 0));
    skb.store(view.transport + 8, &adapted)
}
