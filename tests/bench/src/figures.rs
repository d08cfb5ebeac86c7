//! Samples and their quantiles.

use std::time::Duration;

/// Samples of one thing, sorted.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    sorted: Vec<Duration>,
}

impl Figures {
    pub(crate) fn of(mut samples: Vec<Duration>) -> Figures {
        samples.sort_unstable();
        Figures { sorted: samples }
    }

    /// The smallest sample that at least `percent` of all do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// A percentile in milliseconds.
    pub(crate) fn ms(&self, percent: usize) -> f64 {
        self.percentile(percent).as_secs_f64() * 1e3
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }
}

/// The middle of some numbers.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let figures = Figures::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(figures.percentile(50), Duration::from_millis(100));
        assert_eq!(figures.percentile(99), Duration::from_millis(198));
        assert_eq!(Figures::of(vec![Duration::from_secs(1)]).percentile(99), Duration::from_secs(1));
        assert_eq!(Figures::of(Vec::new()).percentile(50), Duration::ZERO);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
