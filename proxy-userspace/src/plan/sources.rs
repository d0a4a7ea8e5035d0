//! Which clients the map admits to restricted services.
//!
//! Ranges are written before the word that restricts a service, and removed after it. Two kinds stay until a grace period
//! has passed, because a program that read the old word may still ask for them: those of services that are gone, and those
//! of services that admit everybody now.

use std::collections::BTreeSet;

use proxy_common::layout;

use super::{Draft, Operation, Planner, Problem, SourceRange};
use crate::tables::{PortTable, admission::Range};

/// Bookkeeping of the map.
#[derive(Debug, Default)]
pub(super) struct Sources {
    in_map: usize,
    /// Nobody's any more, by the epoch of their last plan: programs may still ask for them.
    limbo: Vec<(u64, SourceRange)>,
    /// Nobody's any more, and nobody asks for them.
    strays: Vec<SourceRange>,
}

impl Sources {
    /// How many ranges the map holds.
    pub(super) fn len(&self) -> usize {
        self.in_map
    }

    /// The map holds one that has an owner.
    pub(super) fn found(&mut self) {
        self.in_map += 1;
    }

    /// The map holds one that has none.
    pub(super) fn found_stray(&mut self, range: SourceRange) {
        self.in_map += 1;
        self.strays.push(range);
    }

    /// The map holds one less than was thought.
    pub(super) fn lost(&mut self) {
        self.in_map -= 1;
    }

    /// Whether anything is to be removed at once.
    pub(super) fn has_strays(&self) -> bool {
        !self.strays.is_empty()
    }

    /// Whether it is in the map and waits to be removed.
    pub(super) fn knows(&self, range: &SourceRange) -> bool {
        self.strays.contains(range) || self.limbo.iter().any(|(_, waiting)| waiting == range)
    }

    /// What is to be removed before anything else.
    pub(super) fn take_strays(&mut self) -> Vec<SourceRange> {
        self.in_map -= self.strays.len();
        // The order of a map must make no difference to the plan.
        self.strays.sort_unstable();
        std::mem::take(&mut self.strays)
    }

    /// A service does not admit these any more, but programs may not know.
    pub(super) fn retire<'a>(&mut self, id: u32, ranges: impl IntoIterator<Item = &'a Range>, epoch: u64) {
        self.limbo.extend(ranges.into_iter().map(|range| (epoch, of_service(id, range))));
    }

    /// A grace period has passed that began after the plan of `epoch`.
    pub(super) fn release(&mut self, epoch: u64) {
        let released = self.limbo.extract_if(.., |(retired, _)| *retired <= epoch);
        self.strays.extend(released.map(|(_, range)| range));
    }

    /// Whether anything waits for a grace period.
    pub(super) fn has_limbo(&self) -> bool {
        !self.limbo.is_empty()
    }

    /// Takes back all that a service does not admit any more and the map still holds: as clients are told apart
    /// again, whatever it holds counts.
    fn reclaim(&mut self, id: u32) -> impl Iterator<Item = Range> {
        let own = self.limbo.extract_if(.., move |(_, range)| range.service == id);
        own.map(|(_, range)| (range.address, range.length))
    }
}

impl Planner {
    /// Makes the clients whom `id` admits those of its table; `false` if there is no room for all.
    pub(super) fn admit(&mut self, id: u32, table: &PortTable, draft: &mut Draft) -> bool {
        let Some(port) = self.ports.get_mut(&id) else { return false };
        let Some(admission) = &table.admission else {
            self.sources.retire(id, &std::mem::take(&mut port.admitted), self.epoch);
            return true;
        };
        let wanted = &admission.ranges;
        port.admitted.extend(self.sources.reclaim(id));
        let expelled: BTreeSet<Range> = port.admitted.difference(wanted).copied().collect();
        let missing: Vec<Range> = wanted.difference(&port.admitted).copied().collect();
        let room = (layout::SOURCES as usize).saturating_sub(self.sources.in_map);
        let (placed, left_out) = missing.split_at(room.min(missing.len()));
        draft.admit.extend(placed.iter().map(|range| Operation::PutSource { range: of_service(id, range) }));
        draft.expel.extend(expelled.iter().map(|range| of_service(id, range)));
        self.sources.in_map += placed.len();
        self.sources.in_map -= expelled.len();
        port.admitted.retain(|range| !expelled.contains(range));
        port.admitted.extend(placed);
        if !left_out.is_empty() {
            let left_out = left_out.len();
            draft.problems.push(Problem::NoSource { port: table.name.clone(), left_out });
        }
        left_out.is_empty()
    }
}

fn of_service(service: u32, &(address, length): &Range) -> SourceRange {
    SourceRange { service, address, length }
}
