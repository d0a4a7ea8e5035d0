//! The names of a flow, and the four hooks its packets pass.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use kubeshunt_tests::attached::Way;
use kubeshunt_tests::test_run::Sum;
use proxy_common::address::Port;
use proxy_userspace::cluster::model::{Family, Protocol};
use proxy_userspace::host::devices::Side;

use super::packet::{Link, Packet, chunk};
use super::stand::{Kind, PASS, PORTS, Stand};
use super::world::{self, FAMILIES, Net, PROTOCOLS, Service};

/// What both sums are tried with.
pub(crate) const SUMS: [Sum; 2] = [Sum::Unknown, Sum::Complete];

/// A flow's names, as `proxy_common::decision::packet` calls them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// C:cp, who asks.
    pub(crate) client: SocketAddr,
    /// V:vp, what is asked.
    pub(crate) vip: SocketAddr,
    /// C:sp, who asks as the node sees it.
    pub(crate) inside: SocketAddr,
    /// S:sp, who asks as the backend sees it.
    pub(crate) seen: SocketAddr,
    /// B:bp, who is asked.
    pub(crate) backend: SocketAddr,
}

/// A step of a packet on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// At which hook.
    pub(crate) way: Way,
    /// Who sends to whom before it.
    pub(crate) before: (SocketAddr, SocketAddr),
    /// And after it.
    pub(crate) after: (SocketAddr, SocketAddr),
}

impl Names {
    pub(crate) fn is_masqueraded(&self) -> bool {
        self.seen.ip() != self.inside.ip()
    }

    /// From the client to the backend and back.
    pub(crate) fn steps(&self) -> [Step; 4] {
        let Self { client, vip, inside, seen, backend } = *self;
        let step = |way, before, after| Step { way, before, after };
        [
            step(Way::Ingress, (client, vip), (inside, backend)),
            step(Way::Egress, (inside, backend), (seen, backend)),
            step(Way::Ingress, (backend, seen), (backend, inside)),
            step(Way::Egress, (backend, inside), (vip, client)),
        ]
    }
}

/// A client on that side.
pub(crate) fn client(family: Family, side: Side, number: u8, port: u16) -> SocketAddr {
    let net = if side == Side::Pod { Net::Pods } else { Net::World };
    SocketAddr::new(world::ip(family, net, 100 + number), port)
}

/// What opens a flow.
pub(crate) fn opener(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Packet {
    match protocol {
        Protocol::Tcp => Packet::syn(from, to),
        Protocol::Udp => Packet::udp(from, to, b"hello"),
        Protocol::Sctp => Packet::sctp(from, to, chunk::INIT, &[5; 16]),
    }
}

/// Opens a flow by a device, which is checked like any other packet. A packet that needs the node's name leaves under it:
/// nobody answers to that before.
pub(crate) fn open(stand: &Stand, kind: Kind, first: &Packet, service: Service) -> Result<Names> {
    let family = if first.from.is_ipv4() { Family::V4 } else { Family::V6 };
    let backend = service.backend(family).context("a service without endpoints opens nothing")?;
    let ran = stand.run(kind, Way::Ingress, &first.frame(kind.link)?, Sum::Unknown)?;
    let is_masqueraded = kind.side == Side::Outside && !matches!(service, Service::Local | Service::SamePort);
    let mut names =
        Names { client: first.from, vip: first.to, inside: first.from, seen: first.from, backend };
    if is_masqueraded {
        let at = kind.link.len() + first.header_len()? + 4 * first.tags;
        let port = u16::from_be_bytes([ran.packet[at], ran.packet[at + 1]]);
        assert!(PORTS.contains(Port::new(port)), "{port} is none of those to be drawn from");
        names.inside.set_port(port);
        names.seen = SocketAddr::new(world::node(family), port);
    }
    let expected = first.with_ends(names.inside, backend).frame(kind.link)?;
    assert_eq!((ran.code, &ran.packet), (PASS, &expected), "{first:?} opens {names:?}");
    if is_masqueraded {
        let ends = [names.inside, names.seen].map(|from| first.with_ends(from, backend));
        check(stand, kind, Way::Egress, (&ends[0], &ends[1]))?;
    }
    Ok(names)
}

/// Opens a flow of every protocol and family by each of these devices.
pub(crate) fn every_flow(
    stand: &Stand,
    asked: &[(Kind, Service)],
    mut test: impl FnMut(Kind, Protocol, &Names) -> Result<()>,
) -> Result<()> {
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for (number, (kind, service)) in asked.iter().enumerate() {
                let from = client(family, kind.side, u8::try_from(number)?, 4711);
                let first = opener(protocol, from, service.cluster_ip(family));
                let names = open(stand, *kind, &first, *service)?;
                test(*kind, protocol, &names).with_context(|| format!("{protocol:?}, {names:?}"))?;
            }
        }
    }
    Ok(())
}

/// What a program makes of a packet: it lets it pass, as the other packet.
#[track_caller]
pub(crate) fn check(
    stand: &Stand,
    kind: Kind,
    way: Way,
    (packet, expected): (&Packet, &Packet),
) -> Result<()> {
    let (frame, expected_frame) = (packet.frame(kind.link)?, expected.frame(kind.link)?);
    check_frames(stand, kind, way, (&frame, &expected_frame), &format!("{packet:?}"))
}

/// The same for what cannot be described.
#[track_caller]
pub(crate) fn check_frames(
    stand: &Stand,
    kind: Kind,
    way: Way,
    (frame, expected): (&[u8], &[u8]),
    what: &str,
) -> Result<()> {
    let sums = if kind.link == Link::Ethernet { &SUMS[..] } else { &SUMS[..1] };
    for sum in sums {
        let ran = stand.run(kind, way, frame, *sum).with_context(|| what.to_owned())?;
        assert_eq!(ran.code, PASS, "{way:?} of {kind:?}, {what}");
        assert_eq!(hex(&ran.packet), hex(expected), "{way:?} of {kind:?}, {sum:?}, {what}");
    }
    Ok(())
}

/// Bytes as people compare them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
