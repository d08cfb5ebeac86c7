//! Exponential backoff with full determinism: the caller gives the random part.

use std::time::Duration;

/// Delays that double from `first` to `max`, each spread by ±`jitter_percent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first delay.
    pub first: Duration,
    /// No delay is longer.
    pub max: Duration,
    /// Spread in percent of the delay, 0 to 100.
    pub jitter_percent: u8,
}

impl Backoff {
    /// The delay before attempt number `attempt` (0 is the first retry); `random` is uniform in 0..1.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(attempt.min(30)).unwrap_or(u32::MAX));
        let delay = doubled.min(self.max);
        let spread = f64::from(self.jitter_percent.min(100)) / 100.0;
        delay.mul_f64((1.0 + spread * (random.clamp(0.0, 1.0) * 2.0 - 1.0)).max(0.0)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_stop_at_the_maximum() {
        let backoff =
            Backoff { first: Duration::from_millis(50), max: Duration::from_millis(300), jitter_percent: 0 };
        let delays: Vec<u128> = (0..5).map(|n| backoff.delay(n, 0.5).as_millis()).collect();
        assert_eq!(delays, [50, 100, 200, 300, 300]);
        assert_eq!(backoff.delay(u32::MAX, 1.0).as_millis(), 300);
    }
}
