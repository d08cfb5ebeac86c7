//! `dormouse func …`: function projects with upstream's verbs, flags and func.yaml.
//!
//! Reading order: [`args`] → here (what verbs share) → one file per verb. What a function is lies in
//! [`dormouse_build::function`]; here is what talks: to the API, to the gateway, to the machine's tools, to people.

pub mod args;
mod build;
mod create;
mod delete;
mod deploy;
mod describe;
mod environment;
mod invoke;
mod list;
mod logs;
mod run;
mod send;
mod subscribe;

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::bail;
use dormouse_base::clock;
use dormouse_build::function::Function;

use self::args::{Func, Verb};
use crate::show::failure;

/// Where functions are deployed unless somebody says otherwise.
const NAMESPACE: &str = "default";

/// Runs the verb; what is for machines goes to `out`, the rest to stderr.
///
/// # Errors
/// What is wrong with the function, the build's reason, or what the API refused.
pub async fn run(args: &Func, out: &mut dyn Write) -> anyhow::Result<()> {
    let data_dir = &args.data.data_dir;
    match &args.verb {
        Verb::Create(args) => create::run(args, out),
        Verb::Build(args) => build::run(args, data_dir, out).await,
        Verb::Deploy(args) => deploy::run(args, data_dir, out).await,
        Verb::Run(args) => run::run(args, out).await,
        Verb::Invoke(args) => invoke::run(args, data_dir, out).await,
        Verb::List(args) => list::run(args, data_dir, out).await,
        Verb::Describe(args) => describe::run(args, data_dir, out).await,
        Verb::Delete(args) => delete::run(args, data_dir, out).await,
        Verb::Logs(args) => logs::run(args, data_dir, out).await,
        Verb::Subscribe(args) => subscribe::run(args, out),
        Verb::Environment(args) => environment::run(args, data_dir, out).await,
        Verb::Languages(args) => environment::languages(args, out),
        Verb::Templates(args) => environment::templates(args, out),
        Verb::Version(args) => environment::version(args, out),
    }
}

/// The caller's variables, for `{{ env:NAME }}`.
#[expect(clippy::disallowed_methods, reason = "func.yaml names variables of whoever runs the command")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The function in `path`; what is odd about its file is told.
fn open(path: &Path) -> anyhow::Result<Function> {
    let function = Function::open(path, &clock::timestamp().to_string()).map_err(failure)?;
    if !function.warnings.is_empty() {
        say(&format!("func.yaml, without effect:\n  {}", function.warnings.join("\n  ")));
    }
    Ok(function)
}

/// The function in `path`, which `verb` needs to be one.
fn initialized(path: &Path, verb: &str) -> anyhow::Result<Function> {
    let function = open(path)?;
    if !function.initialized() {
        bail!(
            "no function found in {}: `func {verb}` needs a function's directory\n  → make one with `dormouse func create --language LANGUAGE`, or name it with --path",
            function.root.display()
        );
    }
    Ok(function)
}

/// A function's name and namespace: as told, or of the function in `path`.
fn identity(
    name: Option<&str>,
    namespace: Option<&str>,
    path: &Path,
    verb: &str,
) -> anyhow::Result<(String, String)> {
    if let Some(name) = name {
        return Ok((name.to_owned(), namespace.unwrap_or(NAMESPACE).to_owned()));
    }
    let function = initialized(path, verb)?;
    let namespace = namespace.map_or_else(|| deployed_in(&function), str::to_owned);
    Ok((function.spec.name, namespace))
}

/// Where a function is deployed, or shall be.
fn deployed_in(function: &Function) -> String {
    let spec = &function.spec;
    let places = [&spec.deploy.namespace, &spec.namespace];
    places.into_iter().find(|place| !place.is_empty()).map_or_else(|| NAMESPACE.to_owned(), Clone::clone)
}

/// Tells something that is not the result.
fn say(text: &str) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Shows what would be done and asks on a terminal; elsewhere showing is enough, as upstream has it.
fn confirmed(wanted: bool, lines: &[(&str, &str)]) -> anyhow::Result<bool> {
    if !wanted {
        return Ok(true);
    }
    for (name, value) in lines {
        say(&format!("{:<14}{value}", format!("{name}:")));
    }
    if !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    let _ = write!(std::io::stderr(), "Proceed? [Y/n] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(!answer.trim().to_ascii_lowercase().starts_with('n'))
}

/// Rows in columns of equal width, as tables of these verbs are.
fn table(rows: &[Vec<String>], out: &mut dyn Write) -> std::io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
