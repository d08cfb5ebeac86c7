//! A running `dormouse up` in a folder of its own, on free ports, and how a scenario speaks to it.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dormouse_base::clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Request, Response};
use crate::{api::Api, leftovers, tools, until};

/// The image every scenario may use: `examples/hello`, built into the platform's own store.
pub const HELLO: &str = "dev.local/hello:v1";

/// From `exec` to the ready state; generous, since tests run beside each other in debug builds.
pub const BOOT: Duration = Duration::from_secs(30);

/// From a manifest to `Ready`, likewise.
pub const READY: Duration = Duration::from_secs(30);

/// How a platform differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further arguments of `up`.
    pub arguments: Vec<String>,
    /// Environment of `up`.
    pub environment: Vec<(String, String)>,
    /// An existing data directory instead of a new one.
    pub data: Option<PathBuf>,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output of a command that succeeded.
    ///
    /// # Errors
    /// When it failed, with all that it said.
    pub fn ok(self) -> Result<String> {
        ensure!(self.status.success(), "{}: {}{}", self.status, self.out, self.err);
        Ok(self.out)
    }

    /// All that a command said that had to fail.
    ///
    /// # Errors
    /// When it succeeded.
    pub fn failed(self) -> Result<String> {
        ensure!(!self.status.success(), "succeeded, but should have failed: {}{}", self.out, self.err);
        Ok(format!("{}{}", self.out, self.err))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { status: output.status, out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// What `run/state.json` tells.
#[derive(Clone, Debug)]
pub struct State {
    /// The main process.
    pub pid: i32,
    /// The keeper, its only other process.
    pub keeper: i32,
    /// The API server.
    pub api: SocketAddr,
    /// The public gateway.
    pub gateway: SocketAddr,
    /// The cluster-internal gateway.
    pub internal: SocketAddr,
    /// The registry.
    pub registry: SocketAddr,
    /// Health, metrics, status.
    pub admin: SocketAddr,
    /// The file for `kubectl`.
    pub kubeconfig: PathBuf,
}

/// One instance of a function, seen from the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its process.
    pub pid: i32,
    /// The revision it serves.
    pub revision: String,
}

/// A running platform. Dropped, it is taken down and must have left nothing.
pub struct Platform {
    folder: Option<TempDir>,
    data: PathBuf,
    log: PathBuf,
    process: Mutex<Child>,
    state: Mutex<State>,
    booted: Mutex<Duration>,
    options: Options,
    down: bool,
}

/// Whether scenarios can run here; says loudly when they cannot.
pub fn possible() -> bool {
    if !rustix::process::geteuid().is_root() {
        announce("SKIPPED: end-to-end scenarios need root (namespaces, mounts, cgroups)");
        return false;
    }
    // A container that has root, but may not make namespaces.
    let namespaces = Command::new("unshare").args(["--mount", "--net", "--pid", "--fork", "true"]).output();
    let allowed = namespaces.is_ok_and(|output| output.status.success());
    if !allowed {
        announce(
            "SKIPPED: end-to-end scenarios need namespaces, which this machine does not allow root to make",
        );
    }
    allowed
}

#[expect(clippy::print_stderr, reason = "a skipped scenario must be seen")]
fn announce(text: &str) {
    eprintln!("{text}");
}

impl Platform {
    /// A platform that scenarios share, for those that neither stop it nor count what runs on it.
    /// `None` when this machine cannot run one.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn shared() -> Result<Option<Arc<Platform>>> {
        static SHARED: Mutex<Weak<Platform>> = Mutex::new(Weak::new());
        if !possible() {
            return Ok(None);
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(platform) = shared.upgrade() {
            return Ok(Some(platform));
        }
        let platform = Arc::new(Platform::start(Options::default())?);
        platform.add_hello()?;
        *shared = Arc::downgrade(&platform);
        Ok(Some(platform))
    }

    /// A platform of the scenario's own, with the example image in it. `None` when this machine cannot run one.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn own(options: Options) -> Result<Option<Platform>> {
        if !possible() {
            return Ok(None);
        }
        let platform = Platform::start(options)?;
        platform.add_hello()?;
        Ok(Some(platform))
    }

    /// Starts `dormouse up` and waits until it says that it is ready.
    ///
    /// # Errors
    /// With the log's end, when it does not become ready.
    pub fn start(options: Options) -> Result<Platform> {
        let (folder, data) = match &options.data {
            Some(data) => (None, data.clone()),
            None => {
                let folder = tempfile::Builder::new().prefix("dormouse-e2e-").tempdir()?;
                let data = folder.path().to_owned();
                (Some(folder), data)
            }
        };
        let log = data.join("e2e.log");
        let process = spawn(&data, &log, &options)?;
        let mut platform = Platform {
            folder,
            data,
            log,
            process: Mutex::new(process),
            state: Mutex::new(State::unknown()),
            booted: Mutex::new(Duration::ZERO),
            options,
            down: false,
        };
        if let Err(error) = platform.await_ready() {
            platform.down = true;
            let error = error.context(platform.log_end());
            drop(platform.dormouse(["down"]));
            drop(lock(&platform.process).kill());
            drop(lock(&platform.process).wait());
            return Err(error);
        }
        Ok(platform)
    }

    /// Starts the main process again after its end, on the same data.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&self) -> Result<()> {
        drop(lock(&self.process).wait());
        // The same ports: what kubeconfigs and clients hold stays true.
        let state = self.state();
        let mut options = self.options.clone();
        options.arguments.extend(listen_arguments(&state));
        *lock(&self.process) = spawn(&self.data, &self.log, &options)?;
        self.await_ready()
    }

    fn await_ready(&self) -> Result<()> {
        let begun = clock::now();
        let path = self.data.join("run/state.json");
        let pid = i32::try_from(lock(&self.process).id())?;
        let state = until("dormouse up becomes ready", BOOT, || {
            if let Some(status) = lock(&self.process).try_wait()? {
                // Not "not yet" but never: give up at the next look.
                return Ok(Some(Err(anyhow::anyhow!("dormouse up ended: {status}"))));
            }
            let text = std::fs::read_to_string(&path).context("state.json")?;
            let state = State::parse(&text)?;
            Ok((state.pid == pid).then_some(Ok(state)))
        })??;
        *lock(&self.booted) = begun.elapsed();
        *lock(&self.state) = state;
        Ok(())
    }

    /// From its start until it said that it was ready.
    pub fn booted(&self) -> Duration {
        *lock(&self.booted)
    }

    /// Where it listens and what its processes are.
    pub fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The end of what it logged, for a failure's text.
    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
        format!("the end of the log:\n{}", end.join("\n"))
    }

    /// Everything it logged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// Runs a verb of the program on this data directory.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn dormouse<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Said> {
        let mut arguments = arguments.into_iter();
        let mut command = Command::new(tools::dormouse()?);
        command.args(arguments.next()).arg("--data-dir").arg(&self.data).args(arguments).stdin(Stdio::null());
        Ok(command.output().context("run dormouse")?.into())
    }

    /// Puts the example function's image into the platform's store.
    ///
    /// # Errors
    /// When the image cannot be built.
    pub fn add_hello(&self) -> Result<()> {
        let hello = tools::hello()?;
        let name = OsStr::new(HELLO);
        let said = self.dormouse([
            OsStr::new("image"),
            OsStr::new("build"),
            OsStr::new("--name"),
            name,
            hello.as_os_str(),
        ])?;
        said.ok().context("dormouse image build")?;
        Ok(())
    }

    /// Puts a WebAssembly component into the platform's store.
    ///
    /// # Errors
    /// When it is none.
    pub fn add_component(&self, name: &str, file: &Path) -> Result<()> {
        let arguments = ["image", "build", "--name", name].map(OsStr::new);
        self.dormouse(arguments.into_iter().chain([file.as_os_str()]))?
            .ok()
            .context("dormouse image build")?;
        Ok(())
    }

    /// The names of the instances that the platform itself tells, components included.
    ///
    /// # Errors
    /// When its status cannot be read.
    pub fn told_instances(&self) -> Result<Vec<String>> {
        let answer = http::send(self.state().admin, &Request::get("dormouse", "/statusz"))?;
        let status: Value = serde_json::from_slice(&answer.body).context("statusz")?;
        let instances = status.pointer("/instances").and_then(Value::as_object).context("instances")?;
        Ok(instances.keys().cloned().collect())
    }

    /// Runs `kubectl` against it.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Said> {
        Ok(self.kubectl_command()?.args(arguments).stdin(Stdio::null()).output()?.into())
    }

    /// A `kubectl` to be run otherwise than at once.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = Command::new(tools::find("kubectl")?);
        // A home of its own: kubectl caches discovery by host and port, and ports repeat.
        command.env("KUBECONFIG", self.state().kubeconfig).env("HOME", &self.data);
        Ok(command)
    }

    /// `kubectl apply -f` of a manifest.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn apply(&self, manifest: &str) -> Result<Said> {
        let file = tempfile::Builder::new().prefix("manifest-").suffix(".yaml").tempfile_in(&self.data)?;
        std::fs::write(file.path(), manifest)?;
        self.kubectl(&["apply", "-f", &file.path().display().to_string()])
    }

    /// Applies a manifest and waits until the service is ready.
    ///
    /// # Errors
    /// With the service as the API shows it, when it does not become ready.
    pub fn deploy(&self, name: &str, manifest: &str) -> Result<()> {
        self.apply(manifest)?.ok().context("apply")?;
        self.ready(name)
    }

    /// Waits until a service is ready for its latest generation.
    ///
    /// # Errors
    /// With its status, when it does not become ready.
    pub fn ready(&self, name: &str) -> Result<()> {
        until(&format!("ksvc/{name} becomes ready"), READY, || {
            let service = self.get_service(name)?;
            let (status, shown) = condition(&service, "Ready");
            let seen = service.pointer("/status/observedGeneration");
            ensure!(
                seen.is_some() && seen == service.pointer("/metadata/generation"),
                "not observed yet: {shown}"
            );
            ensure!(status == "True", "{shown}");
            Ok(Some(()))
        })
        .with_context(|| self.log_end())
    }

    /// Waits until a service and its first revision will not become ready, and gives what the revision says:
    /// `reason: message`.
    ///
    /// # Errors
    /// When they do not become false.
    pub fn refused(&self, service: &str) -> Result<String> {
        let mut session = self.api()?.connect()?;
        let mut falls = |path: &str| {
            until(&format!("{path} becomes Ready=False"), Duration::from_secs(60), || {
                let (status, text) = condition(&session.get(path)?, "Ready");
                ensure!(status == "False", "{status:?} {text}");
                Ok(Some(text))
            })
            .with_context(|| self.log_end())
        };
        falls(&service_path(service))?;
        falls(&first_revision_path(service))
    }

    /// A client of the API for looks that must be quick.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub fn api(&self) -> Result<Api> {
        Api::from_kubeconfig(&self.state().kubeconfig)
    }

    /// A Knative Service of the default namespace.
    ///
    /// # Errors
    /// When there is none.
    pub fn get_service(&self, name: &str) -> Result<Value> {
        self.api()?.get(&service_path(name))
    }

    /// The host of a service of the default namespace, as the default domain names it.
    pub fn host(&self, name: &str) -> String {
        format!("{name}.default.localhost:{}", self.state().gateway.port())
    }

    /// GET through the public gateway.
    ///
    /// # Errors
    /// When there is no response.
    pub fn get(&self, name: &str, path: &str) -> Result<Response> {
        http::send(self.state().gateway, &Request::get(&self.host(name), path))
    }

    /// The instances that run on this machine, read from the kernel rather than from the API.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn instances(&self) -> Result<Vec<Instance>> {
        instances_of(self.state().keeper)
    }

    /// The instances of one service.
    ///
    /// # Errors
    /// As [`Platform::instances`].
    pub fn instances_of(&self, service: &str) -> Result<Vec<Instance>> {
        let mut instances = self.instances()?;
        instances.retain(|instance| instance.revision.starts_with(&format!("{service}-")));
        Ok(instances)
    }

    /// Waits until no instance of a service runs.
    ///
    /// # Errors
    /// When one still runs at the deadline.
    pub fn asleep(&self, service: &str, limit: Duration) -> Result<()> {
        until(&format!("{service} sleeps"), limit, || {
            let instances = self.instances_of(service)?;
            ensure!(instances.is_empty(), "{instances:?}");
            Ok(Some(()))
        })
        .with_context(|| self.log_end())
    }

    /// `kill -9` of the main process.
    ///
    /// # Errors
    /// When it is already gone.
    pub fn kill_main(&self) -> Result<()> {
        kill(self.state().pid, Signal::KILL)?;
        drop(lock(&self.process).wait());
        Ok(())
    }

    /// Waits until the main process has ended by itself.
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub fn ended(&self, limit: Duration) -> Result<ExitStatus> {
        until("dormouse up ends", limit, || Ok(lock(&self.process).try_wait()?))
    }

    /// Reads again where the processes are, after one was replaced.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn refresh(&self) -> Result<()> {
        let text = std::fs::read_to_string(self.data.join("run/state.json"))?;
        *lock(&self.state) = State::parse(&text)?;
        Ok(())
    }

    /// `dormouse down`, and proof that nothing is left.
    ///
    /// # Errors
    /// When it fails or something is left.
    pub fn take_down(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        self.down = true;
        let mut processes: Vec<i32> = self.instances()?.iter().map(|instance| instance.pid).collect();
        let state = self.state();
        processes.extend([state.pid, state.keeper]);
        // Our child must be reaped while `down` waits for its end.
        let (said, ended) = std::thread::scope(|scope| {
            let down = scope.spawn(|| self.dormouse(["down"]));
            let ended = self.ended(Duration::from_secs(40));
            (down.join().expect("running a command does not panic"), ended)
        });
        let said = said?;
        if ended.is_err() {
            drop(lock(&self.process).kill());
            drop(lock(&self.process).wait());
        }
        said.ok().context("dormouse down").with_context(|| self.log_end())?;
        ended?;
        let left = leftovers::of_platform(&self.data, &processes);
        ensure!(left.is_empty(), "dormouse down left behind: {left:#?}\n{}", self.log_end());
        if let Some(folder) = self.folder.take() {
            folder.close().context("remove the data directory")?;
        }
        Ok(())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if self.down {
            return;
        }
        let result = self.finish();
        // A scenario that already fails keeps its own reason.
        if !std::thread::panicking() {
            result.expect("the platform goes away without a trace");
        }
    }
}

impl State {
    fn unknown() -> State {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        State {
            pid: 0,
            keeper: 0,
            api: nowhere,
            gateway: nowhere,
            internal: nowhere,
            registry: nowhere,
            admin: nowhere,
            kubeconfig: PathBuf::new(),
        }
    }

    fn parse(text: &str) -> Result<State> {
        let value: Value = serde_json::from_str(text).context("state.json")?;
        let number = |key: &str| -> Result<i32> {
            let number =
                value.get(key).and_then(Value::as_i64).with_context(|| format!("state.json: {key}"))?;
            Ok(i32::try_from(number)?)
        };
        let text =
            |key: &str| value.get(key).and_then(Value::as_str).with_context(|| format!("state.json: {key}"));
        let address = |key: &str| -> Result<SocketAddr> {
            text(key)?.parse().with_context(|| format!("state.json: {key}"))
        };
        Ok(State {
            pid: number("pid")?,
            keeper: number("keeper_pid")?,
            api: address("api")?,
            gateway: address("gateway")?,
            internal: address("internal_gateway")?,
            registry: address("registry")?,
            admin: address("admin")?,
            kubeconfig: text("kubeconfig")?.into(),
        })
    }
}

fn listen_arguments(state: &State) -> Vec<String> {
    let listeners = [
        ("--api-listen", state.api),
        ("--gateway-listen", state.gateway),
        ("--internal-gateway-listen", state.internal),
        ("--registry-listen", state.registry),
        ("--admin-listen", state.admin),
    ];
    listeners.into_iter().flat_map(|(flag, address)| [flag.to_owned(), address.to_string()]).collect()
}

fn spawn(data: &Path, log: &Path, options: &Options) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(tools::dormouse()?);
    command.arg("up").arg("--data-dir").arg(data);
    // Free ports, except those that the scenario chooses.
    let free = listen_arguments(&State::unknown());
    for pair in free.chunks(2) {
        if let [flag, address] = pair
            && !options.arguments.contains(flag)
        {
            command.args([flag, address]);
        }
    }
    command.args(&options.arguments).envs(options.environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("start dormouse up")
}

/// Runs `dormouse up` to its end, for those starts that must fail.
///
/// # Errors
/// When it still runs after `limit`.
pub fn up_fails(arguments: &[&str], limit: Duration) -> Result<Said> {
    let mut child = Command::new(tools::dormouse()?)
        .arg("up")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Err(error) = until("dormouse up gives up", limit, || Ok(child.try_wait()?)) {
        kill(i32::try_from(child.id())?, Signal::TERM)?;
        let said: Said = child.wait_with_output()?.into();
        bail!("{error:#}: {}{}", said.out, said.err);
    }
    Ok(child.wait_with_output()?.into())
}

/// Sends a signal.
///
/// # Errors
/// When there is no such process.
pub fn kill(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("a process id")?;
    kill_process(pid, signal).with_context(|| format!("signal {signal:?} to {pid:?}"))
}

/// The instances that a keeper holds.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn instances_of(keeper: i32) -> Result<Vec<Instance>> {
    let mut instances = Vec::new();
    let mut parents = vec![keeper];
    while let Some(parent) = parents.pop() {
        for pid in leftovers::children(parent) {
            match leftovers::environment(pid, "K_REVISION") {
                Some(revision) => instances.push(Instance { pid, revision }),
                None => parents.push(pid),
            }
        }
    }
    instances.sort_by_key(|instance| instance.pid);
    Ok(instances)
}

/// Where the API keeps a Knative Service of the default namespace.
pub fn service_path(name: &str) -> String {
    format!("/apis/serving.knative.dev/v1/namespaces/default/services/{name}")
}

/// Where the API keeps the first revision of a Knative Service of the default namespace.
pub fn first_revision_path(service: &str) -> String {
    format!("/apis/serving.knative.dev/v1/namespaces/default/revisions/{service}-00001")
}

/// Status of a condition, and `reason: message`.
pub fn condition(object: &Value, kind: &str) -> (String, String) {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found =
        conditions.and_then(|all| all.iter().find(|one| one.get("type").is_some_and(|name| name == kind)));
    let field = |name: &str| {
        found.and_then(|one| one.get(name)).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    (field("status"), format!("{}: {}", field("reason"), field("message")))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
