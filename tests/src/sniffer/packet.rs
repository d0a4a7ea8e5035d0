//! What a frame carries, as far as a proxy is concerned.

use std::net::IpAddr;

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, LenSource};

use super::checksum;

/// Where VXLAN goes.
const VXLAN: u16 = 8472;
const VXLAN_HEADER: usize = 8;

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'frame> {
    /// Whom it is from.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: IpNumber,
    /// Is it only a part of one?
    pub fragment: bool,
    /// What comes after the IP header, extensions included.
    pub payload: &'frame [u8],
    /// The checksum of an IPv4 header: as it is, and as it should be.
    header_sum: Option<(u16, u16)>,
    /// Is it all there? A packet quoted by an ICMP error is not.
    whole: bool,
}

impl<'frame> Packet<'frame> {
    /// The IP packet in an Ethernet frame, if that is what is in it.
    #[must_use]
    pub fn of_frame(frame: &'frame [u8]) -> Option<Self> {
        Self::of(&LaxSlicedPacket::from_ethernet(frame).ok()?)
    }

    fn of(sliced: &LaxSlicedPacket<'frame>) -> Option<Self> {
        let net = sliced.net.as_ref()?;
        let ip = net.ip_payload_ref()?;
        let (source, destination, header_sum) = match net {
            LaxNetSlice::Ipv4(v4) => {
                let header = v4.header();
                let sums = (header.header_checksum(), header.to_header().calc_header_checksum());
                (header.source_addr().into(), header.destination_addr().into(), Some(sums))
            }
            LaxNetSlice::Ipv6(v6) => {
                let header = v6.header();
                (header.source_addr().into(), header.destination_addr().into(), None)
            }
            LaxNetSlice::Arp(_) => return None,
        };
        let whole = ip.len_source != LenSource::Slice && !ip.incomplete;
        Some(Self {
            source,
            destination,
            protocol: ip.ip_number,
            fragment: ip.fragmented,
            payload: ip.payload,
            header_sum,
            whole,
        })
    }

    /// Source and destination port, where there are ports.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let has_ports = [IpNumber::TCP, IpNumber::UDP, IpNumber::SCTP].contains(&self.protocol);
        let [a, b, c, d, ..] = *self.payload else { return None };
        has_ports.then(|| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    /// The packet that an ICMP error is about.
    #[must_use]
    pub fn quoted(&self) -> Option<Self> {
        let errors: &[u8] = match self.protocol {
            IpNumber::ICMP => &[3, 4, 5, 11, 12],
            IpNumber::IPV6_ICMP => &[1, 2, 3, 4],
            _ => return None,
        };
        let quoted = self.payload.get(8..)?;
        errors.contains(&self.payload[0]).then(|| Self::of(&LaxSlicedPacket::from_ip(quoted).ok()?)).flatten()
    }

    /// The packet that is inside, if this one is VXLAN.
    #[must_use]
    pub fn tunnelled(&self) -> Option<Self> {
        let (_, to) = self.ports().filter(|_| self.protocol == IpNumber::UDP && !self.fragment)?;
        (to == VXLAN).then(|| Self::of_frame(self.payload.get(8 + VXLAN_HEADER..)?)).flatten()
    }

    /// Does this address stand anywhere in it, also in what it quotes or tunnels?
    #[must_use]
    pub fn mentions(&self, is_wanted: &dyn Fn(IpAddr) -> bool) -> bool {
        is_wanted(self.source)
            || is_wanted(self.destination)
            || self.quoted().is_some_and(|quoted| quoted.mentions(is_wanted))
            || self.tunnelled().is_some_and(|inner| inner.mentions(is_wanted))
    }

    /// Checksums that are wrong: the header's and, if they are `written` already, the transport's.
    #[must_use]
    pub fn faults(&self, written: bool) -> Vec<String> {
        let (from, to, protocol) = (self.source, self.destination, self.protocol.0);
        let about = |what: &str| format!("{what} of protocol {protocol} from {from} to {to}");
        let mut faults = Vec::new();
        if self.header_sum.is_some_and(|(is, wanted)| is != wanted) {
            faults.push(about("IPv4 header checksum"));
        }
        if written && self.whole && !self.fragment && !checksum::is_right(self) {
            faults.push(about("checksum"));
        }
        faults
    }
}
