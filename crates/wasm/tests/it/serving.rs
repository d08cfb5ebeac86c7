//! Behind a socket, as a gateway expects any instance.

use std::time::Duration;

use bytes::Bytes;
use dormouse_base::task::Tasks;
use dormouse_wasm::Instance;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::{Machine, SOON, limits, read};

fn listen() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

fn serve(machine: &Machine, tasks: &Tasks) -> Instance {
    machine.plain().serve(listen(), tasks).unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "function.example").body(Full::default()).unwrap()
}

async fn connect(instance: &Instance) -> http1::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(instance.address().unwrap()).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    crate::support::spawn(connection);
    sender
}

#[tokio::test]
async fn one_connection_serves_many_requests_even_after_failures() {
    let machine = Machine::new();
    let instance = serve(&machine, &machine.tasks);
    let mut sender = connect(&instance).await;
    for (path, expected) in
        [("/hello", 200), ("/panic", 500), ("/hello", 200), ("/nowhere", 404), ("/hello", 200)]
    {
        sender.ready().await.unwrap();
        let (status, text) = read(sender.send_request(get(path)).await.unwrap()).await;
        assert_eq!(status, expected, "{path}: {text}");
        assert!(status != 500 || text == "the function failed\n", "{text}");
    }
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_on_the_same_port() {
    let machine = Machine::new();
    let instance = serve(&machine, &machine.tasks);
    let stream = TcpStream::connect(instance.address().unwrap()).await.unwrap();
    let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    crate::support::spawn(connection);
    let calls = (0..20).map(|_| {
        let mut sender = sender.clone();
        async move {
            let request =
                Request::get("http://function.example/hello").body(Full::<Bytes>::default()).unwrap();
            read(sender.send_request(request).await.unwrap()).await
        }
    });
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer, (200, "hello from wasm\n".to_owned()));
    }
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let machine = Machine::new();
    let path = machine.folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let instance = machine.plain().serve(listener, &machine.tasks).unwrap();
    assert_eq!(instance.address(), None);
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    crate::support::spawn(connection);
    assert_eq!(read(sender.send_request(get("/hello")).await.unwrap()).await.0, 200);
}

#[tokio::test]
async fn stopping_lets_requests_in_flight_end_and_accepts_no_more() {
    let machine = Machine::new();
    let instance = serve(&machine, &machine.tasks);
    let address = instance.address().unwrap();
    let mut sender = connect(&instance).await;
    let places = machine.host.free_instances();
    let slow =
        crate::support::spawn(
            async move { read(sender.send_request(get("/sleep?300")).await.unwrap()).await },
        );
    crate::support::until("the request is being served", || machine.host.free_instances() < places).await;
    assert_eq!(instance.stop(SOON).await, 0);
    assert_eq!(slow.await.unwrap(), (200, "slept".to_owned()));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_does_not_end_in_its_grace_is_cut() {
    let machine = Machine::new();
    let function = machine.function(limits(SOON), |_| {});
    let instance = function.serve(listen(), &machine.tasks).unwrap();
    let mut sender = connect(&instance).await;
    let places = machine.host.free_instances();
    let slow = crate::support::spawn(async move { sender.send_request(get("/sleep?60000")).await });
    crate::support::until("the request is being served", || machine.host.free_instances() < places).await;
    assert_eq!(instance.stop(Duration::from_millis(10)).await, 1);
    assert!(slow.await.unwrap().is_err());
    crate::support::until("its instance is gone", || machine.host.free_instances() == places).await;
}

#[tokio::test]
async fn a_large_upload_is_echoed() {
    let machine = Machine::new();
    let instance = serve(&machine, &machine.tasks);
    let mut sender = connect(&instance).await;
    let body = Bytes::from(vec![b'u'; 5_000_000]);
    let request = Request::post("/echo").header("host", "x").body(Full::new(body.clone())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
}
