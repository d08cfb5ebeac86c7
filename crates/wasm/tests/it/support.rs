//! Building the components, a host, and calls.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dormouse_base::clock;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_wasm::{Config, Function, Grants, Host, Limits, LogSink, Source, Stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use sha2::Digest as _;

/// For what should take milliseconds.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The folder of the built components. They are built once per test run.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("components");
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/components/Cargo.toml");
        let said = Command::new(env!("CARGO"))
            .args([
                "build",
                "--release",
                "--locked",
                "--target",
                "wasm32-wasip2",
                "--manifest-path",
                manifest,
            ])
            .arg("--target-dir")
            .arg(&target)
            // What the outer build is told is not meant for the components.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .output()
            .expect("cargo runs");
        assert!(
            said.status.success(),
            "the components cannot be built; `rustup target add wasm32-wasip2` may be missing:\n{}",
            String::from_utf8_lossy(&said.stderr)
        );
        target.join("wasm32-wasip2/release")
    })
}

/// A component's file and digest.
pub(crate) fn component(name: &str) -> (PathBuf, String) {
    let path = built().join(name).with_extension("wasm");
    let bytes = std::fs::read(&path).expect("the component was built");
    (path, digest(&bytes))
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash: [u8; 32] = sha2::Sha256::digest(bytes).into();
    format!("sha256:{}", hash.map(|byte| format!("{byte:02x}")).concat())
}

/// A log in memory.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<(Stream, Vec<u8>)>>);

impl LogSink for Log {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.0.lock().unwrap().push((stream, bytes.to_vec()));
    }
}

impl Log {
    /// What was written to one of the outputs.
    pub(crate) fn text(&self, of: Stream) -> String {
        let log = self.0.lock().unwrap();
        let bytes = log.iter().filter(|(stream, _)| *stream == of).flat_map(|(_, bytes)| bytes.clone());
        String::from_utf8(bytes.collect()).unwrap()
    }

    /// Waits until one of the outputs contains `text`.
    pub(crate) async fn says(&self, of: Stream, text: &str) {
        until(&format!("the log says {text:?}"), || self.text(of).contains(text)).await;
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = clock::now() + SOON;
    while !condition() {
        assert!(clock::now() < deadline, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

/// A host with a cache of its own.
pub(crate) struct Machine {
    pub(crate) host: Host,
    pub(crate) tasks: Tasks,
    pub(crate) log: Arc<Log>,
    pub(crate) folder: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path().join("cache"));
        config.instances_max = 64;
        change(&mut config);
        let tasks = Tasks::new(Shutdown::new());
        let host = Host::new(config, tasks.clone()).unwrap();
        Self { host, tasks, log: Arc::default(), folder }
    }

    /// The function under test.
    pub(crate) fn function(&self, limits: Limits, change: impl FnOnce(&mut Grants)) -> Function {
        let (path, digest) = component("function");
        let component = self.host.load(&digest, Source::File(&path)).unwrap();
        let mut grants = Grants { log: Some(self.log.clone()), ..Grants::default() };
        change(&mut grants);
        component.bind(limits, grants)
    }

    pub(crate) fn plain(&self) -> Function {
        self.function(limits(SOON), |_| {})
    }
}

pub(crate) fn limits(request_timeout: Duration) -> Limits {
    Limits { memory_bytes: 32 << 20, request_timeout, ..Limits::default() }
}

pub(crate) fn get(target: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://function.example{target}")).body(Full::default()).unwrap()
}

/// A call and its whole answer.
pub(crate) async fn call(function: &Function, target: &str) -> (u16, String) {
    read(function.call(get(target)).await.unwrap()).await
}

pub(crate) async fn read<B>(response: Response<B>) -> (u16, String)
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), String::from_utf8_lossy(&bytes).into_owned())
}

/// The error of a call that must fail before its response begins.
pub(crate) async fn failure(function: &Function, target: &str) -> dormouse_wasm::Error {
    function.call(get(target)).await.expect_err("it fails")
}

pub(crate) fn since(moment: Instant) -> Duration {
    clock::now().duration_since(moment)
}

/// A task that is owned by the test that made it.
pub(crate) fn spawn<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    #[expect(clippy::disallowed_methods, reason = "the test waits for it or ends with it")]
    tokio::spawn(work)
}
