//! From a directory to a URL, with the tools of this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use dormouse_e2e::{Options, Outcome, Platform, Said};

/// `examples/NAME`.
fn example(name: &str) -> PathBuf {
    dormouse_e2e::tools::root().join("examples").join(name)
}

fn deploy(platform: &Platform, path: &Path, more: &[&str]) -> anyhow::Result<Said> {
    let path = path.display().to_string();
    platform.dormouse(["deploy", &path].into_iter().chain(more.iter().copied()))
}

fn serves(platform: &Platform, name: &str, expected: &str) -> Outcome {
    let answer = platform.get(name, "/")?;
    ensure!(answer.status == 200 && answer.text().contains(expected), "{name}: {answer:?}");
    Ok(())
}

#[test]
fn a_site_is_live_and_a_change_is_a_new_revision() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let site = dir.path().join("site");
    std::fs::create_dir(&site)?;
    std::fs::write(site.join("index.html"), "<h1>one</h1>")?;
    let url = deploy(&platform, &site, &[])?.ok()?;
    ensure!(url.contains("site.default"), "the URL alone is on stdout: {url:?}");
    serves(&platform, "site", "<h1>one</h1>")?;
    deploy(&platform, &site, &[])?.ok()?;
    let first = platform.get_service("site")?;
    ensure!(
        first.pointer("/status/latestReadyRevisionName").is_some_and(|name| name == "site-00001"),
        "the same content is the same revision: {first}"
    );
    std::fs::write(site.join("index.html"), "<h1>two</h1>")?;
    let report = deploy(&platform, &site, &["-o", "json"])?.ok()?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    ensure!(report.pointer("/build/language").is_some_and(|language| language == "static"), "{report}");
    serves(&platform, "site", "<h1>two</h1>")
}

/// Whether the user's own tools, which builds use, have this one.
fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

#[test]
fn programs_in_the_languages_of_this_machine_are_live() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    for (name, tool) in [("go", "go"), ("python", "python3"), ("node", "node"), ("rust", "cargo")] {
        if !installed(tool) {
            eprintln!("SKIPPED: {tool} is not installed");
            continue;
        }
        let service = format!("hello-{name}");
        deploy(&platform, &example(&service), &[])?.ok()?;
        serves(&platform, &service, name)?;
    }
    let groups = std::fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.file_name());
    for group in groups.map(|name| name.to_string_lossy().into_owned()) {
        if let Some(rest) = group.strip_prefix("dormouse-build-") {
            let pid = rest.split('-').next().context("a process id")?;
            ensure!(Path::new("/proc").join(pid).exists(), "{group} was left behind");
        }
    }
    platform.take_down()
}

#[test]
fn what_is_wrong_is_told_with_its_reason_and_deploys_nothing() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken)?;
    let text = deploy(&platform, &broken, &[])?.failed()?;
    ensure!(text.contains("LanguageNotDetected") && text.contains("--language"), "{text}");
    std::fs::write(broken.join("go.mod"), "module x\n")?;
    std::fs::write(broken.join("main.go"), "package main\nfunc main() { oops }\n")?;
    let text = deploy(&platform, &broken, &[])?.failed()?;
    ensure!(text.contains("CompileFailed") && text.contains("undefined: oops"), "{text}");
    let text = deploy(&platform, &dir.path().join("nowhere"), &[])?.failed()?;
    ensure!(text.contains("SourceNotFound") && text.contains("nowhere"), "{text}");
    ensure!(platform.get_service("broken").is_err(), "nothing was deployed");
    Ok(())
}
