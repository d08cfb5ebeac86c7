//! The handle: what the node, the autoscaler and the routes' shell tell and ask.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dormouse_api::key::RevisionKey;
use dormouse_base::clock;
use dormouse_base::task::Tasks;

use crate::call::Instance;
use crate::gate::Endpoint;
use crate::load::Load;
use crate::metrics::Metrics;
use crate::revision::{Revision, RevisionPolicy};
use crate::route::RouteTable;
use crate::worker::Workers;

/// Wakes a revision: implemented by the autoscaler.
pub trait Activate: Send + Sync {
    /// A request of `revision` is held; `queued` are held now. Called on the request's own task: must not block.
    fn demand(&self, revision: &RevisionKey, queued: usize);
}

/// Limits of the gateway.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Most requests held per revision.
    pub queue_bound: usize,
    /// Longest request target in bytes; longer ones get 414.
    pub max_uri: usize,
    /// Most bytes of a request's head; larger ones get 431.
    pub max_head: usize,
    /// Largest request body; 0 = no limit. Larger ones get 413.
    pub max_body: u64,
    /// Longest time to receive a request's head, and longest silence between two requests of a connection.
    pub head_timeout: Duration,
    /// Threads that serve, at most 32; 0 = one per core.
    pub threads: usize,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            queue_bound: 10_000,
            max_uri: 16 * 1024,
            max_head: 64 * 1024,
            max_body: 0,
            head_timeout: Duration::from_secs(60),
            threads: 0,
        }
    }
}

pub(crate) struct Shared {
    pub(crate) config: GatewayConfig,
    pub(crate) routes: ArcSwap<RouteTable>,
    revisions: RwLock<HashMap<RevisionKey, Arc<Revision>>>,
    addresses: Mutex<HashMap<SocketAddr, Weak<Endpoint>>>,
    activate: OnceLock<Arc<dyn Activate>>,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
    pub(crate) workers: Workers,
}

/// The gateway. Clones share it.
#[derive(Clone)]
pub struct Gateway(pub(crate) Arc<Shared>);

impl std::fmt::Debug for Gateway {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Gateway")
    }
}

impl Gateway {
    /// A gateway without routes, with its threads. `tasks` owns its background work and upstream connections.
    ///
    /// # Errors
    /// The system has no thread or no descriptors left.
    pub fn new(config: GatewayConfig, tasks: Tasks) -> std::io::Result<Self> {
        let gateway = Self(Arc::new(Shared {
            workers: Workers::start(config.threads)?,
            config,
            routes: ArcSwap::default(),
            revisions: RwLock::default(),
            addresses: Mutex::default(),
            activate: OnceLock::new(),
            metrics: Metrics::new(),
            tasks: tasks.clone(),
        }));
        let weak = Arc::downgrade(&gateway.0);
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("gateway-sweep", async move {
            loop {
                tokio::select! {
                    () = shutdown.wait() => return,
                    () = clock::sleep(Duration::from_secs(15)) => {}
                }
                let Some(shared) = weak.upgrade() else { return };
                shared.sweep();
            }
        });
        Ok(gateway)
    }

    /// Who is told when a request is held. Only the first call counts.
    pub fn set_activate(&self, activate: Arc<dyn Activate>) {
        if self.0.activate.set(activate).is_err() {
            tracing::warn!("the gateway's activator is set already");
        }
    }

    /// The ready instances of a revision: requests held for it go out at once; removed ones get no new request.
    pub fn set_endpoints(
        &self,
        revision: &RevisionKey,
        endpoints: impl IntoIterator<Item = impl Into<Instance>>,
    ) {
        let state = self.0.revision(revision);
        let added = state.set_endpoints(endpoints);
        if !added.is_empty() {
            let mut addresses = self.0.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            for endpoint in added {
                addresses.insert(endpoint.address, Arc::downgrade(&endpoint));
            }
        }
    }

    /// How requests of a revision are treated from now on.
    pub fn set_policy(&self, revision: &RevisionKey, policy: RevisionPolicy) {
        self.0.revision(revision).set_policy(policy);
    }

    /// Forgets a revision that no longer exists. Requests in flight finish.
    pub fn remove(&self, revision: &RevisionKey) {
        let removed = self.0.revisions.write().unwrap_or_else(PoisonError::into_inner).remove(revision);
        if let Some(state) = removed {
            state.forget();
            state.set_endpoints(Vec::<Instance>::new());
            self.0.metrics.remove(revision);
        }
    }

    /// Serves `table` from the next request on.
    pub fn swap_routes(&self, table: RouteTable) {
        self.0.routes.store(Arc::new(table));
    }

    /// What a revision did since the last call.
    pub fn observe(&self, revision: &RevisionKey) -> Load {
        match self.0.known(revision) {
            Some(state) => state.gate().observe(clock::now()),
            None => Load::default(),
        }
    }

    /// Requests that the instance at `address` works on.
    pub fn in_flight(&self, address: &SocketAddr) -> usize {
        self.0.endpoint(address).map_or(0, |endpoint| endpoint.in_flight())
    }

    /// Waits until the (removed) instance at `address` works on nothing; answers `false` if `deadline` came first.
    /// Cancel-safe.
    pub async fn idle(&self, address: SocketAddr, deadline: Instant) -> bool {
        let Some(endpoint) = self.0.endpoint(&address) else { return true };
        let quiet = async {
            loop {
                let notified = endpoint.quiet.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if endpoint.is_removed() && endpoint.in_flight() == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::select! {
            biased;
            () = quiet => true,
            () = clock::sleep_until(deadline) => false,
        }
    }

    /// Requests in instances plus requests held, of all revisions.
    pub fn busy(&self) -> usize {
        let revisions = self.0.revisions.read().unwrap_or_else(PoisonError::into_inner);
        revisions
            .values()
            .map(|state| {
                let gate = state.gate();
                gate.busy() + gate.queued()
            })
            .sum()
    }

    /// Waits until no request is left; answers how many still ran at `deadline`. Cancel-safe.
    pub async fn drain(&self, deadline: Instant) -> usize {
        loop {
            let busy = self.busy();
            if busy == 0 || clock::now() >= deadline {
                return busy;
            }
            clock::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The Prometheus text.
    pub fn metrics(&self) -> String {
        let revisions = self.0.revisions.read().unwrap_or_else(PoisonError::into_inner);
        for state in revisions.values() {
            if let Some(metrics) = state.known_metrics() {
                let (queued, busy) = {
                    let gate = state.gate();
                    (gate.queued(), gate.busy())
                };
                metrics.show(queued, busy);
            }
        }
        drop(revisions);
        self.0.metrics.text()
    }
}

impl Shared {
    pub(crate) fn known(&self, key: &RevisionKey) -> Option<Arc<Revision>> {
        self.revisions.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(crate) fn revision(&self, key: &RevisionKey) -> Arc<Revision> {
        if let Some(known) = self.known(key) {
            return known;
        }
        let mut revisions = self.revisions.write().unwrap_or_else(PoisonError::into_inner);
        revisions
            .entry(key.clone())
            .or_insert_with(|| Arc::new(Revision::new(key.clone(), self.config.queue_bound)))
            .clone()
    }

    pub(crate) fn demand(&self, key: &RevisionKey, queued: usize) {
        if let Some(activate) = self.activate.get() {
            activate.demand(key, queued);
        }
    }

    fn endpoint(&self, address: &SocketAddr) -> Option<Arc<Endpoint>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(address)?.upgrade()
    }

    fn sweep(&self) {
        let now = clock::now();
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = Vec::new();
        addresses.retain(|_, endpoint| endpoint.upgrade().map(|endpoint| live.push(endpoint)).is_some());
        drop(addresses);
        for endpoint in live {
            endpoint.pool.sweep(now);
        }
    }
}
