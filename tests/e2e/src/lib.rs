//! The harness of the end-to-end tests: starts the real program, talks to it as users do, and proves that it leaves
//! nothing behind.
//!
//! It knows the program by its command line, its listeners and `run/state.json` only, so that it judges what ships.
//! Reading order: [`platform`] (a running `dormouse up`) → [`http`] and [`api`] (how it is spoken to) → [`traffic`]
//! (load that counts its failures) → [`leftovers`] (what the kernel still holds) → [`tools`] (the binaries).
//!
//! Test alone: `cargo test -p dormouse-e2e` as root.

pub mod api;
pub mod http;
pub mod leftovers;
pub mod platform;
pub mod registry;
pub mod tools;
pub mod traffic;
pub mod wait;

pub use platform::{Options, Platform, Said};
pub use wait::until;

/// What a scenario returns: an error is a failed claim, with what was seen.
pub type Outcome = anyhow::Result<()>;
