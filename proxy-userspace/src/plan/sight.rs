//! What the maps are seen to hold while nothing is being planned: where that is something else than the mirror says,
//! somebody else has written to them.
//!
//! The mirror follows what is seen, so that the next plan makes up the difference like any other. Ids and slots stay
//! whose they are. The Services concerned ([`Difference::service`]) have to be among those that this plan speaks of.

use proxy_common::layout::{Backend, Frontend, FrontendKey, Revision, Service, Sets, Traits};

use super::{Planner, SourceRange, slots};
use crate::{
    audit::{Difference, properties},
    cluster::model::ServiceName,
    tables::PortTable,
};

impl Planner {
    /// The first Service behind `after` that has an id, in the order of names.
    #[must_use]
    pub fn service_after(&self, after: Option<&ServiceName>) -> Option<&ServiceName> {
        use std::ops::Bound::{Excluded, Unbounded};
        let begin = after.map_or(Unbounded, Excluded);
        self.by_service.range::<ServiceName, _>((begin, Unbounded)).next().map(|(name, _)| name)
    }

    /// Every frontend that a Service claims.
    pub fn frontends_of(&self, service: &ServiceName) -> impl Iterator<Item = FrontendKey> {
        let ports = self.ids(service).iter().filter_map(|id| self.ports.get(id));
        ports.flat_map(|port| port.frontends.iter().map(|(key, _)| *key))
    }

    /// The clients that the map admits to a Service.
    pub fn admitted_to(&self, service: &ServiceName) -> impl Iterator<Item = SourceRange> {
        let ports = self.ids(service).iter().filter_map(|id| Some((*id, self.ports.get(id)?)));
        ports.flat_map(|(service, port)| {
            port.admitted.iter().map(move |(address, length)| SourceRange {
                service,
                address: *address,
                length: *length,
            })
        })
    }

    /// Whether the next plan has something to do though no Service has changed.
    #[must_use]
    pub fn has_suspects(&self) -> bool {
        !self.suspects.frontends.is_empty() || self.sources.has_strays() || !self.revision.is_settled()
    }

    /// The map holds that of a frontend.
    pub fn sight_frontend(&mut self, key: FrontendKey, found: Option<Frontend>) -> Option<Difference> {
        let expected = self.frontends.get(&key).and_then(|claims| claims.in_map);
        if expected == found {
            return None;
        }
        let owner = self.holder(&key).cloned();
        let difference = match (expected, found) {
            (None, _) => Difference::Foreign { frontend: key },
            (_, None) => Difference::Missing { frontend: key, owner },
            _ => Difference::Misled { frontend: key, owner },
        };
        self.frontends_in_map += u32::from(found.is_some());
        self.frontends_in_map -= u32::from(expected.is_some());
        self.frontends.entry(key).or_default().in_map = found;
        self.suspects.frontends.insert(key);
        Some(difference)
    }

    /// The maps hold these words and slots; compared with the words that were written last for a Service, and with the
    /// endpoints of its tables. Without `are_placed` the latter are left out: they may be those of an earlier plan.
    pub fn sight_service(
        &mut self,
        service: &ServiceName,
        tables: &[PortTable],
        (words, memory): (&[Service], &[Backend]),
        are_placed: bool,
    ) -> Vec<Difference> {
        let mut differences = Vec::new();
        for id in self.by_service.get(service).into_iter().flatten() {
            let Some(port) = self.ports.get(id) else { continue };
            let found = words.get(*id as usize).map(|word| (Sets(word.sets), Traits(word.traits)));
            if let Some(found) = found.filter(|found| *found != (port.sets, port.traits)) {
                let what = properties((port.sets, port.traits), found)
                    .unwrap_or_else(|| "leads to slots of somebody else's".to_owned());
                differences.push(Difference::Properties { port: port.name.clone(), what });
                self.suspects.words.insert(*id);
            }
            let table = tables.iter().find(|table| table.name == port.name).filter(|_| are_placed);
            let Some(table) = table else { continue };
            for (range, wanted) in [(port.sets.cluster(), &table.cluster), (port.sets.local(), &table.local)]
            {
                let held = slots(memory, range).unwrap_or_default();
                differences.extend(Difference::of_endpoints(&port.name, wanted, held));
            }
        }
        differences
    }

    /// The map admits nobody in a range that it should admit: [`Planner::admitted_to`] says which.
    pub fn sight_kept_out(&mut self, range: SourceRange) -> Option<Difference> {
        let port = self.ports.get_mut(&range.service)?;
        if !port.admitted.remove(&(range.address, range.length)) {
            return None;
        }
        self.sources.lost();
        Some(Difference::KeptOut { port: port.name.clone(), range })
    }

    /// The map holds a range; a difference if it is nobody's.
    pub fn sight_source(&mut self, range: SourceRange) -> Option<Difference> {
        let port = self.ports.get(&range.service);
        let is_known = port.is_some_and(|port| port.admitted.contains(&(range.address, range.length)))
            || self.adopted.get(&range.service).is_some_and(|found| found.admits(&range))
            || self.sources.knows(&range);
        if is_known {
            return None;
        }
        let port = port.map(|port| port.name.clone());
        self.sources.found_stray(range);
        Some(Difference::LetIn { port, range })
    }

    /// The map holds this revision. Who remembers another one must not be able to take the next for it.
    pub fn sight_revision(&mut self, found: Revision) -> Option<Difference> {
        if found == self.revision {
            return None;
        }
        self.revision = Revision(found.0.max(self.revision.0) | 1);
        Some(Difference::Revision)
    }
}
