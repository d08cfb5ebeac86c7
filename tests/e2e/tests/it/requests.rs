//! Clients that misbehave, and hosts that nobody serves.

use std::time::Duration;

use anyhow::ensure;
use dormouse_e2e::http::{self, Connection, Request};
use dormouse_e2e::{Outcome, Platform, until};

use crate::manifest::service;

#[test]
fn an_unknown_host_is_not_found() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    let answer = http::send(platform.state().gateway, &Request::get("nobody.default.localhost", "/"))?;
    ensure!(answer.status == 404, "{answer:?}");
    Ok(())
}

#[test]
fn a_client_that_leaves_mid_request_holds_nothing_up() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    // One slot: a request that leaked would block every later one.
    platform.deploy(
        "left",
        &service("left")
            .spec("containerConcurrency: 1")
            .annotation("autoscaling.knative.dev/max-scale", "1")
            .yaml(),
    )?;
    for _ in 0..10 {
        let mut connection = Connection::open(platform.state().gateway)?;
        connection.write(&Request::get(&platform.host("left"), "/sleep?ms=200").encode())?;
        drop(connection);
        let mut connection = Connection::open(platform.state().gateway)?;
        let half = format!(
            "POST /count HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\nhalf",
            platform.host("left")
        );
        connection.write(half.as_bytes())?;
        drop(connection);
    }
    until("the slot is free again", Duration::from_secs(20), || {
        let answer = platform.get("left", "/")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(Some(()))
    })
}

#[test]
fn requests_over_the_limits_are_refused_with_their_status() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    platform.deploy("limits", &service("limits").yaml())?;
    let host = platform.host("limits");
    // Longer than a head may be (64 KiB), and a path longer than that may be (16 KiB).
    let long = "x".repeat(100 * 1024);
    let headers = [("x-long", long.as_str())];
    let path = format!("/{}", "x".repeat(20 * 1024));
    let get = |path, headers| Request { method: "GET", host: &host, path, headers, body: &[] };
    for (request, status) in [(get("/", &headers[..]), 431), (get(path.as_str(), &[]), 414)] {
        let mut connection = Connection::open(platform.state().gateway)?;
        // The refusal may arrive before all is sent; then the rest of the sending fails, and that is fine.
        drop(connection.write(&request.encode()));
        let answer = connection.response()?;
        ensure!(answer.status == status, "{status} expected: {answer:?}");
    }

    let answer = platform.get("limits", "/")?;
    ensure!(answer.status == 200, "served after the refusals: {answer:?}");
    Ok(())
}

#[test]
fn bodies_pass_whole_in_both_directions() -> Outcome {
    let Some(platform) = Platform::shared()? else { return Ok(()) };
    platform.deploy("bodies", &service("bodies").yaml())?;
    let host = platform.host("bodies");
    let body = vec![b'x'; 5 * 1024 * 1024];
    let request = Request { method: "POST", host: &host, path: "/count", headers: &[], body: &body };
    let answer = http::send(platform.state().gateway, &request)?;
    ensure!(answer.text() == format!("{}\n", body.len()), "{answer:?}");
    let answer = platform.get("bodies", "/bytes?n=5000000")?;
    ensure!(answer.body.len() == 5_000_000, "{} bytes", answer.body.len());
    Ok(())
}
