//! Many services at zero: what cold starts and memory are measured on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dormouse_base::clock;
use dormouse_e2e::api::Session;
use dormouse_e2e::http::Request;
use dormouse_e2e::platform::{HELLO, condition, service_path};
use dormouse_e2e::{Options, Platform, until};
use serde_json::{Value, json};

/// The shortest window and grace that Knative allows, and time to stop.
const ASLEEP: Duration = Duration::from_secs(60);

/// A platform whose services may start at zero and sleep as early as Knative allows.
pub(crate) fn platform(options: Options) -> Result<Platform> {
    let platform = Platform::start(options)?;
    platform.add_hello()?;
    let change = json!({ "data": {
        "allow-zero-initial-scale": "true",
        "scale-to-zero-grace-period": "6s",
    }});
    let path = "/api/v1/namespaces/knative-serving/configmaps/config-autoscaler";
    platform.api()?.connect()?.send("PATCH", path, &change)?;
    Ok(platform)
}

/// The manifest of one service at zero.
pub(crate) fn manifest(name: &str) -> Value {
    manifest_of(name, HELLO)
}

/// The manifest of one service of an image at zero.
pub(crate) fn manifest_of(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Service",
        "metadata": { "name": name },
        "spec": { "template": {
            "metadata": { "annotations": {
                "autoscaling.knative.dev/initial-scale": "0",
                "autoscaling.knative.dev/window": "6s",
            }},
            "spec": { "containers": [{ "image": image }] },
        }},
    })
}

/// Creates an object in the collection of Knative Services.
pub(crate) fn create(session: &mut Session, name: &str) -> Result<()> {
    create_of(session, &manifest(name))
}

fn create_of(session: &mut Session, manifest: &Value) -> Result<()> {
    let path = service_path("");
    session.send("POST", path.trim_end_matches('/'), manifest).map(drop)
}

/// Services that exist, are Ready, and sleep.
pub(crate) struct Fleet {
    /// Their names.
    pub(crate) names: Vec<String>,
}

impl Fleet {
    /// Creates them and waits until all are Ready.
    pub(crate) fn create(platform: &Platform, count: usize) -> Result<Fleet> {
        Self::of(platform, "sleeper", HELLO, count)
    }

    /// Likewise, of an image of the caller's.
    pub(crate) fn of(platform: &Platform, prefix: &str, image: &str, count: usize) -> Result<Fleet> {
        let names: Vec<String> = (0..count).map(|index| format!("{prefix}-{index}")).collect();
        let mut session = platform.api()?.connect()?;
        for name in &names {
            create_of(&mut session, &manifest_of(name, image))?;
        }
        for name in &names {
            until(&format!("{name} is Ready"), Duration::from_secs(60), || {
                let service = session.get(&service_path(name))?;
                let (status, text) = condition(&service, "Ready");
                ensure!(status == "True", "{text}");
                Ok(Some(()))
            })?;
        }
        Ok(Fleet { names })
    }

    /// Waits until no instance of any of them exists: neither a process nor a Pod.
    pub(crate) fn asleep(&self, platform: &Platform) -> Result<()> {
        let api = platform.api()?;
        until("all services sleep", ASLEEP, || {
            let instances = platform.instances()?;
            ensure!(instances.is_empty(), "{} instances", instances.len());
            let told = platform.told_instances()?;
            ensure!(told.is_empty(), "{} instances", told.len());
            let pods = api.get("/api/v1/namespaces/default/pods")?;
            let pods = pods.pointer("/items").and_then(Value::as_array).map_or(0, Vec::len);
            ensure!(pods == 0, "{pods} Pods");
            Ok(Some(()))
        })
    }
}

/// Proof that a service has no instance: no process that carries its revision's name, none that the platform itself
/// knows, no Pod.
pub(crate) fn prove_zero(platform: &Platform, session: &mut Session, name: &str) -> Result<()> {
    let instances = platform.instances_of(name)?;
    ensure!(instances.is_empty(), "{name} was to be at zero: {instances:?}");
    let revision = format!("{name}-00001-");
    let told = platform.told_instances()?.into_iter().find(|pod| pod.starts_with(&revision));
    ensure!(told.is_none(), "{name} was to be at zero: {told:?}");
    let path =
        format!("/api/v1/namespaces/default/pods?labelSelector=serving.knative.dev%2Fservice%3D{name}");
    let pods = session.get(&path)?;
    let pods = pods.pointer("/items").and_then(Value::as_array).context("a list of Pods")?;
    ensure!(pods.is_empty(), "{name} was to be at zero, but has Pods");
    Ok(())
}

/// One request on a fresh connection: from the first byte sent to the first byte received.
pub(crate) fn first_byte(platform: &Platform, name: &str) -> Result<Duration> {
    first_byte_from(platform.state().gateway, &platform.host(name))
}

/// Likewise, from whoever listens at an address.
pub(crate) fn first_byte_from(address: SocketAddr, name: &str) -> Result<Duration> {
    let request = Request::get(name, "/").encode();
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let sent = clock::now();
    stream.write_all(&request)?;
    let mut answer = [0_u8; 256];
    let length = stream.read(&mut answer).with_context(|| format!("{name} does not answer"))?;
    let taken = since(sent);
    let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
    Ok(taken)
}

pub(crate) fn since(moment: Instant) -> Duration {
    clock::now().duration_since(moment)
}
