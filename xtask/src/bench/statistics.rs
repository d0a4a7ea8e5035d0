//! Medians of paired ratios, and how far they can be trusted.

/// Resamples behind an interval.
const RESAMPLES: usize = 2000;

/// A case beside another, round by round.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(super) struct Ratio {
    /// The median of the rounds' ratios.
    pub(super) median: f64,
    /// 2.5 % of resamples have a median below.
    pub(super) low: f64,
    /// 2.5 % of resamples have a median above.
    pub(super) high: f64,
}

impl Ratio {
    /// Of `case` to `base`, paired by position.
    pub(super) fn of(case: &[f64], base: &[f64], random: &mut fastrand::Rng) -> Self {
        let ratios: Vec<f64> = case.iter().zip(base).map(|(case, base)| case / base).collect();
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let resample: Vec<f64> =
                    ratios.iter().map(|_| ratios[random.usize(..ratios.len())]).collect();
                median(&resample)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        Self {
            median: median(&ratios),
            low: medians[RESAMPLES / 40],
            high: medians[RESAMPLES - 1 - RESAMPLES / 40],
        }
    }
}

/// The middle value; the mean of both when there are two.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_do_not_mind_one_slow_round() {
        assert!((median(&[1.0, 1.0, 1.0, 0.01]) - 1.0).abs() < 1e-9);
        assert!((median(&[3.0, 1.0]) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn drift_that_both_cases_share_falls_out() {
        let base: Vec<f64> = (1..=80).map(|round| 1000.0 * f64::from(round)).collect();
        let case: Vec<f64> = base.iter().map(|rate| rate * 0.9).collect();
        let ratio = Ratio::of(&case, &base, &mut fastrand::Rng::with_seed(1));
        assert!((ratio.median - 0.9).abs() < 1e-9 && ratio.high - ratio.low < 1e-9, "{ratio:?}");
    }
}
