//! Plays a scenario: the pipeline without I/O, from changes to the answers that connections get.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{
    address::Address,
    decision::{Destination, Outcome, connect, datagram},
    layout::{Sets, protocol, scope},
};
use proxy_userspace::{
    cluster::{
        Cluster,
        change::{Change, Kind, ObjectRef},
        model::{NodeInfo, ServiceName},
        reject::Reject,
    },
    plan::{
        self, Capacity, Desired, Extent, Plan, Planner,
        operation::show,
        simulated::{Maps, Socket},
    },
    tables::{self, node_ports},
};

use crate::{
    scenario::{Probe, Scenario, Step},
    words::{self, Answer},
};

const CAPACITY: Capacity = Capacity { frontends: 256, services: 256, backends: 4096 };

/// Sockets per question about datagrams: each chooses by chance, and all backends must have been chosen.
const SOCKETS: u64 = 4096;

struct World {
    cluster: Cluster,
    planner: Planner,
    maps: Maps,
    extent: Extent,
    /// Everything applied so far, to be deleted in the end.
    applied: BTreeSet<ObjectRef>,
    /// Every question so far, by its text.
    probes: BTreeMap<String, Probe>,
}

/// What a step led to.
struct Outcomes {
    rejects: Vec<Reject>,
    desired: Vec<Desired>,
    plan: Plan,
}

/// Plays the scenario and tells what happened.
pub(crate) fn play(name: &str, scenario: &Scenario) -> String {
    let mut world = World::new(scenario);
    let mut lines = vec![scenario.about.clone()];
    for (number, step) in (1..).zip(&scenario.steps) {
        lines.push(format!("\n== {number}. {}", step.step));
        let place = format!("{name}, step {number}");
        let outcomes = world.step(&place, &step.changes());
        lines.extend(outcomes.tell());
        lines.extend(world.answers(&place, step));
    }
    world.delete_everything(name);
    lines.push("\n== everything deleted: the maps are empty\n".to_owned());
    lines.join("\n")
}

impl World {
    fn new(scenario: &Scenario) -> Self {
        let mut maps = Maps::new(CAPACITY);
        let own: Vec<Address> = scenario.addresses.iter().copied().map(Address::from).collect();
        let addresses = node_ports::addresses(&own, &node_ports::Choice::All, &NodeInfo::default());
        maps.carry_out(&plan::node_addresses(&maps.node_addresses, &addresses));
        let mut cluster = Cluster::new(&scenario.node);
        for kind in [Kind::Service, Kind::EndpointSlice] {
            assert_eq!(cluster.apply(Change::Listed(kind, Vec::new())), []);
        }
        Self {
            cluster,
            planner: Planner::adopt(CAPACITY, maps.observed()),
            maps,
            extent: Extent::Everything,
            applied: BTreeSet::new(),
            probes: BTreeMap::new(),
        }
    }

    /// One turn of the controller's loop, with a grace period at its end.
    fn step(&mut self, place: &str, changes: &[Change]) -> Outcomes {
        let mut rejects = Vec::new();
        for change in changes {
            match change {
                Change::Applied(object) => drop(self.applied.insert(object.reference())),
                Change::Deleted(object) => drop(self.applied.remove(object)),
                Change::Listed(..) | Change::Unreadable(_) | Change::Whole(_) => {}
            }
            rejects.extend(self.cluster.apply(change.clone()));
        }
        let dirty = self.cluster.take_dirty();
        let desired = self.desired(dirty);
        let plan = self.planner.plan(&self.maps.backends, desired.clone(), self.extent);
        self.extent = Extent::Changes;
        let before = self.maps.clone();
        self.maps.carry_out(&plan.operations);
        self.planner.release(plan.epoch);
        assert!(plan.unplaced.is_empty(), "{place}: {:?} found no room", plan.unplaced);
        self.check_interruptions(place, &before, &plan);
        Outcomes { rejects, desired, plan }
    }

    fn desired(&self, names: impl IntoIterator<Item = ServiceName>) -> Vec<Desired> {
        let of = |name: ServiceName| {
            let tables = tables::of_service(&self.cluster, &name);
            (name, tables)
        };
        names.into_iter().map(of).collect()
    }

    /// A process may die after any operation. Whoever asks then gets what there was before or what there will
    /// be, and a new process completes the work.
    fn check_interruptions(&self, place: &str, before: &Maps, plan: &Plan) {
        let mut maps = before.clone();
        for done in 0..=plan.operations.len() {
            if let Some(last) = done.checked_sub(1) {
                maps.carry_out(&plan.operations[last..done]);
            }
            let after = format!("{place}, after {done} of {} operations", plan.operations.len());
            for probe in self.destinations().chain(self.probes.values().cloned()) {
                let answers = [before, &maps, &self.maps].map(|maps| answer(maps, &probe));
                let [old, now, new] = answers;
                assert!(now == old || now == new, "{after}: {} -> {now}, not {old} or {new}", probe.text);
            }
            self.check_restart(&after, maps.clone());
        }
    }

    /// A new process that finds these maps makes them say what ours say.
    fn check_restart(&self, place: &str, mut maps: Maps) {
        let mut planner = Planner::adopt(CAPACITY, maps.observed());
        let names: Vec<ServiceName> = self.cluster.service_names().cloned().collect();
        let plan = planner.plan(&maps.backends, self.desired(names), Extent::Everything);
        maps.carry_out(&plan.operations);
        assert!(
            maps.frontends.keys().eq(self.maps.frontends.keys()),
            "{place}: other frontends after a restart"
        );
        for probe in self.destinations().chain(self.probes.values().cloned()) {
            let (ours, its) = (answer(&self.maps, &probe), answer(&maps, &probe));
            assert_eq!(its, ours, "{place}, then a restart: {}", probe.text);
        }
        assert_eq!(planner.usage().frontends, self.planner.usage().frontends, "{place}");
        planner.release(plan.epoch);
        assert_eq!(planner.usage(), self.planner.usage(), "{place}: a restart leaks");
    }

    /// A question for every frontend there is, whether or not the scenario asks.
    fn destinations(&self) -> impl Iterator<Item = Probe> {
        self.maps.frontends.keys().filter(|key| key.scope == scope::VIP).map(|key| Probe {
            text: show(key),
            from_host: false,
            bound: None,
            namespace: 2,
            destination: Destination { address: key.address, port: key.port, protocol: key.protocol },
        })
    }

    /// Asks. The affinity that comes of it stays.
    fn answers(&mut self, place: &str, step: &Step) -> Vec<String> {
        let probes = step.probes();
        let mut lines = Vec::new();
        for probe in probes {
            let answer = answer_and_keep(&self.maps, &probe);
            if probe.destination.protocol == protocol::UDP {
                let unconnected = answer_to_datagrams(&self.maps, &probe);
                assert_eq!(unconnected, answer, "{place}: datagrams to {}", probe.text);
            }
            lines.push(format!("  {} -> {answer}", probe.text));
            self.probes.insert(probe.text.clone(), probe);
        }
        heading("who gets it", lines)
    }

    fn delete_everything(mut self, name: &str) {
        let changes: Vec<Change> = self.applied.iter().cloned().map(Change::Deleted).collect();
        let place = format!("{name}, in the end");
        let outcomes = self.step(&place, &changes);
        assert_eq!(outcomes.rejects, [], "{place}");
        assert_eq!(outcomes.plan.problems, [], "{place}");
        for probe in self.probes.values() {
            assert_eq!(answer(&self.maps, probe), Answer::NotAService, "{place}: {}", probe.text);
        }
        assert_eq!(self.maps.frontends.len(), 0, "{place}");
        assert_eq!(self.planner.usage(), Capacity { frontends: 0, services: 0, backends: 0 }, "{place}");
        assert_eq!(self.planner.awaits_grace(), None, "{place}");
        assert_eq!(self.cluster.counts(), proxy_userspace::cluster::Counts::default(), "{place}");
    }
}

impl Outcomes {
    fn tell(&self) -> Vec<String> {
        let rejects = self.rejects.iter().map(|reject| format!("  {reject}")).collect();
        let mut tables = Vec::new();
        for (name, of_service) in &self.desired {
            if of_service.is_empty() {
                tables.push(format!("  {name}: nothing to serve"));
            }
            tables.extend(of_service.iter().flat_map(words::table).map(|line| format!("  {line}")));
        }
        let operations = self.plan.operations.iter().map(|own| format!("  {}", words::operation(own)));
        let problems = self.plan.problems.iter().map(|problem| format!("  {problem}")).collect();
        [
            heading("rejects", rejects),
            heading("tables", tables),
            heading("operations", operations.collect()),
            heading("problems", problems),
        ]
        .concat()
    }
}

/// A section; nothing at all when it is empty.
fn heading(title: &str, mut lines: Vec<String>) -> Vec<String> {
    if !lines.is_empty() {
        lines.insert(0, title.to_owned());
    }
    lines
}

/// Asks without leaving a trace.
fn answer(maps: &Maps, probe: &Probe) -> Answer {
    let affinity = maps.affinity.borrow().clone();
    let answer = answer_and_keep(maps, probe);
    maps.affinity.replace(affinity);
    answer
}

fn answer_and_keep(maps: &Maps, probe: &Probe) -> Answer {
    let socket = socket(probe, 1);
    let largest = maps.services.iter().map(|service| Sets(service.sets).all().len).max().unwrap_or(0);
    // See the random numbers of `Socket`: this meets every backend.
    collect((0..3 * largest + 1).map(|_| connect(maps, &socket, &probe.destination)))
}

/// The same for datagrams, each from a socket of its own.
fn answer_to_datagrams(maps: &Maps, probe: &Probe) -> Answer {
    collect((0..SOCKETS).map(|cookie| datagram(maps, &socket(probe, cookie), &probe.destination).0))
}

fn socket(probe: &Probe, cookie: u64) -> Socket {
    let socket = Socket::new(probe.namespace, cookie);
    socket.host_namespace.set(probe.from_host);
    socket.bound.set(probe.bound);
    // Pods do not all begin with the same throw.
    socket.random.set(datagram::spread(probe.namespace, 0));
    socket
}

fn collect(outcomes: impl Iterator<Item = Outcome>) -> Answer {
    let mut backends = BTreeSet::new();
    let mut others = BTreeSet::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Translate(address, port) => drop(backends.insert(words::socket(address, port))),
            Outcome::Pass => drop(others.insert(Answer::NotAService)),
            Outcome::Refuse => drop(others.insert(Answer::Refused)),
            Outcome::Unreachable => drop(others.insert(Answer::Unreachable)),
            Outcome::Denied => drop(others.insert(Answer::KeptOut)),
            Outcome::NoMemory => panic!("simulated sockets have memory"),
        }
    }
    if !backends.is_empty() {
        others.insert(Answer::Backends(backends));
    }
    assert_eq!(others.len(), 1, "one question, different kinds of answers: {others:?}");
    others.pop_first().expect("just counted")
}
