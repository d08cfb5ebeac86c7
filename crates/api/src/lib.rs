//! Every kind: types, defaults, validation, lifecycle (conditions), names. No I/O, no async, no clock.

pub mod key;
pub mod kind;
