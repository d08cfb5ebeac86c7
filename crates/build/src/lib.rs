//! Source to image: detect, plan, run, assemble.
//!
//! ```text
//! Request ─ detect ─► Project ─ plan ─► Plan (JSON) ─ run ─► layers ─ assemble ─► Built
//!                     content hash       pure            sandboxed     deterministic
//! ```
//!
//! [`detect`](fn@detect) and [`plan`](fn@plan) decide and write nothing. [`Engine::build`] does all of it: a build whose
//! plan was seen before runs no stage, a stage whose inputs were seen before is not run again, and layers depend on
//! content only, so the same source gives the same manifest digest in any directory, for any user, on any day.
//!
//! Reading order: [`Request`], [`Project`] → `source` (walk, ignore, hash) → [`detect`](fn@detect) → `lang` (a recipe per
//! language) → [`Plan`] → `step` (the sandbox of one command) → `base` → [`Engine`]. [`Error`] has every reason.

mod error;
mod plan;
mod project;

pub use error::{Error, Reason, Result};
pub use plan::{Base, Cache, Copy, LayerPlan, Plan, RECIPE, Run, Stage, Tool};
pub use project::{DEFAULT_PORT, Entry, Language, Project, Request, StepLimits, Tree};
