//! WebAssembly components that answer HTTP (`wasi:http/proxy`, WASI 0.2): compiled once, one isolated instance per
//! request.
//!
//! A container is a process that waits; a component is code that is called. Nothing runs between two requests, so a
//! service at zero and a service at rest are the same thing, and waking one costs a memory mapping and a few
//! microseconds. Rejected: a process per instance (costs what a container costs), instances that live on between requests
//! by default (one request would see what another left behind).
//!
//! ```text
//! Host::load(digest, bytes) ─ compiled and kept on disk ─► Component ─ bind(limits, grants) ─► Function
//!                                                                          Function::call   in process, no hop
//!                                                                          Function::serve  HTTP/1.1 and h2c on a socket
//! ```
//!
//! A call runs in the task of its caller. Code that computes for more than a tick of the epoch clock is moved to threads
//! of its own with a low priority, so a loop without end delays nobody else before its deadline ends it.
//!
//! Reading order: [`config`] → [`error`] → `cache` → [`host`] → `state` → [`function`] → `guest` → [`body`] → [`serve`].
//! It never pulls images, knows Pods or decides how many instances there are. Test alone: `cargo test -p dormouse-wasm`.

mod background;
pub mod body;
mod cache;
pub mod config;
mod engine;
mod epoch;
pub mod error;
pub mod function;
mod guest;
pub mod host;
pub mod log;
pub mod outbound;
pub mod serve;
mod state;

pub use body::{Body, BodyError};
pub use config::{Config, Directory, Grants, Limits};
pub use error::{Error, Result};
pub use function::Function;
pub use host::{Component, Host, Source};
pub use log::{LogSink, Stream};
pub use outbound::{Connector, HostPattern, Outbound, Target, Transport};
pub use serve::{Instance, Listener};
