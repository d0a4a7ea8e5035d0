//! What happens in a history: to what the rules go by, and to the pipeline.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use proxy_userspace::plan::{Capacity, Operation};

use super::oracle::affinity::Records;
use super::oracle::frontends::{self, Claim, PortId};
use super::oracle::objects::{NodePortAddresses, World};
use super::oracle::{self, Answer, Probe, Ruling, differences};
use super::pipeline::Pipeline;
use super::random::{Ask, Step};

const SECOND: u64 = 1_000_000_000;
/// So that no timeout is over in the very moment in which somebody asks.
const MOMENT: u64 = 1_000;

pub(crate) struct Life {
    world: World,
    records: Records,
    pub(crate) pipeline: Pipeline,
    now: u64,
    is_settled: bool,
    /// Service ports there are.
    ports: BTreeSet<PortId>,
    /// What there was when the process ended, until the next one has taken over.
    before_restart: Option<Vec<Claim>>,
}

/// What has come into force.
#[derive(Default)]
pub(crate) struct Settled {
    pub(crate) operations: Vec<Operation>,
    /// Service ports that are gone, or that nobody knows again.
    pub(crate) lost: BTreeSet<PortId>,
}

impl Life {
    /// A node that knows of nothing, and maps of that size.
    pub(crate) fn new(capacity: Capacity) -> Self {
        let mut world = World::new("node-1");
        world.node_object = vec!["192.168.0.1".parse().expect("IPv4"), "fd00:192::1".parse().expect("IPv6")];
        world.interfaces = world.node_object.iter().copied().collect();
        let mut pipeline = Pipeline::new(&world, capacity);
        pipeline.node(&world);
        Self {
            world,
            records: Records::default(),
            pipeline,
            now: SECOND,
            is_settled: false,
            ports: BTreeSet::new(),
            before_restart: None,
        }
    }

    /// Takes a step.
    pub(crate) fn change(&mut self, step: &Step) {
        self.now += MOMENT;
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
                self.pipeline.restart();
                self.before_restart = Some(frontends::claims(&self.world));
                self.is_settled = false;
            }
            Step::Wait(seconds) => self.now += u64::from(*seconds) * SECOND,
            Step::EditService(..) | Step::EditEndpoint(..) | Step::DropEndpoint(..) | Step::Ask(_) => {}
        }
    }

    /// Changes come into force together, when somebody asks.
    pub(crate) fn settle(&mut self) -> Settled {
        if std::mem::replace(&mut self.is_settled, true) {
            return Settled::default();
        }
        let operations = self.pipeline.settle(&self.world);
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
        self.ports = ports;
        Settled { operations, lost }
    }

    /// The question as it is asked now, and what the rules say; `None` where nobody could ask it.
    pub(crate) fn question(&mut self, ask: &Ask) -> Option<(Probe, Ruling)> {
        self.now += MOMENT;
        let probe = ask.probe(&self.world, self.now)?;
        let ruling = oracle::ruling(&self.world, &self.records, &probe);
        Some((probe, ruling))
    }

    /// Whether what was found instead is the doing of records that another service port has left.
    pub(crate) fn is_inherited(&self, ruling: &Ruling, found: &Answer) -> bool {
        let Some(claim) = &ruling.claim else { return false };
        let has_affinity = self.world.services[&claim.port.service].affinity.is_some();
        let is_heir = self.records.heirs.contains(&claim.port);
        differences::is_inherited(is_heir, has_affinity, &ruling.answer, found)
    }

    /// A new connection has been led there.
    pub(crate) fn note(&mut self, probe: &Probe, ruling: &Ruling, endpoint: SocketAddr) {
        if let Some(claim) = &ruling.claim
            && self.world.services[&claim.port.service].affinity.is_some()
        {
            self.records.note(&claim.port, endpoint, probe);
        }
    }

    /// Everything is taken away again, and with the next change what had to wait for a grace period.
    pub(crate) fn end(&mut self) -> Vec<Operation> {
        let services: Vec<_> = self.world.services.keys().cloned().collect();
        services.into_iter().for_each(|name| self.change(&Step::DeleteService(name)));
        let slices: Vec<_> = self.world.slices.keys().cloned().collect();
        slices.into_iter().for_each(|name| self.change(&Step::DeleteSlice(name)));
        self.world.interfaces.clear();
        // Ranges in which no address is, loopback's neither.
        let nowhere = ["192.0.2.255/32", "2001:db8::ff/128"].map(str::to_owned);
        self.world.node_port_addresses = NodePortAddresses::Ranges(nowhere.into());
        let mut operations = self.pipeline.settle(&self.world);
        operations.extend(self.pipeline.settle(&self.world));
        operations
    }
}
