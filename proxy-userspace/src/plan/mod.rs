//! The plan: the only producer of map writes.
//!
//! Pure. [`Planner`] mirrors what the maps hold. [`Planner::plan`] compares it with desired tables and returns
//! the operations that make up the difference. First start, restart, repair and steady state are the same call;
//! only where the mirror comes from differs: [`Planner::new`] for empty maps, [`Planner::adopt`] for maps found
//! pinned. In steady state the work is proportional to what changed.
//!
//! # Every prefix is servable
//!
//! A plan may stop after any operation, because the process was killed or a write failed. Its order makes sure
//! that no new connection is misdirected then:
//!
//! 1. frontends that nobody claims any more are removed;
//! 2. backends are written to slots nobody reads, and clients admitted who were not;
//! 3. services are published: one store each, old list or new list;
//! 4. clients are not admitted any more;
//! 5. frontends are put: they lead to services only as these shall be.
//!
//! The words of a service that nothing leads to any more stay as they are: a program that looked its frontend up a
//! moment ago still finds the backends there. Whoever gets the id next writes them anew.
//!
//! Where frontends change, two more stores enclose that: see [`proxy_common::layout::Revision`].
//!
//! Slots and ids given up in a plan are reused only after [`Planner::release`] of its epoch, see [`slab`]; before anything
//! else, what an id that was given up admitted is removed.

pub mod accounts;
pub mod operation;
pub mod simulated;
pub mod simulated_flows;
pub mod slab;

mod adoption;
mod claims;
mod example;
mod sight;
mod sources;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use proxy_common::layout::{self, Backend, Frontend, FrontendKey, Revision, Sets, Traits, scope};

use crate::{
    cluster::model::ServiceName,
    tables::{PortName, PortTable, admission::Range},
};

pub use crate::tables::node_ports::NodeAddresses;
pub use adoption::Observed;
pub use example::Example;
pub use operation::{Operation, Plan, Problem, SourceRange, node_addresses};

use claims::{Claim, Claims};
use slab::Slab;
use sources::Sources;

/// How much fits into the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of the frontends map.
    pub frontends: u32,
    /// Entries of the services map.
    pub services: u32,
    /// Entries of the backends map.
    pub backends: u32,
}

/// How much of the cluster a set of desired tables speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The Services it names; others stay as they are.
    Changes,
    /// All: what it does not name is removed. Only from complete lists.
    Everything,
}

/// One Service, and what the maps should say of it; nothing if it is gone.
pub type Desired = (ServiceName, Vec<PortTable>);

/// Mirror of the maps, and the allocators behind them.
#[derive(Debug)]
pub struct Planner {
    frontends: HashMap<FrontendKey, Claims>,
    /// How many frontends the map holds.
    frontends_in_map: u32,
    /// Service ports by id.
    ports: HashMap<u32, Port>,
    by_service: BTreeMap<ServiceName, Vec<u32>>,
    /// Ids found in the maps that no desired port has taken over yet.
    adopted: BTreeMap<u32, adoption::Adopted>,
    ids: Slab,
    slots: Slab,
    sources: Sources,
    capacity: Capacity,
    /// The frontends' revision in the map.
    revision: Revision,
    epoch: u64,
    suspects: Suspects,
}

/// What somebody else was seen to have written to, for the next plan; see [`sight`].
#[derive(Debug, Default)]
struct Suspects {
    frontends: BTreeSet<FrontendKey>,
    /// Ids whose words are to be written in any case, when their Services are planned.
    words: BTreeSet<u32>,
}

/// A service port that has an id.
#[derive(Debug)]
struct Port {
    name: PortName,
    /// As the claims have it.
    created: i64,
    frontends: Vec<(FrontendKey, u32)>,
    sets: Sets,
    traits: Traits,
    /// The clients that the map admits.
    admitted: BTreeSet<Range>,
}

/// Slots held back for Services that are already served: their changes must find room when newcomers no longer
/// do. One in sixteen.
const RESERVE: u32 = 16;

impl Planner {
    /// For empty maps.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        Self {
            frontends: HashMap::new(),
            frontends_in_map: 0,
            ports: HashMap::new(),
            by_service: BTreeMap::new(),
            adopted: BTreeMap::new(),
            ids: Slab::new(capacity.services),
            slots: Slab::new(capacity.backends),
            sources: Sources::default(),
            capacity,
            revision: Revision(0),
            epoch: 0,
            suspects: Suspects::default(),
        }
    }

    /// Whose a frontend is: of all who claim it, the one with the best claim.
    #[must_use]
    pub fn holder(&self, key: &FrontendKey) -> Option<&PortName> {
        self.frontends.get(key)?.best().map(|claim| &claim.name)
    }

    /// What to do so that the maps say what `desired` says. `memory` is the backends map as it stands; it is
    /// compared with, so that an unchanged set costs nothing.
    ///
    /// The mirror is moved on as if the plan had been carried out. When carrying it out fails, start anew with
    /// [`Planner::adopt`].
    pub fn plan(&mut self, memory: &[Backend], desired: Vec<Desired>, extent: Extent) -> Plan {
        self.epoch += 1;
        let touched = std::mem::take(&mut self.suspects.frontends);
        let mut draft = Draft { stray: self.sources.take_strays(), touched, ..Draft::default() };
        let wanted = self.wanted(&desired);
        let mut named = BTreeSet::new();
        for (service, tables) in desired {
            if extent == Extent::Everything {
                named.insert(service.clone());
            }
            self.plan_service(memory, &service, tables, &wanted, &mut draft);
        }
        if extent == Extent::Everything {
            let gone: Vec<ServiceName> =
                self.by_service.keys().filter(|name| !named.contains(*name)).cloned().collect();
            for service in gone {
                self.plan_service(memory, &service, Vec::new(), &wanted, &mut draft);
            }
            self.drop_unclaimed(&mut draft);
        }
        self.settle_frontends(&mut draft);
        self.retire(&mut draft);
        let (operations, problems, unplaced) = draft.in_order(&mut self.revision);
        Plan { epoch: self.epoch, operations, problems, unplaced }
    }

    /// An RCU grace period has passed that began after the plan of `epoch` was carried out.
    pub fn release(&mut self, epoch: u64) {
        self.ids.release(epoch);
        self.slots.release(epoch);
        self.sources.release(epoch);
    }

    /// The epoch of the newest plan if anything waits for a grace period.
    #[must_use]
    pub fn awaits_grace(&self) -> Option<u64> {
        let has_limbo = self.ids.has_limbo() || self.slots.has_limbo() || self.sources.has_limbo();
        has_limbo.then_some(self.epoch)
    }

    /// How full the maps are.
    #[must_use]
    pub fn usage(&self) -> Capacity {
        Capacity { frontends: self.frontends_in_map, services: self.ids.used(), backends: self.slots.used() }
    }

    /// How many ranges of clients the map of admitted ones holds.
    #[must_use]
    pub fn admitted(&self) -> usize {
        self.sources.len()
    }

    /// What fits.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// The id of a service port.
    #[must_use]
    pub fn id(&self, name: &PortName) -> Option<u32> {
        let ids = self.by_service.get(&name.service)?;
        ids.iter().copied().find(|id| self.ports.get(id).is_some_and(|port| port.name == *name))
    }

    /// The ids of a Service: one for each port and family.
    #[must_use]
    pub fn ids(&self, service: &ServiceName) -> &[u32] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    fn plan_service(
        &mut self,
        memory: &[Backend],
        service: &ServiceName,
        tables: Vec<PortTable>,
        wanted: &adoption::Wanted,
        draft: &mut Draft,
    ) {
        let mut before = self.by_service.remove(service).unwrap_or_default();
        let mut after = Vec::with_capacity(tables.len());
        for table in tables {
            if table.left_out > 0 {
                draft
                    .problems
                    .push(Problem::TooManyEndpoints { port: table.name.clone(), left_out: table.left_out });
            }
            let known = before.iter().position(|id| self.ports.get(id).is_some_and(|p| p.name == table.name));
            let id = match known {
                Some(index) => Some(before.swap_remove(index)),
                None => self.introduce(&table, wanted, draft),
            };
            let Some(id) = id else {
                draft.unplaced.insert(service.clone());
                continue;
            };
            let is_new = self.ports[&id].sets == Sets::EMPTY && known.is_none();
            let is_admitting = self.admit(id, &table, draft);
            if !self.publish(memory, id, &table, is_new, draft) || !is_admitting {
                draft.unplaced.insert(service.clone());
            }
            self.claim(id, table, draft);
            after.push(id);
        }
        for id in before {
            self.abandon(id, draft);
        }
        if !after.is_empty() {
            self.by_service.insert(service.clone(), after);
        }
    }

    /// An id for a service port that has none: the one under which the maps know it, or a fresh one.
    fn introduce(&mut self, table: &PortTable, wanted: &adoption::Wanted, draft: &mut Draft) -> Option<u32> {
        let (id, sets, traits, admitted) = match self.adopt_id(table, wanted) {
            Some((id, found)) => {
                if !found.trusted {
                    draft.fresh.insert(id);
                }
                (id, found.sets, found.traits, found.admitted)
            }
            None => {
                let Some(fresh) = self.ids.allocate(1) else {
                    draft
                        .problems
                        .push(Problem::NoService { port: table.name.clone(), capacity: self.capacity });
                    return None;
                };
                // The words of a free id still hold what its last owner had, or half of what a dead process wrote.
                draft.fresh.insert(fresh.start);
                (fresh.start, Sets::EMPTY, Traits::new(0), BTreeSet::new())
            }
        };
        let port = Port {
            name: table.name.clone(),
            created: table.created,
            frontends: Vec::new(),
            sets,
            traits,
            admitted,
        };
        self.ports.insert(id, port);
        Some(id)
    }

    /// Publishes the table's endpoint sets under `id` if they differ; `false` if there is no room, and the
    /// service keeps what it has.
    fn publish(
        &mut self,
        memory: &[Backend],
        id: u32,
        table: &PortTable,
        is_new: bool,
        draft: &mut Draft,
    ) -> bool {
        let Some(port) = self.ports.get_mut(&id) else { return false };
        let fresh = draft.fresh.contains(&id) | self.suspects.words.remove(&id);
        let traits = Traits::new(table.affinity_seconds);
        let traits = match &table.admission {
            Some(admission) => traits.restricted(admission.is_node),
            None => traits,
        };
        if port.traits != traits || fresh {
            port.traits = traits;
            draft.publish.push(Operation::SetTraits { service: id, traits });
        }

        let unchanged = slots(memory, port.sets.cluster()) == Some(table.cluster.as_slice())
            && slots(memory, port.sets.local()) == Some(table.local.as_slice());
        let sets = if unchanged {
            port.sets
        } else {
            let len = u32::try_from(table.cluster.len() + table.local.len()).unwrap_or(u32::MAX);
            let room = self.slots.capacity() - self.slots.used();
            let range = if is_new && len > room.saturating_sub(self.slots.capacity() / RESERVE) {
                None
            } else {
                self.slots.allocate(len)
            };
            let Some(range) = range else {
                draft.problems.push(Problem::NoBackends {
                    port: table.name.clone(),
                    wanted: len,
                    capacity: self.capacity,
                });
                if fresh {
                    draft.publish.push(Operation::SetSets { service: id, sets: Sets::EMPTY });
                }
                return false;
            };
            let mut backends = table.cluster.clone();
            backends.extend_from_slice(&table.local);
            if !backends.is_empty() {
                draft.write.push(Operation::WriteBackends { start: range.start, backends });
            }
            self.slots.retire(port.sets.all(), self.epoch);
            let len = |set: &Vec<Backend>| u16::try_from(set.len()).unwrap_or(u16::MAX);
            Sets::new(range.start, len(&table.cluster), len(&table.local))
        };
        let sets = sets
            .with_any_endpoint(table.any_endpoint)
            .with_internal_local(table.internal_local)
            .with_external_local(table.external_local);
        if port.sets != sets || fresh {
            port.sets = sets;
            draft.publish.push(Operation::SetSets { service: id, sets });
        }
        true
    }

    /// Makes the claims of the service port `id` those of its table.
    fn claim(&mut self, id: u32, table: PortTable, draft: &mut Draft) {
        let Some(port) = self.ports.get_mut(&id) else { return };
        let before = std::mem::take(&mut port.frontends);
        // A Service recreated while nobody looked has its old name and another age, which all its claims tell.
        let same_age = std::mem::replace(&mut port.created, table.created) == table.created;
        for (key, _) in before.iter().filter(|old| !same_age || !table.frontends.contains(old)) {
            if let Some(claims) = self.frontends.get_mut(key) {
                claims.withdraw(id);
            }
            draft.touched.insert(*key);
        }
        for (key, kind) in table.frontends.iter().filter(|new| !same_age || !before.contains(new)) {
            let claim = Claim { kind: *kind, created: table.created, name: table.name.clone(), service: id };
            self.frontends.entry(*key).or_default().add(claim);
            draft.touched.insert(*key);
        }
        // For one that found no room earlier there may be some now.
        let frontends = &self.frontends;
        let missing = |key: &FrontendKey| frontends.get(key).is_some_and(|claims| claims.in_map.is_none());
        draft.touched.extend(table.frontends.iter().map(|(key, _)| *key).filter(missing));
        port.frontends = table.frontends;
        draft.claimants.insert(id);
    }

    /// Withdraws everything of the service port `id`.
    fn abandon(&mut self, id: u32, draft: &mut Draft) {
        let Some(port) = self.ports.remove(&id) else { return };
        for (key, _) in &port.frontends {
            if let Some(claims) = self.frontends.get_mut(key) {
                claims.withdraw(id);
            }
            draft.touched.insert(*key);
        }
        draft.gone.push((id, port.sets.all(), port.admitted));
    }

    /// Decides what each touched frontend leads to: its best claim, or nothing.
    fn settle_frontends(&mut self, draft: &mut Draft) {
        // A VIP may be an address of the node too, and then hides a NodePort of the same number: NodePorts are
        // removed before VIPs and put after them, so that none shows through for a moment. A ClusterIP refuses
        // what none of its VIPs serves, so that goes around both.
        let layer = |key: &FrontendKey| match key.scope {
            scope::VIP => 0,
            scope::NODE_PORT => 1,
            _ => 2,
        };
        let mut touched: Vec<FrontendKey> = std::mem::take(&mut draft.touched).into_iter().collect();
        // Removals first: they make room.
        touched.sort_by_key(|key| Reverse(layer(key)));
        for key in &touched {
            self.remove_unclaimed(key, draft);
        }
        touched.sort_by_key(layer);
        for key in touched {
            self.settle_frontend(key, draft);
        }
    }

    fn remove_unclaimed(&mut self, key: &FrontendKey, draft: &mut Draft) {
        let Some(claims) = self.frontends.get(key) else { return };
        if claims.best().is_some() {
            return;
        }
        if claims.in_map.is_some() {
            draft.remove.push(Operation::RemoveFrontend { key: *key });
            self.frontends_in_map -= 1;
        }
        self.frontends.remove(key);
    }

    fn settle_frontend(&mut self, key: FrontendKey, draft: &mut Draft) {
        let Some(claims) = self.frontends.get_mut(&key) else { return };
        let Some(best) = claims.best() else { return };
        let frontend = Frontend::sealed(&key, best.service, best.kind);
        if claims.in_map.is_none() && self.frontends_in_map >= self.capacity.frontends {
            let (port, capacity) = (best.name.clone(), self.capacity);
            draft.unplaced.insert(port.service.clone());
            draft.problems.push(Problem::NoFrontend { port, frontend: key, capacity });
            return;
        }
        let changes = claims.in_map != Some(frontend);
        // Whoever lost it now, and whoever asked for it again in vain. Nobody loses by an address, which serves
        // nothing by itself.
        let is_contest = |loser: &&Claim| changes || draft.claimants.contains(&loser.service);
        for loser in claims.losers().filter(is_contest).filter(|_| key.scope != scope::ADDRESS) {
            draft.problems.push(Problem::Contested {
                port: loser.name.clone(),
                frontend: key,
                holder: best.name.clone(),
            });
        }
        if changes {
            self.frontends_in_map += u32::from(claims.in_map.is_none());
            claims.in_map = Some(frontend);
            draft.put.push(Operation::PutFrontend { key, frontend });
        }
    }

    /// Gives up ids and slots that nothing leads to any more.
    fn retire(&mut self, draft: &mut Draft) {
        for (id, range, admitted) in std::mem::take(&mut draft.gone) {
            self.sources.retire(id, &admitted, self.epoch);
            self.slots.retire(range, self.epoch);
            self.ids.retire(layout::Range { start: id, len: 1 }, self.epoch);
        }
    }
}

/// The backends in `range`, if the memory reaches that far.
fn slots(memory: &[Backend], range: layout::Range) -> Option<&[Backend]> {
    memory.get(range.start as usize..)?.get(..range.len as usize)
}

/// A plan in the making.
#[derive(Debug, Default)]
struct Draft {
    stray: Vec<SourceRange>,
    remove: Vec<Operation>,
    write: Vec<Operation>,
    admit: Vec<Operation>,
    publish: Vec<Operation>,
    put: Vec<Operation>,
    expel: Vec<SourceRange>,
    problems: Vec<Problem>,
    unplaced: BTreeSet<ServiceName>,
    /// Frontends whose claims changed.
    touched: BTreeSet<FrontendKey>,
    /// Service ports whose claims were looked at: a lost claim of theirs is worth a word.
    claimants: BTreeSet<u32>,
    /// Ids whose words in the map may hold anything, to be written in any case.
    fresh: BTreeSet<u32>,
    /// Ids to give up, their slots, and the clients they admit.
    gone: Vec<(u32, layout::Range, BTreeSet<Range>)>,
}

impl Draft {
    /// All operations, and the revision as they leave it. One found odd is settled in any case: the last process
    /// died while it changed frontends.
    fn in_order(mut self, revision: &mut Revision) -> (Vec<Operation>, Vec<Problem>, BTreeSet<ServiceName>) {
        let mut begin = Vec::new();
        let mut end = Vec::new();
        if revision.is_settled() && !(self.remove.is_empty() && self.put.is_empty()) {
            *revision = revision.next();
            begin.push(Operation::SetRevision { revision: *revision });
        }
        if !revision.is_settled() {
            *revision = revision.next();
            end.push(Operation::SetRevision { revision: *revision });
        }
        let removals = |ranges: Vec<SourceRange>| {
            ranges.into_iter().map(|range| Operation::RemoveSource { range }).collect()
        };
        let (mut stray, mut expel) = (removals(self.stray), removals(self.expel));
        let phases = [
            &mut stray,
            &mut begin,
            &mut self.remove,
            &mut self.write,
            &mut self.admit,
            &mut self.publish,
            &mut expel,
            &mut self.put,
            &mut end,
        ];
        let mut operations = Vec::with_capacity(phases.iter().map(|phase| phase.len()).sum());
        for phase in phases {
            operations.append(phase);
        }
        (operations, self.problems, self.unplaced)
    }
}

#[cfg(test)]
mod tests;
