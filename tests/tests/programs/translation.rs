//! Packets of flows: their ends are translated at each hook, and nothing else of them changes.

use anyhow::{Context, Result};
use kubeshunt_tests::attached::Way;
use proxy_common::layout::Counter;
use proxy_userspace::cluster::model::{Family, Protocol};

use super::names::{Names, check, check_frames, client, every_flow, open, opener};
use super::packet::{Body, Extension, Link, Packet, chunk, flag};
use super::stand::{BARE_PODS, BARE_WORLD, Kind, PODS, Stand, WORLD, on_stand};
use super::world::{FAMILIES, PROTOCOLS, Service};

/// Who asks whom: a pod for one of this node, and a client outside for one elsewhere.
const ASKED: [(Kind, Service); 4] = [
    (PODS, Service::Local),
    (PODS, Service::SamePort),
    (WORLD, Service::Remote),
    (WORLD, Service::RemoteSamePort),
];

/// Packets in the middle of a flow, between ends to be set.
fn bodies(protocol: Protocol) -> Vec<Body> {
    let lengths = [0, 1, 2, 3, 4, 7, 64, 999, 1400, 2900];
    let fill = |length: usize| (0..=250).cycle().take(length).collect::<Vec<u8>>();
    let tcp = |flags, payload| Body::Tcp { flags, sequence: 77, acknowledgement: 99, payload };
    match protocol {
        Protocol::Tcp => {
            // In this order: what answers after both are done begins another connection.
            let all = [flag::ACK | flag::SYN, flag::ACK, flag::ACK | flag::FIN];
            let flags = all.map(|flags| tcp(flags, fill(11)));
            lengths.map(|length| tcp(flag::ACK, fill(length))).into_iter().chain(flags).collect()
        }
        Protocol::Udp => [true, false]
            .into_iter()
            .flat_map(|summed| lengths.map(|length| Body::Udp { payload: fill(length), summed }))
            .collect(),
        Protocol::Sctp => {
            let sctp = |chunk, payload| Body::Sctp { chunk, payload, summed_with: None };
            let lengths = lengths.map(|length| sctp(chunk::DATA, fill(length)));
            lengths.into_iter().chain([sctp(chunk::SHUTDOWN_ACK, vec![])]).collect()
        }
    }
}

/// A packet in every guise the family has.
fn guises(packet: &Packet, link: Link) -> Vec<Packet> {
    use Extension::{Authentication, Destination, HopByHop, Routing};
    let mut guises =
        vec![packet.clone(), Packet { hops: 1, ..packet.clone() }, Packet { padding: 6, ..packet.clone() }];
    if packet.from.is_ipv4() {
        guises.extend([4, 12, 40].map(|options| Packet { options, ..packet.clone() }));
    } else {
        let chains: [&[Extension]; 6] = [
            &[HopByHop],
            &[Destination],
            &[Routing],
            &[Authentication],
            &[HopByHop, Destination, Routing, Authentication],
            &[HopByHop, Destination, Routing, Authentication, Destination, Destination],
        ];
        guises.extend(chains.map(|chain| Packet { extensions: chain.to_vec(), ..packet.clone() }));
    }
    if link == Link::Ethernet {
        guises.extend([1, 2].map(|tags| Packet { tags, ..packet.clone() }));
    }
    guises
}

/// Every step of every packet; how many there were.
fn walk(stand: &Stand, kind: Kind, names: &Names, body: &Body) -> Result<usize> {
    let mut count = 0;
    for step in names.steps() {
        let plain = Packet::new(step.before.0, step.before.1, body.clone());
        // An unsummed datagram would not do over IPv6.
        if matches!(body, Body::Udp { summed: false, .. }) && !plain.from.is_ipv4() {
            continue;
        }
        for packet in guises(&plain, kind.link) {
            let expected = packet.with_ends(step.after.0, step.after.1);
            check(stand, kind, step.way, (&packet, &expected))?;
            count += 1;
        }
    }
    Ok(count)
}

#[test]
fn only_ends_and_checksums_of_a_packet_change() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        let (mut count, before) = (0, stand.counts()?);
        every_flow(stand, &ASKED, |kind, protocol, names| {
            for body in bodies(protocol) {
                count += walk(stand, kind, names, &body)?;
            }
            Ok(())
        })?;
        println!("{count} packets, sums over whole packets watched: {}", stand.knows_sums);
        assert_eq!(stand.counted(&before)?, [(Counter::PacketOpened, 24)], "nothing else is counted");
        Ok(())
    })
}

#[test]
fn packets_without_a_link_layer_header_are_translated_alike() -> Result<()> {
    on_stand(&[PODS, WORLD, BARE_PODS, BARE_WORLD], |stand| {
        let asked = [(BARE_PODS, Service::Local), (BARE_WORLD, Service::Remote)];
        every_flow(stand, &asked, |kind, protocol, names| {
            bodies(protocol).iter().try_for_each(|body| walk(stand, kind, names, body).map(drop))
        })
    })
}

#[test]
fn every_way_to_ask_for_a_service_opens_a_flow() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        let before = stand.counts()?;
        for family in FAMILIES {
            for protocol in PROTOCOLS {
                for (kind, service) in ASKED {
                    let ways =
                        [service.cluster_ip(family), service.balancer(family), service.node_port(family)];
                    for (number, to) in (1..).zip(ways) {
                        for packet in
                            guises(&opener(protocol, client(family, kind.side, 1, number), to), kind.link)
                        {
                            let port = 2000 + 100 * number + u16::try_from(packet.tags + packet.options)?;
                            let from =
                                client(family, kind.side, 2 + u8::try_from(packet.extensions.len())?, port);
                            let names = open(stand, kind, &packet.with_ends(from, to), service)?;
                            assert_eq!(names.is_masqueraded(), kind == WORLD);
                        }
                    }
                }
            }
        }
        let opened = stand.counted(&before)?;
        assert!(matches!(opened[..], [(Counter::PacketOpened, 100..)]), "{opened:?}");
        Ok(())
    })
}

#[test]
fn a_datagram_whose_sum_comes_out_as_zero_says_all_ones() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        every_flow(stand, &ASKED, |kind, protocol, names| {
            if protocol != Protocol::Udp {
                return Ok(());
            }
            for step in names.steps() {
                let at = kind.link.len() + if step.before.0.is_ipv4() { 26 } else { 46 };
                // Two bytes of payload make any sum there is.
                let found = (0..=u16::MAX).map(u16::to_be_bytes).find(|word| {
                    let after = Packet::udp(step.after.0, step.after.1, word);
                    after.frame(kind.link).is_ok_and(|frame| frame[at..at + 2] == [0xff; 2])
                });
                let word = found.context("no such datagram")?;
                let packet = Packet::udp(step.before.0, step.before.1, &word);
                check(stand, kind, step.way, (&packet, &packet.with_ends(step.after.0, step.after.1)))?;
            }
            Ok(())
        })
    })
}

#[test]
fn a_wrong_checksum_stays_as_wrong_as_it_was() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        every_flow(stand, &ASKED, |kind, protocol, names| {
            let body = &bodies(protocol)[6];
            for step in names.steps() {
                let packet = Packet::new(step.before.0, step.before.1, body.clone());
                let expected = packet.with_ends(step.after.0, step.after.1);
                let (mut packet, mut expected) = (packet.frame(kind.link)?, expected.frame(kind.link)?);
                // What a wire might do to the last bytes.
                for frame in [&mut packet, &mut expected] {
                    let len = frame.len();
                    frame[len - 9] ^= 0x10;
                }
                check_frames(stand, kind, step.way, (&packet, &expected), "one bit off")?;
            }
            Ok(())
        })
    })
}

#[test]
fn what_no_flow_is_about_passes_untouched() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        let before = stand.counts()?;
        for family in FAMILIES {
            for protocol in PROTOCOLS {
                let from = client(family, WORLD.side, 1, 4711);
                let (vip, pod) = (Service::Remote.balancer(family), Service::Local.backend(family));
                let elsewhere = [pod.context("it has one")?, client(family, WORLD.side, 2, 80)];
                for to in elsewhere {
                    for packet in guises(&opener(protocol, from, to), Link::Ethernet) {
                        for kind in [PODS, WORLD] {
                            for way in Way::ALL {
                                check(stand, kind, way, (&packet, &packet))?;
                            }
                        }
                    }
                }
                if protocol != Protocol::Udp {
                    // In the middle of something that began before we were here.
                    for body in bodies(protocol) {
                        let packet = Packet::new(from, vip, body);
                        check(stand, WORLD, Way::Ingress, (&packet, &packet))?;
                    }
                }
            }
        }
        assert_eq!(stand.counted(&before)?, []);
        assert!(stand.flows()?.is_empty() && stand.arrivals()?.is_empty());
        Ok(())
    })
}

#[test]
fn a_pod_that_asks_itself_does_not_meet_itself() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in [Family::V4, Family::V6] {
            for protocol in PROTOCOLS {
                let service = Service::Local;
                let mut from = service.backend(family).context("it has one")?;
                from.set_port(4711);
                let first = opener(protocol, from, service.cluster_ip(family));
                let frame = first.frame(Link::Ethernet)?;
                let ran = stand.run(PODS, Way::Ingress, &frame, kubeshunt_tests::test_run::Sum::Complete)?;
                let at = 14 + first.header_len()?;
                let port = u16::from_be_bytes([ran.packet[at], ran.packet[at + 1]]);
                let mut inside = from;
                inside.set_port(port);
                let seen = std::net::SocketAddr::new(super::world::node(family), port);
                let backend = service.backend(family).context("it has one")?;
                let names = Names { client: from, vip: first.to, inside, seen, backend };
                for body in bodies(protocol) {
                    walk(stand, PODS, &names, &body)?;
                }
            }
        }
        Ok(())
    })
}
