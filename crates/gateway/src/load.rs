//! How loaded a revision is: the time-weighted integral of its concurrency.

use std::time::{Duration, Instant};

/// What one revision did since it was last observed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Average concurrency since the last observation, held requests included.
    pub concurrency: f64,
    /// Requests that arrived since the last observation.
    pub requests: u64,
    /// Requests that an instance works on now.
    pub in_flight: usize,
    /// Requests that are held now.
    pub queued: usize,
}

/// Integrates a step function of time.
#[derive(Debug)]
pub(crate) struct Meter {
    since: Instant,
    changed: Instant,
    level: usize,
    /// Request-seconds since `since`.
    area: f64,
    arrivals: u64,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, changed: now, level: 0, area: 0.0, arrivals: 0 }
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.changed);
        if elapsed > Duration::ZERO {
            self.area += elapsed.as_secs_f64() * self.level as f64;
            self.changed = now;
        }
    }

    pub(crate) fn arrive(&mut self, now: Instant) {
        self.advance(now);
        self.level += 1;
        self.arrivals += 1;
    }

    pub(crate) fn leave(&mut self, now: Instant) {
        self.advance(now);
        self.level = self.level.saturating_sub(1);
    }

    /// The average and the arrivals since the last call; starts a new period.
    pub(crate) fn take(&mut self, now: Instant) -> (f64, u64) {
        self.advance(now);
        let period = now.saturating_duration_since(self.since).as_secs_f64();
        let average = if period > 0.0 { self.area / period } else { self.level as f64 };
        let arrivals = self.arrivals;
        self.since = now;
        self.area = 0.0;
        self.arrivals = 0;
        (average, arrivals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_weighted_by_time() {
        let start = dormouse_base::clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut meter = Meter::new(start);
        meter.arrive(at(0));
        meter.arrive(at(500));
        meter.leave(at(750));
        let (average, requests) = meter.take(at(1000));
        assert!((average - 1.25).abs() < 1e-9, "{average}");
        assert_eq!(requests, 2);
        meter.leave(at(1500));
        let (average, requests) = meter.take(at(2000));
        assert!((average - 0.5).abs() < 1e-9, "{average}");
        assert_eq!(requests, 0);
    }
}
