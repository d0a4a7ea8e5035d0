//! Packets that do not hold together: they pass as they came, and nobody remembers them.

use anyhow::Result;
use kubeshunt_tests::attached::Way;
use kubeshunt_tests::test_run::Sum;
use proxy_common::layout::Counter;
use proxy_userspace::cluster::model::Family;

use super::names::{client, open, opener};
use super::packet::{Body, Extension, Link, Packet, flag};
use super::stand::{Kind, PASS, PODS, Stand, WORLD, is_too_short, on_stand};
use super::world::{FAMILIES, PROTOCOLS, Service};

/// What is ours to say of a frame that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ours {
    /// It is counted as malformed.
    Malformed,
    /// It is none of our business.
    Foreign,
}

/// It passes as it was, and nothing is remembered.
fn check(stand: &Stand, (kind, way): (Kind, Way), frame: &[u8], ours: Ours, what: &str) -> Result<()> {
    let before = (stand.flows()?, stand.arrivals()?, stand.counts()?);
    let ran = stand.run(kind, way, frame, Sum::Unknown)?;
    let counted = stand.counted(&before.2)?;
    let as_it_was = (stand.flows()?, stand.arrivals()?) == (before.0, before.1) && ran.packet == frame;
    assert!(ran.code == PASS && as_it_was, "{what}: {ran:02x?}, counted {counted:?}, before {frame:02x?}");
    let is_counted = match counted[..] {
        [] => false,
        [(Counter::PacketMalformed, 1)] => true,
        _ => panic!("{what}: counted {counted:?}"),
    };
    assert_eq!(is_counted, ours == Ours::Malformed, "{what} at {way:?} of {kind:?}: {frame:02x?}");
    Ok(())
}

/// Packets of every kind that may mean something to a hook, once there is a flow; and what they are to it when the IP
/// layer alone is right.
fn packets(stand: &Stand, family: Family) -> Result<Vec<(Kind, Way, Packet, Ours)>> {
    let mut packets = Vec::new();
    for protocol in PROTOCOLS {
        for (kind, service) in [(PODS, Service::Local), (WORLD, Service::Remote)] {
            let first = opener(protocol, client(family, kind.side, 1, 4711), service.cluster_ip(family));
            let names = open(stand, kind, &first, service)?;
            for step in names.steps() {
                let packet = first.with_ends(step.before.0, step.before.1);
                // Where there is nothing to translate nobody looks further.
                let ours = if step.before == step.after { Ours::Foreign } else { Ours::Malformed };
                packets.push((kind, step.way, packet.clone(), ours));
                packets.push((kind, step.way, Packet { tags: 1, ..packet.clone() }, ours));
                let dressed = if family == Family::V4 {
                    Packet { options: 20, tags: 1, ..packet }
                } else {
                    let extensions = vec![Extension::HopByHop, Extension::Routing, Extension::Destination];
                    Packet { extensions, tags: 1, ..packet }
                };
                packets.push((kind, step.way, dressed, ours));
            }
            let about = Box::new(opener(protocol, names.vip, names.client));
            let error = if family == Family::V4 { (3, 3) } else { (1, 4) };
            let body = Body::Error { kind: error, word: [0; 4], about, quoted: 8 };
            let packet = Packet { tags: 1, ..Packet::new(names.client, names.vip, body) };
            packets.push((kind, Way::Ingress, packet, Ours::Malformed));
        }
    }
    Ok(packets)
}

#[test]
fn of_a_truncated_packet_nothing_comes() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        let mut count = 0;
        for family in FAMILIES {
            for (kind, way, packet, _) in packets(stand, family)? {
                let frame = packet.frame(kind.link)?;
                let lengths = (0..frame.len()).filter(|length| !is_too_short(&frame[..*length]));
                for length in lengths {
                    let what = format!("{length} bytes of {packet:?}");
                    check(stand, (kind, way), &frame[..length], Ours::Malformed, &what)?;
                    count += 1;
                }
            }
        }
        println!("{count} truncated frames");
        Ok(())
    })
}

#[test]
fn what_follows_a_packet_is_no_part_of_it() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in FAMILIES {
            for (kind, way, packet, ours) in packets(stand, family)? {
                let mut frame = packet.frame(kind.link)?;
                let network = 14 + 4 * packet.tags;
                let header = packet.header_len()?;
                let (at, fixed) = if family == Family::V4 { (network + 2, 0) } else { (network + 4, 40) };
                let minimum = match packet.body {
                    Body::Tcp { .. } => 20,
                    Body::Udp { .. } => 8,
                    Body::Sctp { .. } => 16,
                    // The quotation up to the ports.
                    _ => 8 + (if family == Family::V4 { 20 } else { 40 }) + 4,
                };
                for length in header..header + minimum {
                    frame[at..at + 2].copy_from_slice(&u16::try_from(length - fixed)?.to_be_bytes());
                    if family == Family::V4 {
                        let sum =
                            etherparse::Ipv4Header::from_slice(&frame[network..])?.0.calc_header_checksum();
                        frame[network + 10..network + 12].copy_from_slice(&sum.to_be_bytes());
                    }
                    let what = format!("{length} bytes, as the header says, of {packet:?}");
                    check(stand, (kind, way), &frame, ours, &what)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_header_that_contradicts_itself_is_malformed() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in FAMILIES {
            for (kind, way, packet, _) in packets(stand, family)? {
                let frame = packet.frame(kind.link)?;
                let network = 14 + 4 * packet.tags;
                let with = |at: usize, byte: u8| {
                    let mut frame = frame.clone();
                    frame[network + at] = byte;
                    frame
                };
                let own = frame[network];
                for version in (0..16).filter(|version| *version != own >> 4) {
                    let frame = with(0, version << 4 | own & 15);
                    check(stand, (kind, way), &frame, Ours::Malformed, &format!("version {version}"))?;
                }
                if family == Family::V4 {
                    for words in 0..5 {
                        let frame = with(0, 4 << 4 | words);
                        check(
                            stand,
                            (kind, way),
                            &frame,
                            Ours::Malformed,
                            &format!("{words} words of header"),
                        )?;
                    }
                    // A total length below the header's, and beyond the frame's end.
                    for (at, byte) in [(3, 19), (2, 200)] {
                        let mut frame = with(at, byte);
                        frame[network + 2] = if at == 3 { 0 } else { byte };
                        check(stand, (kind, way), &frame, Ours::Malformed, &format!("byte {at}: {byte}"))?;
                    }
                } else {
                    let frame = with(4, 200);
                    check(stand, (kind, way), &frame, Ours::Malformed, "too long a payload")?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn longer_chains_of_extension_headers_than_anybody_sends_pass_unread() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        let first = opener(
            PROTOCOLS[0],
            client(Family::V6, WORLD.side, 1, 4711),
            Service::Remote.cluster_ip(Family::V6),
        );
        for count in [7, 8, 20] {
            let packet = Packet { extensions: vec![Extension::Destination; count], ..first.clone() };
            let what = format!("{count} extension headers");
            check(stand, (WORLD, Way::Ingress), &packet.frame(Link::Ethernet)?, Ours::Foreign, &what)?;
        }
        // One whose length leads beyond the packet.
        let packet = Packet { extensions: vec![Extension::Destination], ..first };
        for units in [6, 7, 100, 255] {
            let mut frame = packet.frame(Link::Ethernet)?;
            frame[14 + 40 + 1] = units;
            check(stand, (WORLD, Way::Ingress), &frame, Ours::Malformed, "an extension header without end")?;
        }
        Ok(())
    })
}

#[test]
fn what_others_break_is_none_of_our_business() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in FAMILIES {
            let (from, to) = (client(family, WORLD.side, 1, 4711), client(family, WORLD.side, 2, 80));
            let packet = Packet::tcp(from, to, flag::ACK);
            let frame = packet.frame(Link::Ethernet)?;
            let network = 14;
            // A whole IP header whose packet has no room for TCP's.
            let mut short = frame[..frame.len() - 8].to_vec();
            let at = if family == Family::V4 { network + 3 } else { network + 5 };
            short[at] -= 8;
            for kind in [PODS, WORLD] {
                for way in Way::ALL {
                    check(stand, (kind, way), &short, Ours::Foreign, "half a TCP header between strangers")?;
                }
            }
        }
        for kind in [0x0806_u16, 0x88cc, 0x8847, 0x0026] {
            let mut frame = vec![0x5a; 60];
            frame[12..14].copy_from_slice(&kind.to_be_bytes());
            for way in Way::ALL {
                check(stand, (WORLD, way), &frame, Ours::Foreign, &format!("EtherType {kind:04x}"))?;
            }
        }
        Ok(())
    })
}
