use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dormouse_api::key::RevisionKey;
use dormouse_base::clock;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_gateway::{Activate, Gateway, GatewayConfig, RevisionPolicy, Visibility, compile};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) type AnyBody = BoxBody<Bytes, Infallible>;

pub(crate) fn full(text: impl Into<Bytes>) -> AnyBody {
    Full::new(text.into()).boxed()
}

/// A gateway with one host (`h.example.com`) and one revision.
pub(crate) struct Bench {
    pub(crate) gateway: Gateway,
    pub(crate) tasks: Tasks,
    pub(crate) key: RevisionKey,
    pub(crate) address: SocketAddr,
    pub(crate) internal: SocketAddr,
}

#[derive(Default)]
pub(crate) struct Demands(pub(crate) Mutex<Vec<usize>>);

impl Activate for Demands {
    fn demand(&self, _: &RevisionKey, queued: usize) {
        self.0.lock().unwrap().push(queued);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.shutdown().trigger();
    }
}

pub(crate) fn ingress(spec: serde_json::Value) -> Arc<dormouse_api::networking::Ingress> {
    let object = serde_json::json!({"metadata": {"namespace": "default", "name": "h"}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

impl Bench {
    pub(crate) async fn with(config: GatewayConfig, policy: RevisionPolicy) -> Self {
        let tasks = Tasks::new(Shutdown::new());
        let gateway = Gateway::new(config, tasks.clone()).unwrap();
        let key = RevisionKey::new("default", "h-00001");
        gateway.set_policy(&key, policy);
        gateway.swap_routes(compile(&[ingress(serde_json::json!({"rules": [
            {"hosts": ["h.example.com"], "http": {"paths": [{
                "splits": [{"serviceName": "h-00001", "percent": 100, "appendHeaders": {
                    "Knative-Serving-Revision": "h-00001", "X-Set": "by-split"}}]}]}},
            {"hosts": ["h.default.svc"], "visibility": "ClusterLocal", "http": {"paths": [{
                "rewriteHost": "rewritten.example.com", "splits": [{"serviceName": "h-00001", "percent": 100}]}]}}
        ]}))]));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        gateway.serve(&listener, Visibility::External, &tasks).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let internal = listener.local_addr().unwrap();
        gateway.serve(&listener, Visibility::ClusterLocal, &tasks).unwrap();
        Self { gateway, tasks, key, address, internal }
    }

    pub(crate) async fn new() -> Self {
        Self::with(GatewayConfig::default(), RevisionPolicy::default()).await
    }

    pub(crate) fn endpoints(&self, addresses: &[SocketAddr]) {
        let list = addresses.iter().map(|address| (address.to_string(), *address));
        self.gateway.set_endpoints(&self.key, list);
    }

    /// Sends raw bytes and reads until the other side closes.
    pub(crate) async fn raw(&self, request: &str) -> String {
        raw(self.address, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: h.example.com\r\nConnection: close\r\n\r\n")).await
    }
}

pub(crate) async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut text))
        .await
        .expect("an answer");
    String::from_utf8_lossy(&text).into_owned()
}

/// An instance that answers with `answer`, on HTTP/1 and HTTP/2.
pub(crate) async fn instance<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<AnyBody>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

#[expect(clippy::disallowed_methods, reason = "test peers end with the test's runtime")]
pub(crate) fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    tokio::spawn(future)
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = clock::now() + Duration::from_secs(10);
    while !condition() {
        assert!(clock::now() < deadline, "timed out: {what}");
        clock::sleep(Duration::from_millis(1)).await;
    }
}

/// A response that the test releases.
#[derive(Clone, Default)]
pub(crate) struct Brake {
    pub(crate) inside: Arc<AtomicUsize>,
    pub(crate) most: Arc<AtomicUsize>,
    pub(crate) seen: Arc<AtomicUsize>,
    pub(crate) release: Arc<tokio::sync::Notify>,
}

impl Brake {
    pub(crate) async fn instance(&self, time: Option<Duration>) -> SocketAddr {
        let brake = self.clone();
        // The count is per instance: it proves the limit per instance.
        let here = Arc::new(AtomicUsize::new(0));
        instance(move |_| {
            let (brake, here) = (brake.clone(), here.clone());
            async move {
                brake.seen.fetch_add(1, Ordering::SeqCst);
                let now = here.fetch_add(1, Ordering::SeqCst) + 1;
                brake.inside.fetch_add(1, Ordering::SeqCst);
                brake.most.fetch_max(now, Ordering::SeqCst);
                match time {
                    Some(time) => clock::sleep(time).await,
                    None => brake.release.notified().await,
                }
                here.fetch_sub(1, Ordering::SeqCst);
                brake.inside.fetch_sub(1, Ordering::SeqCst);
                Response::new(full("done"))
            }
        })
        .await
    }
}
