//! Sniffers see what passes; their judgement of checksums is right; crafted packets are what they should be.

use std::net::SocketAddr;

use anyhow::Result;
use kubeshunt_tests::craft::{Flood, Flow, Injector, datagram, fragments, sctp_init, syn};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::sniffer::{Frame, Packet};
use kubeshunt_tests::{Layout, Sniffer, Station, Testbed};

use crate::{PATIENCE, serve};

const ETHERNET: usize = 14;

/// Everything that a sniffer on that device kept is written out and right; some of it is TCP, some UDP.
fn assert_all_right(sniffer: Sniffer, what: &str) {
    let recording = sniffer.stop();
    assert_eq!(recording.lost, 0, "{what}");
    let mut protocols: Vec<u8> = Vec::new();
    for frame in &recording.frames {
        assert!(frame.checksummed, "{what}: {:?}", frame.packet());
        assert_eq!(frame.faults(), Vec::<String>::new(), "{what}: {:?}", frame.packet());
        let carried =
            frame.packet().map(|packet| packet.tunnelled().map_or(packet.protocol, |inner| inner.protocol));
        protocols.extend(carried.map(|protocol| protocol.0));
    }
    assert!(protocols.contains(&6) && protocols.contains(&17), "{what}: {protocols:?}");
}

#[test]
fn without_offload_checksums_are_right_on_every_wire() -> Result<()> {
    for layout in Layout::ALL {
        let bed = Testbed::new()?;
        let (a, b) = (bed.node_with("node-a", layout)?, bed.node_with("node-b", layout)?);
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        serve(&server)?;
        for station in [&client, &server, a.host(), b.host()] {
            station.offload(false)?;
        }
        let is_ip = |frame: &Frame| frame.packet().is_some();
        let lan = Sniffer::start(a.netns(), "eth0", is_ip)?;
        let pod = Sniffer::start(server.netns(), "eth0", is_ip)?;
        for to in [server.at4(8080), server.at6(8080)] {
            for target in [Target::tcp(to), Target::udp(to).padding(4000)] {
                let report = client.probe().ask(&target, 3, 1)?;
                assert_eq!(report.failed(), 0, "{layout}: {report:?}");
            }
        }
        assert_all_right(lan, &format!("the LAN, {layout}"));
        assert_all_right(pod, &format!("the pod, {layout}"));
    }
    Ok(())
}

#[test]
fn with_offload_a_sniffer_knows_that_checksums_are_still_missing() -> Result<()> {
    let bed = Testbed::new()?;
    let (client, server) = (bed.outsider("client")?, bed.outsider("server")?);
    serve(&server)?;
    let sniffer = Sniffer::start(server.netns(), "eth0", |frame| frame.packet().is_some())?;
    client.probe().ask(&Target::tcp(server.at4(8080)), 1, 1)?;
    let recording = sniffer.stop();
    assert!(recording.frames.iter().any(|frame| !frame.checksummed));
    assert!(recording.frames.iter().all(|frame| frame.faults().is_empty()));
    Ok(())
}

/// Frames as a wire would show them.
fn frame(packet: &[u8]) -> Frame {
    let kind: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    Frame { bytes: [&[0; 12][..], &kind, packet].concat(), outgoing: true, checksummed: true }
}

fn flows() -> Vec<Flow> {
    let at = |text: &str| text.parse().expect("an address and a port");
    let flow = |from, to| Flow { from: at(from), to: at(to) };
    vec![flow("192.0.2.1:1000", "192.0.2.2:80"), flow("[2001:db8::1]:1000", "[2001:db8::2]:80")]
}

#[test]
fn every_changed_byte_that_a_checksum_covers_is_found() -> Result<()> {
    for flow in flows() {
        for packet in [syn(flow, 7)?, datagram(flow, b"hello, world")?, sctp_init(flow, 9)?] {
            let good = frame(&packet);
            assert_eq!(good.faults(), Vec::<String>::new(), "{flow:?}");
            let header = if flow.to.is_ipv4() { 20 } else { 40 };
            // Of the IPv6 header only the addresses are covered; a UDP length that lies makes another packet.
            let covered = (if flow.to.is_ipv4() { 12 } else { 8 }..packet.len())
                .filter(|at| !(header + 4..header + 6).contains(at));
            for at in covered {
                let mut bad = good.clone();
                bad.bytes[ETHERNET + at] ^= 0x10;
                // An SCTP packet's addresses are covered by nothing but the IPv4 header's checksum.
                let uncovered = bad.packet().is_some_and(|packet| packet.protocol.0 == 132)
                    && flow.to.is_ipv6()
                    && at < header;
                assert_eq!(bad.faults().is_empty(), uncovered, "byte {at} of {:?}", bad.packet());
            }
        }
    }
    Ok(())
}

#[test]
fn a_packet_names_its_ports_and_whom_it_quotes() -> Result<()> {
    let flow = flows()[0];
    let quoted = datagram(flow, b"lost")?;
    // Destination unreachable, port unreachable, from the destination; its checksum does not matter here.
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend_from_slice(&quoted);
    let around = etherparse::Ipv4Header::new(
        u16::try_from(error.len())?,
        64,
        etherparse::IpNumber::ICMP,
        [192, 0, 2, 2],
        [192, 0, 2, 1],
    )?;
    let mut packet = Vec::new();
    around.write(&mut packet)?;
    packet.extend_from_slice(&error);
    let frame = frame(&packet);
    let outer = frame.packet().expect("it is IP");
    let inner = outer.quoted().expect("it is an error");
    assert_eq!((inner.source, inner.ports()), (flow.from.ip(), Some((1000, 80))));
    assert_eq!(frame.faults().len(), 1, "the error's checksum is none");
    assert!(outer.mentions(&|address| address == flow.from.ip()));
    assert!(!outer.mentions(&|address| address == "192.0.2.9".parse::<std::net::IpAddr>().unwrap()));
    Ok(())
}

/// Sends the pieces of a datagram from one client outside to another, which answers its sender.
fn pieces_arrive(
    from: SocketAddr,
    client: &Station,
    server: &Station,
    to: SocketAddr,
    reversed: bool,
) -> Result<()> {
    let sniffer = Sniffer::start(client.netns(), "eth0", |frame| frame.packet().is_some())?;
    let mut pieces = fragments(Flow { from, to }, &[b'x'; 3000], 1000, 77)?;
    if reversed {
        pieces.reverse();
    }
    let injector = Injector::new(client, server)?;
    pieces.iter().try_for_each(|piece| injector.send(piece))?;
    let from_server = |frame: &Frame| {
        frame
            .packet()
            .is_some_and(|packet: Packet<'_>| packet.source == to.ip() && packet.payload.len() > 900)
    };
    sniffer.wait_for("the echo comes back", PATIENCE, from_server)?;
    Ok(())
}

#[test]
fn crafted_fragments_are_put_together_in_any_order() -> Result<()> {
    let bed = Testbed::new()?;
    let (client, server) = (bed.outsider("client")?, bed.outsider("server")?);
    serve(&server)?;
    for reversed in [false, true] {
        pieces_arrive(client.at4(1000), &client, &server, server.at4(8080), reversed)?;
        pieces_arrive(client.at6(1000), &client, &server, server.at6(8080), reversed)?;
    }
    Ok(())
}

#[test]
fn a_flood_is_as_large_as_it_should_be() -> Result<()> {
    let bed = Testbed::new()?;
    let (client, server) = (bed.outsider("client")?, bed.outsider("server")?);
    let is_syn =
        |frame: &Frame| frame.packet().is_some_and(|packet| packet.ports().is_some_and(|(_, to)| to == 80));
    let sniffer = Sniffer::start(server.netns(), "eth0", move |frame| is_syn(frame) && !frame.outgoing)?;
    Injector::new(&client, &server)?.flood(Flood::Syns, server.at4(80), 500, 50_000, 1)?;
    let recording = sniffer.stop();
    assert_eq!((recording.frames.len(), recording.lost), (500, 0));
    assert!(recording.frames.iter().all(|frame| frame.faults().is_empty()));
    Ok(())
}
