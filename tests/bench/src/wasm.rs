//! WebAssembly components: a request to a sleeping service, and steady load, beside `wasmtime serve` of the same
//! component in the same run.
//!
//! `wasmtime serve` is one process for one component and never sleeps, so it is measured twice: running, as the floor of
//! what a request costs, and started for the request (compiled ahead), as what a sleeping service would cost with it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dormouse_base::clock;
use dormouse_e2e::http::{self, Request};
use dormouse_e2e::{Options, Platform, Said, tools, until};
use serde_json::json;

use crate::figures::{Figures, median};
use crate::fleet::{self, Fleet, since};
use crate::process::Cpu;
use crate::{Verdict, hop, report};

/// Services, and with them cold starts of each kind.
const STARTS: usize = 100;
/// Starts of the peer's process.
const PEER_STARTS: usize = 20;
/// Ours and the peer's requests take turns in blocks of this size.
const BLOCK: usize = 20;
/// Long enough for the kernel to be idle.
const IDLE: Duration = Duration::from_millis(300);
/// How often steady load is measured, in turns, how long, and with how many connections.
const ROUNDS: usize = 3;
const SECONDS: &str = "4s";
const CONNECTIONS: usize = 16;
/// The goal for Rust.
const P50_MS: f64 = 1.0;

/// A component that is measured.
struct Subject {
    language: &'static str,
    file: PathBuf,
}

/// What came of one component.
struct Outcome {
    language: &'static str,
    back_to_back: Figures,
    idle: Figures,
    running: Option<Figures>,
    started: Option<Figures>,
    steady: Steady,
    peer_steady: Option<Steady>,
}

/// Steady load: the medians of the rounds.
struct Steady {
    cpu_us: f64,
    rate: f64,
}

pub(crate) fn run() -> Result<Verdict> {
    let (subjects, mut missing) = subjects()?;
    let peer = tools::find("wasmtime").ok();
    if peer.is_none() {
        missing.push("wasmtime serve: not found; `cargo xtask bench wasm` installs it with pip".to_owned());
    }
    let folder = tempfile::tempdir()?;
    let platform = fleet::platform(Options::default())?;
    let mut outcomes = Vec::new();
    for subject in &subjects {
        let peer = peer.as_deref().map(|program| Peer::prepare(program, &subject.file, folder.path()));
        outcomes.push(measure(&platform, subject, peer.transpose()?.as_ref())?);
    }
    platform.take_down()?;
    publish(&outcomes, &missing)
}

/// The components that can be had here, and what is missing.
fn subjects() -> Result<(Vec<Subject>, Vec<String>)> {
    let rust = Subject { language: "Rust", file: tools::hello_component()? };
    match tools::javascript_component() {
        Ok(file) => Ok((vec![rust, Subject { language: "JavaScript", file }], Vec::new())),
        Err(error) => Ok((vec![rust], vec![format!("JavaScript: {error:#}")])),
    }
}

fn measure(platform: &Platform, subject: &Subject, peer: Option<&Peer>) -> Result<Outcome> {
    let language = subject.language;
    let prefix = language.to_ascii_lowercase();
    let image = format!("dev.local/{prefix}:v1");
    platform.add_component(&image, &subject.file)?;
    report::say(&format!("{language}: creating {STARTS} services at zero"));
    let fleet = Fleet::of(platform, &prefix, &image, STARTS)?;
    let mut kinds = Vec::new();
    let mut running = Vec::new();
    for (kind, idle) in [("back to back", Duration::ZERO), ("after idleness", IDLE)] {
        fleet.asleep(platform)?;
        report::say(&format!("{language}: {STARTS} cold starts {kind}"));
        let process = peer.map(Peer::start).transpose()?;
        let mut ours = Vec::new();
        for names in fleet.names.chunks(BLOCK) {
            let mut session = platform.api()?.connect()?;
            for name in names {
                fleet::prove_zero(platform, &mut session, name)?;
                std::thread::sleep(idle);
                ours.push(fleet::first_byte(platform, name)?);
            }
            if let Some(process) = &process {
                for _ in names {
                    std::thread::sleep(idle);
                    running.push(fleet::first_byte_from(process.address, "hello")?);
                }
            }
        }
        kinds.push(Figures::of(ours));
    }
    report::say(&format!("{language}: steady load"));
    let (steady, peer_steady) = steady(platform, &prefix, &image, peer)?;
    let started = peer.map(|peer| (0..PEER_STARTS).map(|_| peer.cold()).collect::<Result<Vec<_>>>());
    let mut kinds = kinds.into_iter();
    let (Some(back_to_back), Some(idle)) = (kinds.next(), kinds.next()) else {
        anyhow::bail!("two kinds are measured")
    };
    Ok(Outcome {
        language,
        back_to_back,
        idle,
        running: peer.map(|_| Figures::of(running)),
        started: started.transpose()?.map(Figures::of),
        steady,
        peer_steady,
    })
}

/// One instance that stays, and the peer's process, loaded in turns.
fn steady(
    platform: &Platform,
    prefix: &str,
    image: &str,
    peer: Option<&Peer>,
) -> Result<(Steady, Option<Steady>)> {
    let name = format!("{prefix}-steady");
    let mut manifest = fleet::manifest_of(&name, image);
    let annotations = manifest.pointer_mut("/spec/template/metadata/annotations").context("annotations")?;
    *annotations =
        json!({ "autoscaling.knative.dev/min-scale": "1", "autoscaling.knative.dev/max-scale": "1" });
    platform.deploy(&name, &manifest.to_string())?;
    let process = peer.map(Peer::start).transpose()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let state = platform.state();
        ours.push(loaded("dormouse", state.gateway, &platform.host(&name), state.pid)?);
        if let Some(process) = &process {
            theirs.push(loaded("wasmtime", process.address, "hello", process.pid()?)?);
        }
    }
    // The next component's cold starts begin with nothing running.
    platform.kubectl(&["delete", "ksvc", &name])?.ok()?;
    Ok((Steady::of(&ours), process.map(|_| Steady::of(&theirs))))
}

/// CPU time per request in microseconds, and requests per second.
fn loaded(name: &str, address: SocketAddr, host: &str, pid: i32) -> Result<(f64, f64)> {
    hop::load(name, address, host, CONNECTIONS, "1s")?;
    let before = Cpu::alone(pid)?;
    let (requests, rate) = hop::load(name, address, host, CONNECTIONS, SECONDS)?;
    let used = Cpu::alone(pid)?.since(&before);
    Ok((used.as_secs_f64() * 1e6 / requests, rate))
}

impl Steady {
    fn of(rounds: &[(f64, f64)]) -> Steady {
        let middle = |pick: fn(&(f64, f64)) -> f64| median(rounds.iter().map(pick).collect());
        Steady { cpu_us: middle(|round| round.0), rate: middle(|round| round.1) }
    }
}

/// `wasmtime serve` of one component, compiled ahead.
struct Peer {
    program: PathBuf,
    compiled: PathBuf,
}

/// Its process.
struct Serving {
    child: Child,
    address: SocketAddr,
}

impl Peer {
    fn prepare(program: &Path, component: &Path, folder: &Path) -> Result<Peer> {
        let name = component.file_stem().unwrap_or_default();
        let compiled = folder.join(name).with_extension("cwasm");
        let mut command = Command::new(program);
        command.args(["compile", "-o"]).arg(&compiled).arg(component);
        Said::from(command.output()?).ok().context("wasmtime compile")?;
        Ok(Peer { program: program.to_owned(), compiled })
    }

    /// Starts it without waiting for it.
    fn spawn(&self) -> Result<Serving> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(&self.program)
            .args(["serve", "--allow-precompiled", "-S", "cli", "--addr", &address.to_string()])
            .arg(&self.compiled)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("wasmtime serve")?;
        Ok(Serving { child, address })
    }

    fn start(&self) -> Result<Serving> {
        let serving = self.spawn()?;
        until("wasmtime serve answers", Duration::from_secs(30), || {
            let answer = http::send(serving.address, &Request::get("hello", "/"))?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(Some(()))
        })?;
        Ok(serving)
    }

    /// From the start of its process to the first byte of its first answer.
    fn cold(&self) -> Result<Duration> {
        let begun = clock::now();
        let serving = self.spawn()?;
        while TcpStream::connect(serving.address).is_err() {
            ensure!(since(begun) < Duration::from_secs(30), "wasmtime serve does not listen");
            std::hint::spin_loop();
        }
        fleet::first_byte_from(serving.address, "hello")?;
        Ok(since(begun))
    }
}

impl Serving {
    fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.child.id())?)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn publish(outcomes: &[Outcome], missing: &[String]) -> Result<Verdict> {
    let mut table =
        "| component | cold request | n | p50 ms | p90 ms | p99 ms |\n|---|---|---|---|---|---|\n".to_owned();
    let mut result = Vec::new();
    let mut broken = Vec::new();
    for outcome in outcomes {
        let mut row = |what: &str, figures: Option<&Figures>| {
            let Some(figures) = figures else { return };
            let columns = [50, 90, 99].map(|percent| format!("{:.2}", figures.ms(percent))).join(" | ");
            table.push_str(&format!("| {} | {what} | {} | {columns} |\n", outcome.language, figures.len()));
        };
        row("dormouse, back to back", Some(&outcome.back_to_back));
        row("dormouse, after 300 ms of idleness", Some(&outcome.idle));
        row("wasmtime serve, already running", outcome.running.as_ref());
        row("wasmtime serve, started for it", outcome.started.as_ref());
        let is_rust = outcome.language == "Rust";
        let names = match is_rust {
            true => {
                ["wasm_cold_p50_ms", "wasm_cold_p99_ms", "wasm_cold_idle_p50_ms", "wasm_cpu_us", "wasm_rate"]
            }
            false => [
                "wasm_js_cold_p50_ms",
                "wasm_js_cold_p99_ms",
                "wasm_js_cold_idle_p50_ms",
                "wasm_js_cpu_us",
                "wasm_js_rate",
            ],
        };
        let (cold, steady) = (&outcome.back_to_back, &outcome.steady);
        let values = [cold.ms(50), cold.ms(99), outcome.idle.ms(50), steady.cpu_us, steady.rate];
        result.extend(names.into_iter().zip(values));
        if is_rust && let Some(peer) = &outcome.peer_steady {
            result.extend([("wasmtime_cpu_us", peer.cpu_us), ("wasmtime_rate", peer.rate)]);
        }
        if is_rust && cold.ms(50) > P50_MS {
            broken.push(format!("a cold Rust request: p50 {:.2} ms (≤ {P50_MS})", cold.ms(50)));
        }
    }
    table.push_str("\n| component | steady load | CPU µs/request | requests/s | CPU ÷ wasmtime |\n|---|---|---|---|---|\n");
    for outcome in outcomes {
        let peer = outcome.peer_steady.as_ref();
        let ratio =
            peer.map_or_else(|| "–".to_owned(), |peer| format!("{:.2}", outcome.steady.cpu_us / peer.cpu_us));
        let mut row = |who: &str, steady: &Steady, ratio: &str| {
            let (cpu, rate) = (steady.cpu_us, steady.rate);
            table.push_str(&format!("| {} | {who} | {cpu:.1} | {rate:.0} | {ratio} |\n", outcome.language));
        };
        row("dormouse", &outcome.steady, &ratio);
        if let Some(peer) = peer {
            row("wasmtime serve", peer, "1.00");
        }
    }
    for line in missing {
        table.push_str(&format!("\nMissing: {line}\n"));
    }
    report::publish("wasm", &table, &result)?;
    Ok(if broken.is_empty() { Verdict::Kept } else { Verdict::Broken(broken.join("; ")) })
}
