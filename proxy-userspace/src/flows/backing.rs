//! Which connected sockets lead to a backend that is gone.
//!
//! A connected socket never chooses again, and UDP has nothing that would tell it that nobody answers. So whoever lost a
//! backend is to be told. [`Backing`] hears who stands behind each frontend, before and after each change, and remembers
//! whom a frontend has lost until all sockets have been looked at twice: one that was just about to connect when the
//! first look passed by is found by the second.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use proxy_common::{
    address::{Address, Port},
    layout::{FrontendKey, Origin, protocol, scope},
};

use crate::cluster::model::ServiceName;

/// An address and a port.
pub type End = (Address, Port);

/// A protocol, and where a service port answers; NodePorts stand under the wildcard of their family.
type Front = (u8, End);

/// How often all sockets are looked at for one that was lost.
const LOOKS: u64 = 2;

/// Who stands behind some frontends.
#[derive(Clone, Debug)]
pub struct Stand {
    /// The frontends: those that the Service holds.
    pub frontends: Vec<FrontendKey>,
    /// The endpoints. Of UDP those that answer: ready or not, terminating or not, here or elsewhere. Of TCP all there are.
    pub endpoints: Arc<HashSet<End>>,
}

/// All that is to be known of a Service.
#[derive(Clone, Debug)]
pub struct Roster {
    /// Its name.
    pub service: ServiceName,
    /// Its ports; none when it is gone.
    pub stands: Vec<Stand>,
    /// Who answers UDP according to its slices, whatever the port: sockets that were connected to a frontend it has no
    /// more stay with these, as long as nobody else has it.
    pub answering: Arc<HashSet<End>>,
}

/// What the loop says of a change.
#[derive(Clone, Debug)]
pub struct News {
    /// The Services that it touched.
    pub rosters: Arc<[Roster]>,
    /// Where NodePorts are.
    pub node: Arc<BTreeSet<Address>>,
    /// How far it is.
    pub stage: Stage,
}

/// How far a change is.
#[derive(Clone, Debug)]
pub enum Stage {
    /// About to be made: somebody may be chosen who was not before.
    Coming,
    /// Made: whoever chooses now chooses among these.
    Made,
    /// Made, and these are all Services. Also said: who answers UDP in the whole cluster.
    Complete(Arc<HashSet<End>>),
}

/// Who stands behind which frontend, and who does not any more.
#[derive(Debug, Default)]
pub struct Backing {
    held: HashMap<Front, Held>,
    /// The frontends in `held`, and maybe some that are another Service's by now.
    by_service: HashMap<ServiceName, Vec<Front>>,
    /// Who was lost, and how many looks had begun by then.
    lost: HashMap<Front, HashMap<End, u64>>,
    /// After [`Stage::Complete`]: who answers at all, and how many looks had begun. Nobody knows then who was lost before.
    complete: Option<(Arc<HashSet<End>>, u64)>,
    node: Arc<BTreeSet<Address>>,
    looks: u64,
}

#[derive(Debug)]
struct Held {
    service: ServiceName,
    endpoints: Arc<HashSet<End>>,
}

impl Backing {
    /// Takes in what the loop says.
    pub fn hear(&mut self, news: &News) {
        self.node = Arc::clone(&news.node);
        match &news.stage {
            Stage::Coming => news.rosters.iter().for_each(|roster| self.coming(roster)),
            Stage::Made => news.rosters.iter().for_each(|roster| self.made(roster)),
            Stage::Complete(answering) => {
                self.held.clear();
                self.by_service.clear();
                news.rosters.iter().for_each(|roster| self.made(roster));
                self.complete = Some((Arc::clone(answering), self.looks));
            }
        }
    }

    /// Sockets may be connected to these from now on.
    fn coming(&mut self, roster: &Roster) {
        for (front, endpoints) in fronts(roster) {
            self.back(&front, endpoints);
            if let Some(held) = self.held.get_mut(&front)
                && !endpoints.is_subset(&held.endpoints)
            {
                held.endpoints = Arc::new(held.endpoints.union(endpoints).copied().collect());
            }
        }
    }

    fn made(&mut self, roster: &Roster) {
        let before = self.by_service.remove(&roster.service).unwrap_or_default();
        let mut now = Vec::new();
        for (front, endpoints) in fronts(roster) {
            let held = Held { service: roster.service.clone(), endpoints: Arc::clone(endpoints) };
            match self.held.insert(front, held) {
                // Another Service's endpoint is not gone. UDP goes to the new one's all the same, as a flow would.
                Some(old) if front.0 == protocol::UDP || old.service == roster.service => {
                    self.lose(front, &old.endpoints, endpoints);
                }
                _ => {}
            }
            self.back(&front, endpoints);
            now.push(front);
        }
        for front in before {
            match self.held.get_mut(&front) {
                Some(held) if held.service == roster.service && !now.contains(&front) => {}
                _ => continue,
            }
            let old = self.held.remove(&front).map(|held| held.endpoints).unwrap_or_default();
            // A connection to an endpoint that may well be there is not for us to cut.
            if front.0 != protocol::UDP {
                continue;
            }
            self.lose(front, &old, &roster.answering);
            if !roster.answering.is_empty() {
                let held = Held { service: roster.service.clone(), endpoints: Arc::clone(&roster.answering) };
                self.held.insert(front, held);
                now.push(front);
            }
        }
        if !now.is_empty() {
            self.by_service.insert(roster.service.clone(), now);
        }
    }

    fn lose(&mut self, front: Front, before: &HashSet<End>, now: &HashSet<End>) {
        for end in before.difference(now) {
            self.lost.entry(front).or_default().insert(*end, self.looks);
        }
    }

    /// These are there again.
    fn back(&mut self, front: &Front, endpoints: &HashSet<End>) {
        if let Some(lost) = self.lost.get_mut(front) {
            lost.retain(|end, _| !endpoints.contains(end));
        }
    }

    /// Whether sockets are to be looked at.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.complete.is_some() || !self.lost.is_empty()
    }

    /// A look at all sockets begins.
    pub fn begin(&mut self) {
        self.looks += 1;
    }

    /// It has ended: whom it was the second for is forgotten.
    pub fn end(&mut self) {
        let looks = self.looks;
        let is_due = |since: u64| looks < since + LOOKS;
        self.lost.retain(|_, lost| {
            lost.retain(|_, since| is_due(*since));
            !lost.is_empty()
        });
        self.complete.take_if(|(_, since)| !is_due(*since));
    }

    /// Whether a socket of ours is to be told that its backend is gone.
    ///
    /// Of TCP only what the second look finds: an endpoint that moves from one slice to another may be in neither for a
    /// moment, and what is cut is cut.
    #[must_use]
    pub fn is_over(&self, protocol: u8, origin: &Origin) -> bool {
        let backend = (origin.backend, origin.backend_port);
        let front = self.front(protocol, (origin.vip, origin.vip_port));
        let is_ripe = |since: u64| protocol == protocol::UDP || self.looks >= since + LOOKS;
        if let Some(since) = self.lost.get(&front).and_then(|lost| lost.get(&backend)) {
            return is_ripe(*since);
        }
        let Some((answering, since)) = &self.complete else { return false };
        let is_there = match self.held.get(&front) {
            Some(held) => held.endpoints.contains(&backend),
            None => protocol != protocol::UDP || answering.contains(&backend),
        };
        !is_there && is_ripe(*since)
    }

    /// Which frontend a socket has asked: as the programs find it.
    fn front(&self, protocol: u8, asked: End) -> Front {
        let exact = (protocol, asked);
        let (address, port) = asked;
        let is_known = |front: &Front| self.held.contains_key(front) || self.lost.contains_key(front);
        let is_here = address.is_loopback() || self.node.contains(&address);
        if is_here && !is_known(&exact) { (protocol, (address.any_of_family(), port)) } else { exact }
    }
}

/// The frontends of a Service, each with its endpoints.
fn fronts(roster: &Roster) -> impl Iterator<Item = (Front, &Arc<HashSet<End>>)> {
    roster.stands.iter().flat_map(|stand| {
        let keys = stand.frontends.iter().filter(|key| matches!(key.scope, scope::VIP | scope::NODE_PORT));
        keys.map(|key| ((key.protocol, (key.address, key.port)), &stand.endpoints))
    })
}

#[cfg(test)]
#[path = "backing_tests.rs"]
mod tests;
