//! Clients that send a hundred datagrams a second each to a Service while its endpoints change, and the judgement of
//! where they went.
//!
//! Invariant: where datagrams went is what the backends saw, not what the clients believe.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::Result;

use crate::probe::Probe;
use crate::probe::protocol::{Target, Trickle, TrickleReport};
use crate::stage::PATIENCE;
use crate::station::Station;
use crate::wait::{self, monotonic_ns};

/// How long anything may take: silence, and datagrams to a backend that was removed.
pub const LIMIT: Duration = Duration::from_secs(1);

/// A hundred a second.
const EVERY_US: u64 = 10_000;

/// So many are sent between two changes: more than fit into [`LIMIT`].
const BETWEEN: usize = 150;

/// What is expected while nobody serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// Nothing reaches a backend.
    Silence,
    /// What leads to the last backend may go on doing so, as conntrack's entries do under kube-proxy.
    LastStays,
}

/// Running clients.
#[derive(Debug)]
pub struct Vigil<'a> {
    probe: &'a Probe,
    trickles: Vec<u64>,
    backends: Vec<&'a Station>,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Change {
    what: &'static str,
    at_ns: u64,
    serving: BTreeSet<usize>,
}

/// What came of one change.
#[derive(Debug)]
pub struct Outcome {
    what: &'static str,
    /// The longest time that a client had no answer for, from then until the next change, if anybody served.
    silence: Option<Duration>,
    /// How late the last datagram came to a backend that had been removed.
    late: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, silence, late } = self;
        write!(f, "{what}: last to a removed backend after {late:?}")?;
        silence.map_or(Ok(()), |silence| write!(f, ", longest silence {silence:?}"))
    }
}

impl<'a> Vigil<'a> {
    /// Starts a client for each of these targets; `serving` of the backends serve already.
    ///
    /// # Errors
    /// When a probe is gone.
    pub fn begin(
        probe: &'a Probe,
        targets: &[Target],
        backends: impl IntoIterator<Item = &'a Station>,
        serving: &[usize],
    ) -> Result<Self> {
        let at_ns = monotonic_ns();
        let start = |target: &Target| probe.trickle(&Trickle { target: target.clone(), every_us: EVERY_US });
        let trickles = targets.iter().map(start).collect::<Result<_>>()?;
        let first = Change { what: "begin", at_ns, serving: serving.iter().copied().collect() };
        let vigil = Self { probe, trickles, backends: backends.into_iter().collect(), changes: vec![first] };
        vigil.watch()?;
        Ok(vigil)
    }

    /// Makes a change, after which these serve, and watches for a while.
    ///
    /// # Errors
    /// When the change cannot be made, or a probe is gone.
    pub fn change(
        &mut self,
        what: &'static str,
        serving: &[usize],
        make: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let at_ns = monotonic_ns();
        make()?;
        self.changes.push(Change { what, at_ns, serving: serving.iter().copied().collect() });
        self.watch()
    }

    fn watch(&self) -> Result<()> {
        let tries = |trickle: &u64| -> Result<usize> {
            let report = self.probe.peek_trickle(*trickle)?;
            Ok(usize::try_from(report.sent)? + report.errors.len())
        };
        let before = self.trickles.iter().map(tries).collect::<Result<Vec<_>>>()?;
        for (trickle, before) in self.trickles.iter().zip(before) {
            wait::until_true("a client has tried so many times more", PATIENCE, || {
                Ok(tries(trickle)? >= before + BETWEEN)
            })?;
        }
        Ok(())
    }

    /// Ends the clients: what each has seen, and what came of each change.
    ///
    /// # Errors
    /// When a probe is gone.
    pub fn end(self, nobody: Nobody) -> Result<(Vec<TrickleReport>, Vec<Outcome>)> {
        let stop = |trickle: &u64| self.probe.stop_trickle(*trickle);
        let reports = self.trickles.iter().map(stop).collect::<Result<Vec<_>>>()?;
        let end_ns = monotonic_ns();
        let ticks: Vec<_> = self.backends.iter().map(|pod| pod.probe().ticks()).collect::<Result<_>>()?;
        let mut outcomes = Vec::new();
        for (index, change) in self.changes.iter().enumerate() {
            let until_ns = self.changes.get(index + 1).map_or(end_ns, |next| next.at_ns);
            let span = change.at_ns..until_ns;
            let gap = |report: &TrickleReport| {
                let answers = report.answers.iter().map(|answer| answer.done_ns);
                longest_gap(&span, answers.filter(|at| span.contains(at)))
            };
            let silence = reports.iter().map(gap).max().filter(|_| !change.serving.is_empty());
            let late = ticks.iter().enumerate().map(|(backend, ticks)| {
                let Some(gone_ns) = self.gone_since(backend, index, nobody) else { return Duration::ZERO };
                let last = ticks.iter().filter(|at| span.contains(at)).max();
                last.map_or(Duration::ZERO, |last| Duration::from_nanos(last.saturating_sub(gone_ns)))
            });
            let late = late.max().unwrap_or_default();
            outcomes.push(Outcome { what: change.what, silence, late });
        }
        Ok((reports, outcomes))
    }

    /// Since when a backend is to get nothing, after the change with that number.
    fn gone_since(&self, backend: usize, index: usize, nobody: Nobody) -> Option<u64> {
        let mut since = None;
        for change in &self.changes[..=index] {
            if change.serving.contains(&backend) || change.serving.is_empty() && nobody == Nobody::LastStays {
                since = None;
            } else {
                since.get_or_insert(change.at_ns);
            }
        }
        since
    }
}

fn longest_gap(span: &std::ops::Range<u64>, answers: impl Iterator<Item = u64>) -> Duration {
    let (mut last, mut longest) = (span.start, 0);
    for at in answers.chain([span.end]) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    Duration::from_nanos(longest)
}

/// Wants every change to be over within [`LIMIT`].
#[track_caller]
pub fn assert_in_time(outcomes: &[Outcome]) {
    for outcome in outcomes {
        println!("{outcome}");
    }
    for outcome in outcomes {
        assert!(outcome.late <= LIMIT, "{outcome}");
        assert!(outcome.silence.is_none_or(|silence| silence <= LIMIT), "{outcome}");
    }
}
