//! The shell around [`crate::route`]: watches KIngress and Revision objects, swaps the table, then acknowledges.
//!
//! An Ingress becomes Ready when the table that contains it is the one being served: nothing is probed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dormouse_api::key::RevisionKey;
use dormouse_api::networking::{
    Ingress, IngressStatus, LOAD_BALANCER_READY, LoadBalancerIngress, LoadBalancerStatus, NETWORK_CONFIGURED,
};
use dormouse_api::serving::revision::Revision;
use dormouse_api::vocabulary::{FULL_DUPLEX, INGRESS_CLASS, OUR_INGRESS_CLASS};
use dormouse_base::clock;
use dormouse_base::task::Tasks;
use futures::StreamExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::gateway::Gateway;
use crate::revision::{Protocol, RevisionPolicy};
use crate::route::{IngressKey, Routes};

/// Events that are applied before the table is swapped once.
const BATCH: usize = 256;
/// Status writes on their way; the table is swapped no matter how slow they are, until this many wait.
const WRITES: usize = 4096;
/// Status writes at once: they share one commit.
const WRITERS: usize = 16;

/// What the acknowledgement says.
#[derive(Clone, Debug)]
pub struct RoutesConfig {
    /// The port of the public listener; shown in logs only.
    pub public_port: u16,
    /// The name under which the public listener is known inside.
    pub public_domain: String,
    /// The name under which the inner listener is known inside.
    pub private_domain: String,
}

impl Default for RoutesConfig {
    fn default() -> Self {
        Self {
            public_port: 80,
            public_domain: "gateway.knative-serving.svc.cluster.local".to_owned(),
            private_domain: "gateway-internal.knative-serving.svc.cluster.local".to_owned(),
        }
    }
}

/// Starts watching; returns at once, `tasks` owns the work. The answer resolves when everything that existed is served:
/// accepting before would answer 404 for routes that are only not read yet.
pub fn run(
    client: kube::Client,
    gateway: Gateway,
    config: RoutesConfig,
    tasks: &Tasks,
) -> impl Future<Output = ()> + Send + 'static {
    let (routes_known, routes_synced) = oneshot::channel();
    let (policies_known, policies_synced) = oneshot::channel();
    let (sender, receiver) = mpsc::channel(WRITES);
    let shutdown = tasks.shutdown().clone();
    let writer = acknowledge(client.clone(), receiver);
    tasks.spawn("gateway-acknowledge", async move {
        tokio::select! { () = shutdown.wait() => {}, () = writer => {} }
    });
    let shutdown = tasks.shutdown().clone();
    let routes = watch_ingresses(client.clone(), gateway.clone(), config, sender, routes_known);
    tasks.spawn("gateway-routes", async move {
        tokio::select! { () = shutdown.wait() => {}, () = routes => {} }
    });
    let shutdown = tasks.shutdown().clone();
    let policies = watch_revisions(client, gateway, policies_known);
    tasks.spawn("gateway-policies", async move {
        tokio::select! { () = shutdown.wait() => {}, () = policies => {} }
    });
    async move {
        // A sender that is dropped means shutdown: nobody waits for routes then.
        let _ = routes_synced.await;
        let _ = policies_synced.await;
    }
}

struct Write {
    namespace: String,
    name: String,
    status: IngressStatus,
}

async fn watch_ingresses(
    client: kube::Client,
    gateway: Gateway,
    config: RoutesConfig,
    writes: mpsc::Sender<Write>,
    known: oneshot::Sender<()>,
) {
    let mut known = Some(known);
    let stream = watcher(Api::<Ingress>::all(client), watcher::Config::default()).default_backoff();
    let mut batches = std::pin::pin!(stream.ready_chunks(BATCH));
    let mut routes = Routes::default();
    let mut listed = HashSet::new();
    // Objects that lost a host to an older one: looked at again when an object goes.
    let mut losers = Losers::new();
    while let Some(batch) = batches.next().await {
        let mut pending = Vec::new();
        let mut freed = false;
        let mut complete = false;
        for event in batch {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(ingress)) => {
                    let metadata = &ingress.metadata;
                    if let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) {
                        listed.insert((Arc::from(namespace.as_str()), Arc::from(name.as_str())));
                    }
                    pending.extend(apply(&mut routes, &mut losers, ingress, &config));
                }
                Ok(Event::InitDone) => {
                    complete = true;
                    for key in routes.keys() {
                        if !listed.contains(&key) {
                            routes.remove(&key.0, &key.1);
                            losers.remove(&key);
                            freed = true;
                        }
                    }
                    listed.clear();
                }
                Ok(Event::Apply(ingress)) => {
                    pending.extend(apply(&mut routes, &mut losers, ingress, &config));
                }
                Ok(Event::Delete(ingress)) => {
                    remove(&mut routes, &mut losers, &ingress);
                    freed = true;
                }
                Err(error) => {
                    tracing::warn!(error = %dormouse_base::chain(&error), "watching ingresses; trying again");
                }
            }
        }
        if freed {
            for (_, ingress) in std::mem::take(&mut losers) {
                pending.extend(apply(&mut routes, &mut losers, ingress, &config));
            }
        }
        gateway.swap_routes(routes.table());
        if complete && let Some(known) = known.take() {
            let _ = known.send(());
        }
        for write in pending {
            if writes.send(write).await.is_err() {
                return;
            }
        }
    }
}

fn is_ours(ingress: &Ingress) -> bool {
    let annotations = ingress.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(INGRESS_CLASS).or_else(|| all.get("networking.knative.dev/ingress-class")))
        .is_none_or(|class| class.is_empty() || class == OUR_INGRESS_CLASS)
}

type Losers = HashMap<IngressKey, Ingress>;

fn remove(routes: &mut Routes, losers: &mut Losers, ingress: &Ingress) {
    if let (Some(namespace), Some(name)) = (&ingress.metadata.namespace, &ingress.metadata.name) {
        routes.remove(namespace, name);
        losers.remove(&(Arc::from(namespace.as_str()), Arc::from(name.as_str())));
    }
}

/// Takes one object over; answers what to write if its status does not say so yet.
fn apply(routes: &mut Routes, losers: &mut Losers, ingress: Ingress, config: &RoutesConfig) -> Option<Write> {
    if !is_ours(&ingress) || ingress.metadata.deletion_timestamp.is_some() {
        remove(routes, losers, &ingress);
        return None;
    }
    let conflicts = routes.apply(&ingress);
    let key: IngressKey =
        (ingress.metadata.namespace.as_deref()?.into(), ingress.metadata.name.as_deref()?.into());
    if conflicts.is_empty() {
        losers.remove(&key);
    } else {
        losers.insert(key, ingress.clone());
    }
    let mut status = ingress.status.clone().unwrap_or_default();
    status.observed_generation = ingress.metadata.generation;
    let balancer = |domain: &str| {
        let internal = LoadBalancerIngress { domain_internal: Some(domain.to_owned()), ..Default::default() };
        Some(LoadBalancerStatus { ingress: vec![internal] })
    };
    status.public_load_balancer = balancer(&config.public_domain);
    status.private_load_balancer = balancer(&config.private_domain);
    let mut conditions = status.manage(clock::timestamp());
    conditions.initialize();
    conditions.mark_true(NETWORK_CONFIGURED);
    match conflicts.first() {
        None => conditions.mark_true(LOAD_BALANCER_READY),
        Some(host) => conditions.mark_false(
            LOAD_BALANCER_READY,
            "DomainConflict",
            &format!("host {host} belongs to an older ingress"),
        ),
    }
    if ingress.status.as_ref() == Some(&status) {
        return None;
    }
    Some(Write { namespace: ingress.metadata.namespace?, name: ingress.metadata.name?, status })
}

async fn acknowledge(client: kube::Client, receiver: mpsc::Receiver<Write>) {
    let receiver = futures::stream::unfold(receiver, async |mut receiver| {
        let write = receiver.recv().await?;
        Some((write, receiver))
    });
    receiver
        .for_each_concurrent(WRITERS, |write| {
            let client = client.clone();
            async move {
                let api: Api<Ingress> = Api::namespaced(client, &write.namespace);
                let patch = Patch::Merge(json!({ "status": write.status }));
                for attempt in 0..5u32 {
                    match api.patch_status(&write.name, &PatchParams::default(), &patch).await {
                        Ok(_) => return,
                        Err(kube::Error::Api(status)) if status.code == 404 => return,
                        Err(error) => {
                            tracing::warn!(ingress = %write.name, error = %dormouse_base::chain(&error), "cannot acknowledge");
                            clock::sleep(Duration::from_millis(20 << attempt)).await;
                        }
                    }
                }
            }
        })
        .await;
}

async fn watch_revisions(client: kube::Client, gateway: Gateway, synced: oneshot::Sender<()>) {
    let mut synced = Some(synced);
    let stream = watcher(Api::<Revision>::all(client), watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut known: HashSet<RevisionKey> = HashSet::new();
    let mut listed: HashSet<RevisionKey> = HashSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(revision)) => listed.extend(learn(&gateway, &mut known, &revision)),
            Ok(Event::InitDone) => {
                for gone in known.difference(&listed) {
                    gateway.remove(gone);
                }
                known = std::mem::take(&mut listed);
                if let Some(synced) = synced.take() {
                    let _ = synced.send(());
                }
            }
            Ok(Event::Apply(revision)) => {
                learn(&gateway, &mut known, &revision);
            }
            Ok(Event::Delete(revision)) => {
                if let Some(key) = key_of(&revision) {
                    known.remove(&key);
                    gateway.remove(&key);
                }
            }
            Err(error) => {
                tracing::warn!(error = %dormouse_base::chain(&error), "watching revisions; trying again");
            }
        }
    }
}

fn key_of(revision: &Revision) -> Option<RevisionKey> {
    let metadata = &revision.metadata;
    Some(RevisionKey::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?))
}

fn learn(gateway: &Gateway, known: &mut HashSet<RevisionKey>, revision: &Revision) -> Option<RevisionKey> {
    let key = key_of(revision)?;
    gateway.set_policy(&key, policy(revision));
    known.insert(key.clone());
    Some(key)
}

/// What a Revision's spec says about its requests.
pub fn policy(revision: &Revision) -> RevisionPolicy {
    let spec = &revision.spec;
    let seconds = |value: Option<i64>| Duration::from_secs(u64::try_from(value.unwrap_or(0)).unwrap_or(0));
    let timeout = seconds(spec.timeout_seconds);
    let ports = spec.pod.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let h2c = ports.into_iter().any(|port| port.name.as_deref() == Some("h2c"));
    let annotations = revision.metadata.annotations.as_ref();
    RevisionPolicy {
        container_concurrency: u32::try_from(spec.container_concurrency.unwrap_or(0)).unwrap_or(0),
        timeout: if timeout.is_zero() { Duration::from_secs(300) } else { timeout },
        response_start_timeout: seconds(spec.response_start_timeout_seconds),
        idle_timeout: seconds(spec.idle_timeout_seconds),
        protocol: if h2c { Protocol::H2c } else { Protocol::Http1 },
        full_duplex: annotations
            .and_then(|all| all.get(FULL_DUPLEX))
            .is_some_and(|value| value.eq_ignore_ascii_case("enabled")),
    }
}

#[cfg(test)]
mod tests {
    use dormouse_api::networking::READY;

    use super::*;

    fn ingress(name: &str, created: &str, class: Option<&str>) -> Ingress {
        let annotations = class.map(|class| json!({INGRESS_CLASS: class}));
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": name, "generation": 3, "creationTimestamp": created,
                "annotations": annotations},
            "spec": {"rules": [{"hosts": ["h"], "http": {"paths": [{"splits": [{"serviceName": "r"}]}]}}]}
        }))
        .unwrap()
    }

    #[test]
    fn what_is_served_is_acknowledged_once() {
        let (mut routes, mut losers, config) = (Routes::default(), Losers::new(), RoutesConfig::default());
        let mut object = ingress("a", "2026-01-01T00:00:00Z", Some(OUR_INGRESS_CLASS));
        let write = apply(&mut routes, &mut losers, object.clone(), &config).unwrap();
        assert_eq!(write.status.observed_generation, Some(3));
        assert!(write.status.condition(READY).unwrap().is_true());
        assert_eq!(write.status.public_load_balancer.as_ref().unwrap().ingress.len(), 1);
        assert_eq!(routes.table().len(), 1);
        object.status = Some(write.status);
        assert!(apply(&mut routes, &mut losers, object, &config).is_none(), "nothing to say twice");
    }

    #[test]
    fn objects_of_other_classes_are_left_alone() {
        let (mut routes, mut losers, config) = (Routes::default(), Losers::new(), RoutesConfig::default());
        let other = ingress("a", "2026-01-01T00:00:00Z", Some("kourier.ingress.networking.knative.dev"));
        assert!(apply(&mut routes, &mut losers, other, &config).is_none());
        assert!(routes.table().is_empty());
        let unset = ingress("a", "2026-01-01T00:00:00Z", None);
        assert!(apply(&mut routes, &mut losers, unset, &config).is_some());
    }

    #[test]
    fn the_younger_of_two_with_one_host_is_told() {
        let (mut routes, mut losers, config) = (Routes::default(), Losers::new(), RoutesConfig::default());
        let old = ingress("a", "2026-01-01T00:00:00Z", None);
        apply(&mut routes, &mut losers, old.clone(), &config);
        let write =
            apply(&mut routes, &mut losers, ingress("b", "2026-02-01T00:00:00Z", None), &config).unwrap();
        assert_eq!(write.status.condition(LOAD_BALANCER_READY).unwrap().reason(), "DomainConflict");
        assert!(!write.status.condition(READY).unwrap().is_true());
        remove(&mut routes, &mut losers, &old);
        let (_, loser) = losers.clone().into_iter().next().unwrap();
        let write = apply(&mut routes, &mut losers, loser, &config).unwrap();
        assert!(write.status.condition(READY).unwrap().is_true());
        assert!(losers.is_empty());
    }

    #[test]
    fn a_revisions_policy_is_read_from_its_spec() {
        let revision: Revision = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "r"},
            "spec": {"containerConcurrency": 3, "timeoutSeconds": 7, "idleTimeoutSeconds": 2, "containers": [
                {"name": "user-container", "image": "i", "ports": [{"name": "h2c", "containerPort": 8080}]}]}
        }))
        .unwrap();
        let policy = policy(&revision);
        assert_eq!(policy.container_concurrency, 3);
        assert_eq!(policy.timeout, Duration::from_secs(7));
        assert_eq!(policy.idle_timeout, Duration::from_secs(2));
        assert_eq!(policy.response_start_timeout, Duration::ZERO);
        assert_eq!(policy.protocol, Protocol::H2c);
    }
}
