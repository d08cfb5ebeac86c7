//! `func run`: the function as a process of this machine, with the main program that its image would have.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use dormouse_base::clock;
use dormouse_build::function::{Function, LOCAL_DIR, interpolate};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::args::Run;
use super::send::{Target, send};
use super::{initialized, say, variable};
use crate::show::failure;

mod local;

/// Where a function listens unless it is told otherwise or something else does.
const USUAL: &str = "127.0.0.1:8080";
/// How often readiness is asked for.
const LOOK: Duration = Duration::from_millis(100);
/// How long a stop waits before it is a kill.
const GRACE: Duration = Duration::from_secs(30);

/// A running function's note, by which `invoke` finds it; it goes when the run ends.
struct Note(PathBuf);

pub(super) async fn run(args: &Run, out: &mut dyn Write) -> anyhow::Result<()> {
    let function = initialized(&args.place.path, "run")?;
    function.validate(&variable).map_err(failure)?;
    let address = address(args.address.as_deref())?;
    let program = local::prepare(&function).await?;
    let mut child = Command::new(&program.command)
        .args(&program.arguments)
        .current_dir(&program.directory)
        .envs(environment(&function, args)?)
        .envs(program.env)
        .env("LISTEN_ADDRESS", address.to_string())
        .env("ADDRESS", address.ip().to_string())
        .env("PORT", address.port().to_string())
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("run {}", program.command))?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ready = ready(&function, address, &mut child) => ready?,
        _ = tokio::signal::ctrl_c() => return stop(child).await,
        _ = terminate.recv() => return stop(child).await,
    }
    let _note = Note::write(&function, address)?;
    if args.json {
        let report = json!({
            "address": format!("http://{address}"),
            "host": address.ip().to_string(),
            "port": address.port().to_string(),
        });
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "Function running on {address}")?;
    }
    out.flush()?;
    tokio::select! {
        ended = child.wait() => {
            let status = ended.context("wait for the function")?;
            if !status.success() {
                bail!("the function ended: {status}");
            }
            Ok(())
        }
        _ = tokio::signal::ctrl_c() => stop(child).await,
        _ = terminate.recv() => stop(child).await,
    }
}

/// Waits until the function takes requests.
async fn ready(function: &Function, address: SocketAddr, child: &mut Child) -> anyhow::Result<()> {
    let path = match function.spec.deploy.health.readiness.as_str() {
        "" => "/health/readiness",
        told => told,
    };
    let url = format!("http://{address}{path}").parse().context("healthEndpoints.readiness")?;
    let target = Target { url, address: None, insecure: false };
    let patience = function.start_timeout();
    let until = clock::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("the function ended before it was ready: {status}");
        }
        if send(&target, "GET", &[], Bytes::new()).await.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        if clock::now() >= until {
            bail!("timed out waiting for function to be ready for {patience:?}");
        }
        clock::sleep(LOOK).await;
    }
}

/// Asks the function to end, as the platform does, and waits for it.
async fn stop(mut child: Child) -> anyhow::Result<()> {
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // It may have ended by itself, or by the terminal's own signal.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    match tokio::time::timeout(GRACE, child.wait()).await {
        Ok(ended) => ended.map(drop).context("wait for the function"),
        Err(_) => {
            say("the function does not stop: it is killed");
            child.kill().await.context("kill the function")
        }
    }
}

/// The address to listen on; it is free now.
fn address(told: Option<&str>) -> anyhow::Result<SocketAddr> {
    let resolve = |text: &str| {
        let text = if text.contains(':') { text.to_owned() } else { format!("{text}:8080") };
        let found = text.to_socket_addrs().with_context(|| format!("--address {text}"))?.next();
        found.with_context(|| format!("--address {text} is none"))
    };
    let (wanted, fixed) = match told.filter(|told| !told.is_empty()) {
        Some(told) => (resolve(told)?, true),
        None => (resolve(USUAL)?, false),
    };
    match TcpListener::bind(wanted) {
        Ok(listener) => Ok(listener.local_addr()?),
        Err(error) if fixed => Err(error).with_context(|| format!("port {} is not available", wanted.port())),
        Err(_) => {
            let listener = TcpListener::bind((wanted.ip(), 0)).context("find a free port")?;
            Ok(listener.local_addr()?)
        }
    }
}

/// The function's variables, those of the flags last. Secrets and ConfigMaps are the platform's.
fn environment(function: &Function, args: &Run) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = interpolate(&function.spec.run.envs, &variable).map_err(failure)?;
    let foreign = |value: &str| value.starts_with("{{");
    let left: Vec<_> = all.iter().filter(|(_, value)| foreign(value)).map(|(name, _)| name.clone()).collect();
    if !left.is_empty() {
        say(&format!("not set here, their values are the platform's: {}", left.join(", ")));
    }
    all.retain(|_, value| !foreign(value));
    for entry in &args.env {
        match (entry.split_once('='), entry.strip_suffix('-')) {
            (Some((name, value)), _) => {
                all.insert(name.to_owned(), value.to_owned());
            }
            (None, Some(name)) => {
                all.remove(name);
            }
            (None, None) => bail!("--env {entry}: expected NAME=VALUE, or NAME- to leave it out"),
        }
    }
    Ok(all.into_iter().collect())
}

/// Where the function runs on this machine, if it does.
pub(super) fn running_here(function: &Function) -> Option<SocketAddr> {
    let entries = std::fs::read_dir(runs(&function.root)).ok()?;
    let notes = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    // A note may have outlived its run.
    notes
        .filter_map(|text| text.trim().parse::<SocketAddr>().ok())
        .find(|address| TcpStream::connect_timeout(address, Duration::from_millis(500)).is_ok())
}

fn runs(root: &Path) -> PathBuf {
    root.join(LOCAL_DIR).join("runs")
}

// === impl Note ===

impl Note {
    fn write(function: &Function, address: SocketAddr) -> anyhow::Result<Self> {
        let dir = runs(&function.root);
        let file = dir.join(address.port().to_string());
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        std::fs::write(&file, address.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok(Self(file))
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // Nothing more can be done about it; a reader checks whether somebody listens.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error_only_when_it_was_asked_for() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let told = taken.local_addr().unwrap();
        let error = address(Some(&told.to_string())).unwrap_err().to_string();
        assert!(error.contains(&told.port().to_string()), "{error}");
        assert!(address(None).unwrap().port() > 0);
        assert!(address(Some("nowhere.invalid:1")).is_err());
    }
}
