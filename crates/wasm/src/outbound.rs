//! Outgoing HTTP requests of components: to allowed hosts only, over connections that the caller makes.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// Connecting may take so long when the component does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A two-way stream of bytes, after TLS if there is any.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Where a component wants to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address, in lower case.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the stream must be TLS to `host`.
    pub tls: bool,
}

/// Makes connections for components. The caller decides how names are resolved, where the mesh is entered, and whom to
/// trust.
pub trait Connector: Send + Sync {
    /// Connects to `target`.
    fn connect(&self, target: Target) -> BoxFuture<'_, std::io::Result<Box<dyn Transport>>>;
}

/// Hosts that may be called: `*`, `name`, `*.name`, each with an optional `:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// `None` for every host.
    name: Option<String>,
    /// Whether only names below `name` match.
    below: bool,
    port: Option<u16>,
}

/// Permission to call other hosts.
#[derive(Clone)]
pub struct Outbound {
    /// The hosts; none that matches, no request.
    pub allowed: Vec<HostPattern>,
    /// How to reach them.
    pub connector: Arc<dyn Connector>,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Outbound").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl std::str::FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse().map_err(|_| format!("{text:?}: {port:?} is not a port"))?;
                (host.to_owned(), Some(port))
            }
            _ => (text.clone(), None),
        };
        let (name, below) = match host.strip_prefix("*.") {
            _ if host == "*" => (None, false),
            Some(name) => (Some(name.to_owned()), true),
            None => (Some(host), false),
        };
        if name.as_ref().is_some_and(|name| name.is_empty() || name.contains(['*', '/', '@'])) {
            return Err(format!("{text:?} is not a host: write name, *.name or *, with an optional :port"));
        }
        Ok(Self { name, below, port })
    }
}

impl HostPattern {
    fn matches(&self, target: &Target) -> bool {
        let host = match &self.name {
            None => true,
            Some(name) if self.below => target
                .host
                .strip_suffix(name.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Some(name) => target.host == *name,
        };
        host && self.port.is_none_or(|port| port == target.port)
    }
}

/// Runs a connection until it ends.
pub(crate) type Driver = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// Sends a component's request.
pub(crate) async fn send(
    outbound: Option<Outbound>,
    mut request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<(Response<WasiBody>, Driver), Error> {
    let target = target(request.uri())?;
    let outbound =
        outbound.filter(|outbound| outbound.allowed.iter().any(|pattern| pattern.matches(&target)));
    let Some(outbound) = outbound else { return Err(Error::HttpRequestDenied) };
    let options = options.unwrap_or_default();
    let limit = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let stream = tokio::time::timeout(limit, outbound.connector.connect(target)).await;
    let stream = stream.map_err(|_| Error::ConnectionTimeout)?.map_err(Error::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
    let mut connection = Box::pin(connection);
    let first_byte = options.first_byte_timeout;
    let response = {
        let exchange = async {
            let response = sender.send_request(request);
            match first_byte {
                Some(limit) => {
                    tokio::time::timeout(limit, response).await.map_err(|_| Error::ConnectionReadTimeout)?
                }
                None => response.await,
            }
            .map_err(Error::Hyper)
        };
        let mut exchange = pin!(exchange);
        let mut ended = false;
        std::future::poll_fn(|context| {
            if let Poll::Ready(answer) = exchange.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            if !ended && Pin::new(&mut connection).poll(context).is_ready() {
                // The exchange ends with it, one way or the other.
                ended = true;
                return exchange.as_mut().poll(context);
            }
            Poll::Pending
        })
        .await?
    };
    let response = response.map(|body| body.map_err(Error::Hyper).boxed_unsync());
    let driver = async move {
        // The pool of one: the connection ends with its only exchange.
        drop(sender);
        connection.await.map_err(Error::Hyper)
    };
    Ok((response, Box::new(driver)))
}

fn target(uri: &Uri) -> Result<Target, Error> {
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(Error::HttpRequestUriInvalid)?;
    let tls = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Ok(Target { host: host.to_ascii_lowercase(), port, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, uri: &str) -> bool {
        pattern.parse::<HostPattern>().unwrap().matches(&target(&uri.parse().unwrap()).unwrap())
    }

    #[test]
    fn patterns_allow_what_they_say_and_nothing_else() {
        for (pattern, uri) in [
            ("*", "https://anything.example/x"),
            ("Example.com", "http://example.COM/"),
            ("*.example.com", "http://a.b.example.com/"),
            ("example.com:8080", "http://example.com:8080/"),
            ("[::1]:80", "http://[::1]/"),
        ] {
            assert!(allows(pattern, uri), "{pattern} {uri}");
        }
        for (pattern, uri) in [
            ("example.com", "http://evil-example.com/"),
            ("example.com", "http://example.com.evil/"),
            ("*.example.com", "http://example.com/"),
            ("*.example.com", "http://evilexample.com/"),
            ("example.com:8080", "http://example.com/"),
            ("example.com", "http://example.com@evil/"),
        ] {
            assert!(!allows(pattern, uri), "{pattern} {uri}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "*.", "http://x", "a*b", "x:port", "user@host"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
