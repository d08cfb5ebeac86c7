//! Networks of instances: each has a namespace, an address and a veth pair into one bridge.
//!
//! Making one costs 2 ms and removing one 30 ms, so ready ones wait in a pool and used ones return to it. A network whose
//! namespace still holds TCP sockets of its last program rests until the kernel has forgotten them: a new program must
//! find its port free. Everything is named after the data directory, so that leftovers of a crash can be told from the
//! networks of another platform on the same machine. IPv4 only. Bounds: 1,000 networks (a bridge has 1,023 ports).

pub(crate) mod firewall;
pub(crate) mod listening;
pub(crate) mod plumbing;
pub(crate) mod subnet;

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dormouse_base::clock;
use dormouse_base::task::Tasks;
use tokio::sync::{Notify, oneshot};

use crate::config::{Config, Names};
use crate::error::{Error, Result};
use listening::Listening;
use plumbing::{Create, Layout, Reap, Workers};
use subnet::Subnet;

/// A bridge has 1,023 ports.
const NETWORKS_MAX: u16 = 1000;
/// Numbers 0 and 1 are the block's own address and the bridge.
const FIRST_NUMBER: u16 = 2;
/// A pool that is at least half full is refilled this much later, so that refilling takes no CPU from the instance that
/// is just starting.
pub(crate) const QUIET: Duration = Duration::from_millis(50);
/// TIME_WAIT lasts 60 s.
const REST: Duration = Duration::from_secs(61);

/// The network of one instance.
#[derive(Clone, Debug)]
pub struct Network {
    pub(crate) number: u16,
    /// Where its namespace is mounted.
    pub netns: PathBuf,
    /// Its address on the bridge.
    pub address: Ipv4Addr,
    /// Tells who listens in it; not of an adopted one.
    pub(crate) listening: Option<Listening>,
}

/// The pool of networks. Clones share it.
#[derive(Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Arc<Layout>,
    workers: Workers,
    ready_target: usize,
    state: Mutex<State>,
    low: Notify,
    warning: Option<String>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Network>,
    resting: VecDeque<(Instant, Network)>,
    taken: BTreeSet<u16>,
    /// Some stop has begun: nothing is made or kept any more.
    closed: bool,
}

// === impl Networks ===

impl Networks {
    /// Makes the bridge, the masquerade rule and a first network, removes what a crashed run left (except the networks
    /// `adopted`) and fills the pool in the background.
    ///
    /// # Errors
    /// No free address block, or the kernel refuses. A missing `nft` is not an error but a [`Networks::warning`].
    pub async fn start(config: &Config, adopted: &[u16], tasks: &Tasks) -> Result<Self> {
        let (config, ready_target) = (config.clone(), config.networks_ready);
        let adopted: BTreeSet<u16> = adopted.iter().copied().collect();
        let keep = adopted.clone();
        let (layout, warning) = blocking(move || prepare(&config, &keep)).await?;
        let layout = Arc::new(layout);
        let workers = Workers::start(layout.clone())?;
        let state = State { taken: adopted, ..State::default() };
        let inner =
            Inner { layout, workers, ready_target, state: Mutex::new(state), low: Notify::new(), warning };
        let networks = Self { inner: Arc::new(inner) };
        let (refill, shutdown) = (networks.clone(), tasks.shutdown().clone());
        tasks.spawn("node-networks", async move {
            tokio::select! {
                biased; // A stop ends the refilling at once; nothing is lost by that.
                () = shutdown.wait() => {}
                () = refill.refill() => {}
            }
        });
        Ok(networks)
    }

    /// What the operator should know: masquerading or forwarding is not in place.
    pub fn warning(&self) -> Option<&str> {
        self.inner.warning.as_deref()
    }

    /// The host's address on the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.layout.subnet.gateway()
    }

    /// How many networks are ready now.
    pub fn ready(&self) -> usize {
        self.inner.lock().ready.len()
    }

    /// A ready network at once, or one made now (2 ms). Cancel-safe: a network made for nobody returns to the pool.
    ///
    /// # Errors
    /// All are in use, or the kernel refuses.
    pub async fn take(&self) -> Result<Network> {
        let number = {
            let mut state = self.inner.lock();
            let ready = state.ready.pop_front();
            if state.ready.len() < self.inner.ready_target {
                self.inner.low.notify_one();
            }
            match ready {
                Some(network) => return Ok(network),
                None => reserve(&mut state)?,
            }
        };
        self.create(number).await
    }

    /// Returns a network whose instance has ended.
    pub fn give_back(&self, network: Network) {
        let networks = self.clone();
        let keep = move || {
            let inner = &networks.inner;
            let busy = plumbing::is_busy(&network.netns);
            let mut state = inner.lock();
            let most = inner.ready_target.saturating_mul(8).max(1);
            if state.closed || state.ready.len() + state.resting.len() >= most {
                drop(state);
                inner.discard(network.number);
            } else if busy {
                state.resting.push_back((clock::now() + REST, network));
                inner.low.notify_one();
            } else {
                state.ready.push_back(network);
            }
        };
        drop(tokio::task::spawn_blocking(keep));
    }

    /// The instance is about to end: its sockets shall not linger in TIME_WAIT, so that the network can be used again.
    pub(crate) async fn ending(&self, network: &Network) {
        let path = network.netns.clone();
        let _ = tokio::task::spawn_blocking(move || plumbing::forbid_time_wait(&path)).await;
    }

    /// The network of an adopted instance, from its number.
    pub(crate) fn adopt(&self, number: u16) -> Network {
        self.inner.lock().taken.insert(number);
        self.network(number, None)
    }

    fn network(&self, number: u16, listening: Option<Listening>) -> Network {
        let layout = &self.inner.layout;
        Network { number, netns: layout.netns(number), address: layout.subnet.host(number), listening }
    }

    async fn create(&self, number: u16) -> Result<Network> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inner.workers.create.try_send(Create { number, reply });
        let result = match sent {
            Ok(()) => answer.await.unwrap_or(Err(Error::Stopped)),
            Err(_) => Err(Error::Stopped),
        };
        match result {
            Ok(listening) => Ok(self.network(number, listening)),
            Err(error) => {
                self.inner.lock().taken.remove(&number);
                Err(error)
            }
        }
    }

    async fn refill(&self) {
        loop {
            let (number, wake) = {
                let mut state = self.inner.lock();
                let now = clock::now();
                while state.resting.front().is_some_and(|(until, _)| *until <= now) {
                    if let Some((_, network)) = state.resting.pop_front() {
                        state.ready.push_back(network);
                    }
                }
                let wake = state.resting.front().map(|(until, _)| *until);
                let lacking = !state.closed && state.ready.len() < self.inner.ready_target;
                (lacking.then(|| reserve(&mut state).ok()).flatten(), wake)
            };
            if let Some(number) = number {
                match self.create(number).await {
                    Ok(network) => self.inner.keep(network),
                    Err(error) => {
                        tracing::warn!(error = dormouse_base::chain(&error), "could not prepare a network");
                        clock::sleep(Duration::from_secs(1)).await;
                    }
                }
                continue;
            }
            let rest = async {
                match wake {
                    Some(until) => clock::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // Both only wake the loop, which looks at the state again.
                () = self.inner.low.notified() => {}
                () = rest => {}
            }
            if self.ready() >= self.inner.ready_target.div_ceil(2) {
                clock::sleep(QUIET).await;
            }
        }
    }

    /// Removes the pooled networks and waits for it; networks of running instances stay.
    pub async fn close(&self) {
        let unused: Vec<Network> = {
            let mut state = self.inner.lock();
            state.closed = true;
            let resting: Vec<Network> = state.resting.drain(..).map(|(_, network)| network).collect();
            state.ready.drain(..).chain(resting).collect()
        };
        for network in unused {
            self.inner.discard(network.number);
        }
        let (reply, done) = oneshot::channel();
        if self.inner.workers.reap.try_send(Reap::Barrier(reply)).is_ok() {
            let _ = done.await;
        }
    }
}

// === impl Inner ===

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(self: &Arc<Self>, network: Network) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            self.discard(network.number);
        } else {
            state.ready.push_back(network);
        }
    }

    /// Queues the removal; the number is free again once it is done.
    fn discard(self: &Arc<Self>, number: u16) {
        let inner = Arc::downgrade(self);
        let done = Box::new(move || {
            if let Some(inner) = inner.upgrade() {
                inner.lock().taken.remove(&number);
            }
        });
        if self.workers.reap.try_send(Reap::Network { number, done }).is_err() {
            tracing::warn!(number, "too many networks wait for their removal; the next start removes it");
        }
    }
}

/// The next free number after the highest taken one, or the lowest free one when the block's end is reached.
fn reserve(state: &mut State) -> Result<u16> {
    if state.taken.len() >= usize::from(NETWORKS_MAX) {
        return Err(Error::NetworksExhausted(NETWORKS_MAX.into()));
    }
    let after = state.taken.last().map_or(FIRST_NUMBER, |last| last.saturating_add(1));
    let free = if after < u16::MAX {
        Some(after)
    } else {
        (FIRST_NUMBER..u16::MAX).find(|number| !state.taken.contains(number))
    };
    let number = free.ok_or(Error::NetworksExhausted(NETWORKS_MAX.into()))?;
    state.taken.insert(number);
    Ok(number)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Stopped))
}

/// Chooses the block, removes leftovers, makes bridge and rule. Blocking.
fn prepare(config: &Config, adopted: &BTreeSet<u16>) -> Result<(Layout, Option<String>)> {
    let names = config.names();
    let netns_dir = config.run_dir.join("netns");
    fs::create_dir_all(&netns_dir).map_err(Error::path("create", &netns_dir))?;
    let node_dir = config.data_dir.join("node");
    fs::create_dir_all(&node_dir).map_err(Error::path("create", &node_dir))?;
    clean(&config.run_dir, &names, adopted);
    let lock_path = Path::new("/run/dormouse-network.lock");
    let lock = fs::File::options().create(true).truncate(false).write(true).open(lock_path);
    let lock = lock.map_err(Error::path("open", lock_path))?;
    // Two platforms that start at once must not choose the same block.
    let _ = rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive);
    let file = node_dir.join("subnet");
    let bridge_exists = Path::new("/sys/class/net").join(names.bridge()).exists();
    let remembered = fs::read_to_string(&file).ok().and_then(|text| text.parse::<Subnet>().ok());
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let used = subnet::used(&read("/proc/net/route"), &read("/proc/net/fib_trie"));
    let free = |subnet: &Subnet| bridge_exists || !used.iter().any(|used| used.overlaps(subnet));
    let subnet = match remembered.filter(free) {
        Some(subnet) => subnet,
        None => {
            let seed = u32::from_str_radix(&names.hash, 16).unwrap_or_default();
            subnet::choose(&used, seed).ok_or(Error::NoSubnet)?
        }
    };
    fs::write(&file, subnet.to_string()).map_err(Error::path("write", &file))?;
    let layout = Layout { names, subnet, run_dir: config.run_dir.clone() };
    plumbing::in_runtime(|handle| async move {
        plumbing::ensure_bridge(&handle, &layout).await?;
        let rule =
            firewall::enable_forwarding().and_then(|()| firewall::install(&layout.names, &layout.subnet));
        let warning = rule.err().map(|error| dormouse_base::chain(&error));
        Ok((layout, warning))
    })
}

/// Removes namespaces and links of earlier runs, except the adopted ones. Blocking.
fn clean(run_dir: &Path, names: &Names, adopted: &BTreeSet<u16>) {
    let keeps = |digits: &str| u16::from_str_radix(digits, 16).is_ok_and(|number| adopted.contains(&number));
    for entry in fs::read_dir(run_dir.join("netns")).into_iter().flatten().flatten() {
        if !keeps(&entry.file_name().to_string_lossy()) {
            plumbing::remove_mount(&entry.path());
        }
    }
    let prefix = names.link_prefix();
    let links: Vec<String> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.strip_prefix(&prefix).is_some_and(|digits| !keeps(digits)))
        .collect();
    if links.is_empty() {
        return;
    }
    let result = plumbing::in_runtime(|handle| async move {
        for link in links {
            plumbing::delete_link(&handle, &link).await;
        }
        Ok(())
    });
    if let Err(error) = result {
        tracing::warn!(error = dormouse_base::chain(&error), "could not remove old links");
    }
}

/// Removes everything of the network of one platform: namespaces, links, bridge, rule. Blocking; nothing may run.
pub(crate) fn remove_all(config: &Config) {
    let names = config.names();
    clean(&config.run_dir, &names, &BTreeSet::new());
    let file = config.data_dir.join("node/subnet");
    let subnet = fs::read_to_string(&file).ok().and_then(|text| text.parse::<Subnet>().ok());
    firewall::remove(&names, subnet.as_ref());
    let bridge = names.bridge();
    let result = plumbing::in_runtime(|handle| async move {
        plumbing::delete_link(&handle, &bridge).await;
        Ok(())
    });
    if let Err(error) = result {
        tracing::warn!(error = dormouse_base::chain(&error), "could not remove the bridge");
    }
    let _ = fs::remove_dir(config.run_dir.join("netns"));
    let _ = fs::remove_dir(&config.run_dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_and_wrap_to_the_lowest_free_one() {
        let mut state = State::default();
        assert_eq!(reserve(&mut state).unwrap(), 2);
        assert_eq!(reserve(&mut state).unwrap(), 3);
        state.taken.insert(u16::MAX - 1);
        assert_eq!(reserve(&mut state).unwrap(), 4);
    }
}
