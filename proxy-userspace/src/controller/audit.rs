//! The loop's share in drift: whether the maps still say what was written to them, and whether pins are still there.
//!
//! It is looked in small steps, in the loop's own thread and between changes, so that nothing under way is ever taken for
//! drift, and no change waits for longer than one step takes. What is found goes through the next plan, like everything.

use std::{
    collections::BTreeMap,
    future::pending,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::{Controller, status::Status};
use crate::{
    audit::{Difference, served},
    bucket::Bucket,
    cluster::model::ServiceName,
    datapath::{kernel::Cursor, pins},
    events::Event,
    plan::SourceRange,
    tables,
};

/// From one step to the next, and at least from the begin of one pass to that of the next. 10,000 Services take a minute.
const STEP: Duration = Duration::from_millis(250);
const PASS: Duration = Duration::from_secs(10);

/// How many Services, or frontends and endpoints of Services, are looked at in one step.
const SERVICES: usize = 64;
const ENTRIES: usize = 2_048;

/// How many entries of a hash are read in one step.
const WALKED: usize = 512;

/// How many differences one line of the log names.
const NAMED: usize = 5;

/// Lines about drift: so many in a row, and one more after a while.
const LINES: (u32, Duration) = (10, Duration::from_secs(10));

/// Looks at the maps.
pub(super) struct Auditor {
    /// When to take the next step; `None` until the maps are complete for the first time.
    next: Option<Instant>,
    pass_began: Instant,
    at: Stage,
    lines: Bucket,
    /// By map, what has been found and is not set right yet.
    open: BTreeMap<&'static str, usize>,
}

/// Where a pass stands.
#[derive(Clone, Debug, Default)]
enum Stage {
    /// What is small, all at once.
    #[default]
    Begin,
    /// What Services should have, from the one behind this on.
    Services(Option<ServiceName>),
    /// Frontends that are nobody's.
    Frontends(Cursor),
    /// Clients who should not be admitted; with how many steps are left. A walk over a trie may begin anew.
    Sources(Option<SourceRange>, usize),
}

impl Default for Auditor {
    fn default() -> Self {
        let now = Instant::now();
        let lines = Bucket::full(LINES.0, LINES.1, now);
        Self { next: None, pass_began: now, at: Stage::Begin, lines, open: BTreeMap::new() }
    }
}

impl Auditor {
    /// The maps are complete: from now on it is looked.
    pub(super) fn begin(&mut self) {
        self.next = Some(Instant::now() + STEP);
    }

    /// Returns when it is time for a step.
    pub(super) async fn due(&self) {
        match self.next {
            Some(at) => sleep_until(at.into()).await,
            None => pending().await,
        }
    }

    /// The next step is to be taken later, the next pass later still.
    fn rest(&mut self, has_passed: bool) {
        let now = Instant::now();
        let step = now + STEP;
        self.next = Some(if has_passed { step.max(self.pass_began + PASS) } else { step });
        if has_passed {
            self.at = Stage::Begin;
        }
    }

    /// What was found has been set right.
    pub(super) fn settled(&mut self, status: &Status) {
        if self.open.is_empty() {
            return;
        }
        for (map, count) in std::mem::take(&mut self.open) {
            status.metrics.drift.repaired(map, count);
        }
        status.fault("maps", None);
        info!("the maps are as they should be again");
    }
}

impl Controller {
    /// Takes a step. Says whether there is something to be set right.
    pub(super) fn audit(&mut self, auditor: &mut Auditor) -> bool {
        // What the maps should say is not settled: the next plan speaks of everything.
        if !self.synced {
            auditor.rest(true);
            return false;
        }
        if matches!(auditor.at, Stage::Begin) {
            auditor.pass_began = Instant::now();
        }
        let step = match auditor.at.clone() {
            Stage::Begin => self.look_at_small_maps().map(|found| (found, Stage::Services(None))),
            Stage::Services(last) => self.look_at_services(last),
            Stage::Frontends(cursor) => self.look_for_foreign_frontends(cursor),
            Stage::Sources(last, left) => self.look_for_foreign_sources(last, left),
        };
        let (found, next) = match step {
            Ok(done) => done,
            // Somebody writes to the same bucket, perhaps; or the kernel cannot walk. The next pass tries it again.
            Err(error) => {
                debug!("{error:#}");
                (Vec::new(), Stage::Begin)
            }
        };
        let has_passed = matches!(next, Stage::Begin);
        auditor.at = next;
        auditor.rest(has_passed);
        if has_passed {
            self.status.metrics.drift.passed();
        }
        self.tell_of_drift(auditor, &found);
        self.drifted.extend(found.iter().filter_map(Difference::service).cloned());
        !found.is_empty()
    }

    fn look_at_small_maps(&mut self) -> Result<Vec<Difference>> {
        let revision = self.planner.sight_revision(self.datapath.revision());
        let mut found: Vec<Difference> = revision.into_iter().collect();
        if !self.surroundings.are_due {
            found.extend(self.look_at_surroundings()?);
        }
        Ok(found)
    }

    /// The node's addresses and the lists. What is wrong is written anew as if it had just changed.
    fn look_at_surroundings(&mut self) -> Result<Vec<Difference>> {
        let mut found = Vec::new();
        let surroundings = &mut self.surroundings;
        if let Some(written) = &surroundings.written_addresses {
            found = served::node_addresses(written, &self.datapath.node_addresses()?);
            for address in self.datapath.unmarked_of(written) {
                self.datapath.mark(&address)?;
                found.push(Difference::Unmarked { address });
            }
            if !found.is_empty() {
                surroundings.written_addresses = None;
            }
        }
        if let Some(written) = &surroundings.written_left
            && (written.clone(), written.len() as u64) != self.datapath.left_alone()?
        {
            surroundings.written_left = None;
            found.push(Difference::List { map: "left_cgroups" });
        }
        let names = ["service_cidrs", "pod_cidrs"];
        for ((map, written), is) in
            names.into_iter().zip(surroundings.written_ranges).zip(self.datapath.ranges())
        {
            if written.is_some_and(|written| is != Some(written)) {
                found.push(Difference::List { map });
            }
        }
        surroundings.are_due |= !found.is_empty();
        Ok(found)
    }

    fn look_at_services(&mut self, mut last: Option<ServiceName>) -> Result<(Vec<Difference>, Stage)> {
        let (mut found, mut entries) = (Vec::new(), 0);
        for _ in 0..SERVICES {
            let Some(service) = self.planner.service_after(last.as_ref()).cloned() else {
                return Ok((found, Stage::Frontends(Cursor::default())));
            };
            entries += self.look_at_service(&service, &mut found)?;
            last = Some(service);
            if entries > ENTRIES {
                break;
            }
        }
        Ok((found, Stage::Services(last)))
    }

    /// Says how much there was to look at.
    fn look_at_service(&mut self, service: &ServiceName, found: &mut Vec<Difference>) -> Result<usize> {
        let keys: Vec<_> = self.planner.frontends_of(service).collect();
        for key in &keys {
            let held = self.datapath.frontend(key)?;
            found.extend(self.planner.sight_frontend(*key, held));
            if held.is_some() && !self.datapath.is_marked(key) {
                self.datapath.mark(&key.address)?;
                found.push(Difference::Unmarked { address: key.address });
            }
        }
        let tables = tables::of_service(&self.cluster, service);
        let is_placed = !self.unplaced.contains(service);
        found.extend(self.planner.sight_service(service, &tables, self.datapath.words(), is_placed));
        let admitted: Vec<_> = self.planner.admitted_to(service).collect();
        for range in &admitted {
            if !self.datapath.admits(range)? {
                found.extend(self.planner.sight_kept_out(*range));
            }
        }
        let endpoints: usize = tables.iter().map(|table| table.cluster.len() + table.local.len()).sum();
        Ok(keys.len() + admitted.len() + endpoints)
    }

    fn look_for_foreign_frontends(&mut self, mut cursor: Cursor) -> Result<(Vec<Difference>, Stage)> {
        let (held, more) = self.datapath.frontends_from(&mut cursor, WALKED)?;
        let sighted = held.into_iter().filter_map(|(key, held)| self.planner.sight_frontend(key, Some(held)));
        let found = sighted.collect();
        let all = self.planner.admitted().div_ceil(WALKED) + 2;
        Ok((found, if more { Stage::Frontends(cursor) } else { Stage::Sources(None, all) }))
    }

    fn look_for_foreign_sources(
        &mut self,
        mut last: Option<SourceRange>,
        left: usize,
    ) -> Result<(Vec<Difference>, Stage)> {
        let mut found = Vec::new();
        for _ in 0..WALKED {
            let Some(range) = self.datapath.source_after(last.as_ref())? else {
                return Ok((found, Stage::Begin));
            };
            found.extend(self.planner.sight_source(range));
            last = Some(range);
        }
        Ok((found, if left == 0 { Stage::Begin } else { Stage::Sources(last, left - 1) }))
    }

    fn tell_of_drift(&self, auditor: &mut Auditor, found: &[Difference]) {
        if found.is_empty() {
            return;
        }
        for difference in found {
            self.status.metrics.drift.found(difference.map(), 1);
            *auditor.open.entry(difference.map()).or_default() += 1;
        }
        let mut named: Vec<String> = found.iter().take(NAMED).map(ToString::to_string).collect();
        if found.len() > NAMED {
            named.push(format!("{} more", found.len() - NAMED));
        }
        let what = format!("somebody else has written to the maps: {}", named.join(" | "));
        self.status.fault("maps", Some(what.clone()));
        if auditor.lines.try_take(Instant::now()) {
            warn!("{what}; setting it right");
        }
        self.hears.events.record(|| Some(Event::drifted(what)));
    }

    /// Makes pins anew that somebody has removed; to be called before anything is looked up by its pin.
    ///
    /// # Errors
    /// When another process has taken the folder over: then it serves, and two must not.
    pub(super) fn restore_pins(&mut self) -> Result<()> {
        match self.datapath.restore_pins() {
            Ok(0) => {}
            Ok(count) => {
                let root = self.settings.bpffs_root.display();
                warn!(pins = count, "somebody had removed pins below {root}; they are there again");
                self.status.metrics.drift.found("pin", count);
                self.status.metrics.drift.repaired("pin", count);
                self.hears
                    .events
                    .record(|| Some(Event::drifted(format!("pins below {root} had been removed"))));
            }
            Err(error) if error.is::<pins::Taken>() => return Err(error),
            Err(error) => {
                let reason = format!("what is pinned would not outlive this process: {error:#}");
                if self.status.fault("pins", Some(reason.clone())) {
                    self.status.metrics.drift.found("pin", 1);
                    warn!("{reason}; trying again every ten seconds");
                }
                return Ok(());
            }
        }
        if self.status.fault("pins", None) {
            info!("everything is pinned again");
        }
        Ok(())
    }
}
