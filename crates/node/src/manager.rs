//! What should run and what runs: one group per Deployment, one cell per instance.
//!
//! [`Manager::scale`] is the hot path: it changes numbers in memory and starts the instances' tasks; everything that is
//! told to the API follows behind. An idle Deployment has no task. Lock order: `publishing` before `state`; the consumer
//! of endpoints is called with only `publishing` held, and `scale` never takes that.

pub(crate) mod cell;
mod component;
mod deaf;
pub(crate) mod hush;
mod run;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dormouse_api::key::RevisionKey;
use dormouse_base::clock;
use dormouse_base::task::Tasks;
use tokio::sync::{Notify, watch};

use crate::component::Components;
use crate::instance::Exit;
use crate::launcher::Launcher;
use crate::network::{Network, Networks};
use crate::pool::Slots;
use crate::tell::{Inbox, Note};
use crate::template::Skeleton;
use crate::{Endpoint, Endpoints, InFlight};
use cell::{Cell, Label, Template};

/// Scale decisions for revisions whose Deployment is not known yet.
const EARLY_MAX: usize = 100_000;
/// Characters of pod names, as Kubernetes chooses them: no vowels, nothing ambiguous.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// As much of a failed container's log as is told as its termination message.
const LAST_WORDS_MAX: usize = 2048;

/// Names a Deployment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl fmt::Display for WorkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How far a Deployment is prepared for its first instance.
#[derive(Clone, Debug)]
pub(crate) enum Preparation {
    /// The image is being fetched.
    Pending,
    /// An instance can start.
    Ready(Arc<Skeleton>),
    /// It cannot, and why, in the words of a container's waiting state.
    Failed { reason: String, message: String },
}

/// What the watcher knows of a Deployment.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) key: WorkKey,
    pub(crate) uid: String,
    pub(crate) revision: Option<RevisionKey>,
    pub(crate) generation: i64,
    pub(crate) replicas: u32,
    pub(crate) template: Arc<Template>,
    pub(crate) progress_deadline: Duration,
}

/// What is told of a Deployment.
#[derive(Clone, Debug)]
pub(crate) struct Census {
    pub(crate) uid: String,
    pub(crate) generation: i64,
    pub(crate) is_revision: bool,
    /// The number in the object, as last seen.
    pub(crate) spec_replicas: u32,
    pub(crate) desired: u32,
    pub(crate) replicas: u32,
    pub(crate) updated: u32,
    pub(crate) ready: u32,
    pub(crate) hash: String,
    /// Enough were available once since the template changed.
    pub(crate) rolled_out: bool,
    pub(crate) deadline_exceeded: bool,
}

struct Group {
    wanted: Wanted,
    preparation: watch::Sender<Preparation>,
    desired: u32,
    /// The number is the autoscaler's from its first decision on.
    scaled: bool,
    cells: Vec<Arc<Cell>>,
    rolled_out: bool,
    /// When the rollout last moved.
    progress: Instant,
}

#[derive(Default)]
struct State {
    groups: HashMap<WorkKey, Group>,
    by_revision: HashMap<RevisionKey, WorkKey>,
    early: HashMap<RevisionKey, u32>,
    by_sandbox: HashMap<String, Arc<Cell>>,
    by_pod: HashMap<(Arc<str>, String), Arc<Cell>>,
    orphans: HashMap<String, Orphan>,
    stopping: bool,
}

/// A sandbox that survived a restart and whose Deployment has not been seen yet.
struct Orphan {
    label: Label,
    pid: u32,
    killed: bool,
}

/// The manager. Clones share it.
#[derive(Clone)]
pub(crate) struct Manager {
    inner: Arc<Inner>,
}

pub(crate) struct Parts {
    pub(crate) networks: Networks,
    pub(crate) slots: Slots,
    pub(crate) launcher: Arc<dyn Launcher>,
    pub(crate) components: Arc<dyn Components>,
    pub(crate) endpoints: Arc<dyn Endpoints>,
    pub(crate) in_flight: Arc<dyn InFlight>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) logs: PathBuf,
    /// Where instances have directories of their own; what no instance owns is removed at the start.
    pub(crate) work: PathBuf,
    pub(crate) tasks: Tasks,
}

struct Inner {
    parts: Parts,
    state: Mutex<State>,
    publishing: Mutex<()>,
    /// Rings when an instance is over.
    ended: Notify,
    hush: hush::Hush,
}

// === impl Manager ===

impl Manager {
    pub(crate) fn new(parts: Parts) -> Self {
        let inner = Inner {
            parts,
            state: Mutex::default(),
            publishing: Mutex::new(()),
            ended: Notify::new(),
            hush: hush::Hush::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Resolves when no instance is about to start, at the latest at `deadline`.
    pub(crate) async fn settled(&self, deadline: Instant) {
        self.inner.hush.settled(deadline).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn networks(&self) -> &Networks {
        &self.inner.parts.networks
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.inner.parts.slots
    }

    pub(crate) fn launcher(&self) -> &dyn Launcher {
        self.inner.parts.launcher.as_ref()
    }

    pub(crate) fn components(&self) -> &dyn Components {
        self.inner.parts.components.as_ref()
    }

    pub(crate) fn work_path(&self, id: &str) -> PathBuf {
        self.inner.parts.work.join(id)
    }

    pub(crate) fn log_path(&self, sandbox: &str) -> PathBuf {
        self.inner.parts.logs.join(format!("{sandbox}.log"))
    }

    /// The hot path: sets the number of instances of a revision. Starts and stops follow at once, without waiting.
    pub(crate) fn scale(&self, revision: &RevisionKey, desired: u32) {
        let mut state = self.state();
        let Some(key) = state.by_revision.get(revision).cloned() else {
            if state.early.len() < EARLY_MAX {
                state.early.insert(revision.clone(), desired);
            }
            return;
        };
        if let Some(group) = state.groups.get_mut(&key) {
            group.scaled = true;
            if group.desired != desired {
                group.desired = desired;
                group.progress = clock::now();
            }
        }
        // Starts tell of themselves; only what ends, or begins nothing, is told now.
        if !self.reconcile(&mut state, &key) {
            drop(state);
            self.inner.parts.inbox.deployment(&key);
        }
    }

    /// Takes what the watcher saw. `true` when the template is new and must be prepared.
    pub(crate) fn apply(&self, wanted: Wanted) -> bool {
        let key = wanted.key.clone();
        let now = clock::now();
        let mut state = self.state();
        let early = wanted.revision.as_ref().and_then(|revision| state.early.remove(revision));
        // An object of the same name that was made anew is another one.
        if state.groups.get(&key).is_some_and(|group| group.wanted.uid != wanted.uid) {
            drop(state);
            self.remove(&key);
            state = self.state();
        }
        if let Some(revision) = &wanted.revision {
            state.by_revision.insert(revision.clone(), key.clone());
        }
        let replicas = wanted.replicas;
        let is_revision = wanted.revision.is_some();
        let fresh = match state.groups.get_mut(&key) {
            Some(group) => {
                let fresh = group.wanted.template.hash != wanted.template.hash;
                if fresh {
                    group.preparation.send_replace(Preparation::Pending);
                    group.rolled_out = false;
                    group.progress = now;
                }
                group.wanted = wanted;
                fresh
            }
            None => {
                let group = Group {
                    wanted,
                    preparation: watch::Sender::new(Preparation::Pending),
                    desired: early.unwrap_or(replicas),
                    scaled: early.is_some(),
                    cells: Vec::new(),
                    rolled_out: false,
                    progress: now,
                };
                state.groups.insert(key.clone(), group);
                true
            }
        };
        if let Some(group) = state.groups.get_mut(&key)
            && !is_revision
            && group.desired != replicas
        {
            group.desired = replicas;
            group.progress = now;
        }
        self.adopt_orphans(&mut state, &key);
        self.reconcile(&mut state, &key);
        drop(state);
        self.inner.parts.inbox.deployment(&key);
        fresh
    }

    /// Tells how the preparation of a template went; ignored when the template has changed since.
    pub(crate) fn prepared(&self, key: &WorkKey, hash: &str, preparation: Preparation) {
        let state = self.state();
        if let Some(group) = state.groups.get(key)
            && group.wanted.template.hash == hash
        {
            group.preparation.send_replace(preparation);
        }
    }

    /// The Deployment is gone: its instances end.
    pub(crate) fn remove(&self, key: &WorkKey) {
        let _order = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = Self::drop_group(&mut self.state(), key);
        // Nobody but this group knows the revision: its instances would stay in the consumer's table.
        if let Some(revision) = revision {
            self.inner.parts.endpoints.set(&revision, Vec::new());
        }
    }

    fn drop_group(state: &mut State, key: &WorkKey) -> Option<RevisionKey> {
        let group = state.groups.remove(key)?;
        for cell in group.cells {
            cell.stop(None);
        }
        let revision = group.wanted.revision?;
        state.by_revision.remove(&revision);
        state.early.remove(&revision);
        Some(revision)
    }

    /// Which Deployments exist.
    pub(crate) fn keys(&self) -> Vec<WorkKey> {
        self.state().groups.keys().cloned().collect()
    }

    /// What a Deployment wants; for preparing it again.
    pub(crate) fn wanted(&self, key: &WorkKey) -> Option<Wanted> {
        self.state().groups.get(key).map(|group| group.wanted.clone())
    }

    /// Starts and stops instances until as many count as are desired: `true` if some were started. Pure bookkeeping plus
    /// spawning.
    fn reconcile(&self, state: &mut State, key: &WorkKey) -> bool {
        if state.stopping {
            return false;
        }
        let Some(group) = state.groups.get_mut(key) else { return false };
        let desired = usize::try_from(group.desired).unwrap_or(usize::MAX);
        let counted = group.cells.iter().filter(|cell| cell.counts());
        let (new, old): (Vec<_>, Vec<_>) =
            counted.cloned().partition(|cell| cell.template.hash == group.wanted.template.hash);
        if new.len() > desired {
            self.stop_some(&new, new.len() - desired);
        }
        // A rollout: an old instance goes for each new one that is ready.
        let ready = new.iter().filter(|cell| cell.facts().ready).count();
        let spare = old.len().saturating_sub(desired.saturating_sub(ready));
        self.stop_some(&old, spare);
        for _ in new.len()..desired {
            let cell = new_cell(&group.wanted);
            group.cells.push(cell.clone());
            state.by_pod.insert((key.namespace.clone(), cell.pod.clone()), cell.clone());
            self.inner.parts.inbox.begun(&cell);
            self.spawn_instance(cell, None);
        }
        new.len() < desired
    }

    fn spawn_instance(&self, cell: Arc<Cell>, adopted: Option<run::Adopted>) {
        let (this, shutdown) = (self.clone(), self.inner.parts.tasks.shutdown().clone());
        self.inner.parts.tasks.spawn("node-instance", async move {
            tokio::select! {
                biased; // What still runs at the shutdown is left to the next main process.
                () = run::run(this, cell, adopted) => {}
                () = shutdown.wait() => {}
            }
        });
    }

    /// Stops `count` of these: those that are not ready first, then those without requests, then the youngest.
    fn stop_some(&self, cells: &[Arc<Cell>], count: usize) {
        if count == 0 {
            return;
        }
        let rank = |cell: &Arc<Cell>| {
            let endpoint = cell.endpoint();
            let busy = endpoint.map_or(0, |endpoint| self.inner.parts.in_flight.count(&endpoint));
            (endpoint.is_some(), busy, std::cmp::Reverse(cell.born))
        };
        let mut ranked: Vec<_> = cells.iter().map(|cell| (rank(cell), cell)).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        for (_, cell) in ranked.into_iter().take(count) {
            cell.stop(None);
        }
    }

    // --- what the instances' tasks call ---

    fn preparation(&self, cell: &Cell) -> Preparation {
        match self.preparations(cell) {
            Some(receiver) => receiver.borrow().clone(),
            None => Preparation::Pending,
        }
    }

    fn preparations(&self, cell: &Cell) -> Option<watch::Receiver<Preparation>> {
        let state = self.state();
        let group = state.groups.get(&cell.key)?;
        (group.wanted.template.hash == cell.template.hash).then(|| group.preparation.subscribe())
    }

    fn expect_sandbox(&self, id: &str, cell: &Arc<Cell>) {
        self.state().by_sandbox.insert(id.to_owned(), cell.clone());
    }

    fn forget_sandbox(&self, id: &str) {
        self.state().by_sandbox.remove(id);
    }

    fn pod_changed(&self, cell: &Arc<Cell>) {
        self.inner.parts.inbox.pod(&cell.whole());
        self.inner.parts.inbox.deployment(&cell.key);
    }

    fn note(&self, cell: &Arc<Cell>, note: Note) {
        self.inner.parts.inbox.note(cell, note);
    }

    /// The readiness probe has passed: requests may come, at once.
    fn ready(&self, cell: &Arc<Cell>) {
        cell.facts().passed = true;
        let cell = &cell.whole();
        // Of several containers the last one that passes makes the instance ready.
        let passed = |cell: &Arc<Cell>| cell.facts().passed;
        if cell.has_several()
            && (cell.stop_asked().is_some() || !passed(cell) || !cell.beside.iter().all(passed))
        {
            return self.pod_changed(cell);
        }
        {
            let mut facts = cell.facts();
            facts.ready = true;
            facts.ready_changed = clock::timestamp();
        }
        self.publish(&cell.key);
        let mut state = self.state();
        if let Some(group) = state.groups.get_mut(&cell.key) {
            group.progress = clock::now();
        }
        // A rollout goes on.
        self.reconcile(&mut state, &cell.key);
        drop(state);
        self.pod_changed(cell);
    }

    /// No more requests for this instance.
    #[expect(clippy::unused_async, reason = "a consumer that must be waited for is foreseen")]
    async fn withdraw(&self, cell: &Arc<Cell>) {
        cell.facts().passed = false;
        let cell = &cell.whole();
        let was = {
            let mut facts = cell.facts();
            let was = facts.ready;
            facts.ready = false;
            if was {
                facts.ready_changed = clock::timestamp();
            }
            was
        };
        if was {
            self.publish(&cell.key);
        }
        self.pod_changed(cell);
    }

    async fn idle(&self, endpoint: SocketAddr, deadline: Instant) {
        if !self.inner.parts.in_flight.idle(endpoint, deadline).await {
            tracing::warn!(%endpoint, "requests are still in flight at the end of the grace period");
        }
    }

    /// Tells the consumer the instances that take requests. The snapshot is made under the same lock as the call, so that
    /// an older one never follows a newer one.
    fn publish(&self, key: &WorkKey) {
        let _order = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, endpoints) = {
            let state = self.state();
            let Some(group) = state.groups.get(key) else { return };
            let Some(revision) = group.wanted.revision.clone() else { return };
            let endpoint =
                |cell: &Arc<Cell>| cell.endpoint().map(|address| Endpoint { id: cell.pod.clone(), address });
            (revision, group.cells.iter().filter_map(endpoint).collect())
        };
        self.inner.parts.endpoints.set(&revision, endpoints);
    }

    /// The instance is over: gives back its network, forgets it, starts another one if it is still wanted.
    fn finished(&self, cell: &Arc<Cell>, network: Option<Network>) {
        cell.facts().gone = true;
        if let Some(network) = network {
            self.networks().give_back(network);
        }
        self.publish(&cell.key);
        let mut state = self.state();
        state.by_pod.remove(&(cell.key.namespace.clone(), cell.pod.clone()));
        if let Some(group) = state.groups.get_mut(&cell.key) {
            group.cells.retain(|other| !Arc::ptr_eq(other, cell));
        }
        self.reconcile(&mut state, &cell.key);
        drop(state);
        self.pod_changed(cell);
        self.remove_logs(cell);
        self.inner.ended.notify_waiters();
    }

    /// The logs of a pod go with it; a reader that has one open reads on.
    fn remove_logs(&self, cell: &Arc<Cell>) {
        let parts: Vec<_> = cell.all().map(|part| (part.sandbox_prefix(), part.facts().restarts)).collect();
        let dir = self.inner.parts.logs.clone();
        let remove = move || {
            let each = |(prefix, restarts): &(String, u32)| {
                (0..=*restarts).map(|restart| format!("{prefix}{restart}.log")).collect::<Vec<_>>()
            };
            for name in parts.iter().flat_map(each) {
                let base = dir.join(name);
                let _ = std::fs::remove_file(&base);
                for number in 1..16 {
                    if std::fs::remove_file(format!("{}.{number}", base.display())).is_err() {
                        break;
                    }
                }
            }
        };
        drop(tokio::task::spawn_blocking(remove));
    }

    /// The end of a failed container's log, as its termination message.
    fn last_words(&self, cell: &Cell) -> String {
        let Some(path) = cell.facts().log.clone() else { return String::new() };
        crate::logs::last_words(&path, LAST_WORDS_MAX)
    }

    // --- keeper events, pods, adoption, the end ---

    /// A sandbox has ended.
    pub(crate) fn exited(&self, id: &str, exit: Exit) {
        let mut state = self.state();
        if let Some(cell) = state.by_sandbox.get(id) {
            cell.exited(id.to_owned(), exit);
        } else if let Some(orphan) = state.orphans.remove(id) {
            drop(state);
            self.release_orphan(&orphan.label);
        }
    }

    fn release_orphan(&self, label: &Label) {
        // The containers of a pod share one network.
        if label.owns_network {
            let network = self.networks().adopt(label.network);
            self.networks().give_back(network);
        }
        match self.slots().adopt(&label.slot) {
            Ok(slot) => self.slots().discard(slot),
            Err(error) => tracing::warn!(error = dormouse_base::chain(&error), "could not release a slot"),
        }
    }

    /// The keeper is gone, and every sandbox with it.
    pub(crate) fn all_exited(&self) {
        let state = self.state();
        for (id, cell) in &state.by_sandbox {
            cell.exited(id.clone(), Exit::new(None, Some(9), false));
        }
        let orphans: Vec<String> = state.orphans.keys().cloned().collect();
        drop(state);
        for id in orphans {
            self.exited(&id, Exit::new(None, Some(9), false));
        }
    }

    /// Remembers a sandbox that survived a restart until its Deployment is seen.
    pub(crate) fn found(&self, id: String, pid: u32, label: Label) {
        self.state().orphans.insert(id, Orphan { label, pid, killed: false });
    }

    fn adopt_orphans(&self, state: &mut State, key: &WorkKey) {
        let ours: Vec<String> = state
            .orphans
            .iter()
            .filter(|(_, orphan)| {
                orphan.label.namespace == *key.namespace
                    && orphan.label.deployment == *key.name
                    && orphan.label.container.is_empty()
                    && !orphan.killed
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in ours {
            let (Some(orphan), Some(group)) = (state.orphans.remove(&id), state.groups.get_mut(key)) else {
                continue;
            };
            let slot = match self.slots().adopt(&orphan.label.slot) {
                Ok(slot) => slot,
                Err(error) => {
                    tracing::warn!(error = dormouse_base::chain(&error), "could not adopt an instance");
                    state.orphans.insert(id, orphan);
                    continue;
                }
            };
            let network = self.networks().adopt(orphan.label.network);
            let label = orphan.label;
            let template = if label.hash == group.wanted.template.hash {
                group.wanted.template.clone()
            } else {
                // Of an older template: it is replaced by the rollout.
                let wanted = &group.wanted.template;
                Arc::new(Template {
                    hash: label.hash.clone(),
                    labels: wanted.labels.clone(),
                    annotations: wanted.annotations.clone(),
                    spec: wanted.spec.clone(),
                })
            };
            let at = |seconds: i64| jiff::Timestamp::from_second(seconds).unwrap_or_default();
            let (pod, uid) = (label.pod.clone(), label.uid.clone());
            let cell = Cell::new(key.clone(), pod, uid, template, clock::now(), at(label.created));
            {
                let mut facts = cell.facts();
                facts.container = cell::Container::Running { since: at(label.started) };
                facts.restarts = label.restarts;
                facts.address = Some(SocketAddr::from((network.address, label.port)));
                facts.sandbox = Some(id.clone());
                facts.pid = Some(orphan.pid);
                facts.digest.clone_from(&label.digest);
                facts.log = Some(label.log.clone());
            }
            // A crash of the main process must not stop what ran: the number is at least what runs.
            group.cells.push(cell.clone());
            let running = group.cells.iter().filter(|cell| cell.counts()).count();
            if group.wanted.revision.is_some() && !group.scaled {
                group.desired = group.desired.max(u32::try_from(running).unwrap_or(u32::MAX));
            }
            state.by_pod.insert((key.namespace.clone(), cell.pod.clone()), cell.clone());
            state.by_sandbox.insert(id.clone(), cell.clone());
            self.inner.parts.inbox.pod(&cell);
            let adopted = run::Adopted { id, label, network, slot };
            self.spawn_instance(cell, Some(adopted));
        }
    }

    /// All Deployments have been seen: what belongs to none of them is killed.
    pub(crate) async fn kill_orphans(&self) {
        let ids: Vec<String> = {
            let mut state = self.state();
            for orphan in state.orphans.values_mut() {
                orphan.killed = true;
            }
            state.orphans.keys().cloned().collect()
        };
        for id in ids {
            tracing::info!(sandbox = id, "killing an instance whose Deployment is gone");
            let _ = self.launcher().signal(&id, 9).await;
        }
    }

    /// Someone deletes the pod.
    pub(crate) fn delete_pod(&self, namespace: &str, pod: &str, grace: Option<Duration>) -> bool {
        let mut state = self.state();
        let Some(cell) = state.by_pod.get(&(namespace.into(), pod.to_owned())).cloned() else { return false };
        cell.stop(grace);
        // The replacement starts at once.
        self.reconcile(&mut state, &cell.key);
        true
    }

    /// The instance behind a pod.
    pub(crate) fn pod(&self, namespace: &str, pod: &str) -> Option<Arc<Cell>> {
        self.state().by_pod.get(&(namespace.into(), pod.to_owned())).cloned()
    }

    /// All instances that are not over.
    pub(crate) fn cells(&self) -> Vec<Arc<Cell>> {
        self.state().by_pod.values().cloned().collect()
    }

    /// What is told of a Deployment, and when it must be looked at again.
    pub(crate) fn census(&self, key: &WorkKey) -> Option<(Census, Option<Instant>)> {
        let mut state = self.state();
        let group = state.groups.get_mut(key)?;
        let now = clock::now();
        let counted: Vec<&Arc<Cell>> = group.cells.iter().filter(|cell| cell.counts()).collect();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let ready = counted.iter().filter(|cell| cell.facts().ready).count();
        let is_new = |cell: &&&Arc<Cell>| cell.template.hash == group.wanted.template.hash;
        let updated: Vec<_> = counted.iter().filter(is_new).collect();
        let updated_ready = updated.iter().filter(|cell| cell.facts().ready).count();
        if number(updated_ready) >= group.desired && number(counted.len()) == number(updated.len()) {
            group.rolled_out = true;
        }
        let deadline = group.progress + group.wanted.progress_deadline;
        let deadline_exceeded = !group.rolled_out && now >= deadline;
        let census = Census {
            uid: group.wanted.uid.clone(),
            generation: group.wanted.generation,
            is_revision: group.wanted.revision.is_some(),
            spec_replicas: group.wanted.replicas,
            desired: group.desired,
            replicas: number(counted.len()),
            updated: number(updated.len()),
            ready: number(ready),
            hash: group.wanted.template.hash.clone(),
            rolled_out: group.rolled_out,
            deadline_exceeded,
        };
        Some((census, (!group.rolled_out && !deadline_exceeded).then_some(deadline)))
    }

    /// Stops everything and waits at most `limit`; answers the pods that were cut.
    pub(crate) async fn stop_all(&self, limit: Duration) -> Vec<String> {
        let cells = {
            let mut state = self.state();
            state.stopping = true;
            state.by_pod.values().cloned().collect::<Vec<_>>()
        };
        for cell in &cells {
            cell.stop(Some(limit));
        }
        let deadline = clock::now() + limit;
        loop {
            let ended = self.inner.ended.notified();
            if self.state().by_pod.is_empty() {
                return Vec::new();
            }
            tokio::select! {
                biased; // An end is looked at before the deadline.
                () = ended => {}
                () = clock::sleep_until(deadline) => break,
            }
        }
        self.state().by_pod.values().map(|cell| format!("{}/{}", cell.key.namespace, cell.pod)).collect()
    }

    /// Starts nothing any more; what runs stays.
    pub(crate) fn freeze(&self) {
        self.state().stopping = true;
    }
}

fn new_cell(wanted: &Wanted) -> Arc<Cell> {
    let uid = uuid::Uuid::new_v4();
    let suffix: String = uid.as_bytes().iter().take(5).map(|byte| letter(*byte)).collect();
    let base: String = wanted.key.name.chars().take(63 - 12 - 5).collect();
    let pod = format!("{}-{}-{suffix}", base.trim_end_matches('-'), wanted.template.hash);
    let (key, template) = (wanted.key.clone(), wanted.template.clone());
    Cell::new(key, pod, uid.to_string(), template, clock::now(), clock::timestamp())
}

fn letter(byte: u8) -> char {
    ALPHABET.get(usize::from(byte) % ALPHABET.len()).copied().map_or('x', char::from)
}

/// The part of pods' names that tells the template: ten letters.
pub(crate) fn template_hash(labels: &BTreeMap<String, String>, spec: &impl serde::Serialize) -> String {
    use sha2::{Digest, Sha256};
    let text = serde_json::to_vec(&(labels, spec)).unwrap_or_default();
    Sha256::digest(&text).iter().take(10).map(|byte| letter(*byte)).collect()
}
