//! The admin listener: `/livez`, `/readyz`, `/metrics`, `/statusz`, on a thread and runtime of its own so that it
//! answers while the data path is saturated.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use dormouse_base::shutdown::Shutdown;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// What the listener tells.
#[derive(Clone)]
pub(crate) struct Facts {
    /// Set once everything listens and the caches are filled.
    pub(crate) ready: Arc<AtomicBool>,
    /// Prometheus text.
    pub(crate) metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The phase, queues and addresses.
    pub(crate) status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// Serves until `shutdown`. The thread ends by itself then.
pub(crate) fn spawn(listener: TcpListener, facts: Facts, shutdown: Shutdown) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("dormouse-admin".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let tasks = dormouse_base::task::Tasks::new(shutdown.clone());
            loop {
                let stream = tokio::select! {
                    biased;
                    () = shutdown.wait() => return,
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => stream,
                        Err(error) => {
                            tracing::warn!(%error, "admin listener: accept failed");
                            continue;
                        }
                    },
                };
                let facts = facts.clone();
                tasks.spawn_connection("admin", async move {
                    let service = service_fn(move |request| {
                        let response = answer(&facts, request);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
    })?;
    Ok(())
}

fn answer(facts: &Facts, request: http::Request<hyper::body::Incoming>) -> http::Response<Full<Bytes>> {
    let (status, kind, body) = match request.uri().path() {
        "/livez" => (200, "text/plain", "ok".to_owned()),
        "/readyz" if facts.ready.load(Ordering::Acquire) => (200, "text/plain", "ok".to_owned()),
        "/readyz" => (503, "text/plain", "not ready".to_owned()),
        "/metrics" => (200, "application/openmetrics-text; version=1.0.0; charset=utf-8", (facts.metrics)()),
        "/statusz" => (200, "application/json", (facts.status)().to_string()),
        _ => (404, "text/plain", "paths: /livez /readyz /metrics /statusz".to_owned()),
    };
    let mut response = http::Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::OK);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
