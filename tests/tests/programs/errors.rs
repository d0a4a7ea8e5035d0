//! ICMP errors about packets of flows: the packet quoted and the error's own address are translated as an answer to the
//! packet would be.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use kubeshunt_tests::attached::Way;
use proxy_userspace::cluster::model::{Family, Protocol};

use super::names::{Names, check, client, every_flow, open, opener};
use super::packet::{Body, Extension, Packet, chunk, flag};
use super::stand::{BARE_PODS, BARE_WORLD, Kind, PODS, Stand, WORLD, on_stand};
use super::world::{FAMILIES, Service};

/// Types, codes and second words of errors, by family.
fn kinds(family: Family) -> [((u8, u8), [u8; 4]); 4] {
    match family {
        // Port unreachable, fragmentation needed, time exceeded, parameter problem.
        Family::V4 => {
            [((3, 3), [0; 4]), ((3, 4), [0, 0, 5, 120]), ((11, 0), [0; 4]), ((12, 0), [20, 0, 0, 0])]
        }
        Family::V6 => [((1, 4), [0; 4]), ((2, 0), [0, 0, 5, 0]), ((3, 0), [0; 4]), ((4, 0), [0, 0, 0, 40])],
    }
}

/// What is quoted.
fn quotable(protocol: Protocol) -> Vec<Body> {
    let payload: Vec<u8> = (0..200).collect();
    match protocol {
        Protocol::Tcp => {
            vec![Body::Tcp { flags: flag::ACK, sequence: 1, acknowledgement: 2, payload: payload.clone() }]
        }
        Protocol::Udp => [true, false].map(|summed| Body::Udp { payload: payload.clone(), summed }).into(),
        Protocol::Sctp => vec![Body::Sctp { chunk: chunk::DATA, payload, summed_with: None }],
    }
}

/// An error that passes a hook: before and after.
struct Case {
    way: Way,
    /// Who tells whom.
    outer: [(SocketAddr, SocketAddr); 2],
    /// Whose packet to whom it is about.
    inner: [(SocketAddr, SocketAddr); 2],
}

/// An error travels against the packet it is about. Routers speak in their own names until those are translated.
fn cases(names: &Names, router: SocketAddr) -> Vec<Case> {
    let Names { client, vip, inside, seen, backend } = *names;
    let case = |way, outer, inner| Case { way, outer, inner };
    let mut cases = vec![
        // The client's side is told of an answer.
        case(Way::Ingress, [(client, vip), (client, backend)], [(vip, client), (backend, inside)]),
        case(Way::Ingress, [(router, vip), (router, backend)], [(vip, client), (backend, inside)]),
        // And the backend's side of a request.
        case(Way::Egress, [(backend, client), (vip, client)], [(inside, backend), (client, vip)]),
        case(Way::Egress, [(router, client), (vip, client)], [(inside, backend), (client, vip)]),
    ];
    if names.is_masqueraded() {
        cases.extend([
            case(Way::Ingress, [(backend, seen), (backend, client)], [(seen, backend), (inside, backend)]),
            case(Way::Ingress, [(router, seen), (router, client)], [(seen, backend), (inside, backend)]),
            case(Way::Egress, [(client, backend), (seen, backend)], [(backend, inside), (backend, seen)]),
            case(Way::Egress, [(router, backend), (seen, backend)], [(backend, inside), (backend, seen)]),
        ]);
    } else {
        cases.push(case(Way::Egress, [(client, backend); 2], [(backend, inside); 2]));
    }
    cases
}

/// The quoted packet in guises that its headers may have.
fn guises(packet: &Packet) -> Vec<Packet> {
    let mut guises = vec![packet.clone()];
    if packet.from.is_ipv4() {
        guises.push(Packet { options: 12, ..packet.clone() });
    } else {
        let extensions = vec![Extension::HopByHop, Extension::Authentication, Extension::Destination];
        guises.push(Packet { extensions, ..packet.clone() });
    }
    guises
}

/// SCTP's quoted checksum stays: it covers a packet that nobody has any more, and receivers do not look at it.
fn keep_sctp_sum(about: &mut Packet, (from, to): (SocketAddr, SocketAddr)) {
    if let Body::Sctp { summed_with, .. } = &mut about.body {
        *summed_with = Some((from.port(), to.port()));
    }
}

fn check_errors(stand: &Stand, device: Kind, names: &Names, protocol: Protocol) -> Result<usize> {
    let family = if names.client.is_ipv4() { Family::V4 } else { Family::V6 };
    let router = client(family, device.side, 66, 0);
    let mut count = 0;
    for case in cases(names, router) {
        for body in quotable(protocol) {
            if matches!(body, Body::Udp { summed: false, .. }) && family == Family::V6 {
                continue;
            }
            for about in guises(&Packet { hops: 1, ..Packet::new(case.inner[0].0, case.inner[0].1, body) }) {
                let mut about_after = about.with_ends(case.inner[1].0, case.inner[1].1);
                keep_sctp_sum(&mut about_after, case.inner[0]);
                for (kind, word) in kinds(family) {
                    // Not 17: of half of TCP's checksum nothing can be said.
                    for quoted in [8, 9, 12, 16, 18, 20, 21, 64, 1000] {
                        let error = |about: &Packet, ends: (SocketAddr, SocketAddr)| {
                            let about = Box::new(about.clone());
                            Packet::new(ends.0, ends.1, Body::Error { kind, word, about, quoted })
                        };
                        let (before, after) =
                            (error(&about, case.outer[0]), error(&about_after, case.outer[1]));
                        let options = if quoted == 20 { 8 } else { 0 };
                        let padding = usize::from(quoted == 12);
                        let dress = |packet| Packet { options, padding, ..packet };
                        check(stand, device, case.way, (&dress(before), &dress(after)))?;
                        count += 1;
                    }
                }
            }
        }
    }
    Ok(count)
}

#[test]
fn errors_reach_whom_they_concern_under_the_names_they_know() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        let asked = [(PODS, Service::Local), (WORLD, Service::Remote), (WORLD, Service::RemoteSamePort)];
        let mut count = 0;
        every_flow(stand, &asked, |kind, protocol, names| {
            let state = (stand.flows()?, stand.arrivals()?);
            count += check_errors(stand, kind, names, protocol)?;
            assert_eq!(
                (stand.flows()?, stand.arrivals()?),
                state,
                "an error says nothing about a flow's state"
            );
            Ok(())
        })?;
        println!("{count} errors");
        Ok(())
    })
}

#[test]
fn errors_without_a_link_layer_header_are_translated_alike() -> Result<()> {
    on_stand(&[PODS, WORLD, BARE_PODS, BARE_WORLD], |stand| {
        let asked = [(BARE_PODS, Service::Local), (BARE_WORLD, Service::Remote)];
        every_flow(stand, &asked, |kind, protocol, names| {
            check_errors(stand, kind, names, protocol).map(drop)
        })
    })
}

#[test]
fn a_quoted_datagram_whose_sum_comes_out_as_zero_says_all_ones() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        let asked = [(PODS, Service::Local), (WORLD, Service::Remote)];
        every_flow(stand, &asked, |device, protocol, names| {
            if protocol != Protocol::Udp {
                return Ok(());
            }
            let family = if names.client.is_ipv4() { Family::V4 } else { Family::V6 };
            let (kind, word) = kinds(family)[0];
            for case in cases(names, client(family, device.side, 66, 0)) {
                let [about, after] =
                    case.inner.map(|(from, to)| move |word: &[u8]| Packet::udp(from, to, word));
                let at = if family == Family::V4 { 26 } else { 46 };
                let mut words = (0..=u16::MAX).map(u16::to_be_bytes);
                let is_zero =
                    |word: &[u8; 2]| after(word).bytes().is_ok_and(|bytes| bytes[at..at + 2] == [0xff; 2]);
                let payload = words.find(is_zero).context("no such datagram")?;
                let error = |about: Packet, (from, to)| {
                    let about = Box::new(about);
                    Packet::new(from, to, Body::Error { kind, word, about, quoted: 100 })
                };
                let packet = error(about(&payload), case.outer[0]);
                let expected = error(after(&payload), case.outer[1]);
                check(stand, device, case.way, (&packet, &expected))?;
            }
            Ok(())
        })
    })
}

#[test]
fn what_is_no_error_or_about_no_flow_passes_untouched() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        for family in FAMILIES {
            let first = opener(
                Protocol::Tcp,
                client(family, WORLD.side, 1, 4711),
                Service::Remote.cluster_ip(family),
            );
            let names = open(stand, WORLD, &first, Service::Remote)?;
            // A redirect or an echo reply; and errors about another port, and about an answer nobody gave.
            let others = if family == Family::V4 { [5, 0] } else { [137, 129] };
            let mut stranger = names.client;
            stranger.set_port(4712);
            let about = |from, to| Box::new(Packet::tcp(from, to, flag::ACK));
            let error = |kind, about| {
                let body = Body::Error { kind, word: [0; 4], about, quoted: 20 };
                Packet::new(names.client, names.vip, body)
            };
            let error_kind = kinds(family)[0].0;
            let mut packets = others.map(|kind| error((kind, 0), about(names.vip, names.client))).to_vec();
            packets.push(error(error_kind, about(names.vip, stranger)));
            packets.push(error(error_kind, about(names.client, names.vip)));
            // One that goes to somebody else than whom it is about.
            let forged = error(error_kind, about(names.vip, names.client));
            packets.push(forged.with_ends(names.client, Service::Local.cluster_ip(family)));
            packets.push(forged.with_ends(names.client, Service::Local.node_port(family)));
            for packet in packets {
                for kind in [PODS, WORLD] {
                    check(stand, kind, Way::Ingress, (&packet, &packet))?;
                }
                let packet = packet.with_ends(names.backend, names.client);
                check(stand, PODS, Way::Egress, (&packet, &packet))?;
            }
            let ping = Packet::new(names.client, Service::Remote.balancer(family), Body::Ping);
            check(stand, WORLD, Way::Ingress, (&ping, &ping))?;
        }
        Ok(())
    })
}
