//! Checksums of transport protocols, computed anew over all that they cover.

use std::net::IpAddr;

use crc::{CRC_32_ISCSI, Crc, Table};
use etherparse::IpNumber;
use etherparse::checksum::Sum16BitWords;

use super::Packet;

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Is the checksum of a whole packet right? Protocols without one have none that is wrong.
pub(super) fn is_right(packet: &Packet<'_>) -> bool {
    let payload = packet.payload;
    match packet.protocol {
        IpNumber::TCP => payload.len() >= 20 && sums_up(packet),
        IpNumber::UDP => match payload.get(6..8) {
            // Over IPv4 a sender may do without.
            Some([0, 0]) => packet.source.is_ipv4(),
            Some(_) => sums_up(packet),
            None => false,
        },
        IpNumber::IPV6_ICMP => payload.len() >= 4 && sums_up(packet),
        IpNumber::ICMP => {
            payload.len() >= 4 && Sum16BitWords::new().add_slice(payload).ones_complement() == 0
        }
        IpNumber::SCTP => sctp(payload) == payload.get(8..12).map(<[u8]>::to_vec),
        _ => true,
    }
}

/// With the pseudo header and the checksum itself, the words of a right packet add up to all ones.
fn sums_up(packet: &Packet<'_>) -> bool {
    let Ok(length) = u32::try_from(packet.payload.len()) else { return false };
    let mut sum = Sum16BitWords::new();
    sum = match (packet.source, packet.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            sum = sum.add_4bytes(from.octets());
            sum.add_4bytes(to.octets())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => sum.add_16bytes(from.octets()).add_16bytes(to.octets()),
        _ => return false,
    };
    sum = sum.add_4bytes(length.to_be_bytes());
    sum.add_2bytes([0, packet.protocol.0]).add_slice(packet.payload).ones_complement() == 0
}

/// What should stand in the checksum field of an SCTP packet (RFC 9260, appendix A).
pub(crate) fn sctp(packet: &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = packet.split_at_checked(8)?;
    let rest = rest.get(4..)?;
    let mut digest = CRC32C.digest();
    digest.update(head);
    digest.update(&[0; 4]);
    digest.update(rest);
    Some(digest.finalize().to_le_bytes().to_vec())
}
