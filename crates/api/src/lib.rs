//! Every kind: types, defaults, validation, lifecycle (conditions), names. No I/O, no async, no clock.
//!
//! Reading order: [`kind`] → [`vocabulary`] → [`serving`] → [`autoscaling`] → [`networking`] → [`condition`] →
//! [`admission`]. Test alone: `cargo test -p dormouse-api`.

pub mod admission;
pub mod autoscaling;
pub mod condition;
pub mod config;
pub mod fielderror;
pub mod key;
pub mod kind;
pub mod names;
pub mod networking;
pub(crate) mod resource;
pub mod serving;
pub mod vocabulary;
