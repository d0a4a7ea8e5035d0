//! One load in several cases, slice after slice.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use kubeshunt_tests::Probe;
use kubeshunt_tests::protocol::{BenchSlice, Latency, Load, SliceReport};

use super::Options;
use super::statistics::{self, Ratio};

/// A table: what is compared.
pub(super) struct Comparison<'a> {
    pub(super) title: &'static str,
    pub(super) load: Load,
    pub(super) cases: Vec<Case<'a>>,
}

/// Something to measure.
pub(super) struct Case<'a> {
    pub(super) name: &'static str,
    pub(super) client: &'a Probe,
    pub(super) to: SocketAddr,
    /// What it is compared with; nothing, for what others are compared with.
    pub(super) beside: Option<Beside>,
}

/// The other case of a ratio.
pub(super) struct Beside {
    /// Its place among the cases.
    pub(super) base: usize,
    /// The ratio that the project holds itself to.
    pub(super) budget: Option<f64>,
}

/// What a case gave over all rounds.
#[derive(Debug, serde::Serialize)]
pub(super) struct Measured {
    pub(super) case: &'static str,
    /// In the comparison's unit, median of rounds.
    pub(super) rate: f64,
    /// Microseconds: of connect() for connections, of a whole exchange for requests.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// To the base case; absent for that case itself.
    pub(super) ratio: Option<Ratio>,
    pub(super) budget: Option<f64>,
    pub(super) failures: u64,
}

impl Comparison<'_> {
    /// What rates are given in.
    pub(super) fn unit(&self) -> &'static str {
        if self.is_stream() { "Gbit/s" } else { "per second" }
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self.load, Load::Throughput { .. })
    }

    pub(super) fn measure(&self, options: &Options, random: &mut fastrand::Rng) -> Result<Vec<Measured>> {
        self.try_out()?;
        let mut reports: Vec<Vec<SliceReport>> = self.cases.iter().map(|_| Vec::new()).collect();
        let bar = ProgressBar::new((options.rounds * self.cases.len()) as u64);
        bar.set_style(ProgressStyle::with_template("  {bar:40} {pos}/{len} slices, {eta} left")?);
        let mut order: Vec<usize> = (0..self.cases.len()).collect();
        for _ in 0..options.rounds {
            random.shuffle(&mut order);
            for &index in &order {
                reports[index].push(self.slice(&self.cases[index], options.slice_ms)?);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();

        let rate = |report: &SliceReport| self.rate(report);
        let rates: Vec<Vec<f64>> = reports.iter().map(|rounds| rounds.iter().map(rate).collect()).collect();
        let measured = self.cases.iter().zip(&reports).zip(&rates).map(|((case, reports), own)| {
            let latency = kubeshunt_tests::probe::merge(reports.iter().map(|report| self.latency(report)));
            Measured {
                case: case.name,
                rate: statistics::median(own),
                p50: micros(latency.p50),
                p99: micros(latency.p99),
                ratio: case.beside.as_ref().map(|beside| Ratio::of(own, &rates[beside.base], random)),
                budget: case.beside.as_ref().and_then(|beside| beside.budget),
                failures: reports.iter().flat_map(|report| report.errors.values()).sum(),
            }
        });
        Ok(measured.collect())
    }

    /// Fails at once where minutes of failures would follow; afterwards all neighbours know each other.
    fn try_out(&self) -> Result<()> {
        for case in &self.cases {
            let report = self.slice(case, 50)?;
            let works = report.count > 0 && report.errors.is_empty();
            ensure!(works, "{}: {}: {:?}", self.title, case.name, report.errors);
        }
        Ok(())
    }

    fn slice(&self, case: &Case<'_>, for_ms: u64) -> Result<SliceReport> {
        let slice = BenchSlice { to: case.to, mapped: false, for_ms, workers: 1, load: self.load };
        case.client.bench(&slice)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts and times far below 2^52")]
    fn rate(&self, report: &SliceReport) -> f64 {
        // A bit in a nanosecond is a Gbit/s.
        let amount = if self.is_stream() { report.bytes as f64 * 8.0 } else { report.count as f64 * 1e9 };
        amount / report.elapsed_ns.max(1) as f64
    }

    fn latency<'r>(&self, report: &'r SliceReport) -> &'r Latency {
        if matches!(self.load, Load::Connects { .. }) { &report.connect } else { &report.whole }
    }
}

#[expect(clippy::cast_precision_loss, reason = "times far below 2^52 nanoseconds")]
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}
