//! Serving: Service → Configuration → Revision, Service → Route → KIngress.

use std::sync::Arc;

use dormouse_base::task::Tasks;

mod configuration;
mod context;
mod domain;
mod domainmapping;
mod error;
mod family;
mod gc;
mod labeler;
mod naming;
mod resolve;
mod revision;
mod route;
mod service;
mod tracker;

pub use domain::Domain;
pub use error::Error;
pub use resolve::{Resolve, ResolveError};

/// What the reconcilers need from the rest of the program.
#[derive(Clone)]
pub struct Deps {
    /// Turns image references into digests.
    pub resolve: Arc<dyn Resolve>,
    /// Where public services live.
    pub domain: Domain,
}

/// Starts every reconciler as a task of `tasks`; they stop with its shutdown.
pub async fn run(client: kube::Client, deps: Deps, tasks: Tasks) {
    let context = Arc::new(context::Context::new(client, deps, tasks.clone()));
    tasks.spawn("service-controller", service::run(context.clone()));
    tasks.spawn("configuration-controller", configuration::run(context.clone()));
    tasks.spawn("revision-controller", revision::run(context.clone()));
    tasks.spawn("route-controller", route::run(context.clone()));
    tasks.spawn("domainmapping-controller", domainmapping::run(context));
}
