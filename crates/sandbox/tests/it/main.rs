//! The sandbox as its users meet it: a keeper process, real namespaces, real cgroups. Needs root; says so when it is not.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends at what it did not expect, and says when it was skipped"
)]

mod harness;
mod inside;
mod lifecycle;
mod limits;
mod survival;
