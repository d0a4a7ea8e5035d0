//! Packets, described and then written by etherparse: checksums are what that crate says, never what our code does.
//!
//! What a program should make of a packet is the same description with other ends. Whatever is not described to
//! change must therefore come out as it was, byte by byte.

mod body;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use etherparse::{IpAuthHeader, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, Ipv6RawExtHeader};

/// Who sends frames, and to whom.
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

const ETHERNET: usize = 14;

/// What is in front of the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Link {
    Ethernet,
    Bare,
}

impl Link {
    /// Bytes, without tags.
    pub(crate) fn len(self) -> usize {
        if self == Self::Ethernet { ETHERNET } else { 0 }
    }
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    HopByHop,
    Destination,
    Routing,
    Authentication,
}

/// TCP's flags, as they stand in the header.
pub(crate) mod flag {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const ACK: u8 = 16;
}

/// SCTP's chunks.
pub(crate) mod chunk {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const INIT: u8 = 1;
    pub(crate) const ABORT: u8 = 6;
    pub(crate) const SHUTDOWN_ACK: u8 = 8;
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        payload: Vec<u8>,
    },
    /// A refusal: all zero but what must not be.
    Reset {
        acknowledgement: u32,
    },
    Udp {
        payload: Vec<u8>,
        summed: bool,
    },
    Sctp {
        chunk: u8,
        payload: Vec<u8>,
        /// The ports that the checksum was computed with, if they are others.
        summed_with: Option<(u16, u16)>,
    },
    /// An ICMP error of this type and code, with what stands in the second word.
    Error {
        kind: (u8, u8),
        word: [u8; 4],
        about: Box<Packet>,
        /// Bytes quoted beyond the headers of the IP layer.
        quoted: usize,
    },
    /// An echo request.
    Ping,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) body: Body,
    pub(crate) hops: u8,
    pub(crate) id: u16,
    /// VLAN tags in front of the IP header.
    pub(crate) tags: usize,
    /// Bytes of IPv4 options, a multiple of 4.
    pub(crate) options: usize,
    pub(crate) extensions: Vec<Extension>,
    /// Bytes that the device has put after the packet.
    pub(crate) padding: usize,
}

impl Packet {
    pub(crate) fn new(from: SocketAddr, to: SocketAddr, body: Body) -> Self {
        Self { from, to, body, hops: 61, id: 0x1234, tags: 0, options: 0, extensions: Vec::new(), padding: 0 }
    }

    pub(crate) fn syn(from: SocketAddr, to: SocketAddr) -> Self {
        Self::tcp(from, to, flag::SYN)
    }

    pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, flags: u8) -> Self {
        let body = Body::Tcp { flags, sequence: 0xfedc_ba98, acknowledgement: 0x0102_0304, payload: vec![] };
        Self::new(from, to, body)
    }

    pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Self {
        Self::new(from, to, Body::Udp { payload: payload.to_vec(), summed: true })
    }

    pub(crate) fn sctp(from: SocketAddr, to: SocketAddr, chunk: u8, payload: &[u8]) -> Self {
        Self::new(from, to, Body::Sctp { chunk, payload: payload.to_vec(), summed_with: None })
    }

    /// The same with other ends.
    pub(crate) fn with_ends(&self, from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, ..self.clone() }
    }

    /// The bytes, from the link-layer header on.
    pub(crate) fn frame(&self, link: Link) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        if link == Link::Ethernet {
            frame.extend(MACS);
            for tag in 0..self.tags {
                // 802.1ad outside, 802.1Q inside.
                frame.extend(if tag + 1 < self.tags { [0x88, 0xa8, 0, 7] } else { [0x81, 0, 0, 42] });
            }
            frame.extend(if self.from.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        }
        frame.extend(self.bytes()?);
        frame.resize(frame.len() + self.padding, 0xee);
        if link == Link::Bare {
            // The kernel wants an IP header after what it takes for an Ethernet header.
            frame.resize(frame.len().max(ETHERNET + 40), 0xee);
        }
        Ok(frame)
    }

    /// The bytes, from the IP header on.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let (mut bytes, body) = (Vec::new(), self.body()?);
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let length = u16::try_from(body.len())?;
                let mut header =
                    Ipv4Header::new(length, self.hops, self.protocol(), from.octets(), to.octets())?;
                // A timestamp option that has room, and nothing in it.
                let mut options = vec![0; self.options];
                if let [kind, len, pointer, ..] = &mut options[..] {
                    (*kind, *len, *pointer) = (68, u8::try_from(self.options)?, 5);
                }
                header.options = Ipv4Options::try_from(&options[..])?;
                header.set_payload_len(body.len())?;
                header.identification = self.id;
                header.header_checksum = header.calc_header_checksum();
                header.write(&mut bytes)?;
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let (next_header, extensions) = self.written_extensions()?;
                let header = Ipv6Header {
                    payload_length: u16::try_from(extensions.len() + body.len())?,
                    next_header,
                    hop_limit: self.hops,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                header.write(&mut bytes)?;
                bytes.extend(extensions);
            }
            (from, to) => bail!("no packet goes from {from} to {to}"),
        }
        bytes.extend(body);
        Ok(bytes)
    }

    /// Bytes of the IP layer.
    pub(crate) fn header_len(&self) -> Result<usize> {
        Ok(self.bytes()?.len() - self.body()?.len())
    }

    fn protocol(&self) -> IpNumber {
        match self.body {
            Body::Tcp { .. } | Body::Reset { .. } => IpNumber::TCP,
            Body::Udp { .. } => IpNumber::UDP,
            Body::Sctp { .. } => IpNumber::SCTP,
            Body::Error { .. } | Body::Ping if self.from.is_ipv4() => IpNumber::ICMP,
            Body::Error { .. } | Body::Ping => IpNumber::IPV6_ICMP,
        }
    }

    /// From the last to the first, because each names the one after it.
    fn written_extensions(&self) -> Result<(IpNumber, Vec<u8>)> {
        let (mut next, mut written) = (self.protocol(), Vec::new());
        for (place, extension) in self.extensions.iter().enumerate().rev() {
            let mut bytes = Vec::new();
            // Lengths that differ, so that none is taken for another.
            let filling = vec![0; 6 + 8 * (place % 3)];
            let raw = |next| Ipv6RawExtHeader::new_raw(next, &filling);
            let number = match extension {
                Extension::HopByHop => IpNumber::IPV6_HEADER_HOP_BY_HOP,
                Extension::Destination => IpNumber::IPV6_DESTINATION_OPTIONS,
                Extension::Routing => IpNumber::IPV6_ROUTE_HEADER,
                Extension::Authentication => IpNumber::AUTHENTICATION_HEADER,
            };
            if *extension == Extension::Authentication {
                IpAuthHeader::new(next, 1, 2, &vec![0xaa; 12 + 8 * (place % 3)])?.write(&mut bytes)?;
            } else {
                raw(next)?.write(&mut bytes)?;
            }
            bytes.extend(written);
            (next, written) = (number, bytes);
        }
        Ok((next, written))
    }
}
