//! A platform without containers: real store, API server and reconcilers; everything else says "ready" at once.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use dormouse_api::autoscaling::PodAutoscaler;
use dormouse_api::networking::Ingress;
use dormouse_api::serving::service::Service;
use dormouse_apiserver::{Hooks, Server};
use dormouse_base::clock;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_controllers::serving::{self, Deps, Domain, Resolve, ResolveError};
use dormouse_store::{Config, Store};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// No step of these tests takes longer on a working platform, however slow the machine.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) store: Store,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

/// What the node does with Deployments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// All replicas are ready at once.
    Works,
    /// Nothing is told; the test plays the node.
    Silent,
}

struct Images;

impl Resolve for Images {
    fn resolve(
        &self,
        reference: String,
        _: Vec<Vec<u8>>,
    ) -> BoxFuture<'static, Result<Option<String>, ResolveError>> {
        Box::pin(async move {
            if reference.contains("missing") {
                let message = format!("{reference}: MANIFEST_UNKNOWN: manifest unknown");
                return Err(ResolveError { message, transient: false });
            }
            let repository = reference.split([':', '@']).next().unwrap_or_default();
            Ok(Some(format!("{repository}@sha256:{}", "a".repeat(64))))
        })
    }
}

impl World {
    pub(crate) async fn start(node: Node) -> Self {
        let _ = dormouse_base::telemetry::install(
            "warn,dormouse_controllers=debug",
            dormouse_base::telemetry::Format::Text,
        );
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db"), Config::default()).await.unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let server = Server::new(store.clone(), Hooks::default(), tasks.clone()).await.unwrap();
        let deps = Deps {
            resolve: Arc::new(Images),
            domain: Domain { suffix: "localhost".into(), port: Some(8080) },
        };
        serving::run(server.client("dormouse-controllers"), deps, tasks.clone()).await;
        let others = server.client("dormouse-node");
        if node == Node::Works {
            play::<Deployment>(&tasks, others.clone(), deployment_ready);
        }
        play::<PodAutoscaler>(&tasks, others.clone(), autoscaler_ready);
        play::<Ingress>(&tasks, others, ingress_ready);
        Self { client: server.client("kubernetes-admin"), store, tasks, _dir: dir }
    }

    pub(crate) async fn stop(self) {
        self.tasks.shutdown().trigger();
        self.tasks.drain(Duration::from_secs(5)).await;
        assert_eq!(self.tasks.failure(), None);
        self.store.close().await;
    }

    pub(crate) fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn merge<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    /// Waits until the object called `name` is as wanted; `None` is an object that is not there.
    pub(crate) async fn until<K>(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(Option<&K>) -> bool,
    ) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize
            + Send
            + 'static,
    {
        let api = self.api::<K>();
        let wait = async {
            loop {
                let seen = api.get_opt(name).await.unwrap();
                if wanted(seen.as_ref()) {
                    return seen;
                }
                let version = seen.as_ref().and_then(ResourceExt::resource_version);
                let params = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(1);
                let from = version.unwrap_or_else(|| "0".to_owned());
                if let Ok(stream) = api.watch(&params, &from).await {
                    let mut stream = stream.boxed();
                    while let Ok(Some(event)) = stream.try_next().await {
                        if !matches!(event, WatchEvent::Bookmark(_)) {
                            break;
                        }
                    }
                }
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(seen) => seen,
            Err(_) => {
                let seen = serde_json::to_string_pretty(&api.get_opt(name).await.unwrap()).unwrap();
                panic!("{} {name} never became {what}; it is {seen}", K::kind(&()));
            }
        }
    }

    pub(crate) async fn ready(&self, name: &str) -> Service {
        self.until::<Service>(name, "ready", |service| service.is_some_and(Service::is_ready)).await.unwrap()
    }

    /// Whether nobody writes anything for a while.
    pub(crate) async fn quiet(&self) -> bool {
        for _ in 0..20 {
            let before = self.store.revision();
            let moved = self.store.reach(before + 1, Duration::from_millis(300)).await;
            if moved == before {
                return true;
            }
        }
        false
    }
}

pub(crate) fn hello(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Service",
        "metadata": { "name": name },
        "spec": { "template": { "spec": { "containers": [{ "image": image }] } } },
    })
}

/// Answers each version of each `K` with the status that `answer` gives, if it differs.
fn play<K>(tasks: &Tasks, client: Client, answer: fn(&K) -> Option<Value>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("player", async move {
        let all = Api::<K>::all(client.clone());
        let events = watcher(all, watcher::Config::default()).applied_objects();
        let act = events.for_each(|event| {
            let client = client.clone();
            async move {
                let Ok(object) = event else { return };
                let Some(status) = answer(&object) else { return };
                let api = Api::<K>::namespaced(client, &object.namespace().unwrap());
                let patch = Patch::Merge(json!({ "status": status }));
                let _ = api.patch_status(&object.name_any(), &PatchParams::default(), &patch).await;
            }
        });
        tokio::select! { biased; () = shutdown.wait() => {}, () = act => {} }
    });
}

fn deployment_ready(deployment: &Deployment) -> Option<Value> {
    let replicas = deployment.spec.as_ref()?.replicas.unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation == deployment.metadata.generation && status.ready_replicas == Some(replicas)
    {
        return None;
    }
    let now = clock::timestamp().to_string();
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "reason": "Test", "message": "", "lastUpdateTime": now, "lastTransitionTime": now });
    Some(json!({
        "observedGeneration": deployment.metadata.generation, "replicas": replicas, "readyReplicas": replicas,
        "availableReplicas": replicas, "updatedReplicas": replicas,
        "conditions": [condition("Available"), condition("Progressing")],
    }))
}

fn autoscaler_ready(autoscaler: &PodAutoscaler) -> Option<Value> {
    let mut status = autoscaler.status.clone().unwrap_or_default();
    if status.observed_generation == autoscaler.metadata.generation {
        return None;
    }
    status.observed_generation = autoscaler.metadata.generation;
    let mut conditions = status.manage(clock::timestamp());
    conditions.initialize();
    conditions.mark_true("Active");
    conditions.mark_true("SKSReady");
    status.desired_scale = Some(1);
    status.actual_scale = Some(1);
    Some(serde_json::to_value(status).unwrap())
}

fn ingress_ready(ingress: &Ingress) -> Option<Value> {
    let mut status = ingress.status.clone().unwrap_or_default();
    if status.observed_generation == ingress.metadata.generation {
        return None;
    }
    status.observed_generation = ingress.metadata.generation;
    let mut conditions = status.manage(clock::timestamp());
    conditions.initialize();
    conditions.mark_true("NetworkConfigured");
    conditions.mark_true("LoadBalancerReady");
    Some(serde_json::to_value(status).unwrap())
}
