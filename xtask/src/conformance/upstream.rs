//! Knative Serving's sources, its tests as programs, and the programs of its test images.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::suites::Suite;
use crate::{shell, tools};

/// The release whose suites judge us.
pub(crate) const VERSION: &str = "v0.50.0";

/// What was built.
pub(crate) struct Built {
    /// One program for each suite, `<name>.test`.
    pub(crate) tests: PathBuf,
    /// One program for each test image.
    pub(crate) images: PathBuf,
    /// The sources.
    pub(crate) sources: PathBuf,
    /// The Go that built them: its tools read what the tests say.
    pub(crate) go: PathBuf,
}

/// Builds what is missing.
pub(crate) fn build(suites: &[&Suite]) -> Result<Built> {
    let folder = shell::root().join("target/conformance").join(VERSION);
    let built = Built {
        tests: folder.join("tests"),
        images: folder.join("images"),
        sources: folder.join("serving"),
        go: tools::go()?,
    };
    for path in [&built.tests, &built.images] {
        std::fs::create_dir_all(path)?;
    }
    if !built.sources.exists() {
        fetch(&built)?;
    }
    for (name, package) in images(&built.sources)? {
        let flags = ["-trimpath", "-ldflags=-s -w"];
        make(&built, &built.images.join(name), |go| go.arg("build").args(flags), &package)?;
    }
    for suite in suites {
        let target = built.tests.join(format!("{}.test", suite.name));
        make(&built, &target, |go| go.args(["test", "-c", "-tags=e2e"]), suite.package)?;
    }
    Ok(built)
}

/// A copy of the module that may be written to: its go.sum lacks what only its tests need.
fn fetch(built: &Built) -> Result<()> {
    let module = format!("knative.dev/serving@{VERSION}");
    shell::say(&format!("fetching {module}"));
    let answer = shell::read(Command::new(&built.go).args(["mod", "download", "-json", &module]))?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("go mod download")?;
    let folder = answer.get("Dir").and_then(|dir| dir.as_str()).context("go mod download told no folder")?;
    let partial = built.sources.with_extension("partial");
    let _ = std::fs::remove_dir_all(&partial);
    shell::read(Command::new("cp").args(["-r", "--no-preserve=mode", folder]).arg(&partial))?;
    std::fs::rename(partial, &built.sources).context("keep the sources")
}

/// The test images' names and packages: a folder with a `main` is an image.
fn images(sources: &Path) -> Result<Vec<(String, String)>> {
    let root = sources.join("test/test_images");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let mut is_program = false;
        for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "go") {
                is_program |= std::fs::read_to_string(&path)?.lines().any(|line| line == "package main");
            }
        }
        if is_program && let (Some(name), Ok(below)) = (folder.file_name(), folder.strip_prefix(sources)) {
            found.push((name.to_string_lossy().into_owned(), format!("./{}", below.display())));
        }
    }
    found.sort();
    Ok(found)
}

/// Builds one program unless it is there.
fn make(
    built: &Built,
    target: &Path,
    verb: impl Fn(&mut Command) -> &mut Command,
    package: &str,
) -> Result<()> {
    if target.exists() {
        return Ok(());
    }
    let partial = target.with_extension("partial");
    let mut go = Command::new(&built.go);
    verb(&mut go).arg("-o").arg(&partial).arg(package);
    go.current_dir(&built.sources).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod");
    shell::say(&format!("building {package}"));
    shell::read(&mut go)?;
    std::fs::rename(partial, target).with_context(|| format!("keep {}", target.display()))
}
