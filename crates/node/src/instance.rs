//! The life-cycle of one instance as a pure state machine: events and `now` go in, the next thing to do comes out.
//!
//! ```text
//! Starting ─ready─► Ready ◄─probe─► Unready        crash: Waiting ─back-off over─► Starting
//!     │                │               │
//!     └──── stop ──────┴───────────────┴─► Draining ─idle─► Stopping ─exit─► Gone
//! ```
//!
//! An instance is a pod: a crash restarts its container in place, at once the first time, then after 10 s doubling to
//! 5 min, as the kubelet does; ten minutes of running clear the account. A request that meets a service at zero gets a
//! new pod and therefore a fast start, whatever happened to earlier pods.

use std::time::{Duration, Instant};

use dormouse_base::backoff::Backoff;

const CRASH_BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(10), max: Duration::from_secs(300), jitter_percent: 0 };
/// Running this long clears the account of crashes.
const STABLE: Duration = Duration::from_secs(600);

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) oom: bool,
}

impl Exit {
    pub(crate) fn new(code: Option<i32>, signal: Option<i32>, oom: bool) -> Self {
        let from_signal = signal.map(|signal| 128 + signal);
        Self { code: code.or(from_signal).unwrap_or(255), signal, oom }
    }

    /// The reason in a terminated container state.
    pub(crate) fn reason(&self) -> &'static str {
        match (self.oom, self.code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        }
    }
}

/// Where an instance is; each says what ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Being launched or not ready for the first time. => (Ready | Waiting | Stopping)
    Starting,
    /// Answers its probe and gets requests. => (Unready | Waiting | Draining)
    Ready,
    /// Was ready, fails its probe. => (Ready | Waiting | Draining)
    Unready,
    /// Crashed; starts again at this time. => (Starting | Gone)
    Waiting(Instant),
    /// Gets no new requests; finishes those it has. => Stopping
    Draining,
    /// Was asked to end; is killed at this time. => Gone
    Stopping(Instant),
    /// Ended for good.
    Gone,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    ProbePassed,
    ProbeFailed,
    /// The container ended, could not be started, or was killed by its liveness probe.
    Exited,
    BackoffOver,
    StopRequested,
    /// Nothing is in flight any more, or the time for it is over.
    Drained,
    /// It did not end in its grace period.
    GraceOver,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing new.
    Stay,
    /// Tell that it takes requests.
    Publish,
    /// Tell that it takes none.
    Withdraw,
    /// Withdraw and wait for `restart` (no wait when the time has come).
    Wait,
    /// Start the container again.
    Launch,
    /// Withdraw it and wait until nothing is in flight.
    Drain,
    /// Ask it to end.
    Terminate,
    /// Kill it.
    Kill,
    /// Give everything back.
    Finish,
}

/// The state of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Lifecycle {
    pub(crate) phase: Phase,
    /// How often the container was started again.
    pub(crate) restarts: u32,
    crashes: u32,
    started: Instant,
    grace: Duration,
}

// === impl Lifecycle ===

impl Lifecycle {
    pub(crate) fn new(grace: Duration, restarts: u32, now: Instant) -> Self {
        Self { phase: Phase::Starting, restarts, crashes: 0, started: now, grace }
    }

    /// Takes one event.
    pub(crate) fn on(&mut self, event: &Event, now: Instant) -> Step {
        let (phase, step) = match (self.phase, event) {
            (Phase::Starting | Phase::Unready, Event::ProbePassed) => (Phase::Ready, Step::Publish),
            (Phase::Ready, Event::ProbeFailed) => (Phase::Unready, Step::Withdraw),
            (Phase::Starting | Phase::Ready | Phase::Unready, Event::Exited) => {
                (Phase::Waiting(self.next_start(now)), Step::Wait)
            }
            (Phase::Waiting(_), Event::BackoffOver) => {
                self.restarts += 1;
                self.started = now;
                (Phase::Starting, Step::Launch)
            }
            (Phase::Waiting(_), Event::StopRequested) => (Phase::Gone, Step::Finish),
            // It never took a request, so there is nothing to wait for.
            (Phase::Starting, Event::StopRequested) => (Phase::Stopping(now + self.grace), Step::Terminate),
            (Phase::Ready | Phase::Unready, Event::StopRequested) => (Phase::Draining, Step::Drain),
            (Phase::Draining, Event::Drained) => (Phase::Stopping(now + self.grace), Step::Terminate),
            (Phase::Draining | Phase::Stopping(_), Event::Exited) => (Phase::Gone, Step::Finish),
            (Phase::Stopping(_), Event::GraceOver) => (self.phase, Step::Kill),
            (phase, _) => (phase, Step::Stay),
        };
        self.phase = phase;
        step
    }

    /// Sets the grace period, known once the plan is.
    pub(crate) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// The grace period.
    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    fn next_start(&mut self, now: Instant) -> Instant {
        if now.duration_since(self.started) >= STABLE {
            self.crashes = 0;
        }
        let wait = match self.crashes {
            0 => Duration::ZERO,
            crashes => CRASH_BACKOFF.delay(crashes - 1, 0.5),
        };
        self.crashes = self.crashes.saturating_add(1);
        now + wait
    }

    /// Whether it counts towards the desired number.
    pub(crate) fn counts(&self) -> bool {
        !matches!(self.phase, Phase::Draining | Phase::Stopping(_) | Phase::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> (Lifecycle, Instant) {
        let now = Instant::now();
        (Lifecycle::new(Duration::from_secs(300), 0, now), now)
    }

    fn crash(life: &mut Lifecycle, now: Instant) -> Duration {
        assert_eq!(life.on(&Event::Exited, now), Step::Wait);
        let Phase::Waiting(until) = life.phase else { panic!("{:?}", life.phase) };
        assert_eq!(life.on(&Event::BackoffOver, until), Step::Launch);
        until - now
    }

    #[test]
    fn crashes_back_off_and_ten_minutes_of_running_clear_them() {
        let (mut life, mut now) = start();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = crash(&mut life, now);
            now += wait;
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(life.restarts, 8);
        assert_eq!(crash(&mut life, now + STABLE), Duration::ZERO);
    }

    #[test]
    fn a_ready_instance_drains_before_it_is_asked_to_end() {
        let (mut life, now) = start();
        assert_eq!(life.on(&Event::ProbePassed, now), Step::Publish);
        assert!(life.counts());
        assert_eq!(life.on(&Event::StopRequested, now), Step::Drain);
        assert!(!life.counts());
        assert_eq!(life.on(&Event::ProbePassed, now), Step::Stay);
        assert_eq!(life.on(&Event::Drained, now), Step::Terminate);
        assert_eq!(life.phase, Phase::Stopping(now + Duration::from_secs(300)));
        assert_eq!(life.on(&Event::GraceOver, now), Step::Kill);
        assert_eq!(life.on(&Event::Exited, now), Step::Finish);
        assert_eq!(life.phase, Phase::Gone);
    }

    #[test]
    fn an_instance_that_waits_after_a_crash_ends_at_once() {
        let (mut life, now) = start();
        life.on(&Event::Exited, now);
        assert_eq!(life.on(&Event::StopRequested, now), Step::Finish);
    }

    #[test]
    fn one_that_fails_its_probe_is_withdrawn_and_returns() {
        let (mut life, now) = start();
        life.on(&Event::ProbePassed, now);
        assert_eq!(life.on(&Event::ProbeFailed, now), Step::Withdraw);
        assert_eq!(life.on(&Event::ProbeFailed, now), Step::Stay);
        assert_eq!(life.on(&Event::ProbePassed, now), Step::Publish);
    }

    #[test]
    fn reasons_of_an_end() {
        assert_eq!(Exit::new(Some(0), None, false).reason(), "Completed");
        assert_eq!(Exit::new(Some(3), None, false).reason(), "Error");
        let killed = Exit::new(None, Some(9), true);
        assert_eq!((killed.reason(), killed.code), ("OOMKilled", 137));
    }
}
