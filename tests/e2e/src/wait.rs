//! Waiting for a condition with a deadline: the only place of the harness that sleeps.

use std::time::Duration;

use anyhow::{Result, bail};
use dormouse_base::clock;

/// Between two looks at a condition: short enough not to be seen in a measured time, long enough to cost nothing.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until `condition` gives a value. An error of the condition means "not yet" and is told at the deadline.
///
/// # Errors
/// At the deadline, with `what` was awaited and what the last look saw.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = clock::now() + limit;
    loop {
        let seen = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if clock::now() >= deadline {
            bail!("{what}: not within {limit:?}{seen}");
        }
        std::thread::sleep(LOOK);
    }
}
