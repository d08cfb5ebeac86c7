//! Do we keep our numbers? Each figure is measured beside its peer, in the same run, on the same machine, with proof
//! of the state that it starts from; it is written to docs/benchmarks.md and printed as a `RESULT` line.
//!
//! `cargo xtask bench NAME` builds and starts this. Reading order: [`fleet`] (many services at zero) → one file per
//! benchmark → [`figures`] and [`report`].

mod cold_start;
mod deploy;
mod figures;
mod fleet;
mod hop;
mod process;
mod report;
mod runc;
mod services;
mod wake;
mod wasm;

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Whether the figures keep the promise.
pub(crate) enum Verdict {
    /// They do.
    Kept,
    /// They do not, and which.
    Broken(String),
}

#[expect(clippy::print_stderr, reason = "a command line tool speaks to its terminal")]
fn main() -> ExitCode {
    match run() {
        Ok(Verdict::Kept) => ExitCode::SUCCESS,
        Ok(Verdict::Broken(which)) => {
            eprintln!("bench: the goal is missed: {which}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Verdict> {
    if !dormouse_e2e::platform::possible() {
        bail!("benchmarks start platforms, which needs root");
    }
    match std::env::args().nth(1).as_deref() {
        Some("cold-start") => cold_start::run(),
        Some("wake") => wake::run(),
        Some("hop") => hop::run(),
        Some("services") => services::run(),
        Some("wasm") => wasm::run(),
        Some("deploy") => deploy::run(),
        _ => bail!("which one? cold-start, wake, hop, services, wasm, deploy"),
    }
}
