//! Headers, read once more: by etherparse where it has a say, by hand where it asks for more than packets of flows need.

use std::net::IpAddr;

use etherparse::{IpAuthHeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice};
use proxy_common::address::{Address, Port};
use proxy_common::decision::packet::Signals;
use proxy_common::layout::{Tuple, protocol};

/// As many extension headers and tags as the programs read.
const MAX_EXTENSIONS: usize = 6;
const MAX_TAGS: usize = 2;

pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// Where things are in a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Ports are zero as long as they have not been read.
    pub(crate) tuple: Tuple,
    pub(crate) network: usize,
    pub(crate) transport: usize,
    /// Where the IP packet ends.
    pub(crate) end: usize,
    pub(crate) is_v6: bool,
    pub(crate) is_fragment: bool,
    /// It continues a datagram: it has no ports.
    is_later: bool,
    pub(crate) signals: Signals,
}

/// What a frame is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Frame {
    /// Nothing that Services have.
    Other,
    /// Headers that do not hold together.
    Malformed,
    /// An IP packet.
    Ip(Reading),
}

/// Reads a frame as far as the IP layer goes.
pub(crate) fn frame(bytes: &[u8], link: usize) -> Frame {
    let mut kind = word(bytes, 12).unwrap_or(0);
    let mut at = link;
    for _ in 0..MAX_TAGS {
        if matches!(kind, 0x8100 | 0x88a8) {
            let Some(inner) = word(bytes, at + 2) else { return Frame::Malformed };
            (kind, at) = (inner, at + 4);
        }
    }
    let reading = match kind {
        0x0800 => ipv4(bytes, at),
        0x86dd => ipv6(bytes, at),
        _ => return Frame::Other,
    };
    match reading {
        Some(reading) if reading.transport <= reading.end && reading.end <= bytes.len() => Frame::Ip(reading),
        _ => Frame::Malformed,
    }
}

/// Reads a packet that an error quotes, which may end early.
pub(crate) fn quoted(bytes: &[u8], at: usize, end: usize, is_v6: bool) -> Option<Reading> {
    let bytes = bytes.get(..end)?;
    let mut reading = if is_v6 { ipv6(bytes, at) } else { ipv4(bytes, at) }?;
    (has_ports(&reading) && !reading.is_later).then_some(())?;
    ports(bytes, &mut reading)?;
    Some(reading)
}

pub(crate) fn has_ports(reading: &Reading) -> bool {
    matches!(reading.tuple.protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// Reads the whole transport header; `false` if it is not there.
pub(crate) fn transport(bytes: &[u8], reading: &mut Reading) -> bool {
    let Some(header) = bytes.get(reading.transport..reading.end) else { return false };
    let (length, signals) = match reading.tuple.protocol {
        protocol::TCP => (20, header.get(13).map(|flags| tcp(*flags))),
        protocol::UDP => (8, Some(Signals::UDP)),
        _ => (16, header.get(12).map(|chunk| sctp(*chunk))),
    };
    let (Some(signals), true) = (signals, header.len() >= length) else { return false };
    reading.signals = signals;
    ports(bytes, reading).is_some()
}

fn ports(bytes: &[u8], reading: &mut Reading) -> Option<()> {
    reading.tuple.source_port = Port::new(word(bytes, reading.transport)?);
    reading.tuple.destination_port = Port::new(word(bytes, reading.transport + 2)?);
    Some(())
}

fn tcp(flags: u8) -> Signals {
    let (fin, syn, rst, ack) = (flags & 1, flags & 2, flags & 4, flags & 16);
    let bit = |is: bool, bit: u32| if is { bit } else { 0 };
    Signals(
        if syn != 0 && ack == 0 { Signals::OPENS } else { Signals::CONFIRMS }
            | bit(syn != 0 && ack != 0, Signals::ANSWERS)
            | bit(fin != 0, Signals::DONE)
            | bit(rst != 0, Signals::RESET),
    )
}

fn sctp(chunk: u8) -> Signals {
    Signals(match chunk {
        1 => Signals::OPENS,
        2 => Signals::ANSWERS | Signals::CONFIRMS,
        6 => Signals::RESET,
        8 | 14 => Signals::DONE | Signals::CONFIRMS,
        _ => Signals::CONFIRMS,
    })
}

fn ipv4(bytes: &[u8], at: usize) -> Option<Reading> {
    let header = Ipv4HeaderSlice::from_slice(bytes.get(at..)?).ok()?;
    let (length, total) = (header.slice().len(), usize::from(header.total_len()));
    (total >= length).then_some(Reading {
        tuple: tuple(header.source_addr().into(), header.destination_addr().into(), header.protocol().0),
        network: at,
        transport: at + length,
        end: at + total,
        is_v6: false,
        is_fragment: header.more_fragments() || header.fragments_offset().value() != 0,
        is_later: header.fragments_offset().value() != 0,
        signals: Signals::NONE,
    })
}

fn ipv6(bytes: &[u8], network: usize) -> Option<Reading> {
    let header = Ipv6HeaderSlice::from_slice(bytes.get(network..)?).ok()?;
    let (mut kind, mut at) = (header.next_header().0, network + 40);
    let (mut is_fragment, mut is_later) = (false, false);
    for _ in 0..MAX_EXTENSIONS {
        let rest = bytes.get(at..).unwrap_or_default();
        // Only the first eight bytes of each need to be there.
        if matches!(kind, 0 | 43 | 44 | 51 | 60) && rest.len() < 8 {
            return None;
        }
        let length = match kind {
            0 | 43 | 60 => match Ipv6RawExtHeaderSlice::from_slice(rest) {
                Ok(extension) => extension.slice().len(),
                Err(_) => (usize::from(rest[1]) + 1) * 8,
            },
            51 => match IpAuthHeaderSlice::from_slice(rest) {
                Ok(extension) => extension.slice().len(),
                Err(_) => (usize::from(rest[1]) + 2) * 4,
            },
            44 => {
                // Of several the last one counts.
                is_later = rest[2] != 0 || rest[3] & 0xf8 != 0;
                is_fragment = is_later || rest[3] & 1 != 0;
                8
            }
            _ => break,
        };
        (kind, at) = (rest[0], at + length);
        if is_later {
            break;
        }
    }
    let (source, destination) = (header.source_addr(), header.destination_addr());
    Some(Reading {
        tuple: tuple(source.into(), destination.into(), kind),
        network,
        transport: at,
        end: network + 40 + usize::from(header.payload_length()),
        is_v6: true,
        is_fragment,
        is_later,
        signals: Signals::NONE,
    })
}

fn tuple(source: IpAddr, destination: IpAddr, protocol: u8) -> Tuple {
    Tuple {
        source: Address::from(source),
        destination: Address::from(destination),
        source_port: Port::new(0),
        destination_port: Port::new(0),
        protocol,
        reserved: [0; 3],
    }
}

/// Two bytes as a number.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
