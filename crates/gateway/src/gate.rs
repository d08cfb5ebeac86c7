//! The concurrency gate of one revision: pure state, `now` is an argument, nothing blocks.
//!
//! Invariants (property-tested): no instance has more requests than the limit; a request is admitted once or not at
//! all; the queue never exceeds its bound and is first in, first out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crate::call::{Call, Instance};
use crate::load::{Load, Meter};
use crate::pool::Pool;

/// One ready instance. Its counters change only under the gate's lock; readers need none.
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    /// How it is called, if it need not be connected to.
    pub(crate) call: Option<Arc<dyn Call>>,
    in_flight: AtomicUsize,
    removed: AtomicBool,
    pub(crate) quiet: tokio::sync::Notify,
    pub(crate) pool: Pool,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("id", &self.id)
            .field("address", &self.address)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(crate) fn new(instance: Instance) -> Self {
        Self {
            id: instance.id,
            address: instance.address,
            call: instance.call,
            in_flight: AtomicUsize::new(0),
            removed: AtomicBool::new(false),
            quiet: tokio::sync::Notify::new(),
            pool: Pool::default(),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Whether no new request may go there.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

/// Names one held request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// The queue is at its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// An endpoint that has been given to the holder of `W`.
pub(crate) type Grant<W> = (W, Arc<Endpoint>);

/// Endpoints, limit and held requests of one revision. `W` is whatever wakes a holder.
#[derive(Debug)]
pub(crate) struct Gate<W> {
    endpoints: Vec<Arc<Endpoint>>,
    limit: usize,
    bound: usize,
    queue: BTreeMap<Ticket, W>,
    next: u64,
    turn: usize,
    busy: usize,
    meter: Meter,
}

impl<W> Gate<W> {
    pub(crate) fn new(bound: usize, now: Instant) -> Self {
        Self {
            endpoints: Vec::new(),
            limit: 0,
            bound,
            queue: BTreeMap::new(),
            next: 0,
            turn: 0,
            busy: 0,
            meter: Meter::new(now),
        }
    }

    /// Counts an arrival and admits it if an instance has room and nobody waits.
    pub(crate) fn arrive(&mut self, now: Instant) -> Option<Arc<Endpoint>> {
        self.meter.arrive(now);
        if self.queue.is_empty() { self.admit(None) } else { None }
    }

    /// Admits a request that is counted already and has been admitted before (its instance could not be reached).
    pub(crate) fn again(&mut self, avoid: &Arc<Endpoint>) -> Option<Arc<Endpoint>> {
        self.admit(Some(avoid))
    }

    /// Holds a request that [`Gate::arrive`] did not admit.
    pub(crate) fn hold(&mut self, waiter: W) -> Result<Ticket, Full> {
        if self.queue.len() >= self.bound {
            return Err(Full);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.queue.insert(ticket, waiter);
        Ok(ticket)
    }

    /// Takes a held request out of the queue; `None` when it has been admitted meanwhile.
    pub(crate) fn forget(&mut self, ticket: Ticket) -> Option<W> {
        self.queue.remove(&ticket)
    }

    /// Everybody who waits, for a revision that no longer exists.
    pub(crate) fn dismiss(&mut self) -> Vec<W> {
        std::mem::take(&mut self.queue).into_values().collect()
    }

    /// A request is over (answered, timed out, refused or gone) without an instance.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.meter.leave(now);
    }

    /// Frees an instance's place; answers who gets it.
    pub(crate) fn release(&mut self, endpoint: &Arc<Endpoint>) -> Option<Grant<W>> {
        self.busy = self.busy.saturating_sub(1);
        let before = endpoint.in_flight.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a place is freed once");
        if before == 1 && endpoint.is_removed() {
            endpoint.quiet.notify_waiters();
        }
        self.wake_one()
    }

    /// Replaces the ready instances; known ones keep their state. Answers who may go now.
    pub(crate) fn set_endpoints(
        &mut self,
        list: impl IntoIterator<Item = impl Into<Instance>>,
    ) -> (Vec<Grant<W>>, Vec<Arc<Endpoint>>) {
        let mut old = std::mem::take(&mut self.endpoints);
        let mut added = Vec::new();
        for instance in list {
            let instance: Instance = instance.into();
            let same = |known: &Arc<Endpoint>| known.id == instance.id && known.address == instance.address;
            if self.endpoints.iter().any(same) {
                continue;
            }
            match old.iter().position(same) {
                Some(position) => self.endpoints.push(old.swap_remove(position)),
                None => {
                    let endpoint = Arc::new(Endpoint::new(instance));
                    added.push(endpoint.clone());
                    self.endpoints.push(endpoint);
                }
            }
        }
        for gone in old {
            gone.removed.store(true, Ordering::Release);
            gone.pool.clear();
            gone.quiet.notify_waiters();
        }
        (self.wake_all(), added)
    }

    /// Changes the limit per instance (0 = none). Answers who may go now.
    pub(crate) fn set_limit(&mut self, limit: usize) -> Vec<Grant<W>> {
        self.limit = limit;
        self.wake_all()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn busy(&self) -> usize {
        self.busy
    }

    pub(crate) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    pub(crate) fn observe(&mut self, now: Instant) -> Load {
        let (concurrency, requests) = self.meter.take(now);
        Load { concurrency, requests, in_flight: self.busy, queued: self.queue.len() }
    }

    fn admit(&mut self, avoid: Option<&Arc<Endpoint>>) -> Option<Arc<Endpoint>> {
        let count = self.endpoints.len();
        if count > 1 {
            self.turn = self.turn.wrapping_add(1) % count;
        }
        let (head, tail) = self.endpoints.split_at_checked(self.turn.min(count))?;
        let mut best: Option<(usize, &Arc<Endpoint>)> = None;
        for endpoint in tail.iter().chain(head) {
            if avoid.is_some_and(|avoid| Arc::ptr_eq(avoid, endpoint)) {
                continue;
            }
            let load = endpoint.in_flight();
            if (self.limit == 0 || load < self.limit) && best.is_none_or(|(least, _)| load < least) {
                best = Some((load, endpoint));
                if load == 0 {
                    break;
                }
            }
        }
        let endpoint = best.map(|(_, endpoint)| endpoint.clone())?;
        endpoint.in_flight.fetch_add(1, Ordering::AcqRel);
        self.busy += 1;
        Some(endpoint)
    }

    fn wake_one(&mut self) -> Option<Grant<W>> {
        if self.queue.is_empty() {
            return None;
        }
        let endpoint = self.admit(None)?;
        self.queue.pop_first().map(|(_, waiter)| (waiter, endpoint))
    }

    fn wake_all(&mut self) -> Vec<Grant<W>> {
        let mut woken = Vec::new();
        while let Some(grant) = self.wake_one() {
            woken.push(grant);
        }
        woken
    }
}

#[cfg(test)]
mod tests;
