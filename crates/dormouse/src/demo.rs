//! `dormouse demo`: the main job on real input, from source to the second wake, then everything cleaned up.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use dormouse_base::clock;
use dormouse_cli::args::{DataDir, Demo, Up};
use dormouse_image::{BuildInput, BuildOptions};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};

use crate::{down, up};

/// The function that is built: embedded so that the binary alone can run the demo.
const SOURCE: &str = include_str!("../../../examples/hello/main.rs");
/// No wait of the demo is longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Parallel requests of the load phase; the service takes one at a time.
const CLIENTS: usize = 20;

/// Runs the demo and removes everything it made, also after a failure.
pub(crate) async fn run(args: &Demo, executable: PathBuf) -> anyhow::Result<()> {
    let home = std::env::temp_dir().join(format!("dormouse-demo-{}", std::process::id()));
    std::fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let outcome = tokio::select! {
        outcome = story(args, &home, executable) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    down::sweep(&home.join("data")).await.context("clean up the demo's platform")?;
    std::fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))?;
    say("cleaned up", "no process, mount, namespace, bridge, cgroup or rule is left");
    outcome
}

async fn story(args: &Demo, home: &Path, executable: PathBuf) -> anyhow::Result<()> {
    let started = clock::now();
    let binary = compile(home)?;
    timed("built examples/hello from source", started);

    let started = clock::now();
    let data_dir = home.join("data");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = Up {
        data: DataDir { data_dir },
        api_listen: any,
        gateway_listen: Some(any),
        internal_gateway_listen: any,
        registry_listen: any,
        admin_listen: any,
        tls_san: Vec::new(),
        keep_instances: false,
        drain_seconds: 5,
    };
    let platform = up::start(&options, &executable).await?;
    timed("platform ready", started);
    let told = tell(args, &platform, &binary).await;
    platform.stop(false, Duration::from_secs(5)).await;
    told
}

async fn tell(args: &Demo, platform: &up::Platform, binary: &Path) -> anyhow::Result<()> {
    let name = format!("{}/hello:demo", platform.state.registry);
    let started = clock::now();
    platform.images.build(BuildInput::Binary(binary.to_path_buf()), &name, BuildOptions::default()).await?;
    timed("image in the store", started);

    sleep_soon(platform).await?;
    let started = clock::now();
    let url = deploy(platform, &name).await?;
    timed("service Ready", started);
    say("url", &url);

    wait_for_instances(platform, 0).await.context("waiting for the first sleep")?;
    say("asleep", "no instance runs");
    let host = url.trim_start_matches("http://").to_owned();
    cold(platform, &host, "cold start: first byte").await?;
    warm(platform, &host).await?;
    grow(platform, &host).await?;
    let started = clock::now();
    wait_for_instances(platform, 0).await.context("waiting for the second sleep")?;
    timed("asleep again after", started);
    cold(platform, &host, "second wake: first byte").await?;
    if args.stay {
        say("staying", &format!("export KUBECONFIG={}", platform.state.kubeconfig.display()));
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Compiles the example to a static binary with the toolchain that runs us.
fn compile(home: &Path) -> anyhow::Result<PathBuf> {
    let source = home.join("main.rs");
    std::fs::write(&source, SOURCE).with_context(|| format!("write {}", source.display()))?;
    let binary = home.join("hello");
    let output = Command::new("rustc")
        .args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-o"])
        .arg(&binary)
        .arg(&source)
        .output()
        .context("run rustc: is Rust installed and on PATH?")?;
    if !output.status.success() {
        bail!("rustc failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(binary)
}

/// Shortens the idle window so that the demo does not take minutes.
async fn sleep_soon(platform: &up::Platform) -> anyhow::Result<()> {
    let settings: Api<ConfigMap> = Api::namespaced(platform.client.clone(), "knative-serving");
    let change = serde_json::json!({"data": {"scale-to-zero-grace-period": "6s", "stable-window": "6s"}});
    settings
        .patch("config-autoscaler", &PatchParams::default(), &Patch::Merge(change))
        .await
        .context("set config-autoscaler")?;
    Ok(())
}

async fn deploy(platform: &up::Platform, image: &str) -> anyhow::Result<String> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("serving.knative.dev", "v1", "Service"));
    let services: Api<DynamicObject> = Api::namespaced_with(platform.client.clone(), "default", &kind);
    let service: DynamicObject = serde_json::from_value(serde_json::json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Service",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {"template": {"spec": {"containerConcurrency": 1, "containers": [{"image": image}]}}},
    }))?;
    services.create(&PostParams::default(), &service).await.context("create the Service")?;
    let ready = kube::runtime::wait::await_condition(services, "hello", |object: Option<&DynamicObject>| {
        object.is_some_and(is_ready)
    });
    let object = tokio::time::timeout(PATIENCE, ready)
        .await
        .context("the Service did not become Ready")??
        .context("the Service vanished")?;
    let url = object.data.pointer("/status/url").and_then(|url| url.as_str()).context("status.url")?;
    Ok(url.to_owned())
}

fn is_ready(object: &DynamicObject) -> bool {
    let conditions = object.data.pointer("/status/conditions").and_then(|value| value.as_array());
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| {
            condition.get("type").is_some_and(|kind| kind == "Ready")
                && condition.get("status").is_some_and(|status| status == "True")
        })
    })
}

async fn instances(platform: &up::Platform) -> anyhow::Result<usize> {
    let pods: Api<Pod> = Api::namespaced(platform.client.clone(), "default");
    Ok(pods.list(&ListParams::default().labels("serving.knative.dev/service=hello")).await?.items.len())
}

async fn wait_for_instances(platform: &up::Platform, wanted: usize) -> anyhow::Result<()> {
    let deadline = clock::now() + PATIENCE;
    while instances(platform).await? != wanted {
        if clock::now() > deadline {
            bail!("there are still {} instances after {PATIENCE:?}", instances(platform).await?);
        }
        clock::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn cold(platform: &up::Platform, host: &str, what: &str) -> anyhow::Result<()> {
    if instances(platform).await? != 0 {
        bail!("an instance runs although the service should sleep");
    }
    let started = clock::now();
    let (text, first) = get(&platform.state.gateway, host, "/").await?;
    say(what, &format!("{:.2} ms  {}", millis(first.duration_since(started)), text.trim()));
    Ok(())
}

async fn warm(platform: &up::Platform, host: &str) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = clock::now();
        let (_, first) = get(&platform.state.gateway, host, "/").await?;
        times.push(first.duration_since(started));
    }
    times.sort();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    say("warm request: median of 50", &format!("{:.2} ms", millis(middle)));
    Ok(())
}

/// Twenty clients against a service that takes one request at a time.
async fn grow(platform: &up::Platform, host: &str) -> anyhow::Result<()> {
    let started = clock::now();
    let requests = (0..CLIENTS).map(|_| get(&platform.state.gateway, host, "/sleep?ms=1500"));
    let watch = async {
        let mut most = 0;
        for _ in 0..60 {
            most = most.max(instances(platform).await.unwrap_or(0));
            clock::sleep(Duration::from_millis(25)).await;
        }
        most
    };
    let (answers, most) = tokio::join!(futures::future::join_all(requests), watch);
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {CLIENTS} requests failed");
    }
    let took = millis(clock::now().duration_since(started));
    say("under load", &format!("{CLIENTS} clients, {most} instances, no failure, {took:.0} ms"));
    Ok(())
}

/// One request on a fresh connection; the second part is when its first byte came.
async fn get(gateway: &str, host: &str, path: &str) -> anyhow::Result<(String, Instant)> {
    let stream =
        tokio::net::TcpStream::connect(gateway).await.with_context(|| format!("connect {gateway}"))?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(path).header("host", host).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let first = clock::now();
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if !status.is_success() {
            bail!("{status}: {text}");
        }
        Ok((text, first))
    };
    let both = async {
        tokio::select! {
            biased;
            answer = exchange => answer,
            // The driver ends only with the connection; the exchange then has its error.
            error = connection => bail!("connection ended early: {error:?}"),
        }
    };
    tokio::time::timeout(PATIENCE, both).await.context("no answer")?
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn timed(what: &str, started: Instant) {
    say(what, &format!("{:.1} ms", millis(clock::now().duration_since(started))));
}

#[expect(clippy::print_stdout, reason = "the demo's table is its output")]
fn say(what: &str, value: &str) {
    println!("  {what:<34} {value}");
}
