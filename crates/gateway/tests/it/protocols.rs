use std::time::Duration;

use bytes::Bytes;
use dormouse_base::clock;
use dormouse_gateway::{GatewayConfig, Protocol, RevisionPolicy};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

async fn http2_client(bench: &Bench) -> http2::SendRequest<AnyBody> {
    let stream = TcpStream::connect(bench.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    spawn(connection);
    sender
}

async fn http1_client(bench: &Bench) -> http1::SendRequest<AnyBody> {
    let stream = TcpStream::connect(bench.address).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    spawn(connection);
    sender
}

fn h2c() -> RevisionPolicy {
    RevisionPolicy { protocol: Protocol::H2c, ..Default::default() }
}

/// Echoes the body and says which version it was asked with.
async fn echo() -> std::net::SocketAddr {
    instance(|request: Request<Incoming>| async move {
        let version = format!("{:?}", request.version());
        let host = request.uri().authority().map(|authority| authority.to_string());
        let host = host.or_else(|| request.headers().get("host")?.to_str().ok().map(str::to_owned));
        let body = request.into_body().map_err(|error| panic!("{error}")).boxed();
        let builder =
            Response::builder().header("x-version", version).header("x-host", host.unwrap_or_default());
        builder.body(body).unwrap()
    })
    .await
}

#[tokio::test]
async fn one_connection_carries_many_requests_with_bodies_up_to_megabytes() {
    let bench = Bench::new().await;
    bench.endpoints(&[echo().await]);
    let mut client = http1_client(&bench).await;
    for size in [0usize, 1, 100, 70_000, 3_000_000] {
        let body = Bytes::from(vec![b'x'; size]);
        let request = Request::post("/").header("host", "h.example.com").body(full(body.clone())).unwrap();
        client.ready().await.unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["x-version"], "HTTP/1.1");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body, "{size}");
    }
    until("free", || bench.gateway.busy() == 0).await;
}

#[tokio::test]
async fn http2_clients_reach_http1_and_http2_instances() {
    for (policy, version) in [(RevisionPolicy::default(), "HTTP/1.1"), (h2c(), "HTTP/2.0")] {
        let bench = Bench::with(GatewayConfig::default(), policy).await;
        bench.endpoints(&[echo().await]);
        let client = http2_client(&bench).await;
        let requests = (0..200).map(|index| {
            let mut client = client.clone();
            async move {
                let request =
                    Request::post("http://h.example.com/a?b").body(full(format!("body {index}"))).unwrap();
                let response = client.send_request(request).await.unwrap();
                assert_eq!(response.version(), Version::HTTP_2);
                assert_eq!(response.headers()["x-version"], version);
                assert_eq!(response.headers()["x-host"], "h.example.com");
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, format!("body {index}"));
            }
        });
        futures::future::join_all(requests).await;
        until("free", || bench.gateway.busy() == 0).await;
    }
}

#[tokio::test]
async fn http1_clients_reach_http2_instances() {
    let bench = Bench::with(GatewayConfig::default(), h2c()).await;
    bench.endpoints(&[echo().await]);
    let answer = bench
        .raw("POST / HTTP/1.1\r\nHost: h.example.com\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-version: HTTP/2.0"), "{answer}");
    assert!(answer.contains("hi"), "{answer}");
}

#[tokio::test]
async fn trailers_pass_as_grpc_needs_them() {
    let bench = Bench::with(GatewayConfig::default(), h2c()).await;
    let address = instance(|request: Request<Incoming>| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let collected = request.into_body().collect().await.unwrap();
        let echoed = collected.trailers().and_then(|all| all.get("x-sent").cloned());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("x-echo", echoed.unwrap_or(HeaderValue::from_static("none")));
        let frames = [Ok(Frame::data(collected.to_bytes())), Ok(Frame::trailers(trailers))];
        Response::builder()
            .header("content-type", "application/grpc")
            .body(StreamBody::new(futures::stream::iter(frames)).boxed())
            .unwrap()
    })
    .await;
    bench.endpoints(&[address]);
    let mut client = http2_client(&bench).await;
    let mut sent = HeaderMap::new();
    sent.insert("x-sent", HeaderValue::from_static("yes"));
    let frames = [Ok(Frame::data(Bytes::from_static(b"message"))), Ok(Frame::trailers(sent))];
    let request = Request::post("http://h.example.com/pkg.Service/Method")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(StreamBody::new(futures::stream::iter(frames)).boxed())
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-echo"], "yes");
    assert_eq!(collected.to_bytes(), "message");
}

#[tokio::test]
async fn streams_pass_piece_by_piece_in_both_directions() {
    for policy in [RevisionPolicy::default(), h2c()] {
        let bench = Bench::with(GatewayConfig::default(), policy).await;
        bench.endpoints(&[echo().await]);
        let mut client = http2_client(&bench).await;
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let request = Request::post("http://h.example.com/").body(body.boxed()).unwrap();
        sender.send_data("one".into()).await.unwrap();
        let response = client.send_request(request).await.unwrap();
        let mut body = response.into_body();
        for piece in ["one", "two", "three"] {
            if piece != "one" {
                sender.send_data(piece.into()).await.unwrap();
            }
            let frame =
                tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("not buffered");
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), piece);
        }
        drop(sender);
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }
}

#[tokio::test]
async fn server_sent_events_arrive_when_they_are_sent() {
    let bench = Bench::new().await;
    let address = instance(|_| async {
        let (mut sender, body) = Channel::<Bytes>::new(1);
        spawn(async move {
            for index in 0..3 {
                let _ = sender.send_data(format!("data: {index}\n\n").into()).await;
                clock::sleep(Duration::from_millis(30)).await;
            }
        });
        Response::builder().header("content-type", "text/event-stream").body(body.boxed()).unwrap()
    })
    .await;
    bench.endpoints(&[address]);
    let mut client = http1_client(&bench).await;
    let request = Request::get("/").header("host", "h.example.com").body(Empty::new().boxed()).unwrap();
    let mut body = client.send_request(request).await.unwrap().into_body();
    let mut pieces = 0;
    while let Some(frame) = body.frame().await {
        assert!(frame.unwrap().into_data().unwrap().starts_with(b"data: "));
        pieces += 1;
    }
    assert_eq!(pieces, 3, "pieces were not merged");
}

#[tokio::test]
async fn websockets_are_tunnelled_and_counted_until_they_close() {
    let policy = RevisionPolicy { timeout: Duration::from_millis(100), ..Default::default() };
    let bench = Bench::with(GatewayConfig::default(), policy).await;
    let address = instance(|mut request: Request<Incoming>| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        let upgrade = hyper::upgrade::on(&mut request);
        spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0u8; 64];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..count]).await.unwrap();
            }
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", "x")
            .body(full(""))
            .unwrap()
    })
    .await;
    bench.endpoints(&[address]);
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let head = "GET /ws HTTP/1.1\r\nHost: h.example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("upgrade: websocket"), "{answer}");
    for message in ["hello", "again"] {
        stream.write_all(message.as_bytes()).await.unwrap();
        let mut back = vec![0u8; message.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, message.as_bytes());
        // Longer than a request may take.
        clock::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(bench.gateway.in_flight(&address), 1, "an open socket is a request in flight");
    drop(stream);
    until("closed", || bench.gateway.in_flight(&address) == 0).await;

    let mut silent = TcpStream::connect(bench.address).await.unwrap();
    silent.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 101"), "one whose instance says nothing is cut at the limit");
}

#[tokio::test]
async fn expect_continue_head_and_empty_answers_work() {
    let bench = Bench::new().await;
    let address = instance(|request: Request<Incoming>| async move {
        if request.method() == http::Method::HEAD {
            return Response::builder().header("content-length", "1234").body(full("")).unwrap();
        }
        let status = if request.uri().path() == "/empty" { 204 } else { 200 };
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::builder().status(status).body(full(body)).unwrap()
    })
    .await;
    bench.endpoints(&[address]);
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: h.example.com\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = vec![0u8; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").await.unwrap();
    let mut rest = vec![0u8; 12];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest, b"HTTP/1.1 200");
    drop(stream);

    let head = bench.raw("HEAD / HTTP/1.1\r\nHost: h.example.com\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 1234"), "{head}");
    let empty = bench.get("/empty").await;
    assert!(empty.starts_with("HTTP/1.1 204"), "{empty}");
    until("free", || bench.gateway.busy() == 0).await;
}

#[tokio::test]
async fn a_traffic_change_under_load_fails_no_request() {
    let bench = Bench::new().await;
    let other = dormouse_api::key::RevisionKey::new("default", "h-00002");
    bench.endpoints(&[instance(|_| async { Response::new(full("one")) }).await]);
    let second = instance(|_| async { Response::new(full("two")) }).await;
    bench.gateway.set_endpoints(&other, vec![("b".into(), second)]);
    let table = |share: u32| {
        dormouse_gateway::compile(&[ingress(
            serde_json::json!({"rules": [{"hosts": ["h.example.com"], "http": {
            "paths": [{"splits": [
                {"serviceName": "h-00001", "percent": 100 - share}, {"serviceName": "h-00002", "percent": share}
            ]}]}}]}),
        )])
    };
    let load = async {
        let mut client = http1_client(&bench).await;
        let (mut one, mut two) = (0, 0);
        for _ in 0..2000 {
            client.ready().await.unwrap();
            let request =
                Request::get("/").header("host", "h.example.com").body(Empty::new().boxed()).unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            if body == "one" { one += 1 } else { two += 1 }
        }
        (one, two)
    };
    let change = async {
        for round in 0..100u32 {
            bench.gateway.swap_routes(table(round % 101));
            clock::sleep(Duration::from_millis(1)).await;
        }
    };
    let ((one, two), ()) = tokio::join!(load, change);
    assert!(one > 0 && two > 0, "{one} {two}");
}
