//! What a person types: the command line and its verbs, those of the running platform excepted that `up` and `down` are.
//!
//! Reading order: [`args`] → [`state`] (how a running platform is found) → [`image`] → [`status`] → [`cluster`] (the
//! API over TLS) → [`builder`], [`show`] → [`deploy`] → [`func`].
//! It never starts anything; `dormouse up` is wired in the binary. Test alone: `cargo test -p dormouse-cli`.

pub mod args;
pub mod builder;
pub mod cluster;
pub mod deploy;
pub mod func;
pub mod image;
pub mod show;
pub mod state;
pub mod status;
