//! Whole packets.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};

use crate::sniffer::checksum;

/// Hops that a crafted packet may take.
pub(super) const HOPS: u8 = 64;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The sender that the packet claims.
    pub from: SocketAddr,
    /// The destination.
    pub to: SocketAddr,
}

/// An IP packet around a payload.
pub(super) fn ip(flow: Flow, protocol: IpNumber, payload: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(60 + payload.len());
    match header(flow, protocol, payload.len())? {
        IpHeaders::Ipv4(header, _) => header.write(&mut bytes)?,
        IpHeaders::Ipv6(header, _) => header.write(&mut bytes)?,
    }
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

fn header(flow: Flow, protocol: IpNumber, length: usize) -> Result<IpHeaders> {
    let length = u16::try_from(length).context("a packet's length")?;
    match (flow.from.ip(), flow.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = Ipv4Header::new(length, HOPS, protocol, from.octets(), to.octets())?;
            Ok(IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                payload_length: length,
                next_header: protocol,
                hop_limit: HOPS,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            Ok(IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default()))
        }
        (from, to) => bail!("no packet goes from {from} to {to}"),
    }
}

/// The beginning of a TCP connection.
///
/// # Errors
/// When the families differ.
pub fn syn(flow: Flow, sequence: u32) -> Result<Vec<u8>> {
    let mut header = TcpHeader::new(flow.from.port(), flow.to.port(), sequence, 65_000);
    header.syn = true;
    tcp(flow, header, &[])
}

/// A piece of a TCP connection.
///
/// # Errors
/// When the families differ, or it would be too large.
pub fn segment(flow: Flow, sequence: u32, payload: &[u8]) -> Result<Vec<u8>> {
    let mut header = TcpHeader::new(flow.from.port(), flow.to.port(), sequence, 65_000);
    header.ack = true;
    tcp(flow, header, payload)
}

fn tcp(flow: Flow, mut tcp: TcpHeader, payload: &[u8]) -> Result<Vec<u8>> {
    let length = usize::from(tcp.header_len_u16()) + payload.len();
    tcp.checksum = match header(flow, IpNumber::TCP, length)? {
        IpHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(&ip, payload)?,
        IpHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(&ip, payload)?,
    };
    ip(flow, IpNumber::TCP, &[&tcp.to_bytes()[..], payload].concat())
}

/// A UDP header and its payload, without IP.
pub(super) fn udp(flow: Flow, payload: &[u8]) -> Result<Vec<u8>> {
    let (from, to) = (flow.from.port(), flow.to.port());
    let udp = match header(flow, IpNumber::UDP, 8 + payload.len())? {
        IpHeaders::Ipv4(ip, _) => UdpHeader::with_ipv4_checksum(from, to, &ip, payload)?,
        IpHeaders::Ipv6(ip, _) => UdpHeader::with_ipv6_checksum(from, to, &ip, payload)?,
    };
    Ok([&udp.to_bytes()[..], payload].concat())
}

/// A UDP packet.
///
/// # Errors
/// When the families differ, or it would be too large.
pub fn datagram(flow: Flow, payload: &[u8]) -> Result<Vec<u8>> {
    ip(flow, IpNumber::UDP, &udp(flow, payload)?)
}

/// The beginning of an SCTP association.
///
/// # Errors
/// When the families differ.
pub fn sctp_init(flow: Flow, tag: u32) -> Result<Vec<u8>> {
    let mut sctp = Vec::new();
    sctp.extend_from_slice(&flow.from.port().to_be_bytes());
    sctp.extend_from_slice(&flow.to.port().to_be_bytes());
    // Verification tag 0 and the checksum, which is filled in below; chunk INIT of 20 bytes.
    sctp.extend_from_slice(&[0; 8]);
    sctp.extend_from_slice(&[1, 0, 0, 20]);
    sctp.extend_from_slice(&tag.to_be_bytes());
    // Window, one stream each way, first transmission number.
    sctp.extend_from_slice(&65_536_u32.to_be_bytes());
    sctp.extend_from_slice(&[0, 1, 0, 1]);
    sctp.extend_from_slice(&tag.to_be_bytes());
    let sum = checksum::sctp(&sctp).context("a packet's length")?;
    sctp[8..12].copy_from_slice(&sum);
    ip(flow, IpNumber::SCTP, &sctp)
}
