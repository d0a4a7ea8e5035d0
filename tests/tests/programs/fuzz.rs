//! Packets at random, most of them broken: nothing but what the decision in memory says may become of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;
use kubeshunt_tests::attached::Way;
use proxy_userspace::cluster::model::{Family, Protocol};

use super::names::{Names, client, opener};
use super::packet::{Body, Extension, Packet, chunk, flag};
use super::stand::{BARE_PODS, BARE_WORLD, Kind, PODS, Stand, WORLD, is_too_short, on_stand};
use super::twin::Twin;
use super::walk::seed;
use super::world::{FAMILIES, PROTOCOLS, Service};

/// How many packets at least, and for how long at most.
const PACKETS: u32 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(20);
/// After so many packets the flows are compared, and the corpus is made anew: flows have come and gone.
const ROUND: u32 = 2_000;

/// Frames that mean something to a hook.
type Corpus = Vec<(Kind, Way, Vec<u8>)>;

fn body(random: &mut Rng, protocol: Protocol) -> Body {
    let payload = vec![random.u8(..); random.usize(0..60)];
    match protocol {
        Protocol::Tcp => {
            let flags = [flag::SYN, flag::ACK, flag::ACK | flag::FIN, flag::RST][random.usize(0..4)];
            Body::Tcp { flags, sequence: random.u32(..), acknowledgement: random.u32(..), payload }
        }
        Protocol::Udp => Body::Udp { payload, summed: true },
        Protocol::Sctp => {
            let chunk = [chunk::INIT, chunk::DATA, chunk::ABORT][random.usize(0..3)];
            Body::Sctp { chunk, payload, summed_with: None }
        }
    }
}

fn dressed(random: &mut Rng, packet: Packet) -> Packet {
    use Extension::{Authentication, Destination, HopByHop, Routing};
    let tags = random.usize(0..6).saturating_sub(3);
    let (options, padding) = (4 * random.usize(0..3), random.usize(0..8).saturating_sub(5));
    let count = random.usize(0..6).saturating_sub(2);
    let all = [HopByHop, Destination, Routing, Authentication];
    let extensions = (0..count).map(|_| all[random.usize(0..4)]).collect();
    Packet { tags, options, extensions, padding, ..packet }
}

/// Packets and errors under all names of a flow, and others beside them.
fn frames(
    random: &mut Rng,
    kind: Kind,
    protocol: Protocol,
    names: &Names,
    corpus: &mut Corpus,
) -> Result<()> {
    for step in names.steps() {
        for (from, to) in [step.before, step.after] {
            let packet = Packet::new(from, to, body(random, protocol));
            let about = Box::new(Packet::new(to, from, body(random, protocol)));
            let v4 = [(3, 3), (3, 4), (11, 0), (8, 0), (5, 1)];
            let v6 = [(1, 4), (2, 0), (3, 0), (128, 0), (137, 0)];
            let error = if from.is_ipv4() { v4 } else { v6 }[random.usize(0..5)];
            let body = Body::Error { kind: error, word: [0; 4], about, quoted: 8 + random.usize(0..40) };
            let error = Packet::new(from, to, body);
            for packet in [packet, error] {
                corpus.push((kind, step.way, dressed(random, packet).frame(kind.link)?));
            }
        }
    }
    Ok(())
}

fn corpus(random: &mut Rng, stand: &Stand, twin: &mut Twin) -> Result<Corpus> {
    let mut corpus = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for kind in [PODS, WORLD, BARE_PODS, BARE_WORLD] {
                for service in Service::ALL {
                    let from = client(family, kind.side, random.u8(0..8), 4711);
                    let to =
                        [service.cluster_ip(family), service.balancer(family), service.node_port(family)];
                    let first = opener(protocol, from, to[random.usize(0..3)]);
                    let frame = first.frame(kind.link)?;
                    let ran = twin.run(stand, kind, Way::Ingress, &frame)?.context("it is no fragment")?;
                    corpus.push((kind, Way::Ingress, frame));
                    if let Some(names) = names_of(kind, &first, service, &ran.packet)? {
                        frames(random, kind, protocol, &names, &mut corpus)?;
                    }
                }
            }
        }
    }
    Ok(corpus)
}

/// The names under which a packet went on, if it did.
fn names_of(kind: Kind, first: &Packet, service: Service, after: &[u8]) -> Result<Option<Names>> {
    let family = if first.from.is_ipv4() { Family::V4 } else { Family::V6 };
    let Some(backend) = service.backend(family) else { return Ok(None) };
    let at = kind.link.len() + first.header_len()?;
    let Some(port) = after.get(at..at + 2) else { return Ok(None) };
    let mut names =
        Names { client: first.from, vip: first.to, inside: first.from, seen: first.from, backend };
    names.inside.set_port(u16::from_be_bytes([port[0], port[1]]));
    names.seen = names.inside;
    if names.inside.port() != first.from.port() {
        names.seen.set_ip(super::world::node(family));
    }
    Ok(Some(names))
}

/// Breaks a frame, or not.
fn mutate(random: &mut Rng, frame: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..random.u8(0..4) {
        // What matters is in front.
        let len = frame.len();
        let at = if random.bool() { random.usize(0..len.min(80)) } else { random.usize(0..len) };
        match random.u8(0..8) {
            0 => frame[at] ^= 1 << random.u8(0..8),
            1 => frame[at] = random.u8(..),
            2 => frame[at] = [0, 1, 0xff, 0x7f, 0x80][random.usize(0..5)],
            3 => frame.truncate(at.max(14)),
            4 => frame.resize(len + random.usize(0..20), random.u8(..)),
            // A field, or more, of another packet; at the same place, or elsewhere.
            5 | 6 => {
                let from = if random.bool() { at } else { random.usize(0..other.len()) };
                let width = [1, 2, 4, 6, 16][random.usize(0..5)];
                let piece = other.get(from..(from + width).min(other.len())).unwrap_or_default();
                let end = (at + piece.len()).min(len);
                frame[at..end].copy_from_slice(&piece[..end - at]);
            }
            _ => {
                let width = random.usize(1..9).min(len - at);
                frame.drain(at..at + width);
                frame.resize(frame.len().max(14), 0);
            }
        }
    }
}

#[test]
fn whatever_comes_only_what_is_decided_is_done() -> Result<()> {
    let seed = seed();
    println!("KUBESHUNT_SEED={seed}");
    on_stand(&[PODS, WORLD, BARE_PODS, BARE_WORLD], |stand| {
        let (mut random, mut twin, begin) = (Rng::with_seed(seed), Twin::new(), Instant::now());
        let (mut all, mut count, mut refused) = (Vec::new(), 0, 0);
        while count < PACKETS && begin.elapsed() < PATIENCE {
            if count % ROUND == 0 {
                twin.compare(stand).with_context(|| format!("packet {count} of KUBESHUNT_SEED={seed}"))?;
                all = corpus(&mut random, stand, &mut twin)?;
            }
            count += 1;
            let (kind, way, frame) = &all[random.usize(0..all.len())];
            let (_, _, other) = &all[random.usize(0..all.len())];
            let mut frame = frame.clone();
            mutate(&mut random, &mut frame, other);
            if is_too_short(&frame) {
                refused += 1;
                continue;
            }
            let ran = twin.run(stand, *kind, *way, &frame);
            ran.with_context(|| {
                format!("packet {count} of KUBESHUNT_SEED={seed}: {way:?} of {kind:?}, {frame:02x?}")
            })?;
        }
        twin.compare(stand)?;
        println!(
            "{count} packets in {:?}, of which {refused} the kernel would not run: {:?}",
            begin.elapsed(),
            twin.tale
        );
        for what in ["opened", "rewritten", "error", "passed", "malformed", "dropped", "refused"] {
            assert!(twin.tale.get(what).is_some_and(|count| *count > 20), "{what}: {:?}", twin.tale);
        }
        Ok(())
    })
}
