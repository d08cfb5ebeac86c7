//! Where crates that never see each other meet: each adapter implements a trait that its consumer declared.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use dormouse_api::key::RevisionKey;
use dormouse_apiserver::{LogError, LogQuery, LogStream, PodLogs};
use dormouse_autoscaler::Autoscaler;
use dormouse_controllers::serving::{Resolve, ResolveError};
use dormouse_gateway::Gateway;
use dormouse_image::{Auth, Images};
use dormouse_node::Node;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::components::Engine;

/// The gateway's held requests ask the autoscaler.
pub(crate) struct Demand(pub(crate) Autoscaler);

impl dormouse_gateway::Activate for Demand {
    fn demand(&self, revision: &RevisionKey, queued: usize) {
        self.0.demand(revision, queued);
    }
}

/// The autoscaler asks the node; the node is started after it, so the first decisions may find nobody.
#[derive(Default)]
pub(crate) struct NodeScale(pub(crate) OnceLock<Node>);

impl dormouse_autoscaler::Scale for NodeScale {
    fn scale(&self, revision: &RevisionKey, desired: u32) {
        match self.0.get() {
            Some(node) => node.scale(revision, desired),
            None => tracing::debug!(%revision, desired, "no node yet; the next tick decides again"),
        }
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        match self.0.get() {
            Some(node) => node.settled().boxed(),
            None => std::future::ready(()).boxed(),
        }
    }
}

/// The autoscaler's observations come from the gateway.
pub(crate) struct GatewayLoads(pub(crate) Gateway);

impl dormouse_autoscaler::Loads for GatewayLoads {
    fn observe(&self, revision: &RevisionKey) -> dormouse_autoscaler::Load {
        let load = self.0.observe(revision);
        dormouse_autoscaler::Load {
            concurrency: load.concurrency,
            requests: load.requests,
            in_flight: load.in_flight,
            queued: load.queued,
        }
    }
}

/// The node's ready instances go to the gateway first, because requests wait there, then to the autoscaler.
pub(crate) struct ReadyInstances {
    pub(crate) gateway: Gateway,
    pub(crate) autoscaler: Autoscaler,
    pub(crate) components: Arc<Engine>,
}

impl dormouse_node::Endpoints for ReadyInstances {
    fn set(&self, revision: &RevisionKey, endpoints: Vec<dormouse_node::Endpoint>) {
        let ready = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let instance = |endpoint: dormouse_node::Endpoint| dormouse_gateway::Instance {
            call: self.components.call(&endpoint.address),
            id: endpoint.id,
            address: endpoint.address,
        };
        self.gateway.set_endpoints(revision, endpoints.into_iter().map(instance));
        self.autoscaler.ready(revision, ready);
    }
}

/// The node asks the gateway which instances are busy.
pub(crate) struct Busy(pub(crate) Gateway);

impl dormouse_node::InFlight for Busy {
    fn count(&self, address: &SocketAddr) -> usize {
        self.0.in_flight(address)
    }

    fn idle(&self, address: SocketAddr, deadline: Instant) -> BoxFuture<'static, bool> {
        let gateway = self.0.clone();
        async move { gateway.idle(address, deadline).await }.boxed()
    }
}

/// `kubectl logs` reads from the node.
#[derive(Clone, Default)]
pub(crate) struct NodeLogs(pub(crate) Arc<OnceLock<Node>>);

impl PodLogs for NodeLogs {
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        query: LogQuery,
    ) -> BoxFuture<'static, Result<LogStream, LogError>> {
        let Some(node) = self.0.get().cloned() else {
            return async { Err(LogError::BadRequest("the node is starting".to_owned())) }.boxed();
        };
        let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
        async move {
            let query = dormouse_node::LogQuery {
                container: query.container,
                follow: query.follow,
                previous: query.previous,
                timestamps: query.timestamps,
                tail_lines: query.tail_lines,
                limit_bytes: query.limit_bytes,
                since_seconds: query.since_seconds.and_then(|seconds| i64::try_from(seconds).ok()),
                since_time: query.since_time,
            };
            node.logs(&namespace, &pod, query).await.map_err(|error| match error {
                dormouse_node::LogError::NotFound(message) => LogError::NotFound(message),
                dormouse_node::LogError::Waiting(message) | dormouse_node::LogError::BadRequest(message) => {
                    LogError::BadRequest(message)
                }
            })
        }
        .boxed()
    }
}

/// Registries whose names exist only here: Knative never resolves their tags.
const LOCAL_ONLY: [&str; 3] = ["kind.local/", "ko.local/", "dev.local/"];

/// The controllers' digests come from the image store and the registries behind it.
pub(crate) struct StoreDigests(pub(crate) Images);

impl Resolve for StoreDigests {
    fn resolve(
        &self,
        reference: String,
        pull_secrets: Vec<Vec<u8>>,
    ) -> BoxFuture<'static, Result<Option<String>, ResolveError>> {
        let images = self.0.clone();
        async move {
            if LOCAL_ONLY.iter().any(|registry| reference.starts_with(registry)) {
                return Ok(None);
            }
            let mut auth = Auth::anonymous();
            for secret in &pull_secrets {
                let given =
                    Auth::from_docker_config("imagePullSecret", secret).map_err(|error| refusal(&error))?;
                auth = auth.or(given);
            }
            let digest = images.resolve(&reference, &auth).await.map_err(|error| refusal(&error))?;
            Ok(Some(format!("{}@{digest}", repository(&reference))))
        }
        .boxed()
    }
}

fn refusal(error: &dormouse_image::Error) -> ResolveError {
    let transient = !matches!(error.class().action, dormouse_base::class::Action::GiveUp);
    ResolveError { message: dormouse_base::chain(error), transient }
}

/// The reference without tag and digest, as the user wrote it.
fn repository(reference: &str) -> &str {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::repository;

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(repository("127.0.0.1:5000/hello:v1"), "127.0.0.1:5000/hello");
        assert_eq!(repository("127.0.0.1:5000/hello"), "127.0.0.1:5000/hello");
        assert_eq!(repository("hello:v1@sha256:00"), "hello");
        assert_eq!(repository("hello"), "hello");
    }
}
