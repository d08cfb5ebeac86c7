//! From a decision to a number of instances: bounds, scale to zero, and what the PodAutoscaler's status says.
//!
//! The gateway is always in the path here, so nothing is probed before the last instance goes.

use std::time::{Duration, Instant};

/// Extra time after the progress deadline before a revision that never became ready is given up.
pub const ACTIVATION_SLACK: Duration = Duration::from_secs(30);

/// What the condition `Active` says, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Instances are wanted but not ready: Unknown, `Queued`.
    Activating(Instant),
    /// Instances are ready: True.
    Active(Instant),
    /// Nothing is wanted: False, `NoTraffic`, or `TimedOut` if instances never became ready.
    Inactive {
        /// Since when.
        since: Instant,
        /// Whether instances never became ready.
        timed_out: bool,
    },
}

/// Limits of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Fewest instances.
    pub min: u32,
    /// Most instances; 0 = unlimited.
    pub max: u32,
    /// Instances that a new revision must reach once.
    pub initial: u32,
    /// Whether it has.
    pub initialized: bool,
    /// Whether a Route points at it.
    pub reachable: bool,
    /// Whether zero is allowed.
    pub scale_to_zero: bool,
    /// Shortest inactivity before zero.
    pub grace: Duration,
    /// Longer inactivity before zero.
    pub retention: Duration,
    /// The stable window.
    pub stable_window: Duration,
    /// How long activation may take.
    pub progress_deadline: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is wanted in the end; `None` = not known.
    pub want: Option<u32>,
    /// What to apply at once; `None` = no change.
    pub apply: Option<u32>,
}

impl Limits {
    /// The lower bound that holds now.
    pub fn floor(&self) -> u32 {
        let min = if self.reachable { self.min } else { 0 };
        if self.initial > 1 && !self.initialized && self.reachable { min.max(self.initial) } else { min }
    }

    /// `desired` within the bounds.
    pub fn clamp(&self, desired: u32) -> u32 {
        let raised = desired.max(self.floor());
        if self.max == 0 { raised } else { raised.min(self.max) }
    }

    /// Instances from which the revision counts as active.
    pub fn threshold(&self) -> u32 {
        let min = if self.reachable { self.min } else { 0 };
        if self.initialized { min.max(1) } else { min.max(self.initial) }
    }

    /// The verdict on a decision (`None` = there is no data).
    pub fn judge(&self, desired: Option<u32>, activity: Activity, now: Instant) -> Verdict {
        let Some(desired) = desired else {
            let floor = self.floor();
            let known = (floor > 0).then_some(self.clamp(floor));
            return Verdict { want: known, apply: known };
        };
        match self.clamp(desired) {
            0 => self.towards_zero(activity, now),
            count => Verdict { want: Some(count), apply: Some(count) },
        }
    }

    fn towards_zero(&self, activity: Activity, now: Instant) -> Verdict {
        let elapsed = |since: Instant| now.saturating_duration_since(since);
        if !self.scale_to_zero {
            return Verdict { want: Some(1), apply: Some(1) };
        }
        match activity {
            Activity::Activating(since) if elapsed(since) < self.progress_deadline + ACTIVATION_SLACK => {
                Verdict { want: None, apply: None }
            }
            Activity::Activating(_) => Verdict { want: Some(0), apply: Some(0) },
            Activity::Active(since) if elapsed(since) < self.stable_window => {
                Verdict { want: Some(1), apply: Some(1) }
            }
            Activity::Active(_) => Verdict { want: Some(0), apply: None },
            Activity::Inactive { since, .. } => {
                let retention = if self.reachable { self.retention } else { Duration::ZERO };
                let over = elapsed(since) >= self.grace.max(retention);
                Verdict { want: Some(0), apply: over.then_some(0) }
            }
        }
    }

    /// What `Active` says after a verdict, with `ready` instances.
    pub fn activity(&self, before: Activity, want: Option<u32>, ready: u32, now: Instant) -> Activity {
        let inactive = matches!(before, Activity::Inactive { .. });
        let threshold = self.threshold();
        if want == Some(0) || threshold == 0 {
            return match before {
                Activity::Inactive { .. } => before,
                Activity::Activating(_) => Activity::Inactive { since: now, timed_out: threshold > 0 },
                Activity::Active(_) => Activity::Inactive { since: now, timed_out: false },
            };
        }
        let wanted = want.is_some_and(|want| want > 0);
        if inactive && !wanted {
            return before;
        }
        if ready < threshold {
            return match before {
                Activity::Activating(_) => before,
                _ => Activity::Activating(now),
            };
        }
        match before {
            Activity::Active(_) => before,
            _ => Activity::Active(now),
        }
    }
}

#[cfg(test)]
mod tests;
