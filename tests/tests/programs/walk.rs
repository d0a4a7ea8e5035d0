//! The same packets through the kernel's programs and through the decision in memory: connections that open, answer,
//! end, break off and begin anew, from few clients, so that they meet often.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use fastrand::Rng;
use kubeshunt_tests::attached::Way;
use proxy_common::layout::Tuple;
use proxy_userspace::cluster::model::{Family, Protocol};
use proxy_userspace::host::devices::Side;

use super::names::{client, opener};
use super::packet::{Packet, chunk, flag};
use super::stand::{Kind, PODS, Stand, WORLD, on_stand};
use super::twin::Twin;
use super::world::{FAMILIES, PROTOCOLS, Service};

const STEPS: u32 = 30_000;

/// A seed that is told, and can be given.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("KUBESHUNT_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

fn of<T: Copy>(random: &mut Rng, all: &[T]) -> T {
    all[random.usize(0..all.len())]
}

/// A packet of any kind between two ends.
fn any_packet(random: &mut Rng, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Packet {
    use flag::{ACK, FIN, RST, SYN};
    match protocol {
        Protocol::Tcp => {
            let flags = [SYN, SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK];
            Packet::tcp(from, to, of(random, &flags))
        }
        Protocol::Udp => Packet::udp(from, to, b"hello"),
        Protocol::Sctp => {
            let chunks = [chunk::INIT, chunk::DATA, chunk::DATA, chunk::SHUTDOWN_ACK, chunk::ABORT];
            Packet::sctp(from, to, of(random, &chunks), &[0; 16])
        }
    }
}

/// Someone who asks something.
fn any_question(random: &mut Rng) -> (Kind, Packet) {
    let (kind, family) = (of(random, &[PODS, WORLD]), of(random, &FAMILIES));
    let (protocol, service) = (of(random, &PROTOCOLS), of(random, &Service::ALL));
    let to = match random.u8(0..3) {
        0 => service.cluster_ip(family),
        1 => service.balancer(family),
        _ => service.node_port(family),
    };
    let mut from = client(family, kind.side, random.u8(0..4), 4711 + random.u16(0..3));
    // Some serve what they ask for.
    if let Some(own) = service.backend(family).filter(|_| kind.side == Side::Pod && random.u8(0..8) == 0) {
        from.set_ip(own.ip());
    }
    (kind, any_packet(random, protocol, from, to))
}

/// A packet of a flow that there is, under one of its names.
fn any_continuation(random: &mut Rng, stand: &Stand) -> Result<Option<(Kind, Way, Packet)>> {
    let flows = stand.flows()?;
    if flows.is_empty() {
        return Ok(None);
    }
    let (key, flow) = flows.iter().nth(random.usize(0..flows.len())).context("one of them")?;
    let back = Tuple { destination: flow.vip, destination_port: flow.vip_port, ..flow.asked(key) };
    let (way, tuple) = match random.u8(0..6) {
        0 => (Way::Ingress, flow.asked(key)),
        1 => (Way::Egress, flow.inside(key)),
        2 if flow.is_masqueraded() => (Way::Ingress, flow.answered(key)),
        2 | 3 => (Way::Ingress, flow.inside(key).reversed()),
        4 => (Way::Egress, flow.inside(key).reversed()),
        _ => (Way::Ingress, back),
    };
    let at = |address: proxy_common::address::Address, port: proxy_common::address::Port| {
        SocketAddr::new(address.to_ip(), port.number())
    };
    let protocol = PROTOCOLS
        .into_iter()
        .find(|protocol| proxy_userspace::tables::number(*protocol) == tuple.protocol)
        .context("a known protocol")?;
    let (from, to) = (at(tuple.source, tuple.source_port), at(tuple.destination, tuple.destination_port));
    let packet = any_packet(random, protocol, from, to);
    Ok(Some((of(random, &[PODS, WORLD]), way, packet)))
}

#[test]
fn the_kernel_decides_as_the_decision_in_memory_does() -> Result<()> {
    let seed = seed();
    println!("KUBESHUNT_SEED={seed}");
    on_stand(&[PODS, WORLD], |stand| {
        let (mut random, mut twin) = (Rng::with_seed(seed), Twin::new());
        for step in 0..STEPS {
            let continued = if random.u8(0..3) > 0 { any_continuation(&mut random, stand)? } else { None };
            let (kind, way, packet) = continued.unwrap_or_else(|| {
                let (kind, packet) = any_question(&mut random);
                (kind, Way::Ingress, packet)
            });
            let frame = packet.frame(kind.link)?;
            let ran = twin.run(stand, kind, way, &frame);
            ran.with_context(|| {
                format!("step {step} of KUBESHUNT_SEED={seed}: {way:?} of {kind:?}, {packet:?}")
            })?;
            if step % 50 == 0 {
                twin.compare(stand).with_context(|| format!("step {step} of KUBESHUNT_SEED={seed}"))?;
            }
        }
        twin.compare(stand)?;
        println!("{STEPS} packets: {:?}", twin.tale);
        for what in ["opened", "rewritten", "passed", "dropped", "refused"] {
            assert!(twin.tale.get(what).is_some_and(|count| *count > 100), "{what}: {:?}", twin.tale);
        }
        Ok(())
    })
}

#[test]
fn a_port_that_is_used_again_belongs_to_the_new_connection() -> Result<()> {
    on_stand(&[PODS, WORLD], |stand| {
        let mut twin = Twin::new();
        for family in [Family::V4, Family::V6] {
            let first =
                opener(Protocol::Tcp, client(family, WORLD.side, 1, 4711), Service::Remote.balancer(family));
            let mut ports = std::collections::BTreeSet::new();
            for _ in 0..5 {
                let at = 14 + first.header_len()?;
                let run = |twin: &mut Twin, packet: &Packet| {
                    twin.run(stand, WORLD, Way::Ingress, &packet.frame(WORLD.link)?)
                };
                let ran = run(&mut twin, &first)?.context("it is no fragment")?;
                ports.insert(u16::from_be_bytes([ran.packet[at], ran.packet[at + 1]]));
                twin.compare(stand)?;
                let (key, flow) = stand.flows()?.pop_last().context("it is open")?;
                let inside = flow.inside(&key);
                let end = |address: proxy_common::address::Address, port: proxy_common::address::Port| {
                    SocketAddr::new(address.to_ip(), port.number())
                };
                let from = end(inside.destination, inside.destination_port);
                let reset = Packet::tcp(from, end(inside.source, inside.source_port), flag::RST);
                twin.run(stand, WORLD, Way::Egress, &reset.frame(WORLD.link)?)?;
                twin.compare(stand)?;
                assert_eq!(stand.flows()?.len(), if family == Family::V4 { 1 } else { 2 });
            }
            assert!(ports.len() > 1, "each connection draws a port of its own: {ports:?}");
        }
        Ok(())
    })
}
