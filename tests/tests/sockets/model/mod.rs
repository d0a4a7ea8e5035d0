//! kube-proxy's rules next to real sockets: random clusters, changed while processes of the node and of pods connect.
//!
//! The rules and the histories are those that the decision in memory is compared with, see
//! `proxy-userspace/tests/model/main.rs`. Nobody listens anywhere: where a connection is led stands in the kernel's own
//! table of sockets, and refusals are what `connect()` returns.

#[path = "../../../../proxy-userspace/tests/model/life.rs"]
#[expect(dead_code, reason = "the decision in memory is asked more")]
mod life;
#[path = "../../../../proxy-userspace/tests/model/oracle/mod.rs"]
#[expect(dead_code, reason = "the decision in memory is asked more")]
mod oracle;
#[path = "../../../../proxy-userspace/tests/model/pipeline.rs"]
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
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use kubeshunt_tests::protocol::{Aim, Aimed};
use kubeshunt_tests::{Node, Station, Testbed};
use proptest::test_runner::TestCaseError;
use proxy_common::layout::{Affinity, AffinityKey, map};
use proxy_userspace::datapath::flows::settings::PacketSettings;
use proxy_userspace::datapath::pins::Pins;
use proxy_userspace::datapath::{Datapath, Settings};

use self::life::Life;
use self::oracle::objects::Protocol;
use self::oracle::{Answer, Probe, Who};
use self::pipeline::CAPACITY;
use self::random::{Ask, Step};
use self::tally::{Tally, asked, count};

const CASES: u64 = 4_000;
/// Sockets to each question.
const DRAWS: usize = 3;

#[test]
fn random_clients_are_led_as_kube_proxys_rules_say() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let pods = [node.pod("one")?, node.pod("two")?];
    // In the testbed the LAN's gateway has it, and would say that nobody listens.
    node.netns().links(async |links| links.route_to_device(("192.168.0.1".parse()?, 32), "cni0").await)?;
    let (tally, stand) = (RefCell::new(Tally::new()), RefCell::new(Stand::new(&node, &pods)?));
    let is_enough = || asked(&tally.borrow()) >= CASES;
    seeds::until(random::any_history(), is_enough, |steps| {
        let mut own = Tally::new();
        let lived = stand.borrow_mut().live(&steps, &mut own);
        lived.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        tally::add(&mut tally.borrow_mut(), own);
        Ok(())
    });
    let tally = tally.into_inner();
    for (what, count) in &tally {
        println!("{count:>7} {what}");
    }
    for who in ["a pod's socket", "a socket of the node"] {
        for what in ["ClusterIp: served", "ClusterIp: dropped", "NodePort: served", "External: refused"] {
            let what = format!("{who}, {what}");
            assert!(tally.get(&what).is_some_and(|count| *count > 2), "{what}: {tally:?}");
        }
    }
    Ok(())
}

/// How often it is looked again where a connection ended too soon to see where it led.
const LOOKS: u32 = 20;

struct Stand<'a> {
    node: &'a Node,
    pods: &'a [Station; 2],
    datapath: Datapath,
    clients: HashMap<MapData, AffinityKey, Affinity>,
}

impl<'a> Stand<'a> {
    /// Programs attached, and nothing to serve.
    fn new(node: &'a Node, pods: &'a [Station; 2]) -> Result<Self> {
        let settings = Settings {
            cgroup_root: node.cgroup().path().to_owned(),
            bpffs_root: node.pins().to_owned(),
            capacity: CAPACITY,
            memory: proxy_userspace::datapath::Memory::default(),
            log_decisions: false,
            tc_attach: None,
            packets: PacketSettings::default(),
        };
        // The programs learn which namespace is the host's.
        let datapath = node.netns().run(|| -> Result<Datapath> {
            let mut datapath = Datapath::open(&settings)?;
            datapath.attach(&settings)?;
            Ok(datapath)
        })?;
        let clients = MapData::from_pin(Pins::new(node.pins()).map(map::AFFINITY))?;
        Ok(Self { node, pods, datapath, clients: Map::LruHashMap(clients).try_into()? })
    }

    fn live(&mut self, steps: &[Step], tally: &mut Tally) -> Result<()> {
        let known: Vec<AffinityKey> = self.clients.keys().collect::<Result<_, _>>()?;
        known.iter().try_for_each(|client| self.clients.remove(client))?;
        let mut life = Life::new(CAPACITY);
        let lived =
            steps.chunk_by(|a, b| matches!((a, b), (Step::Ask(_), Step::Ask(_)))).try_for_each(|steps| {
                if matches!(steps[0], Step::Ask(_) | Step::Restart) {
                    self.datapath.carry_out(&life.settle().operations)?;
                }
                let asks =
                    steps.iter().filter_map(|step| if let Step::Ask(ask) = step { Some(ask) } else { None });
                let asks: Vec<&Ask> = asks.collect();
                match &steps[0] {
                    // The kernel's clock is not ours.
                    Step::Wait(_) => Ok(()),
                    Step::Ask(_) => self.ask(&mut life, &asks, tally),
                    other => {
                        life.change(other);
                        Ok(())
                    }
                }
            });
        self.datapath.carry_out(&life.end())?;
        lived
    }

    /// All questions between two changes, each client's in order.
    fn ask(&self, life: &mut Life, asks: &[&Ask], tally: &mut Tally) -> Result<()> {
        let mut by_client: BTreeMap<Option<usize>, Vec<(&Ask, Aim)>> = BTreeMap::new();
        for (turn, ask) in asks.iter().copied().enumerate() {
            let Some((probe, ruling)) = life.question(ask) else { continue };
            let client = match probe.who {
                Who::PodSocket(number) => Some(usize::from(number)),
                Who::HostSocket(_) => None,
                Who::PodPacket(_) | Who::OutsidePacket(_) => continue,
            };
            let tcp = probe.protocol == Protocol::Tcp;
            if tcp && names_itself(probe.to.ip()) && ruling.answer == Answer::NotAService {
                // Refused by whom?
                continue;
            }
            count(tally, &probe, &ruling);
            let mapped = turn % 3 == 0 && probe.to.is_ipv4();
            let aim = Aim { from: probe.who.address(), to: probe.to, tcp, mapped };
            by_client.entry(client).or_default().extend([(ask, aim); DRAWS]);
        }
        for (client, questions) in by_client {
            let station = client.map_or(self.node.host(), |number| &self.pods[number]);
            let answers = station.probe().aim(questions.iter().map(|(_, aim)| *aim).collect())?;
            ensure!(answers.len() == questions.len(), "an answer to each question");
            for ((ask, aim), mut answer) in questions.into_iter().zip(answers) {
                // Somebody has answered before the kernel was asked: perhaps that nobody is there.
                for _ in 0..LOOKS {
                    if answer == Aimed::Closed {
                        answer = station.probe().aim(vec![aim])?.remove(0);
                    }
                }
                check(life, ask, &aim, &answer)?;
            }
        }
        Ok(())
    }
}

fn check(life: &mut Life, ask: &Ask, aim: &Aim, answer: &Aimed) -> Result<()> {
    let (probe, ruling) = life.question(ask).context("asked before")?;
    let is_right = match (&ruling.answer, answer) {
        (Answer::To(set), Aimed::Led(peer)) => set.contains_key(peer),
        (Answer::NotAService, Aimed::Led(peer)) => *peer == untouched(&probe),
        (Answer::Refused, Aimed::Failed(error)) => error == "ECONNREFUSED",
        (Answer::Dropped, Aimed::Failed(error)) => error == "EHOSTUNREACH",
        _ => false,
    };
    ensure!(is_right, "the kernel {answer:?}, the rules {:?}: {probe:?}, {aim:?}", ruling.answer);
    if let (Answer::To(_), Aimed::Led(peer)) = (&ruling.answer, answer) {
        life.note(&probe, &ruling, *peer);
    }
    Ok(())
}

/// Whether it means the machine that says it.
fn names_itself(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// What the kernel makes of a destination by itself: the unspecified address is the socket's own, or else loopback.
fn untouched(probe: &Probe) -> SocketAddr {
    let own: IpAddr = match (probe.to.ip(), probe.who.address()) {
        (to, _) if !to.is_unspecified() => to,
        (IpAddr::V4(_), Some(bound)) => bound,
        (IpAddr::V4(_), None) => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V6(_), _) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(own, probe.to.port())
}
