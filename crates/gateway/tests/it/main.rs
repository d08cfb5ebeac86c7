//! The gateway over real sockets.
#![expect(clippy::unwrap_used, reason = "a test's own set-up may fail loudly")]

mod called;
mod holding;
mod limits;
mod protocols;
mod support;
