//! Listeners, route table, activation, concurrency gate, balancing, proxying.
//!
//! Reading order: `worker` (threads) → `server` (listen) → `proxy` (one request) → [`route`] (which revision) → `revision` and `gate` (which
//! instance, or hold) → `pool` (which connection) or `call` (none) → `body` (the response's way back). [`Gateway`] is the handle that
//! the node, the autoscaler and [`routes`] use. It knows nothing of containers and never writes to the API, except
//! that [`routes`] acknowledges what it serves. Test alone: `cargo test -p dormouse-gateway`.

mod body;
mod call;
mod gate;
mod gateway;
mod headers;
mod load;
mod metrics;
mod pool;
mod proxy;
mod revision;
pub mod route;
pub mod routes;
mod server;
mod worker;

pub use body::{Body, BodyError, RequestBody};
pub use call::{Call, CallBody, Instance};
pub use gateway::{Activate, Gateway, GatewayConfig};
pub use load::Load;
pub use revision::{Protocol, RevisionPolicy};
pub use route::{RouteTable, Visibility, compile};
