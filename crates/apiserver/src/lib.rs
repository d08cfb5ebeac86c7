//! Kubernetes REST over the store, as a tower service: what `kubectl`, `kn`, client-go and kube-rs talk to.
//!
//! ```text
//! TLS listener (serve) ─┐                     ┌─ rest::{read, write, delete, watch, scale, logs, review}
//!                       ├─► Server::handle ───┤      │ admission: dormouse_api
//! kube::Client in proc ─┘   authorize, route  └─ pure::{discovery, openapi}
//!                                                    ▼
//!                                     dormouse_store ──► garbage (owners), namespaces (life cycle)
//! ```
//!
//! Reading order: [`Server`] → `route` → `rest` → `meta` (rules of `metadata`) → `garbage`, `namespaces` →
//! `bootstrap` → `authority` and `serve`. `pure` holds what needs neither store nor clock.
//! It never knows a reconciler. Test alone: `cargo test -p dormouse-apiserver`.

mod authority;
mod body;
mod bootstrap;
mod error;
mod garbage;
mod hooks;
mod json;
mod meta;
mod namespaces;
mod pure;
mod query;
mod rest;
mod route;
mod serve;
mod server;
mod tokens;
mod user;

pub use authority::Authority;
pub use body::Body;
pub use error::Error;
pub use hooks::{Hooks, LogError, LogQuery, LogStream, PodLogs};
pub use serve::serve;
pub use server::Server;
pub use tokens::Signer;
pub use user::UserInfo;
