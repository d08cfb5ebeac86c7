//! Which crate uses which, as cargo tells, against `deps.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;
use super::deps::Deps;
use crate::shell;

/// Library → the crates that may use it.
type Users = BTreeMap<String, Vec<String>>;

/// Our packages are named after their folders with this prefix.
const PREFIX: &str = "dormouse-";

pub(super) fn check(root: &Path, allowed: &Deps) -> Result<Vec<Finding>> {
    let mut metadata = shell::cargo();
    metadata.current_dir(root).args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&shell::read(&mut metadata)?).context("cargo metadata")?;
    let packages = metadata.get("packages").and_then(Value::as_array).context("cargo metadata: packages")?;
    let mut findings = Vec::new();
    for package in packages {
        let name = text(package, "name");
        let room = room(name);
        let Some(edges) = allowed.crates.get(room) else {
            findings.push(format!("{name}: not in deps.toml; say there which crates it may use"));
            continue;
        };
        let uses =
            package.get("dependencies").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for dependency in uses {
            let used = text(dependency, "name");
            if text(dependency, "kind") == "dev" {
                // Tests may use what they like of the world, and of ours what their own table says.
                let more = allowed.tests.get(room).map(Vec::as_slice).unwrap_or_default();
                findings.extend(edge(room, &[edges, more].concat(), used, None));
            } else {
                findings.extend(edge(room, edges, used, Some(&allowed.libraries)));
            }
        }
        if text(package, "description").is_empty() {
            findings.push(format!("{name}: Cargo.toml has no description, the crate's one-liner"));
        }
    }
    let rooms: Vec<&str> = packages.iter().map(|package| room(text(package, "name"))).collect();
    let gone = allowed.crates.keys().filter(|name| !rooms.contains(&name.as_str()));
    findings.extend(gone.map(|name| format!("deps.toml: [crates] {name}: there is no such crate")));
    Ok(findings)
}

fn edge(room: &str, edges: &[String], dependency: &str, libraries: Option<&Users>) -> Option<Finding> {
    if let Some(users) = libraries.and_then(|libraries| libraries.get(dependency))
        && !users.iter().any(|user| user == room)
    {
        return Some(format!(
            "{room} → {dependency}: only {} may use this library (deps.toml)",
            users.join(", ")
        ));
    }
    let ours = dependency.strip_prefix(PREFIX)?;
    let open = edges.iter().any(|edge| edge == "*" || edge == ours);
    (!open).then(|| {
        format!("{room} → {ours}: not an edge of deps.toml; siblings meet through objects or traits")
    })
}

fn room(package: &str) -> &str {
    package.strip_prefix(PREFIX).unwrap_or(package)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(room: &str, edges: &[&str], dependency: &str) -> Option<Finding> {
        let libraries = Users::from([("rusqlite".to_owned(), vec!["store".to_owned()])]);
        let edges: Vec<String> = edges.iter().map(|edge| (*edge).to_owned()).collect();
        edge(room, &edges, dependency, Some(&libraries))
    }

    #[test]
    fn an_edge_outside_the_table_is_found() {
        assert!(finding("gateway", &["api", "base"], "dormouse-store").is_some());
        assert!(finding("gateway", &["api", "base"], "dormouse-api").is_none());
        assert!(finding("dormouse", &["*"], "dormouse-store").is_none());
    }

    #[test]
    fn a_heavy_library_stays_in_its_room() {
        assert!(finding("api", &[], "rusqlite").is_some());
        assert!(finding("store", &[], "rusqlite").is_none());
        assert!(finding("api", &[], "serde").is_none());
    }
}
