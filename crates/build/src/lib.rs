//! Source to image: detect, plan, run, assemble.
//!
//! ```text
//! Request ─ detect ─► Project ─ plan ─► Plan (JSON) ─ run ─► layers ─ assemble ─► Built
//!                     content hash       pure            sandboxed     deterministic
//! ```
//!
//! [`detect`](fn@detect) and [`Engine::plan`] decide and write nothing. [`Engine::build`] does all of it: a build whose
//! plan was seen before runs no stage, a stage whose inputs were seen before is not run again, and layers depend on
//! content only, so the same source gives the same manifest digest in any directory, for any user, on any day.
//!
//! Reading order: [`Request`], [`Project`] → `source` (walk, ignore, hash) → [`detect`](fn@detect) → `lang` (a recipe per
//! language) → [`Plan`] → `stage` (its commands in sandboxes) → `layers` → `base` → [`Engine`]. [`Error`] has every reason.
//! [`function`] turns the projects of `kn func` into requests.
//! Test alone, as root: `cargo test -p dormouse-build`.

mod base;
mod detect;
mod dockerfile;
mod engine;
mod error;
pub mod function;
mod host;
mod lang;
mod layers;
mod plan;
mod progress;
mod project;
mod source;
mod stage;
mod statements;

pub use detect::{detect, name_of};
pub use engine::Engine;
pub use error::{Error, Reason, Result};
pub use host::Host;
pub use plan::{Base, Cache, Copy, LayerPlan, Plan, RECIPE, Run, Stage, Tool};
pub use progress::{Built, Event, Phase, Progress, Quiet};
pub use project::{DEFAULT_PORT, Entry, Language, Project, Request, StepLimits, Tree};
pub use source::stamp;
