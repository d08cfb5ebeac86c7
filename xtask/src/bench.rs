//! `bench`: builds the program and the benchmarks in release mode, installs the peers, and starts one benchmark.

use anyhow::{Result, bail};

use crate::{shell, tools};

/// Runs one benchmark; further arguments go to it.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let peers = match arguments.first().map(String::as_str) {
        Some("cold-start") => tools::FOR_COLD_START,
        Some("hop") => tools::FOR_HOP,
        Some("services" | "wake" | "deploy") => &[],
        Some("wasm") => {
            tools::wasm::for_benchmark()?;
            tools::FOR_WASM
        }
        _ => bail!("which one? cold-start, wake, hop, services, wasm, deploy"),
    };
    tools::install(tools::FOR_PLATFORM)?;
    tools::install(peers)?;
    let build = ["build", "--release", "--workspace", "--bin", "dormouse", "--bin", "dormouse-bench"];
    shell::run(shell::cargo().args(build))?;
    shell::run(shell::command(shell::root().join("target/release/dormouse-bench")).args(arguments))
}
