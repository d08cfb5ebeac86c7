//! Running other programs from the root of the repository, and telling which.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

/// A line for the person who waits.
#[expect(clippy::print_stderr, reason = "a command line tool speaks to its terminal")]
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// A command in the repository's root.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that started this tool.
pub(crate) fn cargo() -> Command {
    command(option_env!("CARGO").unwrap_or("cargo"))
}

/// Runs a command to its end, its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{} {}", name(command), arguments(command));
    say(&shown);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("start {shown}"))?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// Runs a command to its end and gives its standard output; what it said is shown only when it fails.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let shown = format!("{} {}", name(command), arguments(command));
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {shown}"))?;
    ensure!(
        output.status.success(),
        "{shown}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

fn arguments(command: &Command) -> String {
    let arguments: Vec<_> = command.get_args().map(|one| one.to_string_lossy()).collect();
    arguments.join(" ")
}
