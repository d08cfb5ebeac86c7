//! `dormouse down` and `dormouse doctor`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use dormouse_base::clock;
use dormouse_cli::args::{Doctor, Down};
use dormouse_cli::state::State;

/// Stops the platform on the data directory and removes what it made outside it. Nothing running is fine.
///
/// # Errors
/// When the process does not stop in time, or something cannot be removed: the text names it.
pub(crate) async fn run(args: &Down, out: &mut dyn Write) -> anyhow::Result<()> {
    let directory = &args.data.data_dir;
    if !directory.is_dir() {
        bail!("no platform in {}: the directory does not exist", directory.display());
    }
    if let Some(state) = State::read(directory)?
        && state.runs()
    {
        let pid = rustix::process::Pid::from_raw(i32::try_from(state.pid)?).context("process id 0")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .with_context(|| format!("signal process {}", state.pid))?;
        let deadline = clock::now() + Duration::from_secs(args.timeout_seconds);
        while state.runs() {
            if clock::now() > deadline {
                bail!("process {} still runs after {} s", state.pid, args.timeout_seconds);
            }
            clock::sleep(Duration::from_millis(10)).await;
        }
        writeln!(out, "stopped process {}", state.pid)?;
    }
    sweep(directory).await?;
    writeln!(
        out,
        "removed every process, mount, namespace, bridge, cgroup and firewall rule of {}",
        directory.display()
    )?;
    writeln!(
        out,
        "objects and images are kept in {}; remove the directory to forget them",
        directory.display()
    )?;
    Ok(())
}

/// Ends a keeper that outlived its platform and removes everything outside the data directory.
///
/// # Errors
/// Names what stayed.
pub(crate) async fn sweep(directory: &Path) -> anyhow::Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    dormouse_node::remove_everything(directory).await?;
    State::remove(directory);
    Ok(())
}

/// Prints one line a check; fails when one that Dormouse cannot do without failed.
///
/// # Errors
/// Names how many checks failed.
pub(crate) fn doctor(args: &Doctor, out: &mut dyn Write) -> anyhow::Result<()> {
    let checks = dormouse_node::doctor(&args.data.data_dir);
    let failed = checks.iter().filter(|check| !check.ok && !check.optional).count();
    if args.output == "json" {
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                serde_json::json!({"name": check.name, "ok": check.ok, "optional": check.optional,
                    "detail": check.detail, "remedy": check.remedy})
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&checks)?)?;
    } else {
        for check in &checks {
            let mark = match (check.ok, check.optional) {
                (true, _) => "ok  ",
                (false, true) => "warn",
                (false, false) => "FAIL",
            };
            writeln!(out, "{mark}  {:<16} {}", check.name, check.detail)?;
            if !check.ok {
                writeln!(out, "      do: {}", check.remedy)?;
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed", checks.len());
    }
    Ok(())
}
