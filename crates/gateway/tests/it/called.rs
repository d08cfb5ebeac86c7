//! Instances that are code of this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dormouse_gateway::{Call, CallBody, GatewayConfig, Instance, RequestBody, RevisionPolicy};
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};

use crate::support::{Bench, until};

/// Echoes, or does as the path says.
struct Code;

fn body(text: String) -> CallBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

impl Call for Code {
    fn call(&self, request: Request<RequestBody>) -> BoxFuture<'static, Response<CallBody>> {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            let read = request.into_body().collect().await.unwrap().to_bytes();
            let read = String::from_utf8_lossy(&read).into_owned();
            let mut response = Response::new(body(format!("{path} {host:?} {read} {thread}")));
            match path.as_str() {
                "/never" => std::future::pending::<()>().await,
                "/switch" => *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS,
                _ => {}
            }
            response
        })
    }
}

/// Nobody listens there: what is answered was called.
fn instance() -> Instance {
    Instance { id: "code".into(), address: SocketAddr::from(([127, 0, 0, 1], 1)), call: Some(Arc::new(Code)) }
}

#[tokio::test]
async fn one_is_called_on_the_thread_of_the_request() {
    let bench = Bench::new().await;
    bench.gateway.set_endpoints(&bench.key, [instance()]);
    let request =
        "POST /x HTTP/1.1\r\nHost: h.example.com\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    let answer = bench.raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("/x Some(\"h.example.com\") abc gateway-"), "{answer}");
    until("free", || bench.gateway.busy() == 0).await;
    let counted = r#"revision="h-00001",code_class="2xx"} 1"#;
    until("it is counted as any other", || bench.gateway.metrics().contains(counted)).await;
}

#[tokio::test]
async fn one_that_does_not_answer_is_given_up_at_the_deadline() {
    let policy = RevisionPolicy { timeout: Duration::from_millis(200), ..RevisionPolicy::default() };
    let bench = Bench::with(GatewayConfig::default(), policy).await;
    bench.gateway.set_endpoints(&bench.key, [instance()]);
    let answer = bench.get("/never").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    until("free", || bench.gateway.busy() == 0).await;
}

#[tokio::test]
async fn one_cannot_switch_protocols() {
    let bench = Bench::new().await;
    bench.gateway.set_endpoints(&bench.key, [instance()]);
    let asked =
        "GET /switch HTTP/1.1\r\nHost: h.example.com\r\nConnection: close, upgrade\r\nUpgrade: x\r\n\r\n";
    let answer = bench.raw(asked).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}
