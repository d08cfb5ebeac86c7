//! How many instances a load asks for: pure, `now` is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the decision depends on besides the load.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// What one instance should carry.
    pub target: f64,
    /// What one instance can take.
    pub total: f64,
    /// Burst that must be absorbed: −1 always gated, 0 never.
    pub target_burst_capacity: f64,
    /// Fastest growth, as a factor.
    pub max_scale_up_rate: f64,
    /// Fastest shrinking, as a factor.
    pub max_scale_down_rate: f64,
    /// Fewest instances while there is any demand; 0 or 1 = no such floor.
    pub activation_scale: u32,
    /// Demand over capacity at which panic starts, as a factor.
    pub panic_threshold: f64,
    /// How long panic lasts after its last cause.
    pub stable_window: Duration,
    /// How long demand must stay low.
    pub scale_down_delay: Duration,
    /// Whether a Route points at the revision.
    pub reachable: bool,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Instances.
    pub desired: u32,
    /// Spare capacity for bursts; negative = too little.
    pub excess_burst_capacity: i64,
    /// Whether panic holds.
    pub panicking: bool,
}

/// The memory of one revision's decisions.
#[derive(Clone, Debug)]
pub struct Decider {
    panic_since: Option<Instant>,
    max_panic: u32,
    recent: VecDeque<(Instant, u32)>,
}

impl Decider {
    /// A decider for a revision of which `ready` instances run already: more than one start in panic, so that a
    /// restart does not shrink anything.
    pub fn new(ready: u32, now: Instant) -> Self {
        let held = ready > 1;
        Self {
            panic_since: held.then_some(now),
            max_panic: if held { ready } else { 0 },
            recent: VecDeque::new(),
        }
    }

    /// Whether panic holds.
    pub fn is_panicking(&self) -> bool {
        self.panic_since.is_some()
    }

    /// Decides. `stable` and `panic` are the averages over the two windows.
    pub fn decide(&mut self, spec: &Spec, stable: f64, panic: f64, ready: u32, now: Instant) -> Decision {
        let present = f64::from(ready.max(1));
        let stable_wanted = (stable / spec.target).ceil();
        let panic_wanted = (panic / spec.target).ceil();
        let up = (spec.max_scale_up_rate * present).ceil();
        let down = if spec.reachable { (present / spec.max_scale_down_rate).floor() } else { 0.0 };
        let floor = f64::from(spec.activation_scale);
        let bound = |wanted: f64| {
            let bounded = wanted.max(down).min(up);
            let activated = spec.activation_scale > 1 && wanted > 0.0;
            count(if activated { bounded.max(floor) } else { bounded })
        };
        let (by_stable, by_panic) = (bound(stable_wanted), bound(panic_wanted));

        let over = panic_wanted / present >= spec.panic_threshold;
        match self.panic_since {
            _ if over => self.panic_since = Some(now),
            Some(since) if since + spec.stable_window < now => {
                self.panic_since = None;
                self.max_panic = 0;
            }
            _ => {}
        }
        let mut desired = by_stable;
        if self.is_panicking() {
            self.max_panic = self.max_panic.max(by_stable.max(by_panic));
            desired = self.max_panic;
        }
        desired = self.delayed(spec, desired, now);
        Decision {
            desired,
            excess_burst_capacity: excess(spec, ready, panic),
            panicking: self.is_panicking(),
        }
    }

    fn delayed(&mut self, spec: &Spec, desired: u32, now: Instant) -> u32 {
        if !spec.reachable || spec.scale_down_delay.is_zero() {
            self.recent.clear();
            return desired;
        }
        self.recent.push_back((now, desired));
        while let Some((at, _)) = self.recent.front() {
            if now.saturating_duration_since(*at) < spec.scale_down_delay {
                break;
            }
            self.recent.pop_front();
        }
        self.recent.iter().map(|(_, value)| *value).max().unwrap_or(desired)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u32")]
fn count(value: f64) -> u32 {
    value.clamp(0.0, f64::from(i32::MAX)) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "a saturating conversion is what is wanted")]
fn excess(spec: &Spec, ready: u32, panic: f64) -> i64 {
    if spec.target_burst_capacity == 0.0 {
        0
    } else if spec.target_burst_capacity < 0.0 {
        -1
    } else {
        (f64::from(ready) * spec.total - spec.target_burst_capacity - panic).floor() as i64
    }
}

#[cfg(test)]
mod tests;
