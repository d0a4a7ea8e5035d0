//! Starting from maps that were found pinned: ids are kept, nothing is disturbed, leftovers go last.
//!
//! The maps do not say to which Service an id belongs; its frontends do. A desired service port takes over the
//! id that one of its frontends leads to, unless a frontend leads there as well that is another port's by now, or
//! that has become another kind of address: then publishing new endpoints under that id would misdirect that
//! frontend's connections until it is rewritten, so a fresh id is taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proxy_common::layout::{Frontend, FrontendKey, Range, Revision, Service, Sets, Traits, scope};

use super::{Capacity, Claims, Desired, Draft, Planner, SourceRange};
use crate::tables::{PortName, PortTable, admission};

/// What the maps hold, read back.
#[derive(Debug)]
pub struct Observed<'a> {
    /// Every entry of the frontends map.
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// The services map.
    pub services: &'a [Service],
    /// Every entry of the map of admitted clients.
    pub sources: Vec<SourceRange>,
    /// The frontends' revision.
    pub revision: Revision,
}

/// An id found in the maps.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) sets: Sets,
    pub(super) traits: Traits,
    /// The clients that the map admits.
    pub(super) admitted: BTreeSet<admission::Range>,
    /// Whether the map's words are what stands here.
    pub(super) trusted: bool,
    /// The frontends that lead to it.
    frontends: Vec<FrontendKey>,
}

impl Adopted {
    /// Whether the map was found to admit a range to it.
    pub(super) fn admits(&self, range: &SourceRange) -> bool {
        self.admitted.contains(&(range.address, range.length))
    }
}

/// Which desired service port shall have a frontend, as far as adoption has to know: its best claim.
pub(super) type Wanted = HashMap<FrontendKey, (u32, i64, PortName)>;

impl Planner {
    /// For maps found pinned. Follow it with a plan of [`super::Extent::Everything`], from complete lists.
    ///
    /// What makes no sense (a frontend that leads nowhere, slots claimed twice) is not adopted and thereby
    /// rewritten or removed by that plan.
    #[must_use]
    pub fn adopt(capacity: Capacity, observed: Observed<'_>) -> Self {
        let mut planner = Self::new(capacity);
        planner.revision = observed.revision;
        let mut found: BTreeMap<u32, Vec<FrontendKey>> = BTreeMap::new();
        for (key, frontend) in observed.frontends {
            planner.frontends.insert(key, Claims::found(frontend));
            planner.frontends_in_map += 1;
            if frontend.belongs_to(&key) && serves(&key) {
                found.entry(frontend.service).or_default().push(key);
            }
        }
        for (id, frontends) in found {
            let Some(service) = observed.services.get(id as usize) else { continue };
            if !planner.ids.claim(Range { start: id, len: 1 }) {
                continue;
            }
            let sets = Sets(service.sets);
            let trusted = planner.slots.claim(sets.all());
            let sets = if trusted { sets } else { Sets::EMPTY };
            let (traits, admitted) = (Traits(service.traits), BTreeSet::new());
            planner.adopted.insert(id, Adopted { sets, traits, admitted, trusted, frontends });
        }
        for range in observed.sources {
            match planner.adopted.get_mut(&range.service) {
                Some(adopted) => {
                    adopted.admitted.insert((range.address, range.length));
                    planner.sources.found();
                }
                None => planner.sources.found_stray(range),
            }
        }
        planner
    }

    /// The desired owners of frontends that lead to adopted ids.
    pub(super) fn wanted(&self, desired: &[Desired]) -> Wanted {
        let mut wanted = Wanted::new();
        if self.adopted.is_empty() {
            return wanted;
        }
        for table in desired.iter().flat_map(|(_, tables)| tables) {
            for (key, kind) in &table.frontends {
                let claim = (*kind, table.created, table.name.clone());
                let best = wanted.entry(*key).or_insert_with(|| claim.clone());
                if claim < *best {
                    *best = claim;
                }
            }
        }
        wanted
    }

    /// The id under which the maps know the port, if it can be taken over safely.
    pub(super) fn adopt_id(&mut self, table: &PortTable, wanted: &Wanted) -> Option<(u32, Adopted)> {
        let is_compatible = |key: &FrontendKey| {
            let found = self.frontends.get(key).and_then(|claims| claims.in_map);
            // What nobody wants is removed before anything is published.
            wanted.get(key).is_none_or(|(kind, _, name)| {
                *name == table.name && found.is_some_and(|found| found.kind == *kind)
            })
        };
        let id = table.frontends.iter().filter(|(key, _)| serves(key)).find_map(|(key, _)| {
            let found = self.frontends.get(key)?.in_map?;
            let adopted = self.adopted.get(&found.service)?;
            adopted.frontends.iter().all(is_compatible).then_some(found.service)
        })?;
        self.adopted.remove(&id).map(|adopted| (id, adopted))
    }

    /// Gives up what was found in the maps and is nobody's.
    pub(super) fn drop_unclaimed(&mut self, draft: &mut Draft) {
        draft
            .touched
            .extend(self.frontends.iter().filter(|(_, claims)| claims.best().is_none()).map(|(key, _)| *key));
        for (id, adopted) in std::mem::take(&mut self.adopted) {
            draft.gone.push((id, adopted.sets.all(), adopted.admitted));
        }
    }
}

/// Whether connections are led to the id by this frontend. A ClusterIP as such is any of its ports' business.
const fn serves(key: &FrontendKey) -> bool {
    key.scope != scope::ADDRESS
}
