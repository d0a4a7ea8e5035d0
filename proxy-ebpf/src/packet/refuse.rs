//! Answers in the name of who is not there: a reset for TCP, "port unreachable" for everything else, sent back by
//! the device the packet came by. Clients see "connection refused" at once, as from a host without that port.

use proxy_common::{address::Address, layout::protocol};

use super::{
    DROP,
    skb::{self, Skb},
    view::{self, View},
};

/// The longest header quoted: IPv6 with as many extension headers as are read, and 8 bytes of transport.
const MAX_QUOTED: u32 = 128;
const TTL: u32 = 64;
const ICMP: u32 = 1;
const ICMPV6: u32 = 58;
/// RST and ACK, and a header of five words.
const RESET: u32 = 5 << 28 | 0x14 << 16;

/// Refuses a packet. What cannot be answered is dropped.
#[inline(never)]
pub fn answer(skb: Skb, view: &View) -> i32 {
    if !is_one_host(&view.tuple.source) {
        return DROP;
    }
    let answered =
        if view.tuple.protocol == protocol::TCP { reset(skb, view) } else { unreachable(skb, view) };
    match answered.and_then(|()| swap_link_addresses(skb)) {
        Some(()) => skb.send_back(),
        None => DROP,
    }
}

/// Whether the address can be a single sender's (RFC 1122 section 3.2.2): others are not answered. The kernel would have
/// dropped the packet, but only after us.
#[inline(always)]
fn is_one_host(address: &Address) -> bool {
    let words = address.words();
    let is_multicast =
        if address.is_v4() { words[3].to_ne_bytes()[0] >= 224 } else { words[0].to_ne_bytes()[0] == 0xff };
    !is_multicast && !address.is_loopback()
}

/// A reset in answer to a SYN (RFC 9293 section 3.10.7.1): sequence number 0, and an acknowledgement of the SYN.
#[inline(always)]
fn reset(skb: Skb, view: &View) -> Option<()> {
    let [_, sequence] = skb.load::<[u32; 2]>(view.transport)?;
    let header = header_len(view);
    let transport = view.network + header;
    skb.resize(transport + 20)?;
    write_header(skb, view, protocol::TCP.into(), 20)?;
    let ports =
        u32::from(view.tuple.destination_port.wire()) | u32::from(view.tuple.source_port.wire()) << 16;
    let acknowledgement = u32::from_be(sequence).wrapping_add(1).to_be();
    let mut words = [ports, 0, acknowledgement, RESET.to_be(), 0];
    skb.store(transport, &words)?;
    let sum = skb::sum(&words, pseudo(view, protocol::TCP.into(), 20));
    let folded = skb::fold(sum);
    // Where the sender left the checksum to the device, it still will be computed, over what stands there.
    let checksum = if is_left_to_device(skb, transport + 16)? { !folded } else { folded };
    words[4] = u32::from(checksum);
    skb.store(transport + 16, &words[4])
}

/// "Port unreachable" (RFC 792, RFC 4443 section 3.1), quoting the IP header and 8 bytes of what it carries.
#[inline(always)]
fn unreachable(skb: Skb, view: &View) -> Option<()> {
    let quoted = view.transport - view.network + 8;
    let header = header_len(view);
    if quoted > MAX_QUOTED {
        return None;
    }
    skb.resize(view.network + quoted)?;
    skb.make_room((header + 8) as i32)?;
    let (kind, protocol) = if view.is_v6 { (0x0104_0000, ICMPV6) } else { (0x0303_0000, ICMP) };
    write_header(skb, view, protocol, 8 + quoted)?;
    let transport = view.network + header;
    let mut sum = if view.is_v6 { pseudo(view, protocol, 8 + quoted) } else { 0 };
    let mut words = [u32::to_be(kind), 0];
    sum = skb::sum(&words, sum);
    let mut offset = 0;
    while offset < MAX_QUOTED {
        if offset >= quoted {
            break;
        }
        sum = skb::sum(&skb.load::<[u32; 1]>(transport + 8 + offset)?, sum);
        offset += 4;
    }
    words[0] |= u32::from(skb::fold(sum)) << 16;
    skb.store(transport, &words)
}

#[inline(always)]
fn header_len(view: &View) -> u32 {
    if view.is_v6 { 40 } else { 20 }
}

/// Writes an IP header from the destination to the source.
#[inline(always)]
fn write_header(skb: Skb, view: &View, protocol: u32, payload: u32) -> Option<()> {
    let (from, to) = (view.tuple.destination.words(), view.tuple.source.words());
    if view.is_v6 {
        let first = [(6u32 << 28).to_be(), (payload << 16 | protocol << 8 | TTL).to_be()];
        skb.store(view.network, &first)?;
        skb.store(view.network + 8, from)?;
        return skb.store(view.network + 24, to);
    }
    let mut words = [
        (0x4500_0000 | (20 + payload)).to_be(),
        0x4000u32.to_be(),
        (TTL << 24 | protocol << 16).to_be(),
        from[3],
        to[3],
    ];
    let checksum = skb::fold(skb::sum(&words, 0));
    words[2] |= u32::from(checksum) << 16;
    skb.store(view.network, &words)
}

/// The sum of the pseudo header of an answer (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline(always)]
fn pseudo(view: &View, protocol: u32, len: u32) -> u32 {
    let seed = skb::sum(&[len.to_be(), protocol.to_be()], 0);
    let add = |address: &Address, seed| {
        if view.is_v6 { skb::sum(address.words(), seed) } else { skb::sum(&[address.words()[3]], seed) }
    };
    add(&view.tuple.destination, add(&view.tuple.source, seed))
}

/// Whether the device is to compute the checksum at `offset`, which is zero now. The kernel does not say, but then
/// it does not adapt that checksum to anything but addresses.
#[inline(always)]
fn is_left_to_device(skb: Skb, offset: u32) -> Option<bool> {
    skb.replace_in_transport(offset, 0, 1, 2)?;
    Some(skb.load::<u16>(offset)? == 0)
}

#[inline(always)]
fn swap_link_addresses(skb: Skb) -> Option<()> {
    if view::link_header() == 0 {
        return Some(());
    }
    let [a, b, c, d, e, f] = skb.load::<[u16; 6]>(0)?;
    skb.store(0, &[d, e, f, a, b, c])
}
