//! What does not go on: refused in the name of who is not there, or dropped; and counted.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use kubeshunt_tests::attached::Way;
use kubeshunt_tests::sniffer;
use kubeshunt_tests::test_run::Sum;
use proxy_common::layout::Counter;
use proxy_userspace::cluster::model::{Family, Protocol};

use super::names::{check, client, hex, opener};
use super::packet::{Body, Extension, Link, Packet, chunk, flag};
use super::stand::{DROP, Kind, PODS, REDIRECT, Stand, WORLD, on_stand};
use super::world::{FAMILIES, Net, PROTOCOLS, Service, ip};

/// The answer to a packet that is refused.
fn answer(packet: &Packet) -> Packet {
    let body = match &packet.body {
        Body::Tcp { sequence, .. } => Body::Reset { acknowledgement: sequence.wrapping_add(1) },
        _ => {
            let kind = if packet.from.is_ipv4() { (3, 3) } else { (1, 4) };
            Body::Error { kind, word: [0; 4], about: Box::new(packet.clone()), quoted: 8 }
        }
    };
    let tags = packet.tags;
    Packet { hops: 64, id: 0, tags, ..Packet::new(packet.to, packet.from, body) }
}

/// The answer goes back to who has sent the packet: link addresses swapped.
fn swapped(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..12].rotate_left(6);
    frame
}

fn check_refused(stand: &Stand, kind: Kind, packet: &Packet, counter: Counter) -> Result<()> {
    let before = stand.counts()?;
    let ran = stand.run(kind, Way::Ingress, &packet.frame(Link::Ethernet)?, Sum::Unknown)?;
    let expected = swapped(answer(packet).frame(Link::Ethernet)?);
    assert_eq!((ran.code, hex(&ran.packet)), (REDIRECT, hex(&expected)), "{packet:?}");
    let parsed = sniffer::Packet::of_frame(&ran.packet).context("the answer is a packet")?;
    assert_eq!(parsed.faults(true), Vec::<String>::new());
    assert_eq!(stand.counted(&before)?, [(counter, 1)], "{packet:?}");
    Ok(())
}

fn check_dropped(stand: &Stand, kind: Kind, way: Way, packet: &Packet, counter: Counter) -> Result<()> {
    let before = stand.counts()?;
    let ran = stand.run(kind, way, &packet.frame(Link::Ethernet)?, Sum::Unknown)?;
    assert_eq!(ran.code, DROP, "{way:?} of {kind:?}: {packet:?}");
    assert_eq!(stand.counted(&before)?, [(counter, 1)], "{packet:?}");
    Ok(())
}

/// First packets of connections, short and long.
fn openers(from: SocketAddr, to: SocketAddr) -> Vec<Packet> {
    let syn = |sequence, length| {
        let payload = vec![9; length];
        Packet::new(from, to, Body::Tcp { flags: flag::SYN, sequence, acknowledgement: 0, payload })
    };
    let mut packets = vec![syn(0, 0), syn(u32::MAX, 0), syn(0x8000_0000, 1), syn(7, 1200)];
    packets.extend([0, 1, 5, 8, 1200, 2800].map(|length| Packet::udp(from, to, &vec![3; length])));
    packets.extend([8, 20, 1200].map(|length| Packet::sctp(from, to, chunk::INIT, &vec![4; length])));
    if from.is_ipv4() {
        packets.push(Packet::new(from, to, Body::Udp { payload: vec![1; 20], summed: false }));
        let plain = packets.clone();
        packets.extend(plain.into_iter().map(|packet| Packet { options: 24, ..packet }));
    } else {
        let plain = packets.clone();
        let extensions = vec![Extension::HopByHop, Extension::Routing];
        packets.extend(plain.into_iter().map(|packet| Packet { extensions: extensions.clone(), ..packet }));
    }
    let padded = packets[0].clone();
    packets.push(Packet { padding: 6, ..padded });
    packets
}

#[test]
fn who_is_not_there_says_so_at_once() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in FAMILIES {
            for kind in [PODS, WORLD] {
                let from = client(family, kind.side, 1, 4711);
                let mut closed = Service::Local.cluster_ip(family);
                closed.set_port(81);
                let destinations = [
                    (Service::Empty.cluster_ip(family), Counter::PacketNoEndpoint),
                    (Service::Empty.balancer(family), Counter::PacketNoEndpoint),
                    (Service::Empty.node_port(family), Counter::PacketNoEndpoint),
                    (closed, Counter::PacketClosedPort),
                ];
                for (to, counter) in destinations {
                    for packet in openers(from, to) {
                        check_refused(stand, kind, &packet, counter)?;
                    }
                }
            }
        }
        assert!(stand.flows()?.is_empty() && stand.arrivals()?.is_empty());
        Ok(())
    })
}

#[test]
fn a_tagged_syn_is_refused_with_its_tags() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in FAMILIES {
            for tags in [1, 2] {
                let from = client(family, WORLD.side, 1, 4711);
                let packet = Packet { tags, ..Packet::syn(from, Service::Empty.cluster_ip(family)) };
                check_refused(stand, WORLD, &packet, Counter::PacketNoEndpoint)?;
                // The kernel makes no room behind a tag: a datagram ends silently.
                let packet =
                    Packet { tags, ..Packet::udp(from, Service::Empty.cluster_ip(family), b"hello") };
                check_dropped(stand, WORLD, Way::Ingress, &packet, Counter::PacketNoEndpoint)?;
            }
        }
        Ok(())
    })
}

#[test]
fn who_cannot_have_asked_is_not_answered() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        let senders =
            ["224.0.0.1", "239.1.2.3", "255.255.255.255", "127.0.0.1", "0.0.0.0", "ff02::1", "::1", "::"];
        for sender in senders {
            let from = SocketAddr::new(sender.parse()?, 4711);
            let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
            for protocol in PROTOCOLS {
                let packet = opener(protocol, from, Service::Empty.cluster_ip(family));
                check_dropped(stand, WORLD, Way::Ingress, &packet, Counter::PacketNoEndpoint)?;
            }
            let packet = Packet::new(from, Service::Local.cluster_ip(family), Body::Ping);
            check_dropped(stand, WORLD, Way::Ingress, &packet, Counter::PacketClosedPort)?;
        }
        Ok(())
    })
}

#[test]
fn a_cluster_ip_does_not_answer_to_pings() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in FAMILIES {
            let from = client(family, WORLD.side, 1, 0);
            let mut to = Service::Local.cluster_ip(family);
            to.set_port(0);
            let packet = Packet::new(from, to, Body::Ping);
            check_refused(stand, WORLD, &packet, Counter::PacketClosedPort)?;
            check_refused(stand, PODS, &packet, Counter::PacketClosedPort)?;
            // A load balancer's address may be somebody's who does.
            let packet = packet.with_ends(from, Service::Local.balancer(family));
            check(stand, WORLD, Way::Ingress, (&packet, &packet))?;
        }
        Ok(())
    })
}

#[test]
fn who_has_endpoints_elsewhere_only_is_silent_towards_the_world() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in FAMILIES {
            for protocol in PROTOCOLS {
                for to in [Service::Elsewhere.balancer(family), Service::Elsewhere.node_port(family)] {
                    let packet = opener(protocol, client(family, WORLD.side, 1, 4711), to);
                    let counter = Counter::PacketNoLocalEndpoint;
                    check_dropped(stand, WORLD, Way::Ingress, &packet, counter)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn what_only_services_have_never_leaves_the_node() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in FAMILIES {
            let from = client(family, PODS.side, 1, 4711);
            for last in [1, 4, 250] {
                let to = SocketAddr::new(ip(family, Net::Services, last), 80);
                let mut packets: Vec<Packet> =
                    PROTOCOLS.into_iter().map(|protocol| opener(protocol, from, to)).collect();
                packets.extend([Packet::tcp(from, to, flag::ACK), Packet::new(from, to, Body::Ping)]);
                packets.push(Packet { tags: 1, ..Packet::syn(from, to) });
                for packet in packets {
                    check_dropped(stand, WORLD, Way::Egress, &packet, Counter::PacketUnassigned)?;
                    check(stand, PODS, Way::Egress, (&packet, &packet))?;
                }
            }
            let beside = SocketAddr::new(ip(family, Net::World, 9), 80);
            let packet = Packet::syn(from, beside);
            check(stand, WORLD, Way::Egress, (&packet, &packet))?;
        }
        Ok(())
    })
}

#[test]
fn without_an_address_towards_the_backend_nobody_is_masqueraded() -> Result<()> {
    on_stand(&[WORLD], |stand| {
        let before = stand.counts()?;
        let from = client(Family::V4, WORLD.side, 1, 4711);
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            // A pod that asks itself, on a stand that knows the way to pods by no device of ours.
            let mut self_asked = opener(protocol, from, Service::Local.cluster_ip(Family::V4));
            self_asked.from.set_ip(ip(Family::V4, Net::Pods, 1));
            // Perhaps a device that is not known yet: its sender shall try again.
            let ran = stand.run(WORLD, Way::Ingress, &self_asked.frame(Link::Ethernet)?, Sum::Unknown)?;
            assert_eq!(ran.code, DROP);
        }
        assert_eq!(stand.counted(&before)?, [(Counter::PacketNoRoute, 2)]);
        Ok(())
    })
}
