//! Runs one suite's program, reads what it says, and tells it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Options;
use super::platform::Platform;
use super::suites::Suite;
use super::upstream::Built;

/// As much of a failed test's output as is shown.
const LINES_MAX: usize = 12;
/// As much of a line as is shown: some print whole objects.
const LINE_MAX: usize = 400;

/// How a suite went: its tests, not their parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

/// The line that sums a suite up.
#[expect(clippy::print_stdout, reason = "the result is the output")]
pub(crate) fn result(suite: &str, tally: &Tally) {
    let Tally { passed, failed, skipped } = tally;
    println!("RESULT suite={suite} passed={passed} failed={failed} skipped={skipped}");
}

/// Runs the suite.
pub(crate) fn run(platform: &Platform, built: &Built, suite: &Suite, options: &Options) -> Result<Tally> {
    let mut reader = Reader::default();
    let skipped: Vec<_> = if options.gaps { Vec::new() } else { suite.gaps.to_vec() };
    for (test, why) in &skipped {
        reader.told("SKIP", test, &format!("known gap: {why}"));
        reader.tally.skipped += 1;
    }
    let mut go = Command::new(&built.go);
    go.args(["tool", "test2json", "-t", "-p", suite.name]);
    go.arg(built.tests.join(format!("{}.test", suite.name)));
    go.args(["-test.v=test2json", "-test.timeout", suite.timeout]);
    go.args(["-test.parallel", &options.parallel.to_string()]);
    if let Some(pattern) = &options.run {
        go.args(["-test.run", pattern]);
    }
    if !skipped.is_empty() {
        let names: Vec<&str> = skipped.iter().map(|(test, _)| *test).collect();
        go.args(["-test.skip", &format!("^({})$", names.join("|"))]);
    }
    go.args(["-kubeconfig", &platform.kubeconfig, "-ingressendpoint", "127.0.0.1", "-tag", "latest"]);
    go.args(["-dockerrepo", &format!("{}/knative", platform.registry)]);
    // Logs of system components are streamed from their pods; there are none.
    go.args(["-disable-logstream", "-enable-beta", "-enable-alpha"]);
    go.args(["-ingress-class", "dormouse.ingress.networking.knative.dev"]);
    go.env("SYSTEM_NAMESPACE", "knative-serving").env("KUBECONFIG", &platform.kubeconfig);
    go.current_dir(&built.sources).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = go.spawn().context("start the suite")?;
    let output = process.stdout.take().context("the suite has an output")?;
    for line in BufReader::new(output).lines() {
        if let Ok(event) = serde_json::from_str(&line?) {
            reader.take(&event);
        }
    }
    let status = process.wait()?;
    // A suite that was killed or panicked has told fewer ends than beginnings.
    let cut = reader.unfinished();
    reader.tally.failed += u32::try_from(cut.len()).unwrap_or(u32::MAX);
    for test in cut {
        reader.told("FAIL", &test, "the suite ended before this test did");
    }
    let tally = reader.tally;
    ensure!(
        status.success() || tally.failed > 0,
        "suite {} ended with {status}, but no test failed",
        suite.name
    );
    Ok(tally)
}

/// Reads `go test -json` events.
#[derive(Default)]
struct Reader {
    tally: Tally,
    /// What tests that have not ended have said so far.
    running: BTreeMap<String, Vec<String>>,
}

impl Reader {
    fn take(&mut self, event: &Value) {
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        let (action, test) = (text("Action"), text("Test"));
        if test.is_empty() {
            return;
        }
        match action {
            "run" => drop(self.running.insert(test.to_owned(), Vec::new())),
            "output" => {
                let line = text("Output").trim_end();
                let noise =
                    line.is_empty() || line.starts_with("===") || line.trim_start().starts_with("crd.go");
                if let Some(lines) = self.running.get_mut(test).filter(|_| !noise) {
                    lines.push(line.chars().take(LINE_MAX).collect());
                }
            }
            "pass" | "fail" | "skip" => {
                let lines = self.running.remove(test).unwrap_or_default();
                let seconds = event.get("Elapsed").and_then(Value::as_f64).unwrap_or(0.0);
                self.told(&action.to_uppercase(), test, &format!("{seconds:.1} s"));
                if action != "pass" {
                    let from = lines.len().saturating_sub(LINES_MAX);
                    lines.iter().skip(from).for_each(|line| tell(&format!("     {line}")));
                }
                if !test.contains('/') {
                    match action {
                        "pass" => self.tally.passed += 1,
                        "fail" => self.tally.failed += 1,
                        _ => self.tally.skipped += 1,
                    }
                }
            }
            _ => {}
        }
    }

    fn unfinished(&self) -> Vec<String> {
        self.running.keys().filter(|test| !test.contains('/')).cloned().collect()
    }

    fn told(&self, word: &str, test: &str, rest: &str) {
        tell(&format!("{word:4} {test}  {rest}"));
    }
}

#[expect(clippy::print_stdout, reason = "the result is the output")]
fn tell(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tests_are_counted_and_their_parts_are_not() {
        let mut reader = Reader::default();
        for event in [
            json!({"Action": "start"}),
            json!({"Action": "run", "Test": "TestA"}),
            json!({"Action": "run", "Test": "TestA/part"}),
            json!({"Action": "output", "Test": "TestA", "Output": "=== RUN   TestA\n"}),
            json!({"Action": "fail", "Test": "TestA/part", "Elapsed": 1.5}),
            json!({"Action": "fail", "Test": "TestA", "Elapsed": 1.5}),
            json!({"Action": "run", "Test": "TestB"}),
            json!({"Action": "pass", "Test": "TestB", "Elapsed": 0.1}),
            json!({"Action": "run", "Test": "TestC"}),
            json!({"Action": "fail"}),
        ] {
            reader.take(&event);
        }
        assert_eq!(reader.tally, Tally { passed: 1, failed: 1, skipped: 0 });
        assert_eq!(reader.unfinished(), ["TestC"]);
    }
}
