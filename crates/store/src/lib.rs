//! Revisioned, watchable objects: durable and ephemeral under one counter.
//!
//! Reading order: [`ObjectKey`], [`Stored`] and [`Event`] (`object`) → [`Store`] → `index` (what is visible) →
//! `writer` (the one thread that decides and commits) → `disk` (SQLite).
//!
//! ```text
//! callers ──Command──► writer thread: decide a batch → one commit (fsync) → publish → answer
//!    ▲                                                                      │
//!    └────── get, list, watch ◄── index: objects, history ring, watchers ◄──┘
//! ```
//!
//! Invariants: a write is visible only after it is durable; revisions become visible in order; a revision is never
//! handed out twice, also not across restarts (blocks of them are reserved durably); a watch sees every change once
//! and in order, or ends. It never knows what is inside an object beyond `metadata.resourceVersion`.
//! Test alone: `cargo test -p dormouse-store`.

mod disk;
mod error;
mod index;
mod object;
mod store;
mod watch;
mod writer;

pub use error::Error;
pub use object::{Change, Durability, Event, ObjectKey, Stored};
pub use store::{Config, Store};
pub use watch::Watch;
