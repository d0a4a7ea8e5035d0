//! A history, lived through by the rules and by the pipeline side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proptest::prop_assert_eq;
use proptest::test_runner::TestCaseError;
use proxy_userspace::plan::simulated::Socket;

use super::asking;
use super::oracle::affinity::Records;
use super::oracle::frontends::{self, Claim, PortId};
use super::oracle::objects::{Protocol, World};
use super::oracle::{self, Answer, Probe, Ruling, Who, differences};
use super::pipeline::Pipeline;
use super::random::{Ask, Step};

const SECOND: u64 = 1_000_000_000;
/// So that no timeout is over in the very moment in which somebody asks.
const MOMENT: u64 = 1_000;

/// What has been asked and answered, in words, and how often.
pub(crate) type Tally = BTreeMap<String, u64>;

pub(crate) struct History {
    world: World,
    records: Records,
    pipeline: Pipeline,
    now: u64,
    asked: u32,
    /// Service ports there are.
    ports: BTreeSet<PortId>,
    sockets: BTreeMap<(Who, SocketAddr), Kept>,
    is_settled: bool,
    /// What there was when the process ended, until the next one has taken over.
    before_restart: Option<Vec<Claim>>,
}

/// An unconnected socket that only ever sends to one address.
struct Kept {
    socket: Socket,
    /// Where its datagrams go, as the rules have it.
    to: Option<(PortId, SocketAddr)>,
}

impl History {
    pub(crate) fn new() -> Self {
        let mut world = World::new("node-1");
        world.node_object = vec!["192.168.0.1".parse().expect("IPv4"), "fd00:192::1".parse().expect("IPv6")];
        world.interfaces = world.node_object.iter().copied().collect();
        let mut pipeline = Pipeline::new(&world);
        pipeline.node(&world);
        Self {
            world,
            records: Records::default(),
            pipeline,
            now: SECOND,
            asked: 0,
            ports: BTreeSet::new(),
            sockets: BTreeMap::new(),
            is_settled: false,
            before_restart: None,
        }
    }

    /// Takes a step; whoever asks must get the same answer from both.
    pub(crate) fn step(&mut self, step: &Step, tally: &mut Tally) -> Result<(), TestCaseError> {
        self.now += MOMENT;
        if let Step::Ask(ask) = step {
            self.settle();
            return match ask.probe(&self.world, self.now) {
                Some(probe) => self.ask(ask, &probe, tally),
                None => Ok(()),
            };
        }
        self.change(step);
        Ok(())
    }

    fn change(&mut self, step: &Step) {
        let world = &mut self.world;
        self.is_settled = false;
        match step {
            Step::PutService(name, service) => {
                world.services.insert(name.clone(), (**service).clone());
                self.pipeline.service(name, Some(service));
            }
            Step::DeleteService(name) => {
                if world.services.remove(name).is_some() {
                    self.pipeline.service(name, None);
                }
            }
            Step::EditService(which, edit) if !world.services.is_empty() => {
                let place = which.index(world.services.len());
                let (name, service) = world.services.iter_mut().nth(place).expect("one of them");
                edit.apply(service);
                self.pipeline.service(name, Some(service));
            }
            Step::PutSlice(name, slice) => {
                world.slices.insert(name.clone(), slice.clone());
                self.pipeline.slice(name, Some(slice));
            }
            Step::DeleteSlice(name) => {
                if world.slices.remove(name).is_some() {
                    self.pipeline.slice(name, None);
                }
            }
            Step::EditEndpoint(which, endpoint, _) | Step::DropEndpoint(which, endpoint)
                if !world.slices.is_empty() =>
            {
                let place = which.index(world.slices.len());
                let (name, slice) = world.slices.iter_mut().nth(place).expect("one of them");
                if slice.endpoints.is_empty() {
                    return;
                }
                let place = endpoint.index(slice.endpoints.len());
                if let Step::EditEndpoint(_, _, [ready, serving, terminating]) = *step {
                    let own = &mut slice.endpoints[place];
                    (own.ready, own.serving, own.terminating) = (ready, serving, terminating);
                } else {
                    slice.endpoints.remove(place);
                }
                self.pipeline.slice(name, Some(slice));
            }
            Step::Zone(zone) => {
                world.zone = *zone;
                self.pipeline.node(world);
            }
            Step::NodeObject(all) => {
                world.node_object.clone_from(all);
                self.pipeline.node(world);
            }
            Step::NodePorts(setting) => world.node_port_addresses = setting.clone(),
            Step::Interfaces(all) => world.interfaces.clone_from(all),
            Step::Restart => {
                self.settle();
                self.pipeline.restart();
                self.before_restart = Some(frontends::claims(&self.world));
                self.is_settled = false;
            }
            Step::Wait(seconds) => self.now += u64::from(*seconds) * SECOND,
            Step::EditService(..) | Step::EditEndpoint(..) | Step::DropEndpoint(..) | Step::Ask(_) => {}
        }
    }

    /// Changes come in force together, when somebody asks.
    fn settle(&mut self) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        self.pipeline.settle(&self.world);
        self.records.settle(&self.world);
        let claims = frontends::claims(&self.world);
        let ports: BTreeSet<PortId> = claims.iter().map(|claim| claim.port.clone()).collect();
        // What comes back under the name of a service port that was gone is another one.
        let mut lost: BTreeSet<PortId> = self.ports.difference(&ports).cloned().collect();
        if let Some(before) = self.before_restart.take() {
            let is_lost = |port: &&PortId| differences::is_lost_at_restart(&before, &claims, port);
            for port in ports.iter().filter(is_lost) {
                self.records.lose(port);
                lost.insert(port.clone());
            }
        }
        for kept in self.sockets.values_mut() {
            kept.to.take_if(|(port, _)| lost.contains(port));
        }
        self.ports = ports;
    }

    fn ask(&mut self, ask: &Ask, probe: &Probe, tally: &mut Tally) -> Result<(), TestCaseError> {
        let ruling = oracle::ruling(&self.world, &self.records, probe);
        let is_unconnected = ask.is_unconnected && probe.protocol == Protocol::Udp && probe.who.is_socket();
        let possible = asking::possible(&self.pipeline.maps, probe, is_unconnected);
        if !self.is_inherited(&ruling, &possible) {
            prop_assert_eq!(&possible, &ruling.answer, "the pipeline (left), the rules (right): {:?}", probe);
        }
        count(tally, probe, &ruling, is_unconnected);
        self.asked += 1;
        if is_unconnected {
            return self.send(probe, &ruling);
        }
        let answer = asking::once(&self.pipeline.maps, probe, self.asked.wrapping_mul(0x85eb_ca6b));
        self.remember(probe, &ruling, &answer)
    }

    fn is_inherited(&self, ruling: &Ruling, found: &Answer) -> bool {
        let Some(claim) = &ruling.claim else { return false };
        let has_affinity = self.world.services[&claim.port.service].affinity.is_some();
        let is_heir = self.records.heirs.contains(&claim.port);
        differences::is_inherited(is_heir, has_affinity, &ruling.answer, found)
    }

    /// What was chosen is what the next one is measured against.
    fn remember(&mut self, probe: &Probe, ruling: &Ruling, answer: &Answer) -> Result<(), TestCaseError> {
        let (Some(claim), Answer::To(chosen)) = (&ruling.claim, answer) else { return Ok(()) };
        let (endpoint, source) = chosen.first_key_value().expect("an endpoint");
        let Answer::To(set) = &ruling.answer else { unreachable!("compared before") };
        prop_assert_eq!(set.get(endpoint), Some(source), "{} is none of {:?}", endpoint, ruling.answer);
        if self.world.services[&claim.port.service].affinity.is_some() {
            self.records.note(&claim.port, *endpoint, probe);
        }
        Ok(())
    }

    /// A datagram of a socket that may have sent before.
    fn send(&mut self, probe: &Probe, ruling: &Ruling) -> Result<(), TestCaseError> {
        let cookie = 1_000 + u64::try_from(self.sockets.len()).expect("few");
        let kept = self
            .sockets
            .entry((probe.who, probe.to))
            .or_insert_with(|| Kept { socket: asking::socket(probe, cookie), to: None });
        kept.socket.now.set(probe.now);
        let answer = asking::datagram(&self.pipeline.maps, &kept.socket, probe);
        let claim = ruling.claim.as_ref().map(|claim| claim.port.clone());
        let before = kept.to.take().filter(|(port, _)| Some(port) == claim.as_ref());
        if let Some((port, endpoint)) =
            before.filter(|(_, own)| differences::keeps_endpoint(*own, &ruling.to_anyone))
        {
            let stays = Answer::To([(endpoint, oracle::Source::Kept)].into());
            prop_assert_eq!(&answer, &stays, "a socket leaves its endpoint: {:?}", probe);
            kept.to = Some((port, endpoint));
            return Ok(());
        }
        if let (Some(port), Answer::To(chosen)) = (claim, &answer) {
            kept.to = chosen.first_key_value().map(|(endpoint, _)| (port, *endpoint));
        }
        self.remember(probe, ruling, &answer)
    }
}

fn count(tally: &mut Tally, probe: &Probe, ruling: &Ruling, is_unconnected: bool) {
    let who = match probe.who {
        Who::PodSocket(_) => "a pod's socket",
        Who::HostSocket(_) => "a socket of the node",
        Who::PodPacket(_) => "a pod's packet",
        Who::OutsidePacket(_) => "a packet from outside",
    };
    let to = match &ruling.claim {
        None => "no frontend".to_owned(),
        Some(claim) => format!("{:?}", claim.kind),
    };
    let answer = match &ruling.answer {
        Answer::NotAService => "passes",
        Answer::Refused => "refused",
        Answer::Dropped => "dropped",
        Answer::To(set) if set.values().any(|own| *own == oracle::Source::Masqueraded) => {
            "served, masqueraded"
        }
        Answer::To(_) => "served",
    };
    let mut add = |what: String| *tally.entry(what).or_default() += 1;
    add(format!("{who}, {to}: {answer}"));
    if is_unconnected {
        add("by an unconnected socket".to_owned());
    }
    if ruling.answer != ruling.to_anyone {
        add("bound by affinity".to_owned());
    }
}
