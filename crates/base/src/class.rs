//! Whose fault an error is and what the caller should do: the two questions every error answers.

use std::time::Duration;

/// Who caused a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The caller: the same request will fail again.
    Caller,
    /// Something we depend on: a registry, a container, the disk.
    Upstream,
    /// Dormouse itself: a bug or a broken invariant.
    Ourselves,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Try again after this long.
    RetryAfter(Duration),
    /// Re-read the state, then decide again.
    Conflict,
    /// Nothing will change by itself.
    GiveUp,
    /// The component that reports this cannot go on.
    Fatal,
}

/// The answer of an error's `class()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Whose fault it is.
    pub origin: Origin,
    /// What to do.
    pub action: Action,
}

impl Class {
    /// A class from its two answers.
    pub const fn new(origin: Origin, action: Action) -> Self {
        Self { origin, action }
    }
}
