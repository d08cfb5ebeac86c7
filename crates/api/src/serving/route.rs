//! The Route kind.

pub(crate) mod defaults;
mod lifecycle;
mod types;
pub(crate) mod validation;

pub use lifecycle::*;
pub use types::*;
