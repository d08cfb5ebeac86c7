//! What a person types: the command line, and the verbs that need no running platform.
//!
//! Reading order: [`args`] → [`state`] (how a running platform is found) → [`image`] → [`status`].
//! It never starts anything; `dormouse up` is wired in the binary. Test alone: `cargo test -p dormouse-cli`.

pub mod args;
pub mod image;
pub mod state;
pub mod status;
