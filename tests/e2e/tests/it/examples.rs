//! The folders of `examples/`, as their READMEs tell.

use std::collections::BTreeMap;

use anyhow::ensure;
use dormouse_e2e::{Outcome, Platform, http, tools};

fn apply(platform: &Platform, service: &str, file: &str) -> Outcome {
    let manifest = std::fs::read_to_string(tools::root().join("examples").join(file))?;
    platform.deploy(service, &manifest)
}

#[test]
fn hello() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    apply(&platform, "hello", "hello/service.yaml")?;
    let answer = platform.get("hello", "/")?;
    ensure!(answer.text() == "Hello from hello-00001!\n", "{answer:?}");
    Ok(())
}

#[test]
fn traffic_split() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    apply(&platform, "split", "traffic-split/first.yaml")?;
    apply(&platform, "split", "traffic-split/second.yaml")?;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..200 {
        *seen.entry(platform.get("split", "/")?.text()).or_default() += 1;
    }
    let second = seen.get("Hello from split-second!\n").copied().unwrap_or_default();
    // 20 % of 200 with a standard deviation of 5.7: five of those to either side.
    ensure!((12..=68).contains(&second) && seen.len() == 2, "80:20 became {seen:?}");
    let next = "jsonpath={.status.traffic[?(@.tag==\"next\")].url}";
    let url = platform.kubectl(&["get", "ksvc", "split", "-o", next])?.ok()?;
    let host = url.trim_start_matches("http://").to_owned();
    let tagged = http::send(platform.state().gateway, &http::Request::get(&host, "/"))?;
    ensure!(tagged.text() == "Hello from split-second!\n", "{host}: {tagged:?}");
    Ok(())
}

#[test]
fn container_concurrency() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    apply(&platform, "one-at-a-time", "container-concurrency/service.yaml")?;
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = || platform.get("one-at-a-time", "/fail-if-concurrent?ms=100");
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    });
    for answer in answers {
        let answer = answer?;
        ensure!(answer.text() == "Hello from one-at-a-time-00001!\n", "{answer:?}");
    }
    Ok(())
}

#[test]
fn wasm() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    platform.add_component("dev.local/hello-wasm:v1", &tools::hello_component()?)?;
    apply(&platform, "hello-wasm", "wasm/service.yaml")?;
    let answer = platform.get("hello-wasm", "/")?;
    ensure!(answer.text() == "Hello from hello-wasm-00001!\n", "{answer:?}");
    Ok(())
}
