//! `kill -9` at any point: of the main process and of the keeper.

use std::time::Duration;

use anyhow::{Context, ensure};
use dormouse_base::clock;
use dormouse_e2e::platform::kill;
use dormouse_e2e::traffic::Load;
use dormouse_e2e::{Options, Outcome, Platform, leftovers, until};
use rustix::process::Signal;

use crate::manifest::service;

#[test]
fn a_killed_main_process_finds_its_instances_again() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    platform
        .deploy("stays", &service("stays").annotation("autoscaling.knative.dev/min-scale", "2").yaml())?;
    let before = until("two instances", Duration::from_secs(20), || {
        let instances = platform.instances_of("stays")?;
        ensure!(instances.len() == 2, "{instances:?}");
        Ok(Some(instances))
    })?;
    let identity: Vec<_> = before.iter().map(|one| leftovers::started(one.pid)).collect();
    let load = Load {
        gateway: platform.state().gateway,
        host: platform.host("stays"),
        path: "/".to_owned(),
        clients: 4,
        reconnect: true,
    };
    let running = load.start();
    until("the load runs", Duration::from_secs(10), || Ok((running.succeeded() > 100).then_some(())))?;

    platform.kill_main()?;
    // Connections made while nobody serves: the keeper holds the listening socket, so they wait instead of failing.
    let (gateway, host) = (platform.state().gateway, platform.host("stays"));
    let meanwhile = std::thread::spawn(move || {
        dormouse_e2e::http::send(gateway, &dormouse_e2e::http::Request::get(&host, "/"))
    });
    let restarted = clock::now();
    platform.restart()?;
    let answer = until("the service answers", Duration::from_secs(10), || {
        let answer = platform.get("stays", "/")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(Some(restarted.elapsed()))
    })?;
    let meanwhile =
        meanwhile.join().expect("the client does not panic").context("a connection made meanwhile")?;
    ensure!(meanwhile.status == 200, "{meanwhile:?}");
    // A debug build on a shared machine; the release build's figure is in docs/benchmarks.md.
    ensure!(answer < Duration::from_secs(5), "answered {answer:?} after the restart");

    let after = platform.instances_of("stays")?;
    ensure!(after == before, "adopted {after:?}, was {before:?}");
    let now: Vec<_> = after.iter().map(|one| leftovers::started(one.pid)).collect();
    ensure!(now == identity, "the same numbers, but other processes");
    platform.ready("stays")?;
    let report = running.stop();
    ensure!(
        report.failures.len() <= 4 * 50,
        "{} failures, last {:?}",
        report.failures.len(),
        report.failures.last()
    );
    ensure!(report.succeeded > 100, "{}", report.succeeded);
    platform.take_down()
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_point() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    let mut acknowledged = Vec::new();
    for round in 0..4_u32 {
        let mut session = platform.api()?.connect()?;
        let target = 5 + 7 * usize::try_from(round)?;
        for index in 0..target {
            let name = format!("kept-{round}-{index}");
            let object = serde_json::json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "round": round.to_string() },
            });
            session.send("POST", "/api/v1/namespaces/default/configmaps", &object)?;
            acknowledged.push(name);
        }
        platform.kill_main()?;
        platform.restart()?;
        let listed = platform.api()?.get("/api/v1/namespaces/default/configmaps")?.to_string();
        for name in &acknowledged {
            ensure!(listed.contains(&format!("\"{name}\"")), "{name} was acknowledged and is gone");
        }
    }
    platform.take_down()
}

#[test]
fn a_killed_keeper_takes_its_instances_along_and_service_resumes() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    platform
        .deploy("again", &service("again").annotation("autoscaling.knative.dev/min-scale", "1").yaml())?;
    let before = platform.instances_of("again")?;
    ensure!(!before.is_empty(), "no instance");
    kill(platform.state().keeper, Signal::KILL)?;
    until("its instances are gone", Duration::from_secs(10), || {
        let alive: Vec<_> =
            before.iter().filter(|one| !leftovers::command_line(one.pid).is_empty()).collect();
        ensure!(alive.is_empty(), "{alive:?}");
        Ok(Some(()))
    })?;
    // Main either goes on with a new keeper or stops for its supervisor to start it again; it never stays half alive.
    let served = until("the service answers again", Duration::from_secs(20), || {
        if platform.ended(Duration::ZERO).is_ok() {
            platform.restart()?;
        }
        let answer = platform.get("again", "/")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(Some(answer))
    })
    .with_context(|| platform.log_end())?;
    ensure!(served.text() == "Hello from again-00001!\n", "{served:?}");
    platform.refresh()?;
    platform.take_down()
}
