//! The reconcilers against the API server in this process; nodes, autoscaler and gateway are played by [`world`].

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod failures;
mod lifecycle;
mod world;
