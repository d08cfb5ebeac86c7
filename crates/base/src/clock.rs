//! The only place that reads the machine's clocks.
//!
//! Pure code takes `now` as an argument; services call these functions at their edge.
//! Under `tokio::time::pause()` the monotonic clock and [`sleep`] are virtual, so services can be tested without waiting.

use std::time::{Duration, Instant, SystemTime};

/// Monotonic time; virtual inside a paused tokio runtime.
#[expect(clippy::disallowed_methods, reason = "this module is where the clock is read")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall-clock time; may jump in either direction, so it is for people and file names, never for durations.
#[expect(clippy::disallowed_methods, reason = "this module is where the clock is read")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Wall-clock time as a timestamp, truncated to whole seconds as Kubernetes' `Time` is.
pub fn timestamp() -> jiff::Timestamp {
    let now = jiff::Timestamp::try_from(wall()).unwrap_or_default();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Waits for `duration` on the runtime's clock. Cancel-safe.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Waits until `deadline` on the runtime's clock. Cancel-safe.
pub async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(tokio::time::Instant::from_std(deadline)).await;
}
