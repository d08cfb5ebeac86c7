//! Files: sizes, front doors, marks of unfinished work, links of the documents, the licence.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Finding;
use super::deps::Deps;

/// Hard limit of lines in a source file; the soft one is half of it and is a reviewer's matter.
const LINES_MAX: usize = 800;

/// Folders that are not ours to judge.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

pub(super) fn check(root: &Path, allowed: &Deps) -> Result<Vec<Finding>> {
    let mut files = Vec::new();
    walk(root, &mut files)?;
    let mut findings = Vec::new();
    for path in &files {
        let relative = path.strip_prefix(root).unwrap_or(path);
        let name = relative.display().to_string();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => {
                let text = read(path)?;
                findings.extend(source(&name, &text, allowed));
            }
            Some("md") => {
                let text = read(path)?;
                let folder = path.parent().unwrap_or(root);
                findings.extend(broken_links(&name, &text, |link| folder.join(link).exists()));
            }
            _ => {}
        }
    }
    let exists = |name: &str| root.join(name).exists();
    for reason in allowed.long_files.keys().filter(|name| !exists(name)) {
        findings.push(format!("deps.toml: [long-files] {reason}: there is no such file"));
    }
    let licence = root.join("LICENSE");
    if !read(&licence).is_ok_and(|text| text.contains("Apache License") && text.contains("Version 2.0")) {
        findings.push("LICENSE: the text of Apache-2.0 is missing".to_owned());
    }
    Ok(findings)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn source(name: &str, text: &str, allowed: &Deps) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX && !allowed.long_files.contains_key(name) {
        findings.push(format!(
            "{name}: {lines} lines, more than {LINES_MAX}: split it, or give deps.toml the reason"
        ));
    }
    let ends = |end: &str| name == end || name.ends_with(&format!("/{end}"));
    if ends("mod.rs") {
        findings.push(format!("{name}: tabs need distinct names: foo.rs beside foo/"));
    }
    let front_door = ends("src/lib.rs") || ends("src/main.rs");
    if front_door && !text.starts_with("//!") {
        findings.push(format!("{name}: a crate's first line tells what it is for (`//!`)"));
    }
    // Spelled in two parts so that this file passes its own check.
    for mark in [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME")] {
        if let Some(line) = text.lines().position(|line| line.contains(mark)) {
            findings
                .push(format!("{name}:{}: `{mark}` is unfinished work: do it, or open an issue", line + 1));
        }
    }
    findings
}

fn broken_links(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut code = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        for piece in line.split("](").skip(1) {
            let Some((link, _)) = piece.split_once(')') else { continue };
            let file = link.split('#').next().unwrap_or_default();
            let elsewhere = file.contains("://") || file.starts_with("mailto:");
            if !file.is_empty() && !elsewhere && !exists(file) {
                findings.push(format!("{name}:{number}: {file} does not exist"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_needs_a_reason() {
        let text = format!("//! x\n{}", "\n".repeat(LINES_MAX));
        let mut allowed = Deps::default();
        assert_eq!(source("crates/a/src/x.rs", &text, &allowed).len(), 1);
        allowed.long_files.insert("crates/a/src/x.rs".to_owned(), "one table".to_owned());
        assert!(source("crates/a/src/x.rs", &text, &allowed).is_empty());
    }

    #[test]
    fn unfinished_work_and_missing_front_doors_are_found() {
        let allowed = Deps::default();
        let text = concat!("fn a() { todo", "!() }");
        assert_eq!(source("crates/a/src/lib.rs", text, &allowed).len(), 2);
        assert_eq!(source("crates/a/src/b/mod.rs", "//! b", &allowed).len(), 1);
        assert!(source("crates/a/src/lib.rs", "//! a", &allowed).is_empty());
    }

    #[test]
    fn links_to_missing_files_are_found_outside_code() {
        let text = "[a](a.md) [b](b.md#part) [web](https://example.com)\n```\n[c](c.md)\n```";
        let findings = broken_links("x.md", text, |link| link == "a.md");
        assert_eq!(findings, ["x.md:1: b.md does not exist"]);
    }
}
