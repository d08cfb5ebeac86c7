//! The shell: samples loads, runs the pure parts, calls [`Scale`], tells the PodAutoscalers' status afterwards.
//!
//! Only revisions in the active set are visited by the clock; the others cost nothing but memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dormouse_api::autoscaling::PodAutoscaler;
use dormouse_api::key::RevisionKey;
use dormouse_base::clock;
use dormouse_base::task::Tasks;
use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc};

use crate::config::Config;

mod entry;
mod watch;
mod write;

use entry::{Entry, Outcome, Slot};

/// How often loads are sampled: the length of a bucket.
const SAMPLE: Duration = Duration::from_secs(1);
/// Samples per decision.
const SAMPLES_PER_TICK: u64 = 2;
/// Decisions of one revision that held requests cause are at least this far apart.
const DEMAND_SPACING: Duration = Duration::from_millis(50);
/// Decisions that wait for that distance.
const DEFERRED: usize = 4096;

/// What one revision did since it was last observed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Average concurrency since the last observation, held requests included.
    pub concurrency: f64,
    /// Requests that arrived since the last observation.
    pub requests: u64,
    /// Requests that an instance works on now.
    pub in_flight: usize,
    /// Requests that are held now.
    pub queued: usize,
}

/// Starts and stops instances: implemented by the node.
pub trait Scale: Send + Sync {
    /// `revision` should have `desired` instances from now on. Must not block.
    fn scale(&self, revision: &RevisionKey, desired: u32);

    /// Resolves when no instance is about to start, or soon: what only tells should leave it the CPU.
    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Knows loads: implemented by the gateway.
pub trait Loads: Send + Sync {
    /// What `revision` did since the last call.
    fn observe(&self, revision: &RevisionKey) -> Load;
}

struct Shared {
    scale: Arc<dyn Scale>,
    loads: Arc<dyn Loads>,
    entries: Mutex<HashMap<RevisionKey, Arc<Slot>>>,
    /// Ready counts that were told before their PodAutoscaler was seen.
    early: Mutex<HashMap<RevisionKey, u32>>,
    /// Held requests that were told before their PodAutoscaler was seen.
    early_demand: Mutex<HashMap<RevisionKey, usize>>,
    active: Mutex<HashSet<RevisionKey>>,
    config: Mutex<Arc<Config>>,
    start: Instant,
    deferred: mpsc::Sender<RevisionKey>,
    dirty: Mutex<Vec<RevisionKey>>,
    written: Notify,
}

/// The autoscaler. Clones share it.
#[derive(Clone)]
pub struct Autoscaler(Arc<Shared>);

impl std::fmt::Debug for Autoscaler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Autoscaler")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Autoscaler {
    /// Starts watching and ticking; returns at once, `tasks` owns the work.
    pub fn start(client: kube::Client, scale: Arc<dyn Scale>, loads: Arc<dyn Loads>, tasks: &Tasks) -> Self {
        let (autoscaler, deferred) = Self::new(scale, loads, clock::now());
        autoscaler.tick(deferred, tasks);
        watch::start(client.clone(), autoscaler.clone(), tasks);
        write::start(client, autoscaler.clone(), tasks);
        autoscaler
    }

    /// The state alone; nothing runs.
    fn new(
        scale: Arc<dyn Scale>,
        loads: Arc<dyn Loads>,
        now: Instant,
    ) -> (Self, mpsc::Receiver<RevisionKey>) {
        let (deferred, receiver) = mpsc::channel(DEFERRED);
        let autoscaler = Self(Arc::new(Shared {
            scale,
            loads,
            entries: Mutex::default(),
            early: Mutex::default(),
            early_demand: Mutex::default(),
            active: Mutex::default(),
            config: Mutex::default(),
            start: now,
            deferred,
            dirty: Mutex::default(),
            written: Notify::new(),
        }));
        (autoscaler, receiver)
    }

    fn tick(&self, mut again: mpsc::Receiver<RevisionKey>, tasks: &Tasks) {
        let ticking = self.clone();
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("autoscaler-tick", async move {
            let mut next = clock::now() + SAMPLE;
            let mut samples = 0u64;
            loop {
                tokio::select! { () = shutdown.wait() => return, () = clock::sleep_until(next) => {} }
                let now = clock::now();
                samples += 1;
                ticking.sample(now, samples.is_multiple_of(SAMPLES_PER_TICK));
                next += SAMPLE;
                if next < now {
                    next = now + SAMPLE;
                }
            }
        });
        let deciding = self.clone();
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("autoscaler-demand", async move {
            loop {
                let key = tokio::select! { () = shutdown.wait() => return, key = again.recv() => key };
                let Some(key) = key else { return };
                clock::sleep(DEMAND_SPACING).await;
                deciding.decide_again(&key, clock::now());
                while let Ok(key) = again.try_recv() {
                    deciding.decide_again(&key, clock::now());
                }
            }
        });
    }

    /// A request of `revision` is held; `queued` are held now. Decides at once and calls [`Scale`] before returning.
    pub fn demand(&self, revision: &RevisionKey, queued: usize) {
        self.demand_at(revision, queued, clock::now());
    }

    fn demand_at(&self, revision: &RevisionKey, queued: usize, now: Instant) {
        let Some(slot) = self.slot(revision) else {
            lock(&self.0.early_demand).insert(revision.clone(), queued);
            return;
        };
        let newly = lock(&self.0.active).insert(revision.clone());
        if newly {
            // The gateway has not been asked since the revision fell asleep: begin a new period now.
            let load = self.0.loads.observe(revision);
            let mut entry = slot.lock();
            entry.carried_requests += load.requests;
        }
        {
            let mut entry = slot.lock();
            entry.queued = queued;
            let fresh = entry.demanded.is_none_or(|at| now.saturating_duration_since(at) >= DEMAND_SPACING);
            if !fresh && entry.desired.is_some_and(|desired| desired > 0) {
                if !entry.deferred && self.0.deferred.try_send(revision.clone()).is_ok() {
                    entry.deferred = true;
                }
                return;
            }
            entry.demanded = Some(now);
        }
        self.decide_on_demand(&slot, now);
        // A tick may have found it asleep meanwhile.
        lock(&self.0.active).insert(revision.clone());
    }

    /// `revision` has `ready` instances.
    pub fn ready(&self, revision: &RevisionKey, ready: u32) {
        self.ready_at(revision, ready, clock::now());
    }

    fn ready_at(&self, revision: &RevisionKey, ready: u32, now: Instant) {
        let Some(slot) = self.slot(revision) else {
            lock(&self.0.early).insert(revision.clone(), ready);
            return;
        };
        let mut entry = slot.lock();
        entry.set_ready(ready, now);
        let changed = entry.refresh(now);
        drop(entry);
        if ready > 0 {
            lock(&self.0.active).insert(revision.clone());
        }
        if changed {
            self.tell(revision);
        }
    }

    fn slot(&self, revision: &RevisionKey) -> Option<Arc<Slot>> {
        lock(&self.0.entries).get(revision).cloned()
    }

    fn config(&self) -> Arc<Config> {
        lock(&self.0.config).clone()
    }

    /// A PodAutoscaler as it is now.
    fn learn(&self, pa: &PodAutoscaler, now: Instant) -> Option<RevisionKey> {
        let key = RevisionKey::new(pa.metadata.namespace.as_deref()?, pa.metadata.name.as_deref()?);
        let config = self.config();
        let existing = self.slot(&key);
        let slot = match existing {
            Some(slot) => {
                if !slot.lock().update(pa, &config) {
                    return Some(key);
                }
                slot
            }
            None => {
                let ready = lock(&self.0.early).remove(&key).unwrap_or(0);
                let slot = Arc::new(Slot::new(Entry::new(key.clone(), pa, ready, &config, now)));
                lock(&self.0.entries).insert(key.clone(), slot.clone());
                slot
            }
        };
        if slot.lock().needs_attention() {
            lock(&self.0.active).insert(key.clone());
            self.apply(&slot, |entry| entry.decide(now));
        } else {
            // Asleep: only what is told may have changed.
            self.apply(&slot, |entry| Outcome { scale: None, tell: entry.refresh(now) });
        }
        let demand = lock(&self.0.early_demand).remove(&key);
        if let Some(queued) = demand {
            self.demand_at(&key, queued, now);
        }
        Some(key)
    }

    fn forget(&self, key: &RevisionKey) {
        lock(&self.0.active).remove(key);
        lock(&self.0.early).remove(key);
        lock(&self.0.early_demand).remove(key);
        if let Some(slot) = lock(&self.0.entries).remove(key) {
            let _order = lock(&slot.order);
            self.0.scale.scale(key, 0);
        }
    }

    fn keys(&self) -> Vec<RevisionKey> {
        lock(&self.0.entries).keys().cloned().collect()
    }

    fn configure(&self, config: Config) {
        let config = Arc::new(config);
        *lock(&self.0.config) = config.clone();
        let keys = self.keys();
        for key in &keys {
            if let Some(slot) = self.slot(key) {
                slot.lock().configure(&config);
            }
        }
        lock(&self.0.active).extend(keys);
    }

    fn sample(&self, now: Instant, decide: bool) {
        let second = (now.saturating_duration_since(self.0.start) + SAMPLE / 2).as_secs();
        let active: Vec<RevisionKey> = lock(&self.0.active).iter().cloned().collect();
        if active.is_empty() {
            return;
        }
        // What a start left to its end (see `decide_on_demand`), should that take long.
        if !lock(&self.0.dirty).is_empty() {
            self.0.written.notify_one();
        }
        for key in active {
            let Some(slot) = self.slot(&key) else {
                lock(&self.0.active).remove(&key);
                continue;
            };
            let load = self.0.loads.observe(&key);
            slot.lock().record(second, load);
            if decide {
                self.apply(&slot, |entry| entry.decide(now));
                // The set is locked first everywhere: a demand that comes now puts the key in again.
                let mut active = lock(&self.0.active);
                if slot.lock().is_asleep() {
                    active.remove(&key);
                }
            }
        }
    }

    fn decide_again(&self, key: &RevisionKey, now: Instant) {
        let Some(slot) = self.slot(key) else { return };
        {
            let mut entry = slot.lock();
            entry.deferred = false;
            entry.demanded = Some(now);
        }
        self.decide_on_demand(&slot, now);
    }

    /// Tells nothing yet when instances start: their readiness, or the next sample, wakes the writer.
    fn decide_on_demand(&self, slot: &Slot, now: Instant) {
        if let (key, true) = self.decide(slot, |entry| entry.demand(now)) {
            lock(&self.0.dirty).push(key);
        }
    }

    /// Runs a decision, hands its outcome on, in order, and tells it.
    fn apply(&self, slot: &Slot, decide: impl FnOnce(&mut Entry) -> Outcome) {
        if let (key, true) = self.decide(slot, decide) {
            self.tell(&key);
        }
    }

    /// Runs a decision and hands its outcome on, in order. Answers whether it is worth telling.
    fn decide(&self, slot: &Slot, decide: impl FnOnce(&mut Entry) -> Outcome) -> (RevisionKey, bool) {
        let _order = lock(&slot.order);
        let mut entry = slot.lock();
        let outcome = decide(&mut entry);
        let key = entry.key.clone();
        drop(entry);
        if let Some(desired) = outcome.scale {
            tracing::debug!(revision = %key, desired, "scale");
            self.0.scale.scale(&key, desired);
        }
        (key, outcome.tell)
    }

    fn tell(&self, key: &RevisionKey) {
        lock(&self.0.dirty).push(key.clone());
        self.0.written.notify_one();
    }
}

#[cfg(test)]
mod tests;
