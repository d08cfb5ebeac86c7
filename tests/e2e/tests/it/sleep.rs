//! What the program is for: nothing runs while nothing happens, and the next request is answered.

use std::time::Duration;

use anyhow::ensure;
use dormouse_e2e::{Options, Outcome, Platform, leftovers};

use crate::manifest::service;

/// The shortest window, the usual grace of 30 s, and what a loaded machine adds.
const ASLEEP: Duration = Duration::from_secs(75);

#[test]
fn a_service_sleeps_without_a_trace_and_wakes_on_the_next_request() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    platform.deploy("dozes", &service("dozes").yaml())?;
    let first = platform.get("dozes", "/instance")?;
    ensure!(first.status == 200, "{first:?}");
    platform.asleep("dozes", ASLEEP)?;

    let cgroups = leftovers::cgroups_of("dozes-00001");
    ensure!(cgroups.is_empty(), "cgroups of a sleeping service: {cgroups:?}");
    let overlays = leftovers::overlays(platform.data());
    ensure!(overlays.is_empty(), "mounts of a sleeping service: {overlays:?}");
    let pods = platform.kubectl(&["get", "pods", "-o", "name"])?.ok()?;
    ensure!(pods.is_empty(), "pods of a sleeping service: {pods}");

    let second = platform.get("dozes", "/instance")?;
    ensure!(second.status == 200 && second.text() != first.text(), "woken: {first:?} {second:?}");
    platform.take_down()
}

#[test]
fn a_service_may_start_asleep() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    let change = r#"{"data":{"allow-zero-initial-scale":"true"}}"#;
    platform
        .kubectl(&[
            "patch",
            "cm",
            "config-autoscaler",
            "-n",
            "knative-serving",
            "--type=merge",
            "-p",
            change,
        ])?
        .ok()?;
    platform
        .deploy("later", &service("later").annotation("autoscaling.knative.dev/initial-scale", "0").yaml())?;
    ensure!(platform.instances_of("later")?.is_empty(), "an instance runs before the first request");
    let answer = platform.get("later", "/")?;
    ensure!(answer.text() == "Hello from later-00001!\n", "{answer:?}");
    platform.take_down()
}
