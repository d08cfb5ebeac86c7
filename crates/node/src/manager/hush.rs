//! Silence for instances that start: whoever waits behind the hot path leaves them the CPU, for a moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dormouse_base::clock;
use tokio::sync::Notify;

/// A start that takes longer is a slow program, not ours: nobody waits for it.
const START: Duration = Duration::from_millis(30);
/// However many instances start one after the other, others come to their turn after this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Counts the instances between launch and readiness. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Hush(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    quiet: Notify,
}

#[derive(Default)]
struct State {
    starting: usize,
    /// When the last of them began or was launched: of many at once each waits for its turn to be launched.
    latest: Option<Instant>,
}

/// One instance that starts; over when it is dropped.
pub(super) struct Starting(Hush);

impl Drop for Starting {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.starting = state.starting.saturating_sub(1);
        if state.starting == 0 {
            drop(state);
            self.0.0.quiet.notify_waiters();
        }
    }
}

impl Starting {
    /// Its program runs now and may take its time to become ready.
    pub(super) fn launched(&self, now: Instant) {
        self.0.lock().latest = Some(now);
    }
}

impl Hush {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance begins to start.
    pub(super) fn begin(&self, now: Instant) -> Starting {
        let mut state = self.lock();
        state.starting += 1;
        state.latest = Some(now);
        Starting(self.clone())
    }

    /// Until when the starts of now deserve silence; `None` when there are none.
    fn until(&self, now: Instant) -> Option<Instant> {
        let state = self.lock();
        let until = state.latest? + START;
        (state.starting > 0 && until > now).then_some(until)
    }

    /// Resolves when no instance is about to start, or none began lately, or at `deadline`.
    pub(super) async fn settled(&self, deadline: Instant) {
        loop {
            let quiet = self.0.quiet.notified();
            let now = clock::now();
            let Some(until) = self.until(now) else { return };
            if now >= deadline {
                return;
            }
            tokio::select! {
                biased; // Both only wake the loop, which looks again.
                () = quiet => {}
                () = clock::sleep_until(until.min(deadline)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_lasts_until_the_last_is_ready_or_slow() {
        let (hush, now) = (Hush::default(), clock::now());
        assert_eq!(hush.until(now), None);
        let first = hush.begin(now);
        let second = hush.begin(now + START / 2);
        drop(first);
        assert_eq!(hush.until(now + START), Some(now + START / 2 + START));
        assert_eq!(hush.until(now + START * 2), None);
        second.launched(now + START * 2);
        assert_eq!(hush.until(now + START * 2), Some(now + START * 3));
        drop(second);
        assert_eq!(hush.until(now + START), None);
    }

    #[tokio::test]
    async fn a_start_that_is_slow_is_not_waited_for() {
        let hush = Hush::default();
        let _starting = hush.begin(clock::now());
        let begun = clock::now();
        hush.settled(begun + PATIENCE).await;
        let waited = clock::now().duration_since(begun);
        assert!(waited >= START - Duration::from_millis(5) && waited < PATIENCE, "{waited:?}");
    }
}
