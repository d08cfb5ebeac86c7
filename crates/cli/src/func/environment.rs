//! `func environment`, `languages`, `templates` and `version`: what there is.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use dormouse_build::function::{self, SPEC_VERSION, yaml};
use serde_json::{Value, json};

use super::args::{Environment, Languages, Templates, Version};
use super::{deployed_in, describe, open};
use crate::cluster;
use crate::state::State;

/// Tools that builds may use, and how they tell their version.
const TOOLS: [(&str, &str); 9] = [
    ("go", "version"),
    ("node", "--version"),
    ("npm", "--version"),
    ("python3", "--version"),
    ("cargo", "--version"),
    ("javac", "-version"),
    ("mvn", "--version"),
    ("git", "--version"),
    ("buildah", "--version"),
];

pub(super) async fn run(args: &Environment, data_dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let state = State::read(data_dir)?.filter(State::runs);
    let here = open(&args.place.path)?;
    let mut all = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "SpecVersion": SPEC_VERSION,
        "Languages": function::languages(),
        "Templates": by_language(),
        "Builders": builders(),
        "Tools": tools(),
        "Environment": settings(),
        "Cluster": state.as_ref().map(|state| format!("https://{}", state.api)).unwrap_or_default(),
        "Defaults": {"builder": "host", "namespace": "default"},
    });
    if here.initialized()
        && let Some(fields) = all.as_object_mut()
    {
        fields.insert("Function".to_owned(), here.json());
        if let Some(state) = &state
            && let Ok(client) = cluster::client(state).await
            && let Ok(instance) = describe::instance(client, &here.spec.name, &deployed_in(&here)).await
        {
            fields.insert("Instance".to_owned(), instance);
        }
    }
    match args.format.as_str() {
        "yaml" => write!(out, "{}", yaml(&all))?,
        _ => writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?,
    }
    Ok(())
}

pub(super) fn languages(args: &Languages, out: &mut dyn Write) -> anyhow::Result<()> {
    let all = function::languages();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    for language in all {
        writeln!(out, "{language}")?;
    }
    Ok(())
}

pub(super) fn templates(args: &Templates, out: &mut dyn Write) -> anyhow::Result<()> {
    let all = by_language();
    if let Some(language) = &args.language {
        let Some(names) = all.get(language.as_str()) else {
            anyhow::bail!(
                "the {language:?} runtime is not recognized; known are {}",
                function::languages().join(", ")
            );
        };
        if args.json {
            writeln!(out, "{}", serde_json::to_string_pretty(names)?)?;
        } else {
            writeln!(out, "{}", names.join("\n"))?;
        }
        return Ok(());
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    let mut rows = vec![vec!["LANGUAGE".to_owned(), "TEMPLATE".to_owned()]];
    for (language, names) in all {
        rows.extend(names.into_iter().map(|name| vec![language.to_owned(), name.to_owned()]));
    }
    super::table(&rows, out)?;
    Ok(())
}

pub(super) fn version(args: &Version, out: &mut dyn Write) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let all = json!({"version": version, "specVersion": SPEC_VERSION});
    match args.output.as_str() {
        "json" => writeln!(out, "{all}")?,
        "yaml" => write!(out, "{}", yaml(&all))?,
        _ if args.verbose => writeln!(out, "Version: {version}\nSpecVersion: {SPEC_VERSION}")?,
        _ => writeln!(out, "{version}")?,
    }
    Ok(())
}

fn by_language() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for template in function::templates() {
        all.entry(template.language).or_default().push(template.name);
    }
    all
}

/// Who can build here.
fn builders() -> Value {
    let buildah = tool("buildah", "--version");
    json!({
        "host": "the tools of this machine, in sandboxes",
        "dockerfile": buildah.unwrap_or_else(|| "needs buildah, which is not here".to_owned()),
        "pack": "needs a container daemon: not used",
        "s2i": "needs a container daemon: not used",
    })
}

fn tools() -> BTreeMap<&'static str, Option<String>> {
    TOOLS.into_iter().map(|(name, flag)| (name, tool(name, flag))).collect()
}

/// The first line of what a tool says of itself; `None` when it is not here.
fn tool(name: &str, flag: &str) -> Option<String> {
    let output = Command::new(name).arg(flag).output().ok().filter(|output| output.status.success())?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
}

/// The variables that stand for flags, without those that are secret.
fn settings() -> Vec<String> {
    let secret = |name: &str| matches!(name, "FUNC_PASSWORD" | "FUNC_TOKEN" | "FUNC_USERNAME");
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("FUNC_") && !secret(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}
