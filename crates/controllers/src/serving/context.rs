//! What every reconciler holds, and the few I/O steps that all share.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dormouse_base::backoff::Backoff;
use dormouse_base::task::Tasks;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::tracker::Tracker;
use super::{Deps, Domain, Resolve};

/// How long a failing reconcile waits: long enough not to spin, short enough not to be noticed.
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(20), max: Duration::from_secs(30), jitter_percent: 20 };
/// How many objects of one kind are reconciled at once.
const CONCURRENCY: u16 = 32;

/// Shared by all reconcilers of Serving.
pub(crate) struct Context {
    pub(crate) client: kube::Client,
    pub(crate) resolve: Arc<dyn Resolve>,
    pub(crate) domain: Domain,
    pub(crate) tasks: Tasks,
    pub(crate) tracker: Tracker,
    recorder: Recorder,
    failures: Mutex<HashMap<String, u32>>,
}

impl Context {
    pub(crate) fn new(client: kube::Client, deps: Deps, tasks: Tasks) -> Self {
        let reporter = Reporter { controller: "dormouse-serving".to_owned(), instance: None };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            resolve: deps.resolve,
            domain: deps.domain,
            tasks,
            tracker: Tracker::default(),
            failures: Mutex::new(HashMap::new()),
        }
    }

    /// The objects of kind `K` in `namespace`.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Reads an object; `None` if there is none.
    pub(crate) async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>(namespace)
            .get_opt(name)
            .await
            .map_err(Error::api(format!("read {} {namespace}/{name}", K::kind(&()))))
    }

    /// Creates a child.
    pub(crate) async fn create<K>(&self, namespace: &str, object: &K) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let name = object.name_any();
        self.api::<K>(namespace)
            .create(&PostParams::default(), object)
            .await
            .map_err(Error::api(format!("create {} {namespace}/{name}", K::kind(&()))))
    }

    /// Replaces an object; its resourceVersion guards against writes in between.
    pub(crate) async fn replace<K>(&self, namespace: &str, object: &K) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let name = object.name_any();
        self.api::<K>(namespace)
            .replace(&name, &PostParams::default(), object)
            .await
            .map_err(Error::api(format!("update {} {namespace}/{name}", K::kind(&()))))
    }

    /// Replaces an object's status.
    pub(crate) async fn replace_status<K>(&self, namespace: &str, object: &K) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let name = object.name_any();
        self.api::<K>(namespace)
            .replace_status(&name, &PostParams::default(), object)
            .await
            .map_err(Error::api(format!("update the status of {} {namespace}/{name}", K::kind(&()))))
    }

    /// Records an event on `object`; a failure to record is logged, never returned.
    pub(crate) async fn record<K>(&self, object: &K, kind: EventType, reason: &str, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::debug!(reason, error = %dormouse_base::chain(&error), "event not recorded");
        }
    }

    /// Forgets the failures of an object that reconciled.
    pub(crate) fn succeeded<K: Resource<DynamicType = ()>>(&self, object: &K) {
        if let Ok(mut failures) = self.failures.lock()
            && !failures.is_empty()
        {
            failures.remove(&key(object));
        }
    }

    fn failed<K: Resource<DynamicType = ()>>(&self, object: &K) -> u32 {
        let Ok(mut failures) = self.failures.lock() else { return 10 };
        let count = failures.entry(key(object)).or_insert(0);
        *count += 1;
        *count - 1
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let meta = object.meta();
    format!(
        "{}/{}/{}",
        K::kind(&()),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// What to do after a failed reconcile: a conflict is settled at once, everything else backs off.
pub(crate) fn retry<K>(object: Arc<K>, error: &Error, ctx: Arc<Context>) -> Action
where
    K: Resource<DynamicType = ()>,
{
    let attempt = ctx.failed(&*object);
    if error.is_conflict() && attempt < 20 {
        return Action::requeue(Duration::from_millis(2));
    }
    tracing::warn!(object = key(&*object), attempt, error = %dormouse_base::chain(error), "reconcile failed");
    Action::requeue(RETRY.delay(attempt, fraction(&key(&*object), attempt)))
}

/// A number in 0..1 that spreads retries of different objects without randomness.
fn fraction(key: &str, attempt: u32) -> f64 {
    let sum = key.bytes().fold(attempt, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    f64::from(sum % 1000) / 1000.0
}

/// Runs a controller until shutdown.
pub(crate) async fn drive<K, F, R>(controller: Controller<K>, ctx: Arc<Context>, reconcile: F)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    F: FnMut(Arc<K>, Arc<Context>) -> R,
    R: futures::TryFuture<Ok = Action, Error = Error> + Send + 'static,
{
    let shutdown = ctx.tasks.shutdown().clone();
    let config = kube::runtime::controller::Config::default().concurrency(CONCURRENCY);
    controller
        .with_config(config)
        .graceful_shutdown_on(async move { shutdown.wait().await })
        .run(reconcile, retry::<K>, ctx)
        .for_each(|outcome| async move {
            if let Err(error) = outcome {
                tracing::debug!(error = %error, "controller");
            }
        })
        .await;
}

/// The reference that makes `owner` the controller of a child.
pub(crate) fn owner<K: Resource<DynamicType = ()>>(object: &K) -> Vec<OwnerReference> {
    object.controller_owner_ref(&()).into_iter().map(block).collect()
}

fn block(mut reference: OwnerReference) -> OwnerReference {
    reference.block_owner_deletion = Some(true);
    reference
}

/// Whether `uid` controls the object with `meta`.
pub(crate) fn controlled_by(meta: &ObjectMeta, uid: Option<&str>) -> bool {
    uid.is_some()
        && meta
            .owner_references
            .iter()
            .flatten()
            .any(|reference| reference.controller == Some(true) && Some(reference.uid.as_str()) == uid)
}

/// The namespace and name that every stored object has.
pub(crate) fn identity(meta: &ObjectMeta) -> Result<(&str, &str), Error> {
    match (meta.namespace.as_deref(), meta.name.as_deref()) {
        (Some(namespace), Some(name)) => Ok((namespace, name)),
        _ => Err(Error::Incomplete(format!("{:?}", meta.name), "namespace and name")),
    }
}
