//! What is known about one revision.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dormouse_api::autoscaling::{
    ACTIVE, Aggregation, Knobs, Metric, PodAutoscaler, PodAutoscalerStatus, Reachability,
    SCALE_TARGET_INITIALIZED, SKS_READY, parse_duration,
};
use dormouse_api::key::RevisionKey;
use dormouse_api::vocabulary::{PROGRESS_DEADLINE, PROGRESS_DEADLINE_ALIAS};
use dormouse_base::clock;

use super::Load;
use crate::config::Config;
use crate::decide::{Decider, Spec};
use crate::rules::{Activity, Limits};
use crate::target::target;
use crate::window::Window;

const DEFAULT_PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// One revision's state and the lock that keeps calls to the node in order.
pub(super) struct Slot {
    pub(super) order: Mutex<()>,
    entry: Mutex<Entry>,
}

impl Slot {
    pub(super) fn new(entry: Entry) -> Self {
        Self { order: Mutex::new(()), entry: Mutex::new(entry) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a decision leads to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// Tell the node.
    pub(super) scale: Option<u32>,
    /// Tell the API.
    pub(super) tell: bool,
}

/// Windows exist only while a revision is awake.
struct Windows {
    stable: Window,
    panic: Window,
    second: u64,
}

pub(super) struct Entry {
    pub(super) key: RevisionKey,
    generation: Option<i64>,
    annotations: BTreeMap<String, String>,
    knobs: Knobs,
    container_concurrency: u32,
    progress_deadline: Duration,
    limits: Limits,
    spec: Spec,
    decider: Decider,
    windows: Option<Box<Windows>>,
    /// Seconds of the stable and the panic window.
    lengths: (u64, u64),
    ready: u32,
    /// What the node was told last; `None` after a restart.
    pub(super) desired: Option<u32>,
    /// What is wanted in the end.
    want: Option<u32>,
    activity: Activity,
    pub(super) queued: usize,
    busy: usize,
    pub(super) carried_requests: u64,
    pub(super) demanded: Option<Instant>,
    pub(super) deferred: bool,
    decided: bool,
    pub(super) status: PodAutoscalerStatus,
    /// The status that the API has.
    pub(super) known: PodAutoscalerStatus,
}

impl Entry {
    pub(super) fn new(
        key: RevisionKey,
        pa: &PodAutoscaler,
        ready: u32,
        config: &Config,
        now: Instant,
    ) -> Self {
        let status = pa.status.clone().unwrap_or_default();
        let initialized =
            status.condition(SCALE_TARGET_INITIALIZED).is_some_and(|condition| condition.is_true());
        let activity = match status.condition(ACTIVE) {
            Some(active) if active.is_true() => Activity::Active(now),
            Some(active) if active.is_false() => {
                Activity::Inactive { since: now, timed_out: active.reason() == "TimedOut" }
            }
            _ => Activity::Activating(now),
        };
        let mut entry = Self {
            key,
            generation: None,
            annotations: BTreeMap::new(),
            knobs: Knobs::default(),
            container_concurrency: 0,
            progress_deadline: DEFAULT_PROGRESS_DEADLINE,
            limits: limits(&Knobs::default(), config, DEFAULT_PROGRESS_DEADLINE, true, initialized),
            spec: spec(&Knobs::default(), 0, config, true),
            decider: Decider::new(ready, now),
            windows: None,
            lengths: (60, 6),
            ready,
            desired: None,
            want: None,
            activity,
            queued: 0,
            busy: 0,
            carried_requests: 0,
            demanded: None,
            deferred: false,
            decided: false,
            known: status.clone(),
            status,
        };
        entry.read(pa, config);
        if !initialized && matches!(activity, Activity::Activating(_)) {
            // A new revision proves itself even without traffic.
            let first = entry.limits.clamp(entry.limits.initial.max(entry.limits.floor()));
            entry.want = Some(first);
            if first == 0 {
                // With an initial scale of zero there is nothing to prove: it is complete, asleep.
                entry.limits.initialized = true;
                entry.activity = Activity::Inactive { since: now, timed_out: false };
            }
        }
        entry
    }

    /// Takes a changed object over; `false` if nothing that matters has changed.
    pub(super) fn update(&mut self, pa: &PodAutoscaler, config: &Config) -> bool {
        let same = pa.metadata.generation.is_some()
            && pa.metadata.generation == self.generation
            && pa
                .metadata
                .annotations
                .as_ref()
                .map_or(self.annotations.is_empty(), |all| *all == self.annotations);
        if !same {
            self.read(pa, config);
        }
        !same
    }

    fn read(&mut self, pa: &PodAutoscaler, config: &Config) {
        self.generation = pa.metadata.generation;
        self.annotations = pa.metadata.annotations.clone().unwrap_or_default();
        self.knobs = Knobs::read(&self.annotations);
        self.container_concurrency = u32::try_from(pa.spec.container_concurrency.unwrap_or(0)).unwrap_or(0);
        let deadline =
            self.annotations.get(PROGRESS_DEADLINE).or_else(|| self.annotations.get(PROGRESS_DEADLINE_ALIAS));
        self.progress_deadline = deadline
            .and_then(|text| u64::try_from(parse_duration(text)?).ok())
            .map_or(DEFAULT_PROGRESS_DEADLINE, Duration::from_nanos);
        self.limits.reachable = pa.spec.reachability != Some(Reachability::Unreachable);
        self.configure(config);
    }

    /// Takes a changed configuration over.
    pub(super) fn configure(&mut self, config: &Config) {
        let Limits { reachable, initialized, .. } = self.limits;
        self.limits = limits(&self.knobs, config, self.progress_deadline, reachable, initialized);
        self.spec = spec(&self.knobs, self.container_concurrency, config, reachable);
        let percent = self.knobs.panic_window_percent.unwrap_or(config.panic_window_percent);
        let stable = self.limits.stable_window.as_secs().max(1);
        let panic = self.limits.stable_window.mul_f64(percent / 100.0) + Duration::from_millis(500);
        let panic = panic.as_secs().max(1);
        if let Some(windows) = &mut self.windows {
            windows.stable.resize(stable);
            windows.panic.resize(panic);
        }
        self.lengths = (stable, panic);
    }

    pub(super) fn set_ready(&mut self, ready: u32, now: Instant) {
        if !self.decided && ready > 1 {
            // Instances that ran before this process did: nothing is taken from them for a stable window.
            self.decider = Decider::new(ready, now);
        }
        self.ready = ready;
    }

    /// Whether the clock must look at it although nothing happened.
    pub(super) fn needs_attention(&self) -> bool {
        self.ready > 0
            || !matches!(self.activity, Activity::Inactive { .. })
            || self.limits.floor() > 0
            || self.want.is_some_and(|want| want > 0)
    }

    /// Whether there is nothing to do until a request comes.
    pub(super) fn is_asleep(&mut self) -> bool {
        let asleep = self.ready == 0
            && self.queued == 0
            && self.desired.is_none_or(|desired| desired == 0)
            && self.limits.floor() == 0
            && matches!(self.activity, Activity::Inactive { .. });
        if asleep {
            self.windows = None;
            self.carried_requests = 0;
        }
        asleep
    }

    pub(super) fn record(&mut self, second: u64, load: Load) {
        let (stable, panic) = self.lengths;
        let windows = self.windows.get_or_insert_with(|| {
            Box::new(Windows { stable: Window::new(stable), panic: Window::new(panic), second })
        });
        let value = match self.knobs.metric {
            Metric::Concurrency => load.concurrency,
            Metric::Rps => (load.requests + self.carried_requests) as f64,
        };
        self.carried_requests = 0;
        windows.stable.record(second, value);
        windows.panic.record(second, value);
        windows.second = second;
        self.queued = load.queued;
        self.busy = load.in_flight;
    }

    fn averages(&self) -> Option<(f64, f64)> {
        let windows = self.windows.as_ref()?;
        let average = |window: &Window| match self.knobs.aggregation {
            Aggregation::Linear => window.linear(windows.second),
            Aggregation::WeightedExponential => window.weighted(windows.second),
        };
        Some((average(&windows.stable)?, average(&windows.panic)?))
    }

    /// The decision of a tick.
    pub(super) fn decide(&mut self, now: Instant) -> Outcome {
        let desired = self.averages().map(|(stable, panic)| {
            self.decided = true;
            let decision = self.decider.decide(&self.spec, stable, panic, self.ready, now);
            // Whatever the averages say: nothing is taken from requests that are there.
            if self.busy + self.queued > 0 { decision.desired.max(1) } else { decision.desired }
        });
        if desired == Some(0) && self.is_lost() {
            // It ran before this process did and nobody found it again: it simply sleeps.
            self.activity = Activity::Inactive { since: now, timed_out: false };
            return self.settle(Some(0), None, now);
        }
        let fresh = desired.is_none() && !self.limits.initialized;
        let mut verdict = self.limits.judge(desired, self.activity, now);
        if fresh && let Some(initial) = self.want {
            verdict.want = Some(initial);
            verdict.apply = Some(initial);
        }
        self.settle(verdict.want, verdict.apply, now)
    }

    /// Whether a proven revision is said to run while neither the node nor this process knows of an instance.
    fn is_lost(&self) -> bool {
        self.limits.initialized && self.ready == 0 && self.desired.is_none() && self.limits.floor() == 0
    }

    /// The decision that held requests cause: it only ever adds.
    pub(super) fn demand(&mut self, now: Instant) -> Outcome {
        if self.queued == 0 {
            return Outcome::default();
        }
        let full = u64::from(self.ready) * u64::from(self.container_concurrency);
        let present = match self.knobs.metric {
            Metric::Concurrency => self.queued as f64 + full as f64,
            // Held requests per second are not known yet; what is held is a lower bound.
            Metric::Rps => self.queued as f64,
        };
        let (stable, panic) = self.averages().unwrap_or((0.0, 0.0));
        self.decided = true;
        let decision =
            self.decider.decide(&self.spec, stable.max(present), panic.max(present), self.ready, now);
        let wanted = decision.desired.max(1).max(self.desired.unwrap_or(0));
        let count = self.limits.clamp(wanted);
        self.settle(Some(count), Some(count), now)
    }

    fn settle(&mut self, want: Option<u32>, apply: Option<u32>, now: Instant) -> Outcome {
        self.want = want;
        self.activity = self.limits.activity(self.activity, want, self.ready, now);
        let scale = apply.filter(|count| self.desired != Some(*count));
        if scale.is_some() {
            self.desired = scale;
        }
        Outcome { scale, tell: self.compose() }
    }

    /// Follows a change of `ready`; answers whether the status has changed.
    pub(super) fn refresh(&mut self, now: Instant) -> bool {
        if self.ready >= self.limits.initial.max(1) && !self.limits.initialized {
            self.limits.initialized = true;
        }
        self.activity = self.limits.activity(self.activity, self.want, self.ready, now);
        self.compose()
    }

    /// Brings the status up to date; answers whether it differs from what the API has.
    fn compose(&mut self) -> bool {
        let revision = self.key.name.to_string();
        let status = &mut self.status;
        status.observed_generation = self.generation;
        status.metrics_service_name = Some(format!("{revision}-private"));
        status.service_name = Some(revision);
        if let Some(want) = self.want.or(self.desired) {
            status.desired_scale = i32::try_from(want).ok();
        } else if status.desired_scale.is_none() {
            status.desired_scale = Some(-1);
        }
        status.actual_scale = i32::try_from(self.ready).ok();
        let mut conditions = status.manage(clock::timestamp());
        conditions.initialize();
        match self.activity {
            Activity::Activating(_) => conditions.mark_unknown(
                ACTIVE,
                "Queued",
                "Requests to the target are being buffered as resources are provisioned.",
            ),
            Activity::Active(_) => conditions.mark_true(ACTIVE),
            Activity::Inactive { timed_out: false, .. } => {
                conditions.mark_false(ACTIVE, "NoTraffic", "The target is not receiving traffic.");
            }
            Activity::Inactive { timed_out: true, .. } => {
                conditions.mark_false(ACTIVE, "TimedOut", "The target could not be activated.");
            }
        }
        if self.limits.initialized {
            conditions.mark_true(SCALE_TARGET_INITIALIZED);
        }
        conditions.mark_true(SKS_READY);
        self.status != self.known
    }
}

fn limits(knobs: &Knobs, config: &Config, deadline: Duration, reachable: bool, initialized: bool) -> Limits {
    Limits {
        min: knobs.min_scale.unwrap_or(config.min_scale),
        max: knobs.max_scale.unwrap_or(config.max_scale),
        initial: knobs.initial_scale.unwrap_or(config.initial_scale),
        initialized,
        reachable,
        scale_to_zero: config.scale_to_zero,
        grace: config.grace,
        retention: knobs.retention.unwrap_or(config.retention),
        stable_window: knobs.window.unwrap_or(config.stable_window),
        progress_deadline: deadline,
    }
}

fn spec(knobs: &Knobs, container_concurrency: u32, config: &Config, reachable: bool) -> Spec {
    let target = target(knobs, container_concurrency, config);
    Spec {
        target: target.value,
        total: target.total,
        target_burst_capacity: knobs.target_burst_capacity.unwrap_or(config.target_burst_capacity),
        max_scale_up_rate: config.max_scale_up_rate,
        max_scale_down_rate: config.max_scale_down_rate,
        activation_scale: knobs.activation_scale.unwrap_or(0),
        panic_threshold: knobs.panic_threshold_percent.unwrap_or(config.panic_threshold_percent) / 100.0,
        stable_window: knobs.window.unwrap_or(config.stable_window),
        scale_down_delay: knobs.scale_down_delay.unwrap_or(config.scale_down_delay),
        reachable,
    }
}
