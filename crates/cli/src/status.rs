//! `dormouse status`: does it run, where does it listen.

use std::io::Write;

use anyhow::bail;

use crate::args::Status;
use crate::state::State;

/// Writes the status to `out`.
///
/// # Errors
/// When no platform runs on the data directory: the text says how to start one.
pub fn run(args: &Status, out: &mut dyn Write) -> anyhow::Result<()> {
    let directory = &args.data.data_dir;
    let state = match State::read(directory)? {
        Some(state) if state.runs() => state,
        Some(state) => bail!(
            "the platform on {} is not running (process {} is gone); start it again with `dormouse up`: running instances are adopted",
            directory.display(),
            state.pid
        ),
        None => bail!("no platform runs on {}; start one with `dormouse up`", directory.display()),
    };
    if args.output == "json" {
        writeln!(out, "{}", serde_json::to_string_pretty(&state)?)?;
        return Ok(());
    }
    writeln!(out, "running     process {}, keeper {}", state.pid, state.keeper_pid)?;
    writeln!(out, "API         https://{}", state.api)?;
    writeln!(out, "gateway     http://{}", state.gateway)?;
    writeln!(out, "internal    http://{}", state.internal_gateway)?;
    writeln!(out, "registry    http://{}", state.registry)?;
    writeln!(out, "admin       http://{}/statusz", state.admin)?;
    writeln!(out, "kubeconfig  {}", state.kubeconfig.display())?;
    Ok(())
}
