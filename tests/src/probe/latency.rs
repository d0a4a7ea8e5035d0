//! Latency histograms.

use hdrhistogram::Histogram;

use super::protocol::Latency;

/// Longest latency told apart: a minute.
const LONGEST: u64 = 60_000_000_000;

/// A histogram from 1 ns to a minute with three significant digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are valid")
}

/// Records a value, the longest one standing for all that are longer.
pub(super) fn record(histogram: &mut Histogram<u64>, nanos: u64) {
    histogram.saturating_record(nanos);
}

pub(super) fn summary(histogram: &Histogram<u64>) -> Latency {
    if histogram.is_empty() {
        return Latency::default();
    }
    Latency {
        count: histogram.len(),
        min: histogram.min(),
        mean: histogram.mean(),
        p50: histogram.value_at_quantile(0.5),
        p90: histogram.value_at_quantile(0.9),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
        buckets: histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
            .collect(),
    }
}

/// Puts several measurements together, percentiles included.
#[must_use]
pub fn merge<'a>(parts: impl IntoIterator<Item = &'a Latency>) -> Latency {
    let mut whole = histogram();
    for (value, count) in parts.into_iter().flat_map(|part| &part.buckets) {
        whole.saturating_record_n(*value, *count);
    }
    summary(&whole)
}
