//! Telling the API what is: Pods, Deployments' numbers and status, events. Behind the hot path, level-triggered.
//!
//! Changes only mark a name as dirty; the writer looks at the state when it comes to that name, so a burst of changes
//! becomes one write (latest wins) and nothing can pile up: the marks are bounded by what exists. Events are bounded by
//! number and dropped beyond it.

mod render;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dormouse_base::{backoff::Backoff, clock};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::manager::cell::Cell;
use crate::manager::hush::PATIENCE;
use crate::manager::{Manager, WorkKey};

/// Events that wait to be written; newer ones are dropped beyond it.
const NOTES_MAX: usize = 1024;
/// Normal events beyond this are dropped.
const NORMAL_PER_SECOND: f64 = 10.0;
const NORMAL_BURST: f64 = 60.0;
/// Names of written events, so that a repetition counts up instead of filling the store.
const REMEMBERED_MAX: usize = 4096;
/// A repeated event is written again after this.
const REPEAT_AFTER: Duration = Duration::from_secs(10);
/// Changes within this time become one write; and an instance that is starting has the CPU for itself.
const COALESCE: Duration = Duration::from_millis(5);
/// Writes at the same time.
const PARALLEL: usize = 8;
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10), jitter_percent: 20 };

/// Something worth an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    warning: bool,
    reason: &'static str,
    message: String,
}

impl Note {
    pub(crate) fn normal(reason: &'static str, message: String) -> Self {
        Self { warning: false, reason, message }
    }

    pub(crate) fn warning(reason: &'static str, message: String) -> Self {
        Self { warning: true, reason, message }
    }
}

type PodName = (Arc<str>, String);

struct NoteAbout {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    note: Note,
}

#[derive(Default)]
struct Dirty {
    deployments: HashSet<WorkKey>,
    /// With the instance, because its last facts are told after the manager has forgotten it.
    pods: HashMap<PodName, Arc<Cell>>,
    notes: VecDeque<NoteAbout>,
    later: BTreeSet<(Instant, WorkKey)>,
    /// Normal events that may still be written, and when that was counted.
    tokens: Option<(f64, Instant)>,
}

// === impl Dirty ===

impl Dirty {
    /// Normal events tell nothing that statuses do not: a busy platform writes only some.
    fn may_note(&mut self, now: Instant) -> bool {
        let (had, at) = self.tokens.unwrap_or((NORMAL_BURST, now));
        let have = (had + now.duration_since(at).as_secs_f64() * NORMAL_PER_SECOND).min(NORMAL_BURST);
        let may = have >= 1.0;
        self.tokens = Some((if may { have - 1.0 } else { have }, now));
        may
    }
}

/// Where changes are marked. Never waits.
#[derive(Default)]
pub(crate) struct Inbox {
    dirty: Mutex<Dirty>,
    wake: Notify,
}

// === impl Inbox ===

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Dirty> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn deployment(&self, key: &WorkKey) {
        self.lock().deployments.insert(key.clone());
        self.wake.notify_one();
    }

    /// Marks both without waking the writer: a start that waits for a request does not share the cores with it. Whatever
    /// comes of the start wakes it.
    pub(crate) fn begun(&self, cell: &Arc<Cell>) {
        let mut dirty = self.lock();
        dirty.deployments.insert(cell.key.clone());
        dirty.pods.insert((cell.key.namespace.clone(), cell.pod.clone()), cell.clone());
    }

    pub(crate) fn pod(&self, cell: &Arc<Cell>) {
        self.lock().pods.insert((cell.key.namespace.clone(), cell.pod.clone()), cell.clone());
        self.wake.notify_one();
    }

    pub(crate) fn note(&self, cell: &Cell, note: Note) {
        let mut dirty = self.lock();
        if dirty.notes.len() < NOTES_MAX && (note.warning || dirty.may_note(clock::now())) {
            dirty.notes.push_back(NoteAbout {
                namespace: cell.key.namespace.to_string(),
                pod: cell.pod.clone(),
                uid: cell.uid.clone(),
                container: cell.container_name().to_owned(),
                note,
            });
            self.wake.notify_one();
        }
    }

    fn take(&self) -> Dirty {
        let mut dirty = self.lock();
        let later = std::mem::take(&mut dirty.later);
        let tokens = dirty.tokens;
        let mut taken = std::mem::take(&mut *dirty);
        dirty.tokens = tokens;
        let now = clock::now();
        for (at, key) in later {
            if at <= now {
                taken.deployments.insert(key);
            } else {
                dirty.later.insert((at, key));
            }
        }
        taken
    }

    fn later(&self, at: Instant, key: WorkKey) {
        self.lock().later.insert((at, key));
    }

    fn next(&self) -> Option<Instant> {
        self.lock().later.first().map(|(at, _)| *at)
    }
}

/// What was written of a pod.
#[derive(Clone)]
struct Told {
    uid: String,
    status: Value,
}

/// The writer.
pub(crate) struct Teller {
    client: kube::Client,
    manager: Manager,
    inbox: Arc<Inbox>,
    node_name: String,
    host_ip: String,
    pods: Mutex<HashMap<PodName, Told>>,
    deployments: Mutex<HashMap<WorkKey, Value>>,
    events: Mutex<HashMap<String, (String, u32, Instant)>>,
    failures: std::sync::atomic::AtomicU32,
}

// === impl Teller ===

impl Teller {
    pub(crate) fn new(client: kube::Client, manager: Manager, inbox: Arc<Inbox>, node_name: String) -> Self {
        let host_ip = manager.networks().gateway().to_string();
        Self {
            client,
            manager,
            inbox,
            node_name,
            host_ip,
            pods: Mutex::default(),
            deployments: Mutex::default(),
            events: Mutex::default(),
            failures: Default::default(),
        }
    }

    /// Writes what is dirty, for ever. Cancel-safe between writes: a dropped write is told again after a restart.
    pub(crate) async fn run(&self) {
        loop {
            self.round().await;
            let until = self.inbox.next();
            let rest = async {
                match until {
                    Some(at) => clock::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // Both only wake the loop.
                () = self.inbox.wake.notified() => {}
                () = rest => {}
            }
            clock::sleep(COALESCE).await;
        }
    }

    /// Writes what is dirty now.
    pub(crate) async fn round(&self) {
        // One patience for all writes of the round: starts come first, but not for ever.
        let deadline = clock::now() + PATIENCE;
        self.manager.settled(deadline).await;
        let dirty = self.inbox.take();
        let mut failed = false;
        let pods = futures::stream::iter(dirty.pods)
            .map(|(name, cell)| async move {
                self.manager.settled(deadline).await;
                (self.tell_pod(&name, &cell).await, name, cell)
            })
            .buffer_unordered(PARALLEL)
            .collect::<Vec<_>>()
            .await;
        for (result, _, cell) in pods {
            if let Err(error) = result {
                tracing::warn!(pod = cell.pod, error = dormouse_base::chain(&error), "could not tell a pod");
                self.inbox.pod(&cell);
                failed = true;
            }
        }
        let deployments = futures::stream::iter(dirty.deployments)
            .map(|key| async move {
                self.manager.settled(deadline).await;
                (self.tell_deployment(&key).await, key)
            })
            .buffer_unordered(PARALLEL)
            .collect::<Vec<_>>()
            .await;
        for (result, key) in deployments {
            if let Err(error) = result {
                tracing::warn!(deployment = %key, error = dormouse_base::chain(&error), "could not tell a deployment");
                self.inbox.deployment(&key);
                failed = true;
            }
        }
        for about in dirty.notes {
            self.manager.settled(deadline).await;
            // An event that cannot be written is not worth a second attempt.
            if let Err(error) = self.tell_event(&about).await {
                tracing::debug!(error = dormouse_base::chain(&error), "could not write an event");
            }
        }
        let failures = &self.failures;
        if failed {
            let attempt = failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            clock::sleep(RETRY.delay(attempt, 0.5)).await;
        } else {
            failures.store(0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<PodName, Told>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod was removed from the API by somebody: there is nothing to update any more.
    pub(crate) fn forget(&self, namespace: &str, pod: &str) {
        self.told().remove(&(namespace.into(), pod.to_owned()));
    }

    async fn tell_pod(&self, name: &PodName, cell: &Arc<Cell>) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &name.0);
        let told = self.told().get(name).cloned();
        if cell.facts().gone {
            if told.is_some() {
                let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                ignore(api.delete(&name.1, &now).await.map(drop), 404)
                    .map_err(Error::api(format!("delete pod {}/{}", name.0, name.1)))?;
                self.told().remove(name);
            }
            return Ok(());
        }
        let status = render::pod_status(cell, &self.host_ip);
        let step = || format!("write pod {}/{}", name.0, name.1);
        let mut told = match told {
            Some(told) => told,
            None => {
                let Some((census, _)) = self.manager.census(&cell.key) else { return Ok(()) };
                let pod = render::pod(cell, &census.uid, &self.node_name, &status);
                let pod: Pod = serde_json::from_value(pod)
                    .map_err(|error| Error::Io { step: step(), source: std::io::Error::other(error) })?;
                match api.create(&PostParams::default(), &pod).await {
                    Ok(made) => {
                        let uid = made.metadata.uid.unwrap_or_default();
                        // A server that takes no status with a new object still gives it a phase.
                        let written = made.status.is_some_and(|status| status.container_statuses.is_some());
                        let status = if written { status.clone() } else { Value::Null };
                        Told { uid, status }
                    }
                    // Written before a restart of this process whose answer was lost.
                    Err(kube::Error::Api(answer)) if answer.code == 409 => {
                        Told { uid: String::new(), status: Value::Null }
                    }
                    // The namespace goes away: there is nobody to tell.
                    Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 403 => {
                        return Ok(());
                    }
                    Err(error) => return Err(Error::api(step())(error)),
                }
            }
        };
        if told.status != status {
            let patch = Patch::Merge(json!({ "status": status }));
            match api.patch_status(&name.1, &PatchParams::default(), &patch).await {
                Ok(_) => told.status = status,
                // Removed by somebody: the watcher stops the instance.
                Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(()),
                Err(error) => return Err(Error::api(step())(error)),
            }
        }
        self.told().insert(name.clone(), told);
        Ok(())
    }

    async fn tell_deployment(&self, key: &WorkKey) -> Result<()> {
        let Some((census, look_again)) = self.manager.census(key) else {
            self.deployments.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(());
        };
        if let Some(at) = look_again {
            self.inbox.later(at, key.clone());
        }
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let step = || format!("write deployment {key}");
        if census.is_revision && census.spec_replicas != census.desired {
            let patch = Patch::Merge(json!({ "spec": { "replicas": census.desired } }));
            ignore(api.patch(&key.name, &PatchParams::default(), &patch).await.map(drop), 404)
                .map_err(Error::api(step()))?;
        }
        let before = self.deployments.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let status = render::deployment_status(key, &census, before.as_ref(), clock::timestamp());
        if before.as_ref() != Some(&status) {
            let patch = Patch::Merge(json!({ "status": status }));
            ignore(api.patch_status(&key.name, &PatchParams::default(), &patch).await.map(drop), 404)
                .map_err(Error::api(step()))?;
            self.deployments.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), status);
        }
        Ok(())
    }

    async fn tell_event(&self, about: &NoteAbout) -> Result<()> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &about.namespace);
        let key = format!("{}/{}/{}/{}", about.namespace, about.pod, about.note.reason, about.note.message);
        let now = clock::now();
        let known = {
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            if events.len() >= REMEMBERED_MAX {
                events.clear();
            }
            match events.get_mut(&key) {
                Some((_, count, at)) if now.duration_since(*at) < REPEAT_AFTER => {
                    *count += 1;
                    return Ok(());
                }
                Some((name, count, at)) => {
                    *count += 1;
                    *at = now;
                    Some((name.clone(), *count))
                }
                None => None,
            }
        };
        let step = || format!("write an event of pod {}", about.pod);
        if let Some((name, count)) = known {
            let patch = json!({ "count": count, "lastTimestamp": clock::timestamp() });
            let written = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
            return ignore(written.map(drop), 404).map_err(Error::api(step()));
        }
        let uid = self
            .told()
            .get(&(about.namespace.as_str().into(), about.pod.clone()))
            .map(|told| told.uid.clone());
        let uid = uid.filter(|uid| !uid.is_empty()).unwrap_or_else(|| about.uid.clone());
        let name = format!("{}.{:x}", about.pod, uuid::Uuid::new_v4().as_u64_pair().0);
        let event = json!({
            "metadata": { "name": name, "namespace": about.namespace },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "name": about.pod, "namespace": about.namespace, "uid": uid,
                "fieldPath": format!("spec.containers{{{}}}", about.container),
            },
            "type": if about.note.warning { "Warning" } else { "Normal" },
            "reason": about.note.reason, "message": about.note.message,
            "source": { "component": "kubelet", "host": self.node_name },
            "reportingComponent": "kubelet", "reportingInstance": self.node_name,
            "firstTimestamp": clock::timestamp(), "lastTimestamp": clock::timestamp(), "count": 1,
        });
        let event: Event = serde_json::from_value(event)
            .map_err(|error| Error::Io { step: step(), source: std::io::Error::other(error) })?;
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
                events.insert(key, (name, 1, now));
                Ok(())
            }
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 403 => Ok(()),
            Err(error) => Err(Error::api(step())(error)),
        }
    }

    /// Writes the Node object.
    ///
    /// # Errors
    /// The API refuses; a server without Nodes is fine.
    pub(crate) async fn tell_node(&self, version: &str) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        let (node, status) = render::node(&self.node_name, &self.host_ip, version, clock::timestamp());
        let node: Node = serde_json::from_value(node).map_err(|error| Error::Io {
            step: "write the node".to_owned(),
            source: std::io::Error::other(error),
        })?;
        let made = ignore(api.create(&PostParams::default(), &node).await.map(drop), 409);
        match made {
            Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(()),
            other => other.map_err(Error::api("write the node"))?,
        }
        let patch = Patch::Merge(json!({ "status": status }));
        ignore(api.patch_status(&self.node_name, &PatchParams::default(), &patch).await.map(drop), 404)
            .map_err(Error::api("write the node"))
    }
}

/// An answer with this code is as good as success.
fn ignore(result: Result<(), kube::Error>, code: u16) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(answer)) if answer.code == code => Ok(()),
        other => other,
    }
}
