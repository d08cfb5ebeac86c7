//! What a well-behaved function sees and gives.

use std::num::NonZeroU32;

use bytes::Bytes;
use dormouse_wasm::{Limits, Stream};
use http::{HeaderMap, Request};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};

use crate::support::{Machine, SOON, call, get, limits, read};

#[tokio::test]
async fn a_small_answer_is_whole_and_has_a_length() {
    let machine = Machine::new();
    let response = machine.plain().call(get("/hello")).await.unwrap();
    assert_eq!(response.body().size_hint().exact(), Some(16));
    assert_eq!(read(response).await, (200, "hello from wasm\n".to_owned()));
}

#[tokio::test]
async fn every_request_has_an_instance_of_its_own_unless_the_limits_say_otherwise() {
    let machine = Machine::new();
    let isolated = machine.plain();
    for _ in 0..3 {
        assert_eq!(call(&isolated, "/visitors").await.1, "1");
    }
    let three = NonZeroU32::new(3).unwrap();
    let reused = machine.function(Limits { requests_per_instance: three, ..limits(SOON) }, |_| {});
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(call(&reused, "/visitors").await.1);
    }
    assert_eq!(seen, ["1", "2", "3", "1", "2"]);
}

#[tokio::test]
async fn a_failed_instance_is_not_used_again() {
    let machine = Machine::new();
    let many = NonZeroU32::new(100).unwrap();
    let reused = machine.function(Limits { requests_per_instance: many, ..limits(SOON) }, |_| {});
    assert_eq!(call(&reused, "/visitors").await.1, "1");
    assert!(reused.call(get("/panic")).await.is_err());
    assert_eq!(call(&reused, "/visitors").await.1, "1");
}

#[tokio::test]
async fn bodies_are_streamed_both_ways_at_once() {
    let machine = Machine::new();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
    let receiver = std::sync::Mutex::new(receiver);
    let frames = futures::stream::poll_fn(move |context| {
        receiver.lock().unwrap().poll_recv(context).map(|frame| frame.map(Ok::<_, std::convert::Infallible>))
    });
    let request = Request::post("http://function.example/echo").body(StreamBody::new(frames)).unwrap();
    let function = machine.plain();
    let mut echo = function.call(request).await.unwrap().into_body();
    for part in ["one", "two", "three"] {
        // The next part is sent only after this one has come back.
        sender.send(Frame::data(Bytes::from_static(part.as_bytes()))).await.unwrap();
        let frame = echo.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), part);
    }
    drop(sender);
    assert!(echo.frame().await.is_none());
}

#[tokio::test]
async fn a_large_answer_arrives_complete() {
    let machine = Machine::new();
    let response = machine.plain().call(get("/huge?50000000")).await.unwrap();
    assert_eq!(response.body().size_hint().exact(), None);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 50_000_000);
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_matter() {
    let machine = Machine::new();
    let frames = futures::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>();
    let request = Request::post("http://function.example/ignore-body").body(StreamBody::new(frames)).unwrap();
    let answer = read(machine.plain().call(request).await.unwrap()).await;
    assert_eq!(answer, (200, "did not read it".to_owned()));
}

#[tokio::test]
async fn a_function_may_go_on_after_its_answer() {
    let machine = Machine::new();
    assert_eq!(call(&machine.plain(), "/after").await, (200, "answered".to_owned()));
    machine.log.says(Stream::Stdout, "after the answer").await;
}

#[tokio::test]
async fn output_goes_to_the_log() {
    let machine = Machine::new();
    call(&machine.plain(), "/log?hey").await;
    assert_eq!(machine.log.text(Stream::Stdout), "to stdout: hey\n");
    assert_eq!(machine.log.text(Stream::Stderr), "to stderr: hey\n");
}

#[tokio::test]
async fn hop_by_hop_headers_stay_outside() {
    let machine = Machine::new();
    let mut request = get("/headers");
    let mut headers = HeaderMap::new();
    for name in ["x-own", "connection", "upgrade", "transfer-encoding"] {
        headers.insert(name, "x".parse().unwrap());
    }
    *request.headers_mut() = headers;
    let answer = read(machine.plain().call(request).await.unwrap()).await;
    assert_eq!(answer.1, "function.example x-own");
}
