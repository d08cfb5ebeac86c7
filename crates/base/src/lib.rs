//! What every crate needs and none of the domain: time, owned tasks, shutdown, backoff, error classes, telemetry.
//!
//! Reading order: [`clock`] → [`shutdown`] → [`task`] → [`backoff`] → [`class`] → [`telemetry`].
//! It never knows a domain noun. Test alone: `cargo test -p dormouse-base`.

pub mod backoff;
pub mod class;
pub mod clock;
pub mod shutdown;
pub mod task;
pub mod telemetry;

/// Joins an error and its sources into one line, outermost first: `what failed: why: why`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
