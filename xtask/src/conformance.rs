//! `conformance serving`: Knative Serving's own test suites, unmodified, against a private platform. `conformance registry`
//! is the same for the registry ([`registry`]).
//!
//! The tests and the programs of their images come from the Go module proxy and are built here; nothing of them is kept
//! in the repository.

mod platform;
mod registry;
mod report;
mod suites;
mod upstream;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::{shell, tools};
use platform::Platform;
use report::Tally;
use suites::{SUITES, Suite};

/// What the command line asks for.
struct Options {
    /// Suites by name; all when empty.
    suites: Vec<String>,
    /// Tests by Go's pattern.
    run: Option<String>,
    /// Run known gaps too.
    gaps: bool,
    /// The program under test; built when absent.
    binary: Option<PathBuf>,
    /// Tests of one suite at the same time.
    parallel: u32,
}

const USAGE: &str = "\
cargo xtask conformance serving [--suite NAME]... [--run PATTERN] [--known-gaps] [--parallel N] [--binary PATH]
cargo xtask conformance registry [--binary PATH]

  --suite NAME    only this suite; may be repeated
  --run PATTERN   only the tests that Go's pattern matches
  --known-gaps    also run what is known to fail
  --parallel N    tests of a suite at the same time [default: 4]
  --binary PATH   the program under test [default: a release build of this tree]
";

/// Runs the suites; fails when a test fails.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let [verb, rest @ ..] = arguments
        && verb == "registry"
    {
        let binary = match rest {
            [] => build()?,
            [flag, path] if flag == "--binary" => {
                PathBuf::from(path).canonicalize().context("find the binary")?
            }
            _ => bail!("only --binary PATH is understood\n\n{USAGE}"),
        };
        tools::install(tools::FOR_PLATFORM)?;
        return registry::run(&binary);
    }
    let options = parse(arguments)?;
    let chosen: Vec<&Suite> = SUITES.iter().filter(|suite| options.wants(suite)).collect();
    ensure!(!chosen.is_empty(), "no such suite; there are: {}", names());
    tools::install(tools::FOR_PLATFORM)?;
    tools::kubectl()?;
    let binary = match &options.binary {
        Some(path) => path.canonicalize().with_context(|| format!("find {}", path.display()))?,
        None => build()?,
    };
    let built = upstream::build(&chosen)?;
    let platform = Platform::start(&binary, &built)?;
    let mut failed = 0;
    for suite in chosen {
        let tally = one(&platform, &built, suite, &options)?;
        report::result(suite.name, &tally);
        failed += tally.failed;
    }
    platform.stop()?;
    ensure!(failed == 0, "{failed} tests failed");
    Ok(())
}

fn one(platform: &Platform, built: &upstream::Built, suite: &Suite, options: &Options) -> Result<Tally> {
    for (map, key, value) in suite.settings {
        platform.set(map, key, value)?;
    }
    let result = report::run(platform, built, suite, options);
    for (map, key, _) in suite.settings {
        platform.unset(map, key)?;
    }
    result
}

fn names() -> String {
    SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().join(", ")
}

fn build() -> Result<PathBuf> {
    let arguments =
        ["build", "--release", "--package", "dormouse", "--bin", "dormouse", "--message-format", "json"];
    let messages = shell::read(shell::cargo().args(arguments))?;
    // Where the program is depends on `build.build-dir` and friends: cargo says it.
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .next_back();
    executable.context("cargo told no executable")
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options { suites: Vec::new(), run: None, gaps: false, binary: None, parallel: 4 };
    let mut rest = arguments.iter();
    if rest.next().map(String::as_str) != Some("serving") {
        bail!("which suites? serving, registry\n\n{USAGE}");
    }
    while let Some(argument) = rest.next() {
        let mut value =
            || rest.next().cloned().with_context(|| format!("{argument} needs a value\n\n{USAGE}"));
        match argument.as_str() {
            "--suite" => options.suites.push(value()?),
            "--run" => options.run = Some(value()?),
            "--known-gaps" => options.gaps = true,
            "--binary" => options.binary = Some(value()?.into()),
            "--parallel" => options.parallel = value()?.parse().context("--parallel is not a number")?,
            other => bail!("{other:?} is not understood\n\n{USAGE}"),
        }
    }
    Ok(options)
}

// === impl Options ===

impl Options {
    fn wants(&self, suite: &Suite) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|name| name == suite.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn options_are_read_and_mistakes_are_named() {
        let options =
            parse(&words("serving --suite e2e --run ^TestHello --known-gaps --parallel 2")).unwrap();
        assert_eq!((options.suites.as_slice(), options.parallel), (&["e2e".to_owned()][..], 2));
        assert!(options.gaps && options.run.as_deref() == Some("^TestHello"));
        assert!(
            parse(&words("serving --suite")).is_err_and(|error| error.to_string().contains("needs a value"))
        );
        assert!(parse(&words("eventing")).is_err());
    }

    #[test]
    fn every_known_gap_says_why() {
        for suite in SUITES {
            for (test, why) in suite.gaps {
                assert!(test.starts_with("Test") && why.len() > 10, "{} {test}", suite.name);
            }
        }
    }
}
