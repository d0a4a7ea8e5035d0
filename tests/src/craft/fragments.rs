//! A datagram in pieces, to be sent in whatever order.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};

use super::packets::udp;
use super::{Flow, packets};

/// A UDP packet in fragments of `size` bytes, which must be a multiple of 8.
///
/// # Errors
/// When it is none, the families differ, or the packet would be too large.
pub fn fragments(flow: Flow, payload: &[u8], size: usize, identification: u16) -> Result<Vec<Vec<u8>>> {
    let whole = udp(flow, payload)?;
    let count = whole.len().div_ceil(size);
    let fragment = |(number, piece): (usize, &[u8])| {
        let offset = u16::try_from(number * size / 8).context("a fragment's offset")?;
        let offset = IpFragOffset::try_new(offset).context("a fragment's offset")?;
        one(flow, piece, offset, number + 1 < count, identification)
    };
    whole.chunks(size).enumerate().map(fragment).collect()
}

fn one(flow: Flow, piece: &[u8], offset: IpFragOffset, more: bool, identification: u16) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match (flow.from.ip(), flow.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(piece.len()).context("a fragment's length")?;
            let mut header =
                Ipv4Header::new(length, packets::HOPS, IpNumber::UDP, from.octets(), to.octets())?;
            header.identification = identification;
            (header.dont_fragment, header.more_fragments, header.fragment_offset) = (false, more, offset);
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut bytes)?;
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let fragment = Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, identification.into());
            let header = Ipv6Header {
                payload_length: u16::try_from(piece.len() + 8).context("a fragment's length")?,
                next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
                hop_limit: packets::HOPS,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            header.write(&mut bytes)?;
            fragment.write(&mut bytes)?;
        }
        (from, to) => bail!("no packet goes from {from} to {to}"),
    }
    bytes.extend_from_slice(piece);
    Ok(bytes)
}
