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
    let checksum = match view.tuple.protocol {
        protocol::TCP => Some((view.transport + 16, 0)),
        protocol::UDP => match skb.load::<u16>(view.transport + 6) {
            // There is none, and there shall be none.
            Some(0) => None,
            // A sum that comes out as zero is written as all ones.
            _ => Some((view.transport + 6, u64::from(BPF_F_MARK_MANGLED_0))),
        },
        // SCTP's covers no addresses.
        _ => None,
    };
    let old = match end {
        End::Source => &view.tuple.source,
        End::Destination => &view.tuple.destination,
    };
    if view.tuple.protocol == protocol::SCTP && sctp(skb, view, new).is_none() {
        return false;
    }
    address(skb, view, end, old, &new.address, checksum).is_some()
        && port(skb, view.transport, view.tuple.source_port, new.source_port, checksum).is_some()
        && port(skb, view.transport + 2, view.tuple.destination_port, new.destination_port, checksum)
            .is_some()
}

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
    const PSEUDO: u64 = BPF_F_PSEUDO_HDR as u64;
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

/// Writes a port, and adapts the checksum that covers it, or the device's where none does.
#[inline(always)]
fn port(skb: Skb, offset: u32, from: Port, to: Port, transport: Option<(u32, u64)>) -> Option<()> {
    if from == to {
        return Some(());
    }
    match transport {
        Some((checksum, flags)) => {
            skb.replace_in_transport(checksum, from.wire().into(), to.wire().into(), flags | 2)?;
        }
        None => skb.add_to_complete(skb::difference(&[from.wire().into()], &[to.wire().into()], 0)),
    }
    skb.store(offset, &to.wire())
}

/// Adapts SCTP's checksum to new ports. It covers the whole packet, but not the addresses. Zero stands for one that
/// the device will compute.
#[inline(always)]
fn sctp(skb: Skb, view: &View, new: &Rewrite) -> Option<()> {
    let pair = |a: Port, b: Port| u32::from(a.wire()) | u32::from(b.wire()) << 16;
    let before = pair(view.tuple.source_port, view.tuple.destination_port);
    let difference = before ^ pair(new.source_port, new.destination_port);
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
