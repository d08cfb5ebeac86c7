//! The crate from outside: the registry endpoint by specification and by other people's tools, the client against
//! registries that misbehave, and the facade.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that meets the unexpected shall fail, one that cannot run shall say so"
)]

mod facade;
mod protocol;
mod remote;
mod support;
mod tools;
