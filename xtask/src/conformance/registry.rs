//! `conformance registry`: the OCI distribution specification's own program, unmodified, against the registry of a private
//! platform: pull, push, content discovery, content management.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::platform::Platform;
use crate::{shell, tools};

/// The program and the version of the specification that it judges by.
const MODULE: &str = "github.com/opencontainers/distribution-spec/conformance";
const VERSION: &str = "v0.0.0-20260831232431-97274622c111";
const SPECIFICATION: &str = "1.1";

/// What the program has counted.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    tests: u64,
    failures: u64,
    skipped: u64,
    disabled: u64,
}

/// Runs the program; fails when one of its tests does.
pub(super) fn run(binary: &Path) -> Result<()> {
    let program = build()?;
    let platform = Platform::empty(binary)?;
    let results = program.with_file_name(format!("registry-results-{}", std::process::id()));
    let mut command = Command::new(program);
    command
        .env("OCI_REGISTRY", &platform.registry)
        .env("OCI_TLS", "disabled")
        .env("OCI_VERSION", SPECIFICATION)
        .env("OCI_REPO1", "conformance/one")
        .env("OCI_REPO2", "conformance/two")
        .env("OCI_RESULTS_DIR", &results);
    // Failures are counted from its report; its status only repeats them.
    let said = command.output().context("run the conformance program")?;
    let report = std::fs::read_to_string(results.join("junit.xml"))
        .with_context(|| format!("no report: {}", String::from_utf8_lossy(&said.stderr)));
    platform.stop()?;
    let counts = counts(&report?)?;
    std::fs::remove_dir_all(&results)?;
    if counts.failures > 0 {
        shell::say(&String::from_utf8_lossy(&said.stdout));
    }
    tell(&counts);
    ensure!(counts.failures == 0, "{} tests failed", counts.failures);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks to its terminal")]
fn tell(counts: &Counts) {
    let Counts { tests, failures, skipped, disabled } = counts;
    let passed = tests - failures - skipped - disabled;
    println!("RESULT suite=registry passed={passed} failed={failures} skipped={skipped} disabled={disabled}");
}

/// Builds the program once.
fn build() -> Result<PathBuf> {
    let folder = shell::root().join("target/conformance").join(format!("registry-{VERSION}"));
    let program = folder.join("conformance");
    if program.exists() {
        return Ok(program);
    }
    let go = tools::go()?;
    shell::say(&format!("fetching {MODULE}"));
    let module = format!("{MODULE}@{VERSION}");
    let answer = shell::read(Command::new(&go).args(["mod", "download", "-json", &module]))?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("go mod download")?;
    let source = answer.get("Dir").and_then(|dir| dir.as_str()).context("go mod download told no folder")?;
    // A copy that may be written to: its go.sum may lack lines.
    let sources = folder.join("sources");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    shell::read(Command::new("cp").args(["-r", "--no-preserve=mode", source]).arg(&sources))?;
    let partial = folder.join("partial");
    let mut command = Command::new(&go);
    command.args(["build", "-o"]).arg(&partial).arg(".").current_dir(&sources);
    shell::read(command.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod"))?;
    std::fs::rename(partial, &program).context("keep the program")?;
    Ok(program)
}

/// The counts in the first element of a JUnit report.
fn counts(report: &str) -> Result<Counts> {
    let (_, rest) = report.split_once("<testsuites").context("the report has no test suites")?;
    let element = rest.split('>').next().unwrap_or_default();
    // What is zero is left out.
    let number = |name: &str| match element.split_once(&format!(" {name}=\"")) {
        Some((_, value)) => {
            value.split('"').next().unwrap_or_default().parse::<u64>().with_context(|| name.to_owned())
        }
        None => Ok(0),
    };
    Ok(Counts {
        tests: number("tests")?,
        failures: number("failures")?,
        skipped: number("skipped")?,
        disabled: number("disabled")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_counted() {
        let report = "<?xml?>\n<testsuites time=\"2.0\" tests=\"866\" failures=\"1\" skipped=\"28\" disabled=\"2\"><testsuite tests=\"9\">";
        assert_eq!(counts(report).unwrap(), Counts { tests: 866, failures: 1, skipped: 28, disabled: 2 });
        assert_eq!(counts("<testsuites tests=\"3\">").unwrap().failures, 0);
        assert!(counts("<html>").is_err());
    }
}
