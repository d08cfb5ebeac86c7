//! Containers that misbehave: the service's conditions tell how, and the machine stays clean.

use std::time::Duration;

use anyhow::ensure;
use dormouse_e2e::{Outcome, Platform, until};

use crate::manifest::{Service, service};

/// Seconds instead of ten minutes until a revision that never listens is given up.
fn impatient<'a>(service: Service<'a>) -> Service<'a> {
    service.annotation("serving.knative.dev/progress-deadline", "5s")
}

fn never_ready(platform: &Platform, name: &str, manifest: &Service<'_>, told: &[&str]) -> Outcome {
    platform.apply(&manifest.yaml())?.ok()?;
    let text = platform.refused(name)?;
    for part in told {
        ensure!(text.contains(part), "{name}: {part:?} is not told: {text}");
    }
    platform.kubectl(&["delete", "ksvc", name])?.ok()?;
    platform.asleep(name, Duration::from_secs(20))
}

#[test]
fn one_that_exits_at_once_is_told_with_its_code() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let manifest = impatient(service("exits").environment("EXIT_CODE", "7"));
    never_ready(&platform, "exits", &manifest, &["ExitCode7", "leaving at once with code 7"])
}

#[test]
fn one_that_never_listens_is_told() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let manifest = impatient(service("deaf").environment("NEVER_LISTEN", "1"));
    never_ready(&platform, "deaf", &manifest, &["8080"])
}

#[test]
fn one_that_listens_on_another_port_is_told() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let manifest = impatient(service("astray").environment("LISTEN_PORT", "9999"));
    never_ready(&platform, "astray", &manifest, &["8080"])
}

#[test]
fn one_that_exceeds_its_memory_is_told_and_replaced() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let limits = "resources: {limits: {memory: 64Mi}}";
    let manifest = service("greedy").container(limits).annotation("autoscaling.knative.dev/min-scale", "1");
    platform.deploy("greedy", &manifest.yaml())?;
    let killed = platform.get("greedy", "/allocate?mib=512");
    ensure!(
        killed.as_ref().map_or(true, |response| response.status == 502),
        "the allocation was allowed: {killed:?}"
    );
    until("the OOM kill is told", Duration::from_secs(20), || {
        let pods = platform
            .kubectl(&["get", "pods", "-l", "serving.knative.dev/service=greedy", "-o", "yaml"])?
            .ok()?;
        let events = platform.kubectl(&["get", "events"])?.ok()?;
        ensure!(pods.contains("OOMKilled") || events.contains("OOMKill"), "{pods}\n{events}");
        Ok(Some(()))
    })?;
    until("it serves again", Duration::from_secs(20), || {
        let answer = platform.get("greedy", "/")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(Some(()))
    })
}

#[test]
fn one_that_ignores_sigterm_is_killed_after_its_grace_period() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let manifest = service("stubborn").environment("IGNORE_SIGTERM", "1").spec("timeoutSeconds: 2");
    platform.deploy("stubborn", &manifest.yaml())?;
    let answer = platform.get("stubborn", "/")?;
    ensure!(answer.status == 200, "{answer:?}");
    platform.kubectl(&["delete", "ksvc", "stubborn"])?.ok()?;
    platform.asleep("stubborn", Duration::from_secs(20))
}
