//! One revision at run time: its gate behind a lock, its policy, its metrics.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dormouse_api::key::RevisionKey;
use dormouse_base::clock;
use tokio::sync::oneshot;

use crate::call::Instance;
use crate::gate::{Endpoint, Full, Gate, Grant, Ticket};
use crate::metrics::{Metrics, RevisionMetrics};

/// The protocol that an instance speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, with upgrades.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge, without TLS.
    H2c,
}

/// How requests of one revision are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionPolicy {
    /// Most requests at once in one instance; 0 = no limit.
    pub container_concurrency: u32,
    /// Total time of a request from its arrival, holding included.
    pub timeout: Duration,
    /// Time to the first byte of the response; zero = no limit.
    pub response_start_timeout: Duration,
    /// Longest silence of the response; zero = no limit.
    pub idle_timeout: Duration,
    /// What instances speak.
    pub protocol: Protocol,
    /// Whether HTTP/1 instances answer while they still read the request. Always on here; kept for the record.
    pub full_duplex: bool,
}

impl Default for RevisionPolicy {
    fn default() -> Self {
        Self {
            container_concurrency: 0,
            timeout: Duration::from_secs(300),
            response_start_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            protocol: Protocol::Http1,
            full_duplex: false,
        }
    }
}

/// State of one revision, shared by all its requests.
#[derive(Debug)]
pub(crate) struct Revision {
    pub(crate) key: RevisionKey,
    gate: Mutex<Gate<oneshot::Sender<Permit>>>,
    policy: ArcSwap<RevisionPolicy>,
    metrics: OnceLock<RevisionMetrics>,
    forgotten: AtomicBool,
}

/// The answer to an arrival.
pub(crate) enum Arrival {
    Admitted(Permit),
    /// `none_ready`: there is no instance at all.
    Held {
        held: Held,
        queued: usize,
        none_ready: bool,
    },
    Refused,
}

impl Revision {
    pub(crate) fn new(key: RevisionKey, bound: usize) -> Self {
        Self {
            key,
            gate: Mutex::new(Gate::new(bound, clock::now())),
            policy: ArcSwap::default(),
            metrics: OnceLock::new(),
            forgotten: AtomicBool::new(false),
        }
    }

    pub(crate) fn gate(&self) -> MutexGuard<'_, Gate<oneshot::Sender<Permit>>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn policy(&self) -> arc_swap::Guard<Arc<RevisionPolicy>> {
        self.policy.load()
    }

    pub(crate) fn metrics(&self, all: &Metrics) -> &RevisionMetrics {
        self.metrics.get_or_init(|| all.revision(&self.key))
    }

    pub(crate) fn known_metrics(&self) -> Option<&RevisionMetrics> {
        self.metrics.get()
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    pub(crate) fn forget(&self) {
        self.forgotten.store(true, Ordering::Release);
        let dismissed = self.gate().dismiss();
        drop(dismissed);
    }

    pub(crate) fn set_policy(self: &Arc<Self>, policy: RevisionPolicy) {
        if **self.policy.load() == policy {
            return;
        }
        let limit = policy.container_concurrency as usize;
        self.policy.store(Arc::new(policy));
        let grants = self.gate().set_limit(limit);
        self.deliver(grants);
    }

    /// Answers the endpoints that are new.
    pub(crate) fn set_endpoints(
        self: &Arc<Self>,
        list: impl IntoIterator<Item = impl Into<Instance>>,
    ) -> Vec<Arc<Endpoint>> {
        let (grants, added) = self.gate().set_endpoints(list);
        self.deliver(grants);
        added
    }

    /// A request arrives.
    pub(crate) fn arrive(self: &Arc<Self>, now: Instant) -> Arrival {
        let mut gate = self.gate();
        let place = gate.arrive(now);
        let permit = Permit { revision: self.clone(), place, present: true, held: false };
        if permit.place.is_some() { Arrival::Admitted(permit) } else { self.hold(gate, permit) }
    }

    /// A request whose instance could not be reached tries another one, or the same one when it is the only one; it
    /// stays counted as present.
    pub(crate) fn again(self: &Arc<Self>, mut permit: Permit) -> Arrival {
        let Some(failed) = permit.place.take() else { return Arrival::Refused };
        let mut gate = self.gate();
        permit.place = gate.again(&failed);
        let grant = if permit.place.is_none() && !failed.is_removed() {
            permit.place = Some(failed);
            None
        } else {
            gate.release(&failed)
        };
        let answer = if permit.place.is_some() {
            drop(gate);
            Arrival::Admitted(permit)
        } else {
            self.hold(gate, permit)
        };
        self.deliver(grant);
        answer
    }

    fn hold(&self, mut gate: MutexGuard<'_, Gate<oneshot::Sender<Permit>>>, permit: Permit) -> Arrival {
        let (sender, receiver) = oneshot::channel();
        let answer = gate.hold(sender);
        let queued = gate.queued();
        let none_ready = gate.endpoints().is_empty();
        // The permit may be dropped below and would lock again.
        drop(gate);
        match answer {
            Ok(ticket) => {
                Arrival::Held { held: Held { permit: Some(permit), ticket, receiver }, queued, none_ready }
            }
            Err(Full) => Arrival::Refused,
        }
    }

    fn deliver(self: &Arc<Self>, grants: impl IntoIterator<Item = Grant<oneshot::Sender<Permit>>>) {
        let mut pending: std::collections::VecDeque<_> = grants.into_iter().collect();
        while let Some((sender, endpoint)) = pending.pop_front() {
            let permit = Permit { revision: self.clone(), place: Some(endpoint), present: false, held: true };
            // A holder that has just gone away: its place goes to the next one.
            if let Err(mut permit) = sender.send(permit)
                && let Some(endpoint) = permit.place.take()
            {
                pending.extend(self.gate().release(&endpoint));
            }
        }
    }
}

/// A request's place in an instance. Dropping it counts the request out and wakes whoever waits longest.
#[derive(Debug)]
pub(crate) struct Permit {
    revision: Arc<Revision>,
    place: Option<Arc<Endpoint>>,
    /// Whether the request is counted in the revision's concurrency by this permit.
    present: bool,
    held: bool,
}

impl Permit {
    /// Whether the request had to wait for its place.
    pub(crate) fn was_held(&self) -> bool {
        self.held
    }

    pub(crate) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.place.as_ref()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let place = self.place.take();
        if place.is_none() && !self.present {
            return;
        }
        let now = clock::now();
        let mut gate = self.revision.gate();
        if self.present {
            gate.leave(now);
        }
        let grant = place.and_then(|endpoint| gate.release(&endpoint));
        drop(gate);
        if grant.is_some() {
            self.revision.deliver(grant);
        }
    }
}

/// A held request. Dropping it takes it out of the queue.
#[derive(Debug)]
pub(crate) struct Held {
    permit: Option<Permit>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Permit>,
}

impl Held {
    /// Waits for a place. Cancel-safe: a place that arrives while nobody waits is freed on drop.
    pub(crate) async fn granted(&mut self) -> Option<Permit> {
        let mut granted = (&mut self.receiver).await.ok()?;
        let mut waiting = self.permit.take()?;
        waiting.present = false;
        granted.present = true;
        Some(granted)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(permit) = &self.permit {
            let waiter = permit.revision.gate().forget(self.ticket);
            drop(waiter);
        }
    }
}
