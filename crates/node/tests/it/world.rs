//! A node of its own for each test: data directory, keeper, image, fake API, recorded endpoints.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use dormouse_api::key::RevisionKey;
use dormouse_base::clock;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_image::{BuildInput, BuildOptions, Images};
use dormouse_node::{
    ComponentError, ComponentPlan, ComponentSource, Components, Config, Endpoint, Endpoints, InFlight, Node,
    Serving,
};
use dormouse_sandbox::Keeper;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::api::Api;

const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/hello-00001-deployment";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";

/// Whether this machine can run instances; says so loudly when not.
pub(crate) fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: instances need root; run the tests as root");
    }
    root
}

/// Waits until `condition` holds.
pub(crate) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = clock::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(clock::now() < deadline, "waited in vain: {what}");
        clock::sleep(Duration::from_millis(2)).await;
    }
}

/// The static program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/server.c");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("server-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let out = dir.join("server");
        let built = Command::new("cc").args(["-static", "-O1", "-o"]).arg(&out).arg(source).status();
        assert!(built.expect("cc is needed").success(), "cc -static is needed");
        out
    })
}

#[derive(Default)]
pub(crate) struct Recorder {
    endpoints: Mutex<HashMap<RevisionKey, Vec<Endpoint>>>,
    /// Rings at every change.
    pub(crate) changed: tokio::sync::Notify,
}

impl Endpoints for Recorder {
    fn set(&self, revision: &RevisionKey, endpoints: Vec<Endpoint>) {
        self.endpoints.lock().unwrap().insert(revision.clone(), endpoints);
        self.changed.notify_one();
    }
}

struct NothingInFlight;

impl InFlight for NothingInFlight {
    fn count(&self, _: &SocketAddr) -> usize {
        0
    }

    fn idle(&self, _: SocketAddr, _: Instant) -> BoxFuture<'static, bool> {
        async { true }.boxed()
    }
}

pub(crate) struct World {
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) config: Config,
    pub(crate) api: Api,
    pub(crate) node: Node,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) tasks: Tasks,
}

pub(crate) fn revision() -> RevisionKey {
    RevisionKey::new("default", "hello-00001")
}

/// Components are proven end to end, with the engine.
struct NoComponents;

impl Components for NoComponents {
    fn prepare(&self, source: ComponentSource) -> BoxFuture<'static, Result<(), ComponentError>> {
        Box::pin(async move { panic!("{source:?} is prepared") })
    }

    fn serve(&self, plan: ComponentPlan) -> BoxFuture<'static, Result<Box<dyn Serving>, ComponentError>> {
        Box::pin(async move { panic!("{plan:?} is served") })
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    // Where `build.build-dir` is set, tests lie there and finished programs in `target`.
    let target =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(profile.file_name().unwrap());
    let mut found = [profile, &target].map(|dir| dir.join("examples/node_keeper")).into_iter();
    let exe = found.find(|exe| exe.exists()).expect("node_keeper is built: run the tests without --test");
    Config { networks_ready: 3, slots_ready: 3, ..Config::new(dir, exe) }
}

pub(crate) fn deployment(replicas: u32, env: Value) -> Value {
    let mut all = vec![json!({"name": "PORT", "value": "8080"})];
    all.extend(env.as_array().cloned().unwrap_or_default());
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "hello-00001-deployment", "namespace": "default", "generation": 1,
            "labels": {"serving.knative.dev/revision": "hello-00001"}},
        "spec": {"replicas": replicas, "progressDeadlineSeconds": 1,
            "selector": {"matchLabels": {"app": "hello"}}, "template": {
            "metadata": {"labels": {"app": "hello"}},
            "spec": {"terminationGracePeriodSeconds": 5, "containers": [{
                "name": "user-container", "image": "dev.local/hello:v1", "env": all,
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "ports": [{"name": "user-port", "containerPort": 8080}]}]}}}
    })
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::start(dir, Api::default(), Arc::default()).await
    }

    pub(crate) async fn start(dir: Arc<tempfile::TempDir>, api: Api, recorder: Arc<Recorder>) -> Self {
        let config = config(dir.path());
        let tasks = Tasks::new(Shutdown::new());
        let images = Images::open(&dir.path().join("images"), dormouse_image::Config::default()).unwrap();
        let input = BuildInput::Binary(program().to_path_buf());
        images.build(input, "dev.local/hello:v1", BuildOptions::default()).await.unwrap();
        let (keeper, events, running) =
            Keeper::start_or_attach(&config.exe, &config.keeper_dir, &tasks).await.unwrap();
        let node = Node::start(
            config.clone(),
            keeper,
            events,
            running,
            images,
            Arc::new(NoComponents),
            api.client(),
            recorder.clone(),
            Arc::new(NothingInFlight),
            tasks.clone(),
        )
        .await
        .unwrap();
        Self { dir, config, api, node, recorder, tasks }
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.recorder.endpoints.lock().unwrap().get(&revision()).cloned().unwrap_or_default()
    }

    pub(crate) async fn ready(&self, count: usize) -> Vec<Endpoint> {
        let what = format!("{count} endpoints");
        until(&what, || Some(self.endpoints()).filter(|endpoints| endpoints.len() == count)).await
    }

    /// Goes away as `kill -9` would have it: no farewell, the keeper stays.
    pub(crate) async fn vanish(self) -> (Arc<tempfile::TempDir>, Api) {
        let (dir, api, tasks) = (self.dir.clone(), self.api.clone(), self.tasks.clone());
        drop(self);
        tasks.shutdown().trigger();
        (dir, api)
    }

    /// Stops all and proves that nothing is left.
    pub(crate) async fn end(self) {
        let report = self.node.stop(false).await;
        assert_eq!(report.cut, Vec::<String>::new());
        self.tasks.shutdown().trigger();
        remove(&self.config, self.dir.path()).await;
    }
}

impl Drop for World {
    /// A failed test must not leave anything behind.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.tasks.shutdown().trigger();
        let dir = self.dir.path().to_path_buf();
        let clean = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = runtime.block_on(dormouse_node::remove_everything(&dir));
        };
        let _ = std::thread::spawn(clean).join();
    }
}

/// `dormouse down`, and the proof that nothing is left.
pub(crate) async fn remove(config: &Config, dir: &Path) {
    dormouse_node::remove_everything(dir).await.unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let left = |text: &str, what: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(what)).collect();
        assert!(lines.is_empty(), "left behind: {lines:?}");
    };
    left(&mounts, config.run_dir.to_str().unwrap());
    left(&mounts, dir.to_str().unwrap());
    let hash = config.run_dir.file_name().unwrap().to_str().unwrap().to_owned();
    let names = |path: &str| -> String {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| format!("{}\n", entry.file_name().to_string_lossy())).collect()
    };
    left(&names("/sys/class/net"), &hash);
    left(&names("/sys/fs/cgroup/memory"), &hash);
    let rules = Command::new("nft").args(["list", "tables"]).output().unwrap();
    left(&String::from_utf8_lossy(&rules.stdout), &hash);
    assert!(!config.run_dir.exists());
}

/// The answer of a GET without its head.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // In one piece: the program reads once.
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
