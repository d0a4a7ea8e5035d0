//! Connections while endpoints come and go, and the judgement of where they went.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use kubeshunt_tests::Probe;
use kubeshunt_tests::protocol::{Record, StreamSpec};

use super::churner::{Age, Churner, History};

/// So many endpoints stay, and as many others come and go.
pub(crate) const STAY: usize = 5;

/// No connection may reach an endpoint that has been gone for longer.
const LIMIT: Duration = Duration::from_secs(1);

/// Changes during which the load runs at least.
const CHANGES: u32 = 500;

/// Changes between two looks at the load.
const ROUND: u32 = 250;

/// Runs the load until it has made so many connections and so many changes have passed.
pub(crate) fn run(probe: &Probe, spec: &StreamSpec, churner: &Churner, wanted: usize) -> Result<Vec<Record>> {
    let (mut records, mut changes) = (Vec::new(), 0);
    while records.len() < wanted || changes < CHANGES {
        let stream = probe.stream(spec)?;
        churner.wait_for(ROUND)?;
        let report = stream.stop()?;
        assert_eq!(report.asked.failed(), 0, "connections failed: {:?}", report.asked.failures);
        assert!(!report.records.is_empty(), "nothing was asked in {ROUND} changes");
        records.extend(report.records);
        changes += ROUND;
    }
    Ok(records)
}

/// Where connections went.
#[derive(Debug)]
pub(crate) struct Judgement {
    /// Connections per endpoint that stays.
    pub(crate) stayed: Vec<u32>,
    /// Connections per endpoint that comes and goes.
    pub(crate) others: Vec<u32>,
    /// Of the latter: connections to one that was gone.
    pub(crate) late: u32,
    /// The longest time for which such a one had been gone.
    pub(crate) oldest: Duration,
    /// How far from its fair share the worst of those that stay is, in standard deviations.
    pub(crate) deviation: f64,
    /// Pearson's statistic of those that stay, with four degrees of freedom.
    pub(crate) chi_square: f64,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stayed, others, late, oldest, deviation, chi_square } = self;
        write!(
            f,
            "to those that stay {stayed:?}, the worst {deviation:.2} sigma off, chi-square {chi_square:.2}; to the \
             others {others:?}, of which {late} to one that was gone, for {oldest:?} at most"
        )
    }
}

/// Judges all but the share: none failed, and none strayed.
pub(crate) fn judge(records: &[Record], history: &History) -> Result<Judgement> {
    let (mut stayed, mut others) = (vec![0; STAY], vec![0; STAY]);
    let (mut late, mut oldest) = (0, Duration::ZERO);
    for record in records {
        let name = record.result.as_ref().map_err(|error| anyhow::anyhow!("{error}: {record:?}"))?;
        let number = name.strip_prefix("backend-").and_then(|number| number.parse::<usize>().ok());
        let number = number.with_context(|| format!("a stranger answered: {record:?}"))?;
        let Some(endpoint) = number.checked_sub(STAY) else {
            stayed[number] += 1;
            continue;
        };
        others[endpoint] += 1;
        match history.age(endpoint, record.begun_ns, record.done_ns) {
            Age::Present => {}
            Age::Gone(age) => {
                assert!(age <= LIMIT, "{name} was reached {age:?} after its removal");
                late += 1;
                oldest = oldest.max(age);
            }
            Age::Never => panic!("{name} was reached before it was an endpoint: {record:?}"),
        }
    }
    let total = f64::from(stayed.iter().sum::<u32>());
    let share = 1.0 / f64::from(u8::try_from(STAY)?);
    let mean = total * share;
    let sigma = (mean * (1.0 - share)).sqrt();
    let off = |count: &u32| (f64::from(*count) - mean).abs();
    let deviation = stayed.iter().map(off).fold(0.0, f64::max) / sigma;
    let chi_square = stayed.iter().map(|count| off(count).powi(2) / mean).sum();
    Ok(Judgement { stayed, others, late, oldest, deviation, chi_square })
}
