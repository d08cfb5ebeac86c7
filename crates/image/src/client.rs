//! The client of other registries: HTTP over rustls, credentials, retries; every answer bounded in size and time.

mod connect;
pub(crate) mod pull;
pub(crate) mod push;
mod session;

pub(crate) use session::Session;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::error::{Error, Result};
use connect::{ConnectFailed, Connector};

/// The bound from a request to the head of its answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The bound between two pieces of a body.
pub(crate) const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections without use are closed after this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The most that is read of an error's text.
const DETAIL_BYTES_MAX: usize = 8 << 10;

/// A request body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A handle; clones share connections.
#[derive(Clone)]
pub(crate) struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: legacy::Client<Connector, Body>,
    insecure: Vec<String>,
    schemes: Mutex<HashMap<String, Scheme>>,
}

/// A request body that can be made again for another attempt.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Empty,
    Bytes(Bytes),
    /// Part of a file.
    File {
        path: PathBuf,
        offset: u64,
        length: u64,
    },
}

// === impl Client ===

impl Client {
    /// A client that speaks plain HTTP to loopback and to `insecure` hosts only, when they do not speak TLS.
    pub(crate) fn new(insecure: Vec<String>, roots: Vec<PathBuf>) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(Connector::new(roots));
        Self { inner: Arc::new(Inner { http, insecure, schemes: Mutex::default() }) }
    }

    /// Whether `host` (with or without port) may be talked to without TLS.
    pub(crate) fn plain_allowed(&self, host: &str) -> bool {
        let name = host_name(host);
        let loopback = name == "localhost"
            || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        loopback || self.inner.insecure.iter().any(|allowed| allowed == host || allowed == name)
    }

    /// The scheme that worked with `host` before.
    fn known_scheme(&self, host: &str) -> Option<Scheme> {
        self.inner.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    /// Sends one request to `host` and waits for the head of its answer. `build` gets the scheme to use.
    pub(crate) async fn send_to(
        &self,
        host: &str,
        doing: &str,
        build: impl Fn(Scheme) -> Result<Request<Body>>,
    ) -> Result<(Scheme, Response<Incoming>)> {
        if let Some(scheme) = self.known_scheme(host) {
            let response = self.send(host, doing, build(scheme.clone())?).await?;
            return Ok((scheme, response));
        }
        let (scheme, response) = match self.send(host, doing, build(Scheme::HTTPS)?).await {
            Ok(response) => (Scheme::HTTPS, response),
            Err(error) if self.plain_allowed(host) && no_tls(&error) => {
                (Scheme::HTTP, self.send(host, doing, build(Scheme::HTTP)?).await?)
            }
            Err(error) => return Err(error),
        };
        let mut schemes = self.inner.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        schemes.insert(host.to_owned(), scheme.clone());
        Ok((scheme, response))
    }

    /// Sends one request and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        host: &str,
        doing: &str,
        request: Request<Body>,
    ) -> Result<Response<Incoming>> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.inner.http.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Error::Unreachable { host: host.to_owned(), source: root_cause(&error) }),
            Err(_) => {
                Err(Error::Timeout { host: host.to_owned(), doing: doing.to_owned(), limit: ANSWER_TIMEOUT })
            }
        }
    }
}

/// The host without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
    .trim_matches(['[', ']'])
}

/// Whether the failure can mean that the other side speaks plain HTTP. A bad certificate does not.
fn no_tls(error: &Error) -> bool {
    matches!(error, Error::Unreachable { source, .. }
        if source.get_ref().and_then(|inner| inner.downcast_ref::<ConnectFailed>()).is_none_or(|failed| !failed.certificate))
}

/// The deepest I/O error tells what happened; the layers above it only that it did.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let mut deepest: &(dyn std::error::Error + 'static) = error;
    let mut found: Option<io::Error> = None;
    loop {
        if let Some(failed) = deepest.downcast_ref::<ConnectFailed>() {
            return io::Error::new(failed.kind, failed.clone());
        }
        if let Some(source) = deepest.downcast_ref::<io::Error>() {
            if let Some(failed) = source.get_ref().and_then(|inner| inner.downcast_ref::<ConnectFailed>()) {
                return io::Error::new(failed.kind, failed.clone());
            }
            found = Some(match source.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(source.kind(), source.to_string()),
            });
        }
        match deepest.source() {
            Some(source) => deepest = source,
            None => return found.unwrap_or_else(|| io::Error::other(deepest.to_string())),
        }
    }
}

/// The next piece of an answer's body, within [`PIECE_TIMEOUT`].
pub(crate) async fn piece(host: &str, doing: &str, body: &mut Incoming) -> Result<Option<Bytes>> {
    loop {
        let frame = match tokio::time::timeout(PIECE_TIMEOUT, body.frame()).await {
            Ok(frame) => frame,
            Err(_) => {
                let (host, doing) = (host.to_owned(), doing.to_owned());
                return Err(Error::Timeout { host, doing, limit: PIECE_TIMEOUT });
            }
        };
        match frame.transpose() {
            Ok(Some(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(None) => return Ok(None),
            Err(error) => {
                return Err(Error::Unreachable { host: host.to_owned(), source: root_cause(&error) });
            }
        }
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn body(host: &str, doing: &str, mut body: Incoming, limit: u64) -> Result<Bytes> {
    let mut bytes = Vec::new();
    while let Some(data) = piece(host, doing, &mut body).await? {
        if (bytes.len() + data.len()) as u64 > limit {
            return Err(Error::TooLarge { subject: format!("the answer of {host} while {doing}"), limit });
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}

/// The registry's own words about a failure, shortened.
pub(crate) async fn detail(body: Incoming) -> String {
    use http_body_util::Limited;
    let Ok(Ok(bytes)) =
        tokio::time::timeout(Duration::from_secs(5), Limited::new(body, DETAIL_BYTES_MAX).collect()).await
    else {
        return "no readable explanation".into();
    };
    let bytes = bytes.to_bytes();
    let told = serde_json::from_slice::<serde_json::Value>(&bytes).ok().and_then(|value| {
        let first = value.get("errors")?.get(0)?;
        let text = |key: &str| first.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        Some(format!("{} {}", text("code"), text("message")).trim().to_owned())
    });
    let text = told.unwrap_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned());
    let short: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    if short.is_empty() { "no explanation".into() } else { short }
}

// === impl Payload ===

impl Payload {
    /// Bytes of the body.
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// A fresh body.
    pub(crate) fn body(&self) -> Body {
        match self {
            Self::Empty => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Self::Bytes(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
            Self::File { path, offset, length } => file_body(path, *offset, *length),
        }
    }
}

/// Streams a part of a file; it is opened when the body is first read.
pub(crate) fn file_body(path: &Path, offset: u64, length: u64) -> Body {
    use futures::{StreamExt, TryStreamExt, stream};
    let path = path.to_path_buf();
    let open = async move {
        let mut file = tokio::fs::File::open(&path).await?;
        file.seek(io::SeekFrom::Start(offset)).await?;
        Ok::<_, io::Error>(tokio_util::io::ReaderStream::with_capacity(file.take(length), 256 << 10))
    };
    let stream = stream::once(open).try_flatten().map(|piece| piece.map(Frame::data));
    BodyExt::boxed_unsync(StreamBody::new(stream))
}

/// `base` with its relative reference `location` resolved, as far as registries use it.
pub(crate) fn resolve_location(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with('/') && !location.starts_with("//") {
        let (scheme, authority) = (base.scheme_str()?, base.authority()?);
        return format!("{scheme}://{authority}{location}").parse().ok();
    }
    let uri: Uri = location.parse().ok()?;
    (uri.scheme().is_some() && uri.authority().is_some()).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_named_hosts_may_be_plain() {
        let client = Client::new(vec!["r.example:80".into(), "lan".into()], Vec::new());
        for host in ["localhost:5000", "127.0.0.1", "127.9.9.9:1", "[::1]:5000", "r.example:80", "lan:99"] {
            assert!(client.plain_allowed(host), "{host}");
        }
        for host in ["r.example", "docker.io", "10.0.0.1:5000", "localhost.example", "127.0.0.1.example"] {
            assert!(!client.plain_allowed(host), "{host}");
        }
    }

    #[test]
    fn locations_are_resolved() {
        let base: Uri = "https://r.example:1/v2/x".parse().unwrap();
        let resolve = |text| resolve_location(&base, text).map(|uri| uri.to_string());
        assert_eq!(resolve("/v2/u?x=1").as_deref(), Some("https://r.example:1/v2/u?x=1"));
        assert_eq!(resolve("https://o.example/u").as_deref(), Some("https://o.example/u"));
        assert_eq!(resolve("relative"), None);
    }
}
