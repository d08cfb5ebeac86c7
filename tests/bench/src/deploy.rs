//! From source to Ready in each language: nothing there yet, one line changed, nothing changed; and the image's size.
//!
//! There is no peer that does this on one machine without a daemon. The compilers' own time is the floor, so it is told
//! beside the total.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dormouse_e2e::{Options, Platform, tools};
use serde_json::Value;

use crate::{Verdict, report};

/// How often one line is changed; the median counts.
const CHANGES: usize = 5;

/// One example: its folder, the file with the text to change, and the most seconds that a change may take. Where a
/// compiler works, `compiled`, its own time may come on top.
struct Subject {
    name: &'static str,
    file: &'static str,
    limit: f64,
    compiled: bool,
}

const SUBJECTS: [Subject; 8] = [
    Subject { name: "static", file: "index.html", limit: 0.5, compiled: false },
    Subject { name: "hello-python", file: "main.py", limit: 2.0, compiled: false },
    Subject { name: "hello-node", file: "server.js", limit: 2.0, compiled: false },
    Subject { name: "hello-typescript", file: "src/server.ts", limit: 0.5, compiled: true },
    Subject { name: "hello-go", file: "main.go", limit: 0.5, compiled: true },
    Subject { name: "hello-rust", file: "src/main.rs", limit: 0.5, compiled: true },
    Subject { name: "hello-java", file: "Main.java", limit: 2.0, compiled: true },
    Subject { name: "wasm", file: "src/lib.rs", limit: 0.5, compiled: true },
];

/// One deployment.
struct Taken {
    seconds: f64,
    compile: f64,
    bytes: f64,
}

/// What came of one language.
struct Row {
    subject: &'static Subject,
    first: Taken,
    changed: Taken,
    again: Taken,
}

pub(crate) fn run() -> Result<Verdict> {
    let platform = Platform::own(Options::default())?.context("a platform is needed")?;
    let folder = tempfile::tempdir()?;
    let mut rows = Vec::new();
    for subject in &SUBJECTS {
        report::say(subject.name);
        rows.push(measure(&platform, subject, folder.path())?);
    }
    platform.take_down()?;
    publish(&rows)
}

fn measure(platform: &Platform, subject: &'static Subject, folder: &Path) -> Result<Row> {
    let project = folder.join(subject.name);
    if subject.name == "static" {
        std::fs::create_dir(&project)?;
        std::fs::write(project.join(subject.file), "<h1>Hello from static</h1>\n")?;
    } else {
        copy(&tools::root().join("examples").join(subject.name), &project)?;
    }
    let file = project.join(subject.file);
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains("Hello from"), "{} has no line to change", file.display());
    let first = deploy(platform, subject, &project, "Hello from")?;
    let mut changes = Vec::new();
    for number in 0..CHANGES {
        let hello = format!("Change {number} from");
        std::fs::write(&file, text.replace("Hello from", &hello))?;
        changes.push(deploy(platform, subject, &project, &hello)?);
    }
    let hello = format!("Change {} from", CHANGES - 1);
    let again = deploy(platform, subject, &project, &hello)?;
    changes.sort_by(|one, two| one.seconds.total_cmp(&two.seconds));
    let changed = changes.into_iter().nth(CHANGES / 2).context("the median")?;
    Ok(Row { subject, first, changed, again })
}

/// Deploys and proves that what answers is what was deployed.
fn deploy(platform: &Platform, subject: &Subject, project: &Path, expected: &str) -> Result<Taken> {
    let path = project.display().to_string();
    let report: Value = serde_json::from_str(&platform.dormouse(["deploy", &path, "-o", "json"])?.ok()?)?;
    let answer = platform.get(subject.name, "/")?;
    ensure!(answer.status == 200 && answer.text().contains(expected), "{}: {answer:?}", subject.name);
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
    let phases = report.pointer("/build/phases").and_then(Value::as_array);
    let compile = phases
        .into_iter()
        .flatten()
        .filter(|phase| phase.get("name").is_some_and(|name| name == "compile"))
        .filter_map(|phase| phase.get("took")?.as_f64())
        // The sum of nothing is minus zero.
        .fold(0.0, |sum, seconds| sum + seconds);
    Ok(Taken {
        seconds: number("/seconds").context("seconds")?,
        compile,
        bytes: number("/build/bytes").context("bytes")?,
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        // What a developer's own tools have left is no source.
        if ["target", "node_modules"].iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => copy(&source, &target)?,
            false => drop(std::fs::copy(&source, &target)?),
        }
    }
    Ok(())
}

fn publish(rows: &[Row]) -> Result<Verdict> {
    let mut table = String::from(
        "| | first build s | one line changed s | of it the compiler s | nothing changed s | image MiB |\n|---|---|---|---|---|---|\n",
    );
    let mut figures = Vec::new();
    let mut missed = Vec::new();
    for Row { subject, first, changed, again } in rows {
        let name = subject.name.trim_start_matches("hello-");
        writeln!(
            table,
            "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} |",
            first.seconds,
            changed.seconds,
            changed.compile,
            again.seconds,
            changed.bytes / 1_048_576.0,
        )?;
        figures.push((name, changed.seconds));
        let floor = if subject.compiled { changed.compile } else { 0.0 };
        if changed.seconds > subject.limit + floor {
            missed.push(format!("{name} {:.2} s, allowed {:.2}", changed.seconds, subject.limit + floor));
        }
    }
    report::publish("deploy", &table, &figures)?;
    Ok(if missed.is_empty() { Verdict::Kept } else { Verdict::Broken(missed.join("; ")) })
}
