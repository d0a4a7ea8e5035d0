//! ICMP errors about packets of flows. An error quotes the packet it is about, under the name that packet had where
//! the error was made: the quotation is translated as an answer to it would be, and so is the error's own address.

use proxy_common::{
    address::{Address, Port},
    decision::packet::{Rewrite, egress, ingress},
    layout::protocol,
};

use super::{
    DROP, PASS, Work,
    flows::FlowMaps,
    rewrite::{self, End},
    skb::{self, Skb},
    view::{self, Fragment, Reading, View},
};
use crate::kernel::count;
use proxy_common::layout::Counter;

/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// As above, for IPv6.
pub const ICMPV6: u8 = 58;

/// Whether the packet is ICMP of its own family.
#[inline(always)]
pub fn is_icmp(view: &View) -> bool {
    view.tuple.protocol == if view.is_v6 { ICMPV6 } else { ICMP }
}

/// Whether it is an echo request.
#[inline(always)]
pub fn is_echo_request(skb: Skb, view: &View) -> bool {
    let request = if view.is_v6 { 128 } else { 8 };
    view.transport < view.end && matches!(skb.load::<u8>(view.transport), Some(kind) if kind == request)
}

/// Translates an error. `end` says which of its own addresses is: at ingress its destination, at egress its source.
#[inline(never)]
pub fn translate(skb: Skb, work: &mut Work, end: End) -> i32 {
    match quote(skb, work) {
        Reading::Read => {}
        Reading::Other => return PASS,
        Reading::Malformed => {
            count(Counter::PacketMalformed);
            return PASS;
        }
    }
    if !find(work, end) {
        return PASS;
    }
    if write(skb, work, end).is_some() {
        PASS
    } else {
        count(Counter::PacketFailed);
        DROP
    }
}

/// Reads what the error quotes.
#[inline(always)]
fn quote(skb: Skb, work: &mut Work) -> Reading {
    let Some(kind) = skb.load::<u8>(work.view.transport) else { return Reading::Malformed };
    // Destination unreachable, time exceeded, parameter problem (RFC 792); those and packet too big (RFC 4443).
    // A redirect is about the next hop and not about the flow.
    let is_error = if work.view.is_v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) };
    if !is_error || work.view.fragment != Fragment::Whole {
        return Reading::Other;
    }
    match view::quoted(skb, &work.view, &mut work.quoted) {
        // An error goes to whom the packet came from; else it was forged, as for conntrack
        // (`nf_conntrack_inet_error` in `net/netfilter/nf_conntrack_proto_icmp.c`).
        Reading::Read if work.quoted.tuple.source != work.view.tuple.destination => Reading::Other,
        reading => reading,
    }
}

/// What an answer to the quoted packet would become; `false` for nothing.
#[inline(never)]
fn find(work: &mut Work, end: End) -> bool {
    let answer = work.quoted.tuple.reversed();
    let found = match end {
        End::Destination => ingress::arriving(&FlowMaps, &answer),
        End::Source => egress::leaving(&FlowMaps, &answer),
    };
    let Some(found) = found else { return false };
    work.rewrite = found;
    true
}

#[inline(always)]
fn write(skb: Skb, work: &Work, end: End) -> Option<()> {
    let (view, quoted, new) = (&work.view, &work.quoted, &work.rewrite);
    let checksum = view.transport + 2;
    // What is the answer's destination is the quoted packet's source, and the other way round.
    let (old, outer) = match end {
        End::Destination => (&quoted.tuple.source, &view.tuple.destination),
        End::Source => (&quoted.tuple.destination, &view.tuple.source),
    };
    transport_checksum(skb, (view, quoted), checksum, old, new)?;
    let swapped = if end == End::Destination { End::Source } else { End::Destination };
    quoted_address(skb, quoted, checksum, swapped, old, &new.address)?;
    word(skb, checksum, quoted.transport, quoted.tuple.source_port.wire(), new.destination_port.wire())?;
    word(skb, checksum, quoted.transport + 2, quoted.tuple.destination_port.wire(), new.source_port.wire())?;
    // ICMPv6's checksum covers its addresses, ICMP's does not.
    let covering = if view.is_v6 { Some((checksum, 0)) } else { None };
    rewrite::address(skb, view, end, outer, &new.address, covering)
}

/// The checksum in the quoted transport header, as far as it is quoted and set.
#[inline(always)]
fn transport_checksum(
    skb: Skb,
    (view, quoted): (&View, &View),
    checksum: u32,
    old: &Address,
    new: &Rewrite,
) -> Option<()> {
    let offset = match quoted.tuple.protocol {
        protocol::TCP => quoted.transport + 16,
        protocol::UDP => quoted.transport + 6,
        _ => return Some(()),
    };
    let Some(before) = skb.load::<u16>(offset) else { return Some(()) };
    if before == 0 || offset + 2 > view.end {
        return Some(());
    }
    let pair = |a: Port, b: Port| [u32::from(a.wire()) | u32::from(b.wire()) << 16];
    let mut sum = u32::from(!before);
    sum = skb::difference(old.words(), new.address.words(), sum);
    sum = skb::difference(
        &pair(quoted.tuple.source_port, quoted.tuple.destination_port),
        &pair(new.destination_port, new.source_port),
        sum,
    );
    let after = match skb::fold(sum) {
        // In UDP, zero would say that there is none (RFC 768).
        0 if quoted.tuple.protocol == protocol::UDP => u16::MAX,
        after => after,
    };
    word(skb, checksum, offset, before, after)
}

/// An address in the quoted header.
#[inline(always)]
fn quoted_address(
    skb: Skb,
    quoted: &View,
    checksum: u32,
    end: End,
    old: &Address,
    new: &Address,
) -> Option<()> {
    if quoted.is_v6 {
        let difference = skb::difference(old.words(), new.words(), 0);
        skb.replace_in_transport(checksum, 0, difference.into(), 0)?;
        return skb.store(rewrite::address_offset(quoted, end), new.words());
    }
    // In IPv4 the quoted header's own checksum makes up for the address in the error's.
    rewrite::address(skb, quoted, end, old, new, None)
}

/// Writes 16 bits, which the error's checksum covers.
#[inline(always)]
fn word(skb: Skb, checksum: u32, offset: u32, from: u16, to: u16) -> Option<()> {
    if from == to {
        return Some(());
    }
    skb.replace_in_transport(checksum, from.into(), to.into(), 2)?;
    skb.store(offset, &to)
}
