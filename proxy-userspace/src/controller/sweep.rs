//! The pace at which flows that are over are removed; a thread of its own, whatever the API server does.
//!
//! A step looks at some hundred entries, and is followed by a rest many times as long: a pass takes a time that grows
//! with what there is, and a fiftieth of a CPU at most.

use std::{
    collections::BTreeSet,
    io, mem,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use proxy_common::layout::Tuple;
use tracing::{debug, info, warn};

use super::status::Status;
use crate::{
    cluster::model::Family,
    datapath::flows::{
        FlowMaps, is_busy, now,
        sweep::{FlowSweep, Judge, OrphanSweep, StaleSweep},
    },
    flows::{
        alarm::Alarm,
        census::{Census, Crowd},
        stale::Served,
    },
    host::tracked,
};

/// How often a pass begins, if the one before has ended.
const EVERY: Duration = Duration::from_secs(10);

/// How much longer a rest is than the step before it.
const RESTS: u32 = 49;

/// The same where clients wait for it: their server has gone.
const HURRIED_RESTS: u32 = 4;

/// A step that took long has been waiting for a CPU, not using one.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// How often it is looked whether maps have been handed over.
const HANDOVER: Duration = Duration::from_secs(1);

/// How many passes over flows there are between two over arrivals, which find what a crash has left, and notes for
/// netfilter.
const ORPHANS_EVERY: u64 = 30;

/// How many passes over flows there are between two looks at what conntrack translates; what is noted of it is forgotten
/// after three minutes ([`crate::flows::orphan`]).
const CONNTRACK_EVERY: u64 = 6;

/// Sweeps until nobody can say any more who serves: `served` tells after each change. That ends the thread's next rest,
/// and then the thread. While maps are handed over flows are still to come: it waits until that has ended.
///
/// # Errors
/// When the thread died.
pub async fn run(
    maps: FlowMaps,
    is_handing_over: bool,
    judge: Judge,
    status: Arc<Status>,
    served: Receiver<Served>,
) -> Result<()> {
    while is_handing_over && !status.health().is_serving {
        tokio::time::sleep(HANDOVER).await;
    }
    let mut sweeper = Sweeper {
        maps,
        judge,
        status,
        served,
        changed: Served::default(),
        heeds_conntrack: true,
        kube_proxys: None,
        crowded: Alarm::default(),
        full: Alarm::default(),
    };
    let thread = tokio::task::spawn_blocking(move || while sweeper.passes().is_some() {});
    thread.await.context("the thread that sweeps flows died")
}

struct Sweeper {
    maps: FlowMaps,
    judge: Judge,
    status: Arc<Status>,
    served: Receiver<Served>,
    /// What has been said since flows were last looked at for it.
    changed: Served,
    /// Whether conntrack still translates something that may be kube-proxy's.
    heeds_conntrack: bool,
    /// What that is, once we serve: only less of it then. What others translate, such as host ports, is not among it.
    kube_proxys: Option<BTreeSet<Tuple>>,
    crowded: Alarm<Crowd>,
    full: Alarm<()>,
}

impl Sweeper {
    /// Sweeps until something fails, says so and rests; `None` when it is to end.
    fn passes(&mut self) -> Option<()> {
        for pass in 0u64.. {
            let begun = Instant::now();
            if self.heeds_conntrack && pass.is_multiple_of(CONNTRACK_EVERY) {
                self.heed_conntrack();
            }
            let result = self.flows().and_then(|ended| match ended {
                Some(()) if pass.is_multiple_of(ORPHANS_EVERY) => self.orphans(),
                other => Ok(other),
            });
            match result {
                Ok(ended) => ended?,
                Err(error) => {
                    warn!(
                        "{error:#}; flows that are over stay until that is possible, trying again in {EVERY:?}"
                    );
                    return self.rest(EVERY);
                }
            }
            self.rest(EVERY.saturating_sub(begun.elapsed()))?;
        }
        None
    }

    /// Keeps flows from taking names under which netfilter has connections to endpoints: those that kube-proxy has
    /// translated before we came. Once there are none any more nobody makes others, for new ones are ours.
    fn heed_conntrack(&mut self) {
        let noted = tracked::answers_to_this_node().and_then(|answers| {
            let now = now()?;
            answers.iter().try_for_each(|answer| match self.maps.leave_to_netfilter(answer, now) {
                Err(error) if is_busy(&error) => Ok(()),
                other => other,
            })?;
            Ok(answers)
        });
        match noted {
            Ok(answers) => {
                let count = answers.len();
                if self.status.health().is_serving {
                    let left = match self.kube_proxys.take() {
                        Some(known) => &known & &answers,
                        None => answers,
                    };
                    self.heeds_conntrack = !left.is_empty();
                    self.kube_proxys = Some(left);
                }
                debug!(count, "noted which connections to endpoints are netfilter's");
            }
            Err(error) => {
                self.heeds_conntrack = false;
                warn!(
                    "cannot tell which ports conntrack has given to kube-proxy's connections: {error}; a new \
                     connection from outside may take one of them, and break both"
                );
            }
        }
    }

    /// A pass over all flows; `None` when it is to end.
    fn flows(&mut self) -> Result<Option<()>> {
        let begun = Instant::now();
        let mut sweep = FlowSweep::default();
        let judge = self.judge;
        let ended =
            self.pass(|maps, now| sweep.step(maps, &judge, now)).context("sweeping the map of flows")?;
        if ended.is_some() {
            let capacity = self.maps.capacity()?;
            self.status.metrics.flows.swept(&sweep, capacity, judge.ports, begun.elapsed());
            self.warn(&sweep.census, capacity);
        }
        Ok(ended)
    }

    /// A pass over all arrivals; `None` when it is to end.
    fn orphans(&mut self) -> Result<Option<()>> {
        let mut sweep = OrphanSweep::default();
        let ended = self.pass(|maps, now| sweep.step(maps, now)).context("sweeping the map of arrivals")?;
        if sweep.removed > 0 {
            info!(removed = sweep.removed, "removed arrivals that led nowhere");
        }
        Ok(ended)
    }

    /// Takes steps, with rests in between, until there are no more; `None` when it is to end before.
    fn pass(
        &mut self,
        mut step: impl FnMut(&mut FlowMaps, u64) -> io::Result<bool>,
    ) -> io::Result<Option<()>> {
        loop {
            let begun = Instant::now();
            match step(&mut self.maps, now()?) {
                Ok(false) => return Ok(Some(())),
                Ok(true) => {}
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(error),
            }
            if self.rest((begun.elapsed() * RESTS).min(LONGEST_REST)).is_none() {
                return Ok(None);
            }
        }
    }

    /// Rests, but for flows whose backend serves no more: these are removed at once. `None` when it is to end.
    fn rest(&mut self, time: Duration) -> Option<()> {
        let until = Instant::now() + time;
        loop {
            self.listen(until.saturating_duration_since(Instant::now()))?;
            if self.changed.is_empty() {
                return Some(());
            }
            let changed = mem::take(&mut self.changed);
            match self.stale(changed) {
                Ok(ended) => ended?,
                Err(error) => {
                    warn!(
                        "{error:#}; UDP flows to endpoints that are gone stay with them until they are idle, or until \
                         an endpoint changes again"
                    );
                }
            }
        }
    }

    /// Waits for news of who serves, no longer than that; `None` when there will be no more.
    fn listen(&mut self, time: Duration) -> Option<()> {
        match self.served.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
            Ok(news) => {
                self.changed.extend(news);
                // One pass will do for all that has been said by now.
                self.served.try_iter().for_each(|news| self.changed.extend(news));
            }
        }
        Some(())
    }

    /// Passes over all flows until none is left to a backend that does not serve; `None` when it is to end before.
    fn stale(&mut self, mut served: Served) -> Result<Option<()>> {
        let started = Instant::now();
        loop {
            let mut sweep = StaleSweep::default();
            loop {
                let begun = Instant::now();
                match sweep.step(&mut self.maps, &served) {
                    Ok(false) => break,
                    Ok(true) => {}
                    Err(error) if is_busy(&error) => {}
                    Err(error) => return Err(error).context("looking for flows to endpoints that are gone"),
                }
                if self.listen((begun.elapsed() * HURRIED_RESTS).min(LONGEST_REST)).is_none() {
                    return Ok(None);
                }
                // What is said meanwhile counts from here on, and once more for what has been looked at already.
                if !self.changed.is_empty() {
                    served.extend(self.changed.clone());
                }
            }
            let [v4, v6] = sweep.removed.map(u64::from);
            self.status.reconciled(started.elapsed(), &[(Family::V4, v4), (Family::V6, v6)]);
            if v4 + v6 > 0 {
                info!(removed = v4 + v6, "removed UDP flows to endpoints that serve no more");
            }
            if !sweep.has_missed {
                return Ok(Some(()));
            }
        }
    }

    fn warn(&mut self, census: &Census, capacity: u32) {
        let ports = self.judge.ports;
        for crowd in self.crowded.hear(census.shares(ports)) {
            let (taken, of) = (census.taken(&crowd), ports.len());
            warn!(
                taken,
                of,
                "{} % of the source ports towards {crowd} are taken: when none is left, new connections to it are \
                 refused; run more backends, or widen --masquerade-ports",
                u64::from(taken) * 100 / u64::from(of.max(1)),
            );
        }
        let share = f64::from(census.flows) / f64::from(capacity);
        if !self.full.hear(std::iter::once(((), share))).is_empty() {
            warn!(
                flows = census.flows,
                capacity,
                "the map of flows is nearly full: when it is, new connections from outside are refused; raise \
                 --conntrack-max-per-core or --conntrack-min, which takes effect after `kubeshunt cleanup`"
            );
        }
    }
}
