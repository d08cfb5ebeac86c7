//! The Configuration kind.

mod lifecycle;
mod types;

pub use lifecycle::*;
pub use types::*;
