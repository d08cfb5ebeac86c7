//! What a request to a component costs in process: `cargo run --release -p dormouse-wasm --example cold -- COMPONENT.wasm`.
//!
//! *Mapped* is a service whose code was never in memory in this process's life: the file is mapped, linked, instantiated
//! and called. *Ready* is one that was prepared. *Kept* uses one instance again.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dormouse_base::clock;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_wasm::{Config, Function, Grants, Host, Limits, Source};
use http::Request;
use http_body_util::{BodyExt, Full};
use sha2::Digest as _;

const TIMES: usize = 1000;

#[expect(clippy::print_stdout, reason = "a measurement is read by a person")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which component?")?;
    let bytes = std::fs::read(&path)?;
    let hash: [u8; 32] = sha2::Sha256::digest(&bytes).into();
    let digest = format!("sha256:{}", hash.map(|byte| format!("{byte:02x}")).concat());
    let folder = std::env::temp_dir().join(format!("wasm-cold-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let start = clock::now();
        let host = host(&folder, 1024)?;
        println!("engine         {:>10.1} µs", micros(start));
        let start = clock::now();
        let component = host.load(&digest, Source::File(Path::new(&path)))?;
        println!("compile        {:>10.1} µs", micros(start));
        let function = component.bind(Limits::default(), Grants::default());
        // No component stays loaded: each load maps the file.
        let bare = self::host(&folder, 0)?;
        show("mapped + call", TIMES, async || {
            let component = bare.load(&digest, Source::Bytes(&[]))?;
            call(&component.bind(Limits::default(), Grants::default())).await
        })
        .await?;
        show("ready + call", TIMES, async || call(&function).await).await?;
        let limits = Limits { requests_per_instance: NonZeroU32::MAX, ..Limits::default() };
        let kept = component.bind(limits, Grants::default());
        show("kept + call", TIMES, async || call(&kept).await).await?;
        Ok(())
    });
    std::fs::remove_dir_all(&folder)?;
    result
}

fn host(folder: &Path, loaded_max: usize) -> dormouse_wasm::Result<Host> {
    let config = Config { loaded_max, ..Config::new(folder) };
    Host::new(config, Tasks::new(Shutdown::new()))
}

async fn call(function: &Function) -> Result<(), Box<dyn std::error::Error>> {
    let request = Request::get("http://function.example/hello").body(Full::<Bytes>::default())?;
    let response = function.call(request).await?;
    if response.status() != 200 {
        return Err(format!("status {}", response.status()).into());
    }
    response.into_body().collect().await?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a measurement is read by a person")]
async fn show(
    name: &str,
    times: usize,
    what: impl AsyncFn() -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut samples: Vec<Duration> = Vec::new();
    for _ in 0..times {
        let start = clock::now();
        what().await?;
        samples.push(clock::now().duration_since(start));
    }
    samples.sort_unstable();
    let at =
        |percent: usize| samples.get(times * percent / 100).copied().unwrap_or_default().as_secs_f64() * 1e6;
    println!("{name:<14} {:>10.1} µs p50 {:>10.1} µs p99", at(50), at(99));
    Ok(())
}

fn micros(start: Instant) -> f64 {
    clock::now().duration_since(start).as_secs_f64() * 1e6
}
