//! `containerConcurrency` is exact, and instances follow the load.

use std::time::Duration;

use anyhow::ensure;
use dormouse_e2e::traffic::Load;
use dormouse_e2e::{Options, Outcome, Platform, until};

use crate::manifest::service;

#[test]
fn fifty_clients_never_meet_in_an_instance_that_takes_one_request() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    let manifest = service("alone")
        .spec("containerConcurrency: 1")
        .annotation("autoscaling.knative.dev/max-scale", "20");
    platform.deploy("alone", &manifest.yaml())?;
    let load = Load {
        gateway: platform.state().gateway,
        host: platform.host("alone"),
        path: "/fail-if-concurrent?ms=20".to_owned(),
        clients: 50,
        reconnect: false,
    };
    let running = load.start();
    let mut most = 0;
    let end = dormouse_base::clock::now() + Duration::from_secs(20);
    until("twenty seconds of load", Duration::from_secs(30), || {
        most = most.max(platform.instances_of("alone")?.len());
        Ok((dormouse_base::clock::now() >= end).then_some(()))
    })?;
    let report = running.stop();
    ensure!(
        report.failures.is_empty(),
        "{} failures, first {:?}",
        report.failures.len(),
        report.failures.first()
    );
    ensure!(report.succeeded > 500, "only {} requests in 20 s", report.succeeded);
    ensure!(most > 1, "one instance all the time, although 50 clients waited");
    platform.asleep("alone", Duration::from_secs(90))?;
    platform.take_down()
}
