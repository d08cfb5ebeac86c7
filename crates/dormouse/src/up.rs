//! `dormouse up`: every part is made and wired here, in the order in which it must start.
//!
//! ```text
//! lock → keeper → listeners → store → API server → images → gateway → autoscaler → node → controllers
//!      → routes known → listeners accept → ready is announced
//! ```
//!
//! Stopping goes the other way: listeners, requests in flight, instances, controllers, store, keeper.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use dormouse_apiserver::{Authority, Hooks, Server};
use dormouse_autoscaler::Autoscaler;
use dormouse_base::clock;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_cli::args::Up;
use dormouse_cli::state::State;
use dormouse_controllers::serving::{self, Domain};
use dormouse_gateway::{Gateway, GatewayConfig, Visibility, routes};
use dormouse_image::Images;
use dormouse_node::Node;
use dormouse_sandbox::{Keeper, KeeperEvent, Running};
use dormouse_store::Store;

use crate::components::{Connector, Engine};
use crate::{admin, threads, wire};

/// The suffix of public hosts: names that need no DNS (RFC 6761).
const DOMAIN: &str = "localhost";
/// The public gateway's port when none is asked for, and the one taken when that is not free.
const GATEWAY_PORTS: [u16; 2] = [80, 8080];
/// How long reading all routes may take at the start.
const ROUTES_PATIENCE: Duration = Duration::from_secs(60);
/// How long the last tasks may take to end after everything was drained.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// A running platform.
pub(crate) struct Platform {
    /// Where it listens.
    pub(crate) state: State,
    /// The API, in process, as the administrator.
    pub(crate) client: kube::Client,
    /// The content store.
    pub(crate) images: Images,
    gateway: Gateway,
    node: Node,
    store: Store,
    ready: Arc<AtomicBool>,
    /// What accepts connections.
    front: Tasks,
    /// Everything else.
    back: Tasks,
    data_dir: std::path::PathBuf,
    _lock: File,
}

/// What a stop had to cut.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Requests that were still in flight at the deadline.
    pub(crate) requests: usize,
    /// Instances left running.
    pub(crate) kept: usize,
    /// Pods that did not end in time and were killed.
    pub(crate) killed: Vec<String>,
    /// Tasks that did not end.
    pub(crate) tasks: usize,
}

/// Runs a platform until SIGTERM, SIGINT or a failure of one of its parts.
pub(crate) async fn run(options: &Up, executable: &Path) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Handlers first: a signal during the start must not be lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let platform = start(options, executable).await?;
    announce(&platform.state, options);
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        () = platform.failed() => tracing::error!("a part failed: stopping"),
    }
    let failure = platform.failure();
    let report = platform.stop(options.keep_instances, Duration::from_secs(options.drain_seconds)).await;
    if report.requests + report.tasks + report.killed.len() > 0 {
        let (requests, tasks) = (report.requests, report.tasks);
        tracing::warn!(requests, tasks, killed = ?report.killed, "cut at the deadline");
    }
    tracing::info!(instances_kept = report.kept, "stopped");
    match failure {
        Some(failure) => bail!(failure),
        None => Ok(()),
    }
}

/// Starts a platform; returns when it serves everything that it already knew.
///
/// # Errors
/// Names the directory, the port or the privilege that is missing; nothing is left running.
pub(crate) async fn start(options: &Up, executable: &Path) -> anyhow::Result<Platform> {
    let data_dir = prepare_directory(&options.data.data_dir)?;
    let lock = lock(&data_dir)?;
    if !rustix::process::geteuid().is_root() {
        bail!("dormouse up needs root: it makes namespaces, cgroups and mounts; run it with sudo");
    }
    let before = State::read(&data_dir).unwrap_or_default();
    let (front, back) = (Tasks::new(Shutdown::new()), Tasks::new(Shutdown::new()));
    let hot = threads::hot().context("start a thread")?;
    let node_config = dormouse_node::Config {
        hot: Some(hot.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..dormouse_node::Config::new(&data_dir, executable.to_path_buf())
    };
    let (keeper, events, running) =
        keeper(executable, &node_config.keeper_dir, &back.at(hot)).await.context("start the keeper")?;
    let started =
        start_with(options, &data_dir, &keeper, events, running, node_config, before, (&front, &back)).await;
    match started {
        Ok(mut parts) => {
            parts.lock = Some(lock);
            parts.into_platform(front, back, data_dir)
        }
        Err(error) => {
            front.shutdown().trigger();
            back.shutdown().trigger();
            let _ = back.drain(LAST_TASKS).await;
            if keeper.list().await.is_empty() {
                keeper.stop().await;
            }
            Err(error)
        }
    }
}

type Attached = (Keeper, tokio::sync::mpsc::Receiver<KeeperEvent>, Vec<Running>);

/// Attaches in the runtime of `tasks`, which its socket belongs to from then on.
async fn keeper(executable: &Path, dir: &Path, tasks: &Tasks) -> Result<Attached, dormouse_sandbox::Error> {
    let (done, attached) = tokio::sync::oneshot::channel();
    let (executable, dir, owner) = (executable.to_path_buf(), dir.to_path_buf(), tasks.clone());
    tasks.spawn("keeper-attach", async move {
        // Nobody waits for it any more only when the start was given up.
        let _ = done.send(Keeper::start_or_attach(&executable, &dir, &owner).await);
    });
    attached.await.unwrap_or(Err(dormouse_sandbox::Error::KeeperDied))
}

struct Parts {
    state: State,
    client: kube::Client,
    images: Images,
    gateway: Gateway,
    node: Node,
    store: Store,
    ready: Arc<AtomicBool>,
    lock: Option<File>,
}

impl Parts {
    fn into_platform(
        self,
        front: Tasks,
        back: Tasks,
        data_dir: std::path::PathBuf,
    ) -> anyhow::Result<Platform> {
        Ok(Platform {
            state: self.state,
            client: self.client,
            images: self.images,
            gateway: self.gateway,
            node: self.node,
            store: self.store,
            ready: self.ready,
            front,
            back,
            data_dir,
            _lock: self.lock.context("the lock is taken first")?,
        })
    }
}

#[expect(clippy::too_many_arguments, reason = "the one place where everything meets")]
async fn start_with(
    options: &Up,
    data_dir: &Path,
    keeper: &Keeper,
    events: tokio::sync::mpsc::Receiver<KeeperEvent>,
    running: Vec<Running>,
    node_config: dormouse_node::Config,
    before: Option<State>,
    (front, back): (&Tasks, &Tasks),
) -> anyhow::Result<Parts> {
    let listeners = Listeners::bind(options, keeper, before.as_ref()).await?;

    let store =
        Store::open(&data_dir.join("store/objects.sqlite"), dormouse_store::Config::default()).await?;
    let authority = Authority::load_or_create(&data_dir.join("pki"), &options.tls_san, clock::timestamp())
        .context("the certificate authority")?;
    let node_later = wire::NodeLogs::default();
    let hooks = Hooks {
        logs: Some(Arc::new(node_later.clone())),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        authority: Some(authority.certificate_pem().to_owned()),
        signer: Some(authority.signer()),
        gateway_port: Some(listeners.gateway.local_addr()?.port()),
    };
    let server = Server::new(store.clone(), hooks, back.clone()).await.context("start the API server")?;
    let client = server.client("kubernetes-admin");
    let control = server.client("system:serviceaccount:knative-serving:controller");

    let registry = listeners.registry.local_addr()?.to_string();
    let images = Images::open(
        &data_dir.join("images"),
        dormouse_image::Config {
            local_hosts: dormouse_cli::image::local_hosts(&registry),
            ..dormouse_image::Config::default()
        },
    )
    .context("open the image store")?;

    let gateway = Gateway::new(GatewayConfig::default(), front.clone()).context("start the gateway")?;
    let scale = Arc::new(wire::NodeScale::default());
    let loads = Arc::new(wire::GatewayLoads(gateway.clone()));
    let autoscaler = Autoscaler::start(control.clone(), scale.clone(), loads, back);
    gateway.set_activate(Arc::new(wire::Demand(autoscaler.clone())));
    let (internal, public) = (listeners.internal_gateway.local_addr()?, listeners.gateway.local_addr()?);
    let connector = Connector::new(internal, public, DOMAIN);
    let components = Arc::new(Engine::new(data_dir.join("wasm"), connector, back.clone()));
    let node = Node::start(
        node_config,
        keeper.clone(),
        events,
        running,
        images.clone(),
        components.clone(),
        control.clone(),
        Arc::new(wire::ReadyInstances { gateway: gateway.clone(), autoscaler, components }),
        Arc::new(wire::Busy(gateway.clone())),
        back.clone(),
    )
    .await
    .context("start the node")?;
    let _ = scale.0.set(node.clone());
    let _ = node_later.0.set(node.clone());

    let gateway_port = listeners.gateway.local_addr()?.port();
    let domain = Domain { suffix: DOMAIN.to_owned(), port: (gateway_port != 80).then_some(gateway_port) };
    let deps = serving::Deps { resolve: Arc::new(wire::StoreDigests(images.clone())), domain };
    serving::run(control.clone(), deps, back.clone()).await;
    let routes = routes::RoutesConfig { public_port: gateway_port, ..routes::RoutesConfig::default() };
    // Connections made meanwhile wait in the listeners' backlogs: nobody gets a 404 for a route that is only not read yet.
    let known = routes::run(control, gateway.clone(), routes, back);
    tokio::time::timeout(ROUTES_PATIENCE, known).await.context("the routes could not be read in time")?;

    let state = listeners.state(keeper.pid(), data_dir)?;
    authority.write_kubeconfig(&state.kubeconfig, &format!("https://{}", state.api))?;
    let ready = Arc::new(AtomicBool::new(false));
    let facts = facts(&gateway, &node, &state, &ready);
    admin::spawn(listeners.admin, facts, back.shutdown().clone()).context("start the admin listener")?;

    let tls = authority.server_config()?;
    let api = tokio_listener(listeners.api)?;
    front.spawn("api-listener", dormouse_apiserver::serve(server, api, tls, front.clone()));
    let registry = tokio_listener(listeners.registry)?;
    front.spawn("registry", dormouse_image::registry::serve(registry, images.clone(), front.clone()));
    for (listener, visibility) in
        [(listeners.gateway, Visibility::External), (listeners.internal_gateway, Visibility::ClusterLocal)]
    {
        gateway.serve(&listener, visibility, front).context("serve the gateway")?;
    }
    state.write(data_dir)?;
    ready.store(true, Ordering::Release);
    Ok(Parts { state, client, images, gateway, node, store, ready, lock: None })
}

impl Platform {
    /// Returns when a part has failed and the platform should stop.
    async fn failed(&self) {
        tokio::select! {
            () = self.front.shutdown().wait() => {}
            () = self.back.shutdown().wait() => {}
        }
    }

    fn failure(&self) -> Option<String> {
        self.front.failure().or_else(|| self.back.failure())
    }

    /// Stops accepting, drains for at most `grace`, stops the instances unless they are kept, and closes everything.
    pub(crate) async fn stop(self, keep_instances: bool, grace: Duration) -> Report {
        self.ready.store(false, Ordering::Release);
        self.front.shutdown().trigger();
        let requests = self.gateway.drain(clock::now() + grace).await;
        let cut = self.node.stop(keep_instances).await;
        self.back.shutdown().trigger();
        let tasks = self.back.drain(LAST_TASKS).await;
        self.store.close().await;
        if !keep_instances {
            // The node may have started another keeper since.
            self.node.keeper().stop().await;
            State::remove(&self.data_dir);
        }
        Report { requests, kept: cut.kept, killed: cut.cut, tasks }
    }
}

/// The sockets, all bound before anything moves.
struct Listeners {
    api: std::net::TcpListener,
    gateway: std::net::TcpListener,
    internal_gateway: std::net::TcpListener,
    registry: std::net::TcpListener,
    admin: std::net::TcpListener,
}

impl Listeners {
    async fn bind(options: &Up, keeper: &Keeper, before: Option<&State>) -> anyhow::Result<Self> {
        // A surviving keeper still has the sockets of the last run: clients that know their ports must find them.
        let again = |wanted: SocketAddr, last: Option<&String>| match last.and_then(|text| text.parse().ok())
        {
            Some(last) if wanted.port() == 0 => last,
            _ => wanted,
        };
        let last = |pick: fn(&State) -> &String| before.map(pick);
        let gateway = match options.gateway_listen {
            Some(wanted) => {
                listen(keeper, again(wanted, last(|state| &state.gateway)), "--gateway-listen").await?
            }
            None => first_free(keeper).await?,
        };
        let api = again(options.api_listen, last(|state| &state.api));
        let internal = again(options.internal_gateway_listen, last(|state| &state.internal_gateway));
        let registry = again(options.registry_listen, last(|state| &state.registry));
        let admin = again(options.admin_listen, last(|state| &state.admin));
        Ok(Self {
            api: listen(keeper, api, "--api-listen").await?,
            gateway,
            internal_gateway: listen(keeper, internal, "--internal-gateway-listen").await?,
            registry: listen(keeper, registry, "--registry-listen").await?,
            admin: std::net::TcpListener::bind(admin)
                .map_err(|error| taken(admin, "--admin-listen", &error))?,
        })
    }

    fn state(&self, keeper_pid: u32, data_dir: &Path) -> anyhow::Result<State> {
        Ok(State {
            pid: std::process::id(),
            keeper_pid,
            api: self.api.local_addr()?.to_string(),
            gateway: self.gateway.local_addr()?.to_string(),
            internal_gateway: self.internal_gateway.local_addr()?.to_string(),
            registry: self.registry.local_addr()?.to_string(),
            admin: self.admin.local_addr()?.to_string(),
            kubeconfig: data_dir.join("kubeconfig"),
        })
    }
}

async fn listen(keeper: &Keeper, address: SocketAddr, flag: &str) -> anyhow::Result<std::net::TcpListener> {
    keeper.listen(address).await.map_err(|error| taken(address, flag, &error))
}

fn taken(address: SocketAddr, flag: &str, error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let why = dormouse_base::chain(error);
    anyhow::anyhow!(
        "cannot listen on {address}: {why}; stop what uses port {} or choose another with {flag}",
        address.port()
    )
}

/// The public gateway's default: port 80 when it is free, else 8080.
async fn first_free(keeper: &Keeper) -> anyhow::Result<std::net::TcpListener> {
    let mut last = None;
    for port in GATEWAY_PORTS {
        match listen(keeper, SocketAddr::from(([127, 0, 0, 1], port)), "--gateway-listen").await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("there are default ports")?)
}

fn tokio_listener(listener: std::net::TcpListener) -> anyhow::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

fn prepare_directory(directory: &Path) -> anyhow::Result<std::path::PathBuf> {
    std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))
        .with_context(|| format!("set the mode of {}", directory.display()))?;
    directory.canonicalize().with_context(|| format!("resolve {}", directory.display()))
}

/// One platform per data directory. The kernel releases the lock when the process ends, however it ends.
fn lock(directory: &Path) -> anyhow::Result<File> {
    use rustix::fs::{FlockOperation, flock};
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let who = State::read(directory)
                .ok()
                .flatten()
                .map_or_else(String::new, |state| format!(" (process {})", state.pid));
            bail!(
                "another dormouse{who} already runs on {}; use it, stop it with `dormouse down --data-dir {}`, or choose another --data-dir",
                directory.display(),
                directory.display()
            )
        }
        Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

fn facts(gateway: &Gateway, node: &Node, state: &State, ready: &Arc<AtomicBool>) -> admin::Facts {
    let (metrics, busy, node) = (gateway.clone(), gateway.clone(), node.clone());
    let (state, is_ready) = (state.clone(), ready.clone());
    admin::Facts {
        ready: ready.clone(),
        metrics: Arc::new(move || metrics.metrics()),
        status: Arc::new(move || {
            serde_json::json!({
                "phase": if is_ready.load(Ordering::Acquire) { "Running" } else { "Stopping" },
                "addresses": state,
                "requestsInFlight": busy.busy(),
                "instances": node.processes().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            })
        }),
    }
}

#[expect(clippy::print_stdout, reason = "what to do next is the output of `up`")]
fn announce(state: &State, options: &Up) {
    println!("Dormouse is ready.");
    println!();
    println!("  export KUBECONFIG={}", state.kubeconfig.display());
    println!("  kubectl get ksvc -A");
    println!();
    println!(
        "  gateway   http://{}   services answer as http://<name>.<namespace>.localhost{}",
        state.gateway,
        port_of(&state.gateway)
    );
    println!(
        "  registry  http://{}   dormouse image build --data-dir {} --name {}/hello:v1 ./binary",
        state.registry,
        options.data.data_dir.display(),
        state.registry
    );
    println!("  stop with Ctrl-C; `dormouse down` also removes everything it made outside its directory");
}

fn port_of(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((_, "80")) | None => String::new(),
        Some((_, port)) => format!(":{port}"),
    }
}
