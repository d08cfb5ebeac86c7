//! The kubelet's role on this machine: instances, networks, volumes, probes, logs.
//!
//! A Deployment is prepared ahead of its first request: image pulled and unpacked, plan computed. [`Node::scale`] then
//! takes a network and a cgroup from pools, has the keeper clone, asks the port every fraction of a millisecond and
//! publishes the endpoint the moment it answers. All that is told to the API (Pods, Deployment status, events) follows
//! behind.
//!
//! A WebAssembly component needs none of these: it is compiled ahead, and an instance is a listener in this process.
//!
//! Reading order: [`Config`] → `network` and `pool` (what is made ahead) → `template` (Deployment → plan) → `probe` →
//! [`Components`] → `instance` (the life-cycle, pure) → `manager` (desired and actual) → `workload` (watching) → `tell` (writing) →
//! `logs` → [`doctor`]. It never sees the store, a reconciler or a route. Test alone, as root: `cargo test -p dormouse-node`.

mod component;
mod config;
mod doctor;
mod error;
mod instance;
mod launcher;
mod logs;
mod manager;
mod network;
mod pool;
mod probe;
mod tell;
mod template;
mod workload;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dormouse_api::key::RevisionKey;
use dormouse_base::clock;
use dormouse_base::task::Tasks;
use dormouse_image::Images;
use dormouse_sandbox::{CgroupRoot, Keeper, KeeperEvent, Running};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

pub use component::{
    ComponentDirectory, ComponentError, ComponentLog, ComponentPlan, ComponentSource, Components, Serving,
};
pub use config::Config;
pub use doctor::{Check, doctor};
pub use error::{Error, Result};
pub use logs::{LogError, LogQuery};
pub use network::{Network, Networks};

use instance::Exit;
use launcher::CurrentKeeper;
use manager::Manager;
use manager::cell::Label;
use pool::Slots;
use tell::{Inbox, Teller};
use workload::Preparer;

/// An instance that takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's name.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Wants to know the instances of each revision that take requests; wired to the gateway and the autoscaler.
pub trait Endpoints: Send + Sync {
    /// The complete list of now; draining instances are absent. Called in order per revision; must not block. It may
    /// call [`Node::scale`].
    fn set(&self, revision: &RevisionKey, endpoints: Vec<Endpoint>);
}

/// Knows the requests that an instance is busy with; wired to the gateway.
pub trait InFlight: Send + Sync {
    /// How many there are now.
    fn count(&self, endpoint: &SocketAddr) -> usize;
    /// Resolves when there is none (`true`), or at the deadline (`false`).
    fn idle(&self, endpoint: SocketAddr, deadline: Instant) -> BoxFuture<'static, bool>;
}

/// What a stop did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Instances that were left running.
    pub kept: usize,
    /// Pods that did not end in time and were killed.
    pub cut: Vec<String>,
}

/// A handle of the node; clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    manager: Manager,
    keeper: CurrentKeeper,
    teller: Arc<Teller>,
}

/// How long a stop waits for instances.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

// === impl Node ===

impl Node {
    /// Cleans up after a crash, fills the pools, adopts what still runs and begins to watch the API.
    ///
    /// `keeper`, `events` and `running` are what [`Keeper::start_or_attach`] answered.
    ///
    /// # Errors
    /// A directory, the bridge or the cgroups cannot be made.
    #[expect(clippy::too_many_arguments, reason = "wiring: each is another component, named once")]
    pub async fn start(
        config: Config,
        keeper: Keeper,
        events: mpsc::Receiver<KeeperEvent>,
        running: Vec<Running>,
        images: Images,
        components: Arc<dyn Components>,
        client: kube::Client,
        endpoints: Arc<dyn Endpoints>,
        in_flight: Arc<dyn InFlight>,
        tasks: Tasks,
    ) -> Result<Self> {
        let found: Vec<(Running, Option<Label>)> = running
            .into_iter()
            .map(|running| {
                let label = serde_json::from_str(&running.label).ok();
                (running, label)
            })
            .collect();
        let labels = || found.iter().filter_map(|(_, label)| label.as_ref());
        let logs = config.data_dir.join("logs");
        prepare_dirs(&config, &logs)?;
        let adopted: Vec<u16> = labels().map(|label| label.network).collect();
        let networks = Networks::start(&config, &adopted, &tasks).await?;
        if let Some(warning) = networks.warning() {
            tracing::warn!("{warning}");
        }
        let root = CgroupRoot::detect(&config.names().cgroup())
            .map_err(|source| Error::Sandbox { step: "prepare the cgroups", source })?;
        let adopted = labels().map(|label| label.slot.clone()).collect();
        let slots = Slots::start(root, &config.data_dir, config.slots_ready, adopted, &tasks).await?;
        let keeper = CurrentKeeper::new(keeper);
        let inbox = Arc::new(Inbox::default());
        let manager = Manager::new(manager::Parts {
            networks,
            slots,
            launcher: Arc::new(keeper.clone()),
            components: components.clone(),
            endpoints,
            in_flight,
            inbox: inbox.clone(),
            logs,
            work: config.data_dir.join("work"),
            tasks: config.hot_tasks(&tasks),
        });
        for (running, label) in found {
            match label {
                Some(label) => manager.found(running.id, running.pid, label),
                None => {
                    tracing::warn!(sandbox = running.id, "killing a sandbox whose label cannot be read");
                    let _ = keeper.get().signal(&running.id, 9).await;
                }
            }
        }
        let teller = Arc::new(Teller::new(client.clone(), manager.clone(), inbox, config.node_name.clone()));
        let images = Arc::new(images);
        let preparer = Preparer::new(client, images, components, manager.clone(), &config, tasks.clone());
        let node = Self { inner: Arc::new(Inner { config, manager, keeper, teller }) };
        node.spawn(preparer, events, &tasks);
        Ok(node)
    }

    fn spawn(&self, preparer: Preparer, events: mpsc::Receiver<KeeperEvent>, tasks: &Tasks) {
        let this = self.clone();
        let owner = self.inner.config.hot_tasks(tasks);
        self.inner.config.hot_tasks(tasks).spawn("node-keeper", async move {
            let shutdown = owner.shutdown().clone();
            tokio::select! {
                biased; // `stop` has waited for the ends of instances before the shutdown.
                () = this.attend_keeper(events, &owner) => {}
                () = shutdown.wait() => {}
            }
        });
        let spawn = |name: &'static str, work: BoxFuture<'static, ()>| {
            let shutdown = tasks.shutdown().clone();
            tasks.spawn(name, async move {
                tokio::select! {
                    biased; // A stop ends it; the next start looks at everything again.
                    () = shutdown.wait() => {}
                    () = work => {}
                }
            });
        };
        let teller = self.inner.teller.clone();
        let version = self.inner.config.version.clone();
        spawn(
            "node-tell",
            Box::pin(async move {
                if let Err(error) = teller.tell_node(&version).await {
                    tracing::warn!(error = dormouse_base::chain(&error), "could not write the node object");
                }
                teller.run().await;
            }),
        );
        let deployments = preparer.clone();
        spawn("node-deployments", Box::pin(async move { deployments.watch_deployments().await }));
        let secrets = preparer.clone();
        spawn("node-secrets", Box::pin(async move { secrets.watch_secrets().await }));
        let maps = preparer.clone();
        spawn("node-configmaps", Box::pin(async move { maps.watch_config_maps().await }));
        let teller = self.inner.teller.clone();
        spawn("node-pods", Box::pin(async move { preparer.watch_pods(&teller).await }));
    }

    /// Passes on the ends of sandboxes; starts a new keeper when it dies.
    async fn attend_keeper(&self, mut events: mpsc::Receiver<KeeperEvent>, tasks: &Tasks) {
        loop {
            match events.recv().await {
                Some(KeeperEvent::Exited { id, code, signal, oom }) => {
                    self.inner.manager.exited(&id, Exit::new(code, signal, oom));
                    continue;
                }
                Some(KeeperEvent::KeeperDied) | None => {}
            }
            if tasks.shutdown().is_triggered() {
                return;
            }
            tracing::error!("the keeper process died and all instances with it; starting a new one");
            loop {
                let config = &self.inner.config;
                match Keeper::start_or_attach(&config.exe, &config.keeper_dir, tasks).await {
                    Ok((keeper, receiver, _)) => {
                        self.inner.keeper.replace(keeper);
                        events = receiver;
                        break;
                    }
                    Err(error) => {
                        tracing::error!(error = dormouse_base::chain(&error), "could not start a keeper");
                        clock::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
            self.inner.manager.all_exited();
        }
    }

    /// Sets how many instances of a revision should run. Memory only: never waits, never writes; call it while a request
    /// waits. Must be called inside the runtime.
    pub fn scale(&self, revision: &RevisionKey, desired: u32) {
        self.inner.manager.scale(revision, desired);
    }

    /// Resolves when no instance is about to start, or after a moment: for work that should leave a start the CPU.
    pub async fn settled(&self) {
        self.inner.manager.settled(clock::now() + manager::hush::PATIENCE).await;
    }

    /// The keeper of the moment; it is replaced when it dies.
    pub fn keeper(&self) -> Keeper {
        self.inner.keeper.get()
    }

    /// How many instances exist, in whatever phase.
    pub fn instances(&self) -> usize {
        self.inner.manager.cells().len()
    }

    /// Process ids of the instances that run, with their pods' names; components run in this one.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let cells = self.inner.manager.cells();
        let pid = |cell: &Arc<manager::cell::Cell>| {
            let facts = cell.facts();
            let ours = facts.sandbox.is_some().then(std::process::id);
            facts.pid.or(ours).map(|pid| (cell.pod.clone(), pid))
        };
        cells.iter().filter_map(pid).collect()
    }

    /// The log of a pod's container as chunks of bytes. With `follow` the stream ends when the container has.
    ///
    /// # Errors
    /// [`LogError`] tells why there is none.
    #[expect(clippy::unused_async, reason = "remote logs are foreseen by the callers")]
    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Bytes>, LogError> {
        let missing = || LogError::NotFound(format!("pods \"{pod}\" not found"));
        let cell = self.inner.manager.pod(namespace, pod).ok_or_else(missing)?;
        logs::read(cell, &query)
    }

    /// Stops the instances (or leaves them for the next main process), tells the API, and gives back what was pooled.
    /// Call it before the tasks' shutdown is triggered and the API goes.
    pub async fn stop(&self, keep_instances: bool) -> Report {
        let manager = &self.inner.manager;
        let mut report = Report::default();
        if keep_instances {
            manager.freeze();
            // Components end with this process.
            report.kept = manager.cells().iter().filter(|cell| cell.facts().pid.is_some()).count();
        } else {
            report.cut = manager.stop_all(STOP_PATIENCE).await;
        }
        self.inner.teller.round().await;
        let slots = manager.slots().clone();
        drop(tokio::task::spawn_blocking(move || slots.close()).await);
        manager.networks().close().await;
        report
    }

    /// What the node does now, for an operator.
    pub fn statusz(&self) -> serde_json::Value {
        let cells = self.inner.manager.cells();
        let instances = cells.iter().map(|cell| {
            let facts = cell.facts();
            serde_json::json!({
                "namespace": cell.key.namespace, "deployment": cell.key.name, "pod": cell.pod,
                "ready": facts.ready, "restarts": facts.restarts, "address": facts.address, "pid": facts.pid,
            })
        });
        serde_json::json!({
            "instances": instances.collect::<Vec<_>>(),
            "networksReady": self.inner.manager.networks().ready(),
            "warning": self.inner.manager.networks().warning(),
            "keeper": self.keeper().pid(),
        })
    }
}

/// Removes everything of the platform in `data_dir` from the kernel: processes, cgroups, mounts, namespaces, links, the
/// bridge and the firewall rule; a keeper that survived its main process is stopped first. Objects, images and logs stay.
/// The main process must not run.
///
/// # Errors
/// A cgroup stayed busy.
pub async fn remove_everything(data_dir: &Path) -> Result<()> {
    let config = Config::new(data_dir, std::path::PathBuf::new());
    stop_keeper(&config).await;
    let work = move || {
        let root = CgroupRoot::detect(&config.names().cgroup());
        let removed = root.and_then(|root| root.remove_tree());
        network::remove_all(&config);
        for entry in std::fs::read_dir(config.data_dir.join("work")).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
        removed.map_err(|source| Error::Sandbox { step: "remove the cgroups", source })
    };
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Stopped))
}

/// Stops a keeper that is still there, and all its sandboxes with it.
async fn stop_keeper(config: &Config) {
    if tokio::net::UnixStream::connect(config.keeper_dir.join("keeper.sock")).await.is_err() {
        return;
    }
    let tasks = Tasks::new(dormouse_base::shutdown::Shutdown::new());
    match Keeper::start_or_attach(&config.exe, &config.keeper_dir, &tasks).await {
        Ok((keeper, _events, _)) => keeper.stop().await,
        Err(error) => tracing::warn!(error = dormouse_base::chain(&error), "could not stop the old keeper"),
    }
}

fn prepare_dirs(config: &Config, logs: &Path) -> Result<()> {
    for dir in [&config.data_dir, &config.run_dir, &logs.to_path_buf(), &config.data_dir.join("volumes")] {
        std::fs::create_dir_all(dir).map_err(Error::path("create", dir))?;
    }
    // Logs and secrets are nobody's business but root's.
    for dir in [logs, &config.data_dir.join("volumes")] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(dir, mode).map_err(Error::path("restrict", dir))?;
    }
    Ok(())
}
