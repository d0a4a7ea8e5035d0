//! kube-proxy's rules next to the kernel: random clusters, changed while they are asked, and packets of random clients.
//!
//! The rules and the histories are those that the decision in memory is compared with, see
//! `proxy-userspace/tests/model/main.rs`. Here the live planner's operations go to the kernel's maps, and its programs
//! decide. Each question draws a few times: which endpoint of those that it may be is up to chance.

#[path = "../../../../proxy-userspace/tests/model/life.rs"]
#[expect(dead_code, reason = "the decision in memory is asked more")]
mod life;
#[path = "../../../../proxy-userspace/tests/model/oracle/mod.rs"]
#[expect(dead_code, reason = "the decision in memory is asked more")]
mod oracle;
#[path = "../../../../proxy-userspace/tests/model/pipeline.rs"]
#[expect(dead_code, reason = "the decision in memory is asked more")]
mod pipeline;
#[path = "../../../../proxy-userspace/tests/model/random/mod.rs"]
#[expect(dead_code, reason = "the decision in memory is asked more")]
mod random;
#[path = "../../../../proxy-userspace/tests/model/seeds.rs"]
mod seeds;
#[path = "../../../../proxy-userspace/tests/model/tally.rs"]
mod tally;
#[path = "../../../../proxy-userspace/tests/model/wire.rs"]
mod wire;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::attached::Way;
use kubeshunt_tests::test_run::Sum;
use proptest::test_runner::TestCaseError;
use proxy_common::address::{Address, Port};
use proxy_common::layout::Tuple;
use proxy_userspace::tables::number;

use self::life::Life;
use self::oracle::objects::Protocol;
use self::oracle::{Answer, Probe, Ruling, Source, Who};
use self::random::{Step, pools};
use self::tally::{Tally, asked, count};
use super::packet::{Packet, chunk, flag};
use super::stand::{DROP, Kind, PASS, PODS, REDIRECT, Stand, WORLD, on_empty_stand};
use super::world::CAPACITY;

const CASES: u64 = 6_000;
/// Packets to each question.
const DRAWS: u16 = 4;

#[test]
fn packets_of_random_clients_fare_as_kube_proxys_rules_say() -> Result<()> {
    let of_family = |is_v4| {
        let kind = |place| if place < pools::PODS { PODS } else { WORLD };
        pools::pods(is_v4).into_iter().enumerate().map(move |(place, own)| (own, kind(place)))
    };
    let routes: Vec<(IpAddr, Kind)> = of_family(true).chain(of_family(false)).collect();
    on_empty_stand(&[PODS, WORLD], &routes, |stand| {
        let (tally, stand, ports) = (RefCell::new(Tally::new()), RefCell::new(stand), RefCell::new(Ports(0)));
        seeds::until(
            random::any_history(),
            || asked(&tally.borrow()) >= CASES,
            |steps| {
                let (mut stand, mut own) = (stand.borrow_mut(), Tally::new());
                let lived = live(&mut stand, &mut ports.borrow_mut(), &steps, &mut own);
                lived.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
                tally::add(&mut tally.borrow_mut(), own);
                Ok(())
            },
        );
        let tally = tally.into_inner();
        for (what, count) in &tally {
            println!("{count:>7} {what}");
        }
        for who in ["a pod's packet", "a packet from outside"] {
            for what in [
                "ClusterIp: served",
                "Balancer: dropped",
                "NodePort: refused",
                "External: served, masqueraded",
            ] {
                let what = format!("{who}, {what}");
                assert!(tally.get(&what).is_some_and(|count| *count > 10), "{what}: {tally:?}");
            }
        }
        Ok(())
    })
}

/// Source ports of which nobody has asked yet.
struct Ports(u16);

impl Ports {
    fn next(&mut self) -> u16 {
        self.0 = (self.0 + 1) % 19_000;
        1024 + self.0
    }
}

fn live(stand: &mut Stand, ports: &mut Ports, steps: &[Step], tally: &mut Tally) -> Result<()> {
    stand.forget_clients()?;
    let mut life = Life::new(CAPACITY);
    let lived = steps.iter().try_for_each(|step| match step {
        // The kernel's clock is not ours, and its maps outlive a history.
        Step::Wait(_) => Ok(()),
        Step::Ask(ask) => {
            stand.datapath.carry_out(&life.settle().operations)?;
            match life.question(ask) {
                Some((probe, ruling)) if !probe.who.is_socket() => {
                    count(tally, &probe, &ruling);
                    (0..DRAWS).try_for_each(|_| check(stand, &mut life, ports.next(), &probe, ask))
                }
                _ => Ok(()),
            }
        }
        Step::Restart => {
            stand.datapath.carry_out(&life.settle().operations)?;
            life.change(step);
            Ok(())
        }
        _ => {
            life.change(step);
            Ok(())
        }
    });
    stand.datapath.carry_out(&life.end())?;
    lived
}

/// One client's first packet.
fn check(stand: &Stand, life: &mut Life, port: u16, probe: &Probe, ask: &random::Ask) -> Result<()> {
    let (_, ruling) = life.question(ask).context("asked before")?;
    let before = stand.counts()?;
    let found = run(stand, probe, port).with_context(|| format!("{probe:?}"))?;
    let is_right = match (&found, &ruling.answer) {
        (Answer::To(found), Answer::To(set)) => found.iter().all(|(at, own)| set.get(at) == Some(own)),
        (found, expected) => found == expected,
    };
    ensure!(
        is_right,
        "the kernel {found:?}, {:?}; the rules {:?}: {probe:?}",
        stand.counted(&before)?,
        ruling.answer
    );
    note(life, probe, &ruling, &found);
    Ok(())
}

fn note(life: &mut Life, probe: &Probe, ruling: &Ruling, found: &Answer) {
    if let Answer::To(found) = found {
        found.keys().for_each(|endpoint| life.note(probe, ruling, *endpoint));
    }
}

fn run(stand: &Stand, probe: &Probe, port: u16) -> Result<Answer> {
    let from = SocketAddr::new(probe.who.address().context("packets have a source")?, port);
    let packet = match probe.protocol {
        Protocol::Tcp => Packet::tcp(from, probe.to, flag::SYN),
        Protocol::Udp => Packet::udp(from, probe.to, b"hello"),
        Protocol::Sctp => Packet::sctp(from, probe.to, chunk::INIT, &[0; 16]),
    };
    let kind: Kind = if matches!(probe.who, Who::OutsidePacket(_)) { WORLD } else { PODS };
    let frame = packet.frame(kind.link)?;
    let ran = stand.run(kind, Way::Ingress, &frame, Sum::Unknown)?;
    match ran.code {
        DROP => return Ok(Answer::Dropped),
        REDIRECT => return Ok(Answer::Refused),
        PASS if ran.packet == frame => return Ok(Answer::NotAService),
        PASS => {}
        other => anyhow::bail!("the program returned {other}"),
    }
    let tuple = ends(&ran.packet, kind, probe)?;
    let flow = stand.flow(&tuple.ordered().0)?.context("translated without a flow")?;
    let source = if flow.is_masqueraded() { Source::Masqueraded } else { Source::Kept };
    let at = SocketAddr::new(tuple.destination.to_ip(), tuple.destination_port.number());
    Ok(Answer::To([(at, source)].into()))
}

/// The ends of a packet without options, which differs from the question in them alone.
fn ends(packet: &[u8], kind: Kind, probe: &Probe) -> Result<Tuple> {
    let ip = packet.get(kind.link.len()..).context("too short")?;
    let address = |at: usize| -> Option<IpAddr> {
        if probe.to.is_ipv4() {
            Some(IpAddr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?))
        } else {
            Some(IpAddr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?))
        }
    };
    let port = |at: usize| Some(Port::new(u16::from_be_bytes(ip.get(at..at + 2)?.try_into().ok()?)));
    let (source, len) = if probe.to.is_ipv4() { (12, 4) } else { (8, 16) };
    let transport = source + 2 * len;
    let tuple = || {
        Some(Tuple {
            source: Address::from(address(source)?),
            destination: Address::from(address(source + len)?),
            source_port: port(transport)?,
            destination_port: port(transport + 2)?,
            protocol: number(protocol(probe.protocol)),
            reserved: [0; 3],
        })
    };
    tuple().context("too short")
}

fn protocol(own: Protocol) -> proxy_userspace::cluster::model::Protocol {
    use proxy_userspace::cluster::model::Protocol as Known;
    match own {
        Protocol::Tcp => Known::Tcp,
        Protocol::Udp => Known::Udp,
        Protocol::Sctp => Known::Sctp,
    }
}
