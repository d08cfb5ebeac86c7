//! What every reconciler holds, and the few I/O steps that all share.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use dormouse_api::serving::revision::Revision;
use dormouse_base::backoff::Backoff;
use dormouse_base::clock;
use dormouse_base::task::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::api::{Api, ListParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::controller::{Action, Controller};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::family::Family;
use super::naming::Naming;
use super::tracker::Tracker;
use super::{Deps, Resolve};

/// How long a failing reconcile waits: long enough not to spin, short enough not to be noticed.
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(20), max: Duration::from_secs(30), jitter_percent: 20 };
/// How many objects of one kind are reconciled at once.
const CONCURRENCY: u16 = 32;

/// Who events come from.
const COMPONENT: &str = "dormouse-serving";

/// Objects per page of a list.
const PAGE: u32 = 500;

/// How an event is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Shared by all reconcilers of Serving.
pub(crate) struct Context {
    pub(crate) client: kube::Client,
    pub(crate) resolve: Arc<dyn Resolve>,
    naming: RwLock<Arc<Naming>>,
    pub(crate) tasks: Tasks,
    pub(crate) tracker: Tracker,
    pub(crate) family: Family,
    failures: Mutex<HashMap<String, u32>>,
}

impl Context {
    pub(crate) fn new(client: kube::Client, deps: Deps, tasks: Tasks) -> Self {
        Self {
            client,
            resolve: deps.resolve,
            naming: RwLock::new(Arc::new(Naming::new(deps.domain))),
            tasks,
            tracker: Tracker::default(),
            family: Family::default(),
            failures: Mutex::new(HashMap::new()),
        }
    }

    /// How hosts are named at this moment.
    pub(crate) fn naming(&self) -> Arc<Naming> {
        self.naming.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names hosts differently from now on.
    pub(crate) fn set_naming(&self, naming: Arc<Naming>) {
        *self.naming.write().unwrap_or_else(PoisonError::into_inner) = naming;
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

    /// Learns every Revision there is: what a restart must know before the first Route lets go of old Revisions.
    pub(crate) async fn learn_revisions(&self) {
        let all = Api::<Revision>::all(self.client.clone());
        let mut page = ListParams::default().limit(PAGE);
        let mut attempt = 0;
        loop {
            match all.list(&page).await {
                Ok(list) => {
                    for revision in &list.items {
                        self.family.learn(revision);
                    }
                    match list.metadata.continue_.filter(|token| !token.is_empty()) {
                        Some(token) => page = page.continue_token(&token),
                        None => return,
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %dormouse_base::chain(&error), "cannot list Revisions yet");
                    tokio::select! {
                        biased;
                        () = self.tasks.shutdown().wait() => return,
                        () = clock::sleep(RETRY.delay(attempt, 0.5)) => attempt += 1,
                    }
                    page = ListParams::default().limit(PAGE);
                }
            }
        }
    }

    /// The Revisions of a Configuration, and those that `also` names.
    pub(crate) async fn revisions(
        &self,
        namespace: &str,
        configuration: &str,
        also: impl IntoIterator<Item = String>,
    ) -> Result<Vec<Revision>, Error> {
        let mut names = self.family.of(namespace, configuration);
        names.extend(also);
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            match self.get::<Revision>(namespace, &name).await? {
                Some(revision) => found.push(revision),
                None => self.family.forget(namespace, configuration, &name),
            }
        }
        Ok(found)
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

    /// Records an event on `object` beside the caller's work; a failure to record is logged.
    ///
    /// The same words about the same generation are one event, however often they are said.
    pub(crate) fn record<K>(&self, object: &K, kind: Severity, reason: &str, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        let reference = object.object_ref(&());
        let namespace = reference.namespace.clone().unwrap_or_default();
        let uid = reference.uid.clone().unwrap_or_default();
        let words = format!("{uid}{:?}{reason}{note}", object.meta().generation);
        let hash = words.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let now = Time(clock::timestamp());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{hash:016x}", object.meta().name.as_deref().unwrap_or_default())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: reference,
            type_: Some(kind.text().to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(note),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
            reporting_component: Some(COMPONENT.to_owned()),
            ..Event::default()
        };
        let api = self.api::<Event>(&namespace);
        self.tasks.spawn_connection("event", async move {
            match api.create(&PostParams::default(), &event).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {}
                Err(error) => {
                    tracing::debug!(error = %dormouse_base::chain(&error), "event not recorded");
                }
            }
        });
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
