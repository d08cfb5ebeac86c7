//! The KPA decision (pure) and its shell.
//!
//! Reading order: [`window`] (averages) → [`target`] (what an instance should carry) → [`decide`] (how many are
//! wanted) → [`rules`] (bounds and scale to zero) → [`config`] (the ConfigMap) → `shell` ([`Autoscaler`]: the only
//! part with time and I/O). It never starts anything: [`Scale`] does. Test alone: `cargo test -p dormouse-autoscaler`.

pub mod config;
pub mod decide;
pub mod rules;
mod shell;
pub mod target;
pub mod window;

pub use shell::{Autoscaler, Load, Loads, Scale};
