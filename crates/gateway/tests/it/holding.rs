use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dormouse_base::clock;
use dormouse_gateway::{GatewayConfig, RevisionPolicy};
use http::Response;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

#[tokio::test]
async fn a_request_without_an_instance_is_held_and_sent_when_one_appears() {
    let bench = Bench::new().await;
    let demands = Arc::new(Demands::default());
    bench.gateway.set_activate(demands.clone());
    let held = bench.get("/x");
    let wake = async {
        until("demand", || *demands.0.lock().unwrap() == [1]).await;
        let address =
            instance(|request| async move { Response::new(full(request.uri().path().to_owned())) }).await;
        bench.endpoints(&[address]);
    };
    let (answer, ()) = tokio::join!(held, wake);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("/x"), "{answer}");
    assert!(
        bench
            .gateway
            .metrics()
            .contains("dormouse_gateway_cold_starts_total{namespace=\"default\",revision=\"h-00001\"} 1")
    );
    assert_eq!(bench.gateway.busy(), 0);
}

#[tokio::test]
async fn a_held_request_ends_with_504_at_its_deadline() {
    let policy = RevisionPolicy { timeout: Duration::from_millis(50), ..Default::default() };
    let bench = Bench::with(GatewayConfig::default(), policy).await;
    let answer = bench.get("/").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.ends_with("activator request timeout"), "{answer}");
    assert_eq!(bench.gateway.busy(), 0);
}

#[tokio::test]
async fn a_full_queue_answers_503() {
    let config = GatewayConfig { queue_bound: 1, ..Default::default() };
    let policy = RevisionPolicy { timeout: Duration::from_secs(5), ..Default::default() };
    let bench = Bench::with(config, policy).await;
    let first = bench.get("/");
    let second = async {
        until("one held", || bench.gateway.busy() == 1).await;
        let answer = bench.get("/").await;
        bench.endpoints(&[instance(|_| async { Response::new(full("ok")) }).await]);
        answer
    };
    let (first, second) = tokio::join!(first, second);
    assert!(second.starts_with("HTTP/1.1 503") && second.ends_with("pending request queue full"), "{second}");
    assert!(first.ends_with("ok"), "{first}");
}

#[tokio::test]
async fn one_request_at_a_time_holds_exactly_under_fifty_clients() {
    let policy = RevisionPolicy { container_concurrency: 1, ..Default::default() };
    let bench = Bench::with(GatewayConfig::default(), policy).await;
    let brake = Brake::default();
    let mut addresses = Vec::new();
    for _ in 0..4 {
        addresses.push(brake.instance(Some(Duration::from_millis(1))).await);
    }
    bench.endpoints(&addresses);
    let clients = (0..50).map(|_| async {
        for _ in 0..10 {
            let answer = bench.get("/").await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        }
    });
    futures::future::join_all(clients).await;
    assert_eq!(brake.most.load(Ordering::SeqCst), 1, "an instance saw two requests at once");
    assert_eq!(brake.seen.load(Ordering::SeqCst), 500);
    assert_eq!(bench.gateway.busy(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_in_the_queue_and_in_the_instance() {
    let policy = RevisionPolicy { container_concurrency: 1, ..Default::default() };
    let bench = Bench::with(GatewayConfig::default(), policy).await;
    let send = async || {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h.example.com\r\n\r\n").await.unwrap();
        stream
    };
    let held = send().await;
    until("held", || bench.gateway.busy() == 1).await;
    drop(held);
    until("left the queue", || bench.gateway.busy() == 0).await;

    let brake = Brake::default();
    let address = brake.instance(None).await;
    bench.endpoints(&[address]);
    let running = send().await;
    until("in the instance", || bench.gateway.in_flight(&address) == 1).await;
    let next = send().await;
    until("second held", || bench.gateway.busy() == 2).await;
    drop(running);
    until("second admitted", || brake.seen.load(Ordering::SeqCst) == 2).await;
    assert_eq!(bench.gateway.in_flight(&address), 1);
    drop(next);
    until("all gone", || bench.gateway.busy() == 0).await;
}

#[tokio::test]
async fn a_removed_instance_gets_nothing_new_while_its_requests_finish() {
    let bench = Bench::new().await;
    let brake = Brake::default();
    let old = brake.instance(None).await;
    bench.endpoints(&[old]);
    let slow = bench.get("/");
    let rest = async {
        until("in the old one", || bench.gateway.in_flight(&old) == 1).await;
        let new = instance(|_| async { Response::new(full("new")) }).await;
        bench.endpoints(&[new]);
        for _ in 0..5 {
            assert!(bench.get("/").await.ends_with("new"));
        }
        assert!(!bench.gateway.idle(old, clock::now() + Duration::from_millis(20)).await, "still busy");
        let waiting = bench.gateway.idle(old, clock::now() + Duration::from_secs(10));
        let release = async { brake.release.notify_one() };
        let (idle, ()) = tokio::join!(waiting, release);
        assert!(idle);
    };
    let (slow, ()) = tokio::join!(slow, rest);
    assert!(slow.ends_with("done"), "{slow}");
    assert_eq!(brake.seen.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_instance_that_vanished_is_replaced_before_anything_was_sent() {
    let bench = Bench::new().await;
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let live = instance(|_| async { Response::new(full("live")) }).await;
    bench.endpoints(&[dead, live]);
    for _ in 0..6 {
        let answer = bench.get("/").await;
        assert!(answer.ends_with("live"), "{answer}");
    }
    bench.endpoints(&[dead]);
    let answer = bench.get("/").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test]
async fn a_kept_connection_that_the_instance_closed_is_not_used() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    bench.endpoints(&[listener.local_addr().unwrap()]);
    let accepted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = accepted.clone();
    spawn(async move {
        // Answers one request per connection, says nothing about it, and closes.
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0u8; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            drop(stream);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    for round in 1..=5 {
        let answer = bench.get("/").await;
        assert!(answer.ends_with("ok"), "round {round}: {answer}");
        until("closed", || accepted.load(Ordering::SeqCst) == round).await;
        clock::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn draining_waits_for_what_runs_and_says_what_was_cut() {
    let bench = Bench::new().await;
    let brake = Brake::default();
    bench.endpoints(&[brake.instance(None).await]);
    let slow = bench.get("/");
    let drain = async {
        until("running", || bench.gateway.busy() == 1).await;
        bench.tasks.shutdown().trigger();
        assert_eq!(bench.gateway.drain(clock::now() + Duration::from_millis(20)).await, 1);
        brake.release.notify_one();
        assert_eq!(bench.gateway.drain(clock::now() + Duration::from_secs(10)).await, 0);
    };
    let (slow, ()) = tokio::join!(slow, drain);
    assert!(slow.ends_with("done"), "{slow}");
    until("listener closed", || std::net::TcpStream::connect(bench.address).is_err()).await;
}

#[tokio::test]
async fn loads_are_told_and_start_anew() {
    let bench = Bench::new().await;
    bench.endpoints(&[instance(|_| async { Response::new(full("ok")) }).await]);
    bench.gateway.observe(&bench.key);
    for _ in 0..3 {
        bench.get("/").await;
    }
    let load = bench.gateway.observe(&bench.key);
    assert_eq!((load.requests, load.in_flight, load.queued), (3, 0, 0));
    assert!(load.concurrency > 0.0 && load.concurrency < 1.0, "{load:?}");
    assert_eq!(bench.gateway.observe(&bench.key).requests, 0);
}
