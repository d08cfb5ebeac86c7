//! Traffic moves between revisions without losing a request.

use std::time::Duration;

use anyhow::ensure;
use dormouse_e2e::traffic::Load;
use dormouse_e2e::{Outcome, Platform, until};

use crate::manifest::service;

#[test]
fn a_traffic_change_under_load_fails_no_request() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let first = service("moves").revision("moves-one").traffic("{revisionName: moves-one, percent: 100}");
    platform.deploy("moves", &first.yaml())?;
    let both = service("moves").revision("moves-two").environment("GENERATION", "2");
    let both = both
        .traffic("{revisionName: moves-one, percent: 100}")
        .traffic("{revisionName: moves-two, percent: 0}");
    platform.deploy("moves", &both.yaml())?;

    let load = Load {
        gateway: platform.state().gateway,
        host: platform.host("moves"),
        path: "/sleep?ms=2".to_owned(),
        clients: 8,
        reconnect: false,
    };
    let running = load.start();
    let enough = |more: usize| {
        let from = running.succeeded();
        until("the load goes on", Duration::from_secs(20), || {
            Ok((running.succeeded() > from + more).then_some(()))
        })
    };
    enough(200)?;
    for (one, two) in [(0, 100), (50, 50), (100, 0), (0, 100)] {
        let moved = service("moves").revision("moves-two").environment("GENERATION", "2");
        let moved = moved.traffic(&format!("{{revisionName: moves-one, percent: {one}}}"));
        let moved = moved.traffic(&format!("{{revisionName: moves-two, percent: {two}}}"));
        platform.deploy("moves", &moved.yaml())?;
        enough(200)?;
    }
    let report = running.stop();
    ensure!(
        report.failures.is_empty(),
        "{} failures, first {:?}",
        report.failures.len(),
        report.failures.first()
    );
    for revision in ["moves-one", "moves-two"] {
        let body = format!("Hello from {revision}!\n");
        ensure!(report.bodies.contains_key(&body), "no answer of {revision}: {:?}", report.bodies);
    }
    Ok(())
}
