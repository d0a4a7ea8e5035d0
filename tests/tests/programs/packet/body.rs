//! What is in a packet: transport headers and ICMP errors.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use crc::{CRC_32_ISCSI, Crc};
use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, TcpHeader, UdpHeader};

use super::{Body, Packet, flag};

impl Packet {
    /// What follows the headers of the IP layer.
    pub(super) fn body(&self) -> Result<Vec<u8>> {
        let (from, to) = (self.from.port(), self.to.port());
        match &self.body {
            Body::Tcp { flags, sequence, acknowledgement, payload } => {
                let mut tcp = TcpHeader::new(from, to, *sequence, 65_000);
                (tcp.fin, tcp.syn) = (flags & flag::FIN != 0, flags & flag::SYN != 0);
                (tcp.rst, tcp.ack) = (flags & flag::RST != 0, flags & flag::ACK != 0);
                tcp.acknowledgment_number = *acknowledgement;
                self.tcp_bytes(tcp, payload)
            }
            Body::Reset { acknowledgement } => {
                let mut tcp = TcpHeader::new(from, to, 0, 0);
                (tcp.rst, tcp.ack, tcp.acknowledgment_number) = (true, true, *acknowledgement);
                self.tcp_bytes(tcp, &[])
            }
            Body::Udp { payload, summed } => {
                let length = u16::try_from(8 + payload.len())?;
                let mut udp = UdpHeader { source_port: from, destination_port: to, length, checksum: 0 };
                if *summed {
                    udp.checksum = match (self.from.ip(), self.to.ip()) {
                        (IpAddr::V4(a), IpAddr::V4(b)) => {
                            udp.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload)?
                        }
                        (IpAddr::V6(a), IpAddr::V6(b)) => {
                            udp.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload)?
                        }
                        _ => bail!("two families"),
                    };
                }
                Ok([&udp.to_bytes()[..], payload].concat())
            }
            Body::Sctp { chunk, payload, summed_with } => {
                let blank = sctp(summed_with.unwrap_or((from, to)), *chunk, payload, 0)?;
                sctp((from, to), *chunk, payload, crc_of(&blank))
            }
            Body::Error { kind, word, about, quoted } => {
                let inside = about.bytes()?;
                let len = (about.header_len()? + quoted).min(inside.len());
                let quote = inside.get(..len).context("a quotation of nothing")?;
                self.icmp_bytes(*kind, *word, quote)
            }
            Body::Ping => {
                self.icmp_bytes((if self.from.is_ipv4() { 8 } else { 128 }, 0), [0, 1, 0, 2], &[7; 40])
            }
        }
    }

    fn tcp_bytes(&self, mut tcp: TcpHeader, payload: &[u8]) -> Result<Vec<u8>> {
        tcp.checksum = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => tcp.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload)?,
            (IpAddr::V6(a), IpAddr::V6(b)) => tcp.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload)?,
            _ => bail!("two families"),
        };
        Ok([&tcp.to_bytes()[..], payload].concat())
    }

    fn icmp_bytes(&self, (kind, code): (u8, u8), bytes5to8: [u8; 4], payload: &[u8]) -> Result<Vec<u8>> {
        let header = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let kind = Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8 };
                Icmpv4Header::with_checksum(kind, payload).to_bytes().to_vec()
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: code, bytes5to8 };
                Icmpv6Header::with_checksum(kind, a.octets(), b.octets(), payload)?.to_bytes().to_vec()
            }
            _ => bail!("two families"),
        };
        Ok([&header[..], payload].concat())
    }
}

/// An SCTP packet with one chunk.
fn sctp(ports: (u16, u16), chunk: u8, payload: &[u8], crc: u32) -> Result<Vec<u8>> {
    let length = u16::try_from(4 + payload.len())?.to_be_bytes();
    let (from, to) = (ports.0.to_be_bytes(), ports.1.to_be_bytes());
    let tag = [0xde, 0xad, 0xbe, 0xef];
    Ok([&from[..], &to, &tag, &crc.to_le_bytes(), &[chunk, 0], &length, payload].concat())
}

/// CRC32c of a packet whose checksum field is zero (RFC 9260 appendix A).
fn crc_of(packet: &[u8]) -> u32 {
    Crc::<u32>::new(&CRC_32_ISCSI).checksum(packet)
}
