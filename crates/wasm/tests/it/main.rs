//! Components built from Rust for wasm32-wasip2, well behaved and hostile, against the real engine.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod behaviour;
mod cache;
mod grants;
mod hostile;
mod serving;
mod support;
