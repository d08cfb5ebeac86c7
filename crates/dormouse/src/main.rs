//! The binary: configuration, roles, wiring. No logic.
//!
//! Reading order: `main` → [`up`] (everything is wired there) → [`wire`] (the traits that crates declare and others
//! implement) → [`admin`] → [`down`] → [`demo`].

mod admin;
mod components;
mod demo;
mod down;
mod threads;
mod up;
mod wire;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dormouse_base::telemetry;
use dormouse_cli::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The keeper must stay small and single-threaded: no runtime, no TLS, no telemetry.
    if let Command::Keeper(args) = &cli.command {
        return dormouse_sandbox::keeper_main(&args.dir);
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "dormouse: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let quiet = matches!(cli.command, Command::Demo(_)) && cli.log == "info";
    let filter = if quiet { "error" } else { cli.log.as_str() };
    telemetry::install(filter, telemetry::Format::Auto).map_err(anyhow::Error::msg)?;
    // Two providers may be compiled in; rustls refuses to guess between them.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = threads::control()?;
    let mut out = std::io::stdout().lock();
    let executable = std::env::current_exe()?;
    runtime.block_on(async {
        match cli.command {
            Command::Up(args) => {
                drop(out);
                up::run(&args, &executable).await
            }
            Command::Demo(args) => {
                drop(out);
                demo::run(&args, executable).await
            }
            Command::Status(args) => dormouse_cli::status::run(&args, &mut out),
            Command::Down(args) => down::run(&args, &mut out).await,
            Command::Doctor(args) => down::doctor(&args, &mut out),
            Command::Deploy(args) => dormouse_cli::deploy::run(&args, &mut out).await,
            Command::Func(args) => dormouse_cli::func::run(&args, &mut out).await,
            Command::Image(args) => dormouse_cli::image::run(&args, &mut out).await,
            Command::Keeper(_) => Ok(()),
        }
    })
}
