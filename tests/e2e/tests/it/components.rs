//! WebAssembly components are revisions like any other, and harm nobody when they misbehave.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use dormouse_e2e::traffic::Load;
use dormouse_e2e::{Options, Outcome, Platform, tools, until};

use crate::manifest::{Service, service};

/// The component that behaves as it is asked to.
const IMAGE: &str = "dev.local/component:v1";

/// The shortest window, the usual grace of 30 s, and what a loaded machine adds.
const ASLEEP: Duration = Duration::from_secs(75);

fn component(name: &str) -> Result<PathBuf> {
    Ok(tools::components("crates/wasm/tests/components/Cargo.toml")?.join(name).with_extension("wasm"))
}

fn of_component(name: &str) -> Service<'_> {
    service(name).image(IMAGE)
}

fn answers(platform: &Platform, name: &str, path: &str, expected: &str) -> Outcome {
    let answer = platform.get(name, path)?;
    ensure!(answer.status == 200 && answer.text() == expected, "{name}{path}: {answer:?}");
    Ok(())
}

fn logs(platform: &Platform, name: &str) -> Result<String> {
    let selector = format!("serving.knative.dev/service={name}");
    platform.kubectl(&["logs", "--tail=-1", "-l", &selector])?.ok()
}

#[test]
fn one_sleeps_and_wakes_without_a_process() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    platform.add_component(IMAGE, &component("function")?)?;
    platform.deploy("wakes", &of_component("wakes").yaml())?;
    answers(&platform, "wakes", "/hello", "hello from wasm\n")?;
    ensure!(platform.instances()?.is_empty(), "no process serves it: {:?}", platform.instances()?);
    ensure!(platform.told_instances()?.len() == 1, "{:?}", platform.told_instances()?);
    until("it sleeps", ASLEEP, || {
        let told = platform.told_instances()?;
        ensure!(told.is_empty(), "{told:?}");
        let pods = platform.kubectl(&["get", "pods", "-o", "name"])?.ok()?;
        ensure!(pods.is_empty(), "{pods}");
        Ok(Some(()))
    })?;
    answers(&platform, "wakes", "/environment?K_REVISION", "wakes-00001")?;
    platform.take_down()
}

#[test]
fn one_is_given_what_its_manifest_grants_and_its_output_is_the_pods_log() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    platform.add_component(IMAGE, &component("function")?)?;
    platform
        .apply("apiVersion: v1\nkind: Secret\nmetadata: {name: vault}\nstringData: {key: swordfish}\n")?
        .ok()?;
    let manifest = of_component("granted")
        .annotation("autoscaling.knative.dev/min-scale", "1")
        .environment("GREETING", "hi")
        .container("volumeMounts: [{name: vault, mountPath: /vault}, {name: own, mountPath: /own}]")
        .spec("volumes: [{name: vault, secret: {secretName: vault}}, {name: own, emptyDir: {}}]");
    platform.deploy("granted", &manifest.yaml())?;
    answers(&platform, "granted", "/environment?K_SERVICE", "granted")?;
    answers(&platform, "granted", "/environment?GREETING", "hi")?;
    answers(&platform, "granted", "/read?/vault/key", "swordfish")?;
    answers(&platform, "granted", "/write?/own/note", "")?;
    answers(&platform, "granted", "/read?/own/note", "written by a component")?;
    for denied in
        ["/read?/etc/passwd", "/read?/vault/../etc/passwd", "/write?/vault/key", "/dial?127.0.0.1:22"]
    {
        let answer = platform.get("granted", denied)?;
        ensure!([403, 404].contains(&answer.status), "{denied}: {answer:?}");
    }
    answers(&platform, "granted", "/log?swim", "logged")?;
    let log = logs(&platform, "granted")?;
    ensure!(log.contains("to stdout: swim") && log.contains("to stderr: swim"), "{log}");
    Ok(())
}

#[test]
fn one_calls_the_hosts_that_are_allowed_and_no_other() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    platform.add_component(IMAGE, &component("function")?)?;
    platform.deploy("called", &of_component("called").yaml())?;
    let allowed = "called.default.svc.cluster.local, nowhere.invalid";
    let caller = of_component("caller").annotation("wasm.dormouse.dev/allowed-hosts", allowed);
    platform.deploy("caller", &caller.yaml())?;
    answers(
        &platform,
        "caller",
        "/fetch?http://called.default.svc.cluster.local/hello",
        "hello from wasm\n",
    )?;
    let gateway = platform.state().gateway;
    let denied = platform.get("caller", &format!("/fetch?http://{gateway}/hello"))?;
    ensure!(denied.status == 502 && denied.text().contains("Denied"), "{denied:?}");
    let all = platform.get("called", "/fetch?http://caller.default.svc.cluster.local/hello")?;
    ensure!(all.text().contains("Denied"), "nothing is allowed by itself: {all:?}");
    Ok(())
}

#[test]
fn one_at_a_time_means_one_at_a_time() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    platform.add_component(IMAGE, &component("function")?)?;
    let manifest = of_component("single")
        .annotation("autoscaling.knative.dev/max-scale", "1")
        .spec("containerConcurrency: 1");
    platform.deploy("single", &manifest.yaml())?;
    let begun = dormouse_base::clock::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..4).map(|_| scope.spawn(|| answers(&platform, "single", "/sleep?200", "slept"))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })?;
    let taken = begun.elapsed();
    ensure!(taken >= Duration::from_millis(800), "four of 200 ms each took {taken:?}");
    Ok(())
}

#[test]
fn two_revisions_share_the_traffic() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    platform.add_component(IMAGE, &component("function")?)?;
    platform.deploy("halves", &of_component("halves").environment("SIDE", "left").yaml())?;
    let second = of_component("halves")
        .environment("SIDE", "right")
        .traffic("{revisionName: halves-00001, percent: 50}")
        .traffic("{latestRevision: true, percent: 50}");
    platform.deploy("halves", &second.yaml())?;
    let mut sides = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..100 {
        *sides.entry(platform.get("halves", "/environment?SIDE")?.text()).or_default() += 1;
    }
    let enough = ["left", "right"].iter().all(|side| sides.get(*side).is_some_and(|count| *count > 20));
    ensure!(enough && sides.len() == 2, "{sides:?}");
    Ok(())
}

#[test]
fn one_that_cannot_run_is_told_with_its_reason() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let cases = [
        ("greedy", "ImportNotGranted: the component imports acme:secrets/vault@0.1.0, which is not granted"),
        ("command", "InvalidComponent: the component exports no wasi:http/incoming-handler@0.2"),
    ];
    for (name, told) in cases {
        let image = format!("dev.local/{name}:v1");
        platform.add_component(&image, &component(name)?)?;
        platform.apply(&service(name).image(&image).yaml())?.ok()?;
        let text = platform.refused(name)?;
        ensure!(text.contains(told), "{name}: {told:?} is not told: {text}");
        platform.kubectl(&["delete", "ksvc", name])?.ok()?;
    }
    let hosts = "wasm.dormouse.dev/allowed-hosts";
    platform.add_component(IMAGE, &component("function")?)?;
    platform.apply(&of_component("overreach").annotation(hosts, "http://x").yaml())?.ok()?;
    let text = platform.refused("overreach")?;
    ensure!(text.contains(hosts), "{text}");
    platform.kubectl(&["delete", "ksvc", "overreach"])?.ok()?;
    Ok(())
}

#[test]
fn a_hostile_one_is_stopped_while_another_answers() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    platform.add_component(IMAGE, &component("function")?)?;
    let pinned = "autoscaling.knative.dev/min-scale";
    platform.deploy("good", &of_component("good").annotation(pinned, "1").yaml())?;
    let hostile = of_component("hostile")
        .annotation(pinned, "1")
        .spec("timeoutSeconds: 2")
        .container("resources: {limits: {memory: 32Mi}}");
    platform.deploy("hostile", &hostile.yaml())?;
    let load = Load {
        gateway: platform.state().gateway,
        host: platform.host("good"),
        path: "/hello".to_owned(),
        clients: 2,
        reconnect: false,
    };
    let load = load.start();
    let deeds = [
        ("/trap", 500, "trapped"),
        ("/panic", 500, "the function panics on purpose"),
        ("/exit", 500, "instead of answering"),
        ("/recurse", 500, "out of bounds"),
        ("/memory", 500, "33554432 bytes of memory"),
        ("/silent", 500, "without a response"),
        ("/loop", 504, "after 2"),
    ];
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        let ask = |path| platform.get("hostile", path);
        // Several loops at once, to hold every core.
        let loops: Vec<_> = (0..4).map(|_| scope.spawn(move || ask("/loop"))).collect();
        seen.extend(deeds.iter().map(|(path, ..)| ask(path)));
        loops.into_iter().for_each(|client| drop(client.join()));
    });
    let log = logs(&platform, "hostile")?;
    for ((path, status, told), answer) in deeds.iter().zip(seen) {
        let answer = answer?;
        ensure!(answer.status == *status, "{path}: {answer:?}");
        ensure!(log.contains(told), "{path}: {told:?} is not in the log:\n{log}");
    }
    answers(&platform, "hostile", "/hello", "hello from wasm\n")?;
    let report = load.stop();
    ensure!(report.failures.is_empty() && report.succeeded > 100, "{report:?}");
    platform.take_down()
}
