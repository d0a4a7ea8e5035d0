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
        // Zero is "none" in UDP over IPv4 and stays so; a sum that comes out as zero is written as all ones.
        protocol::UDP => Some((view.transport + 6, u64::from(BPF_F_MARK_MANGLED_0))),
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
/// flags.
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
        let offset = view.network + if end == End::Source { 8 } else { 24 };
        if let Some((checksum, flags)) = transport {
            let difference = skb::difference(old.words(), new.words(), 0);
            skb.replace_in_transport(checksum, 0, difference.into(), PSEUDO | flags)?;
            // The helper takes for granted that an IPv4 header's checksum makes up for the addresses in a sum over
            // the whole packet (`inet_proto_csum_replace_by_diff` in `net/core/utils.c`). IPv6 has none.
            skb.add_to_complete(difference);
        }
        return skb.store(offset, new.words());
    }
    let offset = view.network + if end == End::Source { 12 } else { 16 };
    let (from, to) = (old.words()[3], new.words()[3]);
    if let Some((checksum, flags)) = transport {
        skb.replace_in_transport(checksum, from.into(), to.into(), PSEUDO | flags | 4)?;
    }
    skb.replace_in_header(view.network + 10, from, to)?;
    skb.store(offset, &to)
}

/// Writes a port, and adapts the checksum that covers it.
#[inline(always)]
fn port(skb: Skb, offset: u32, from: Port, to: Port, transport: Option<(u32, u64)>) -> Option<()> {
    if from == to {
        return Some(());
    }
    if let Some((checksum, flags)) = transport {
        skb.replace_in_transport(checksum, from.wire().into(), to.wire().into(), flags | 2)?;
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
    let adapted = checksum::adapt_crc32c(u32::from_le(crc), u32::from_le(difference), following);
    skb.store(view.transport + 8, &adapted.to_le())
}
