//! The Service kind.

mod lifecycle;
mod types;

pub use lifecycle::*;
pub use types::*;
