//! One request: find its revision, get a place in an instance, send it, hand the response back.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dormouse_base::clock;
use http::header::{self, HeaderValue};
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use crate::body::{Body, Carrier, Limits, RequestBody};
use crate::call::{Answer, Call};
use crate::gateway::Shared;
use crate::headers::{self, Peer};
use crate::metrics::Track;
use crate::pool;
use crate::revision::{Arrival, Permit, Protocol, Revision, RevisionPolicy};
use crate::route::{HostRules, PathRule, Split, Visibility};

mod tunnel;

/// Attempts to reach instances that refuse the connection before the client is told.
const CONNECT_ATTEMPTS: u32 = 8;

/// What is known about a downstream connection.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) peer: Peer,
    pub(crate) visibility: Visibility,
    pub(crate) secure: bool,
}

/// Answers one request. Never fails: failures are responses.
pub(crate) async fn handle(
    shared: &Arc<Shared>,
    origin: &Origin,
    request: Request<Incoming>,
) -> Response<Body> {
    match route(shared, origin, &request) {
        Ok(Routed { revision, rules, rule_index, split_index, host }) => {
            let Some((rule, split)) = rules.at(rule_index, split_index) else {
                return text(StatusCode::NOT_FOUND, "");
            };
            forward(shared, origin, request, revision, &rules, rule, split, host).await
        }
        Err(response) => {
            shared.metrics.unrouted.inc();
            *response
        }
    }
}

struct Routed {
    revision: Arc<Revision>,
    rules: Arc<HostRules>,
    rule_index: usize,
    split_index: usize,
    host: HeaderValue,
}

fn route(
    shared: &Shared,
    origin: &Origin,
    request: &Request<Incoming>,
) -> Result<Routed, Box<Response<Body>>> {
    let refuse = |status, body: &'static str| Err(Box::new(text(status, body)));
    if request.method() == Method::CONNECT {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not supported\n");
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > shared.config.max_uri {
        return refuse(StatusCode::URI_TOO_LONG, "request target is too long\n");
    }
    let host = match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers().get(header::HOST).cloned(),
    };
    let Some(host) = host else { return refuse(StatusCode::BAD_REQUEST, "missing host\n") };
    let Ok(name) = host.to_str() else { return refuse(StatusCode::BAD_REQUEST, "invalid host\n") };
    let table = shared.routes.load();
    let path = request.uri().path();
    let found = table.host(name).and_then(|rules| {
        let index = rules.find(path, request.headers(), origin.visibility)?;
        Some((rules, index))
    });
    let Some((rules, rule_index)) = found else { return refuse(StatusCode::NOT_FOUND, "") };
    if let Some(response) = special(origin, request, rules, name) {
        return Err(Box::new(response));
    }
    if shared.config.max_body > 0
        && request.body().size_hint().exact().is_some_and(|length| length > shared.config.max_body)
    {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "request body is too large\n");
    }
    let Some((split_index, split)) = rules.choose(rule_index, || fastrand::u32(..)) else {
        return refuse(StatusCode::NOT_FOUND, "");
    };
    let revision = match split.state.get() {
        Some(state) if !state.is_forgotten() => state.clone(),
        Some(_) => shared.revision(&split.revision),
        None => split.state.get_or_init(|| shared.revision(&split.revision)).clone(),
    };
    Ok(Routed { revision, rules: rules.clone(), rule_index, split_index, host: host.clone() })
}

/// Probes and redirects: answered here.
fn special(
    origin: &Origin,
    request: &Request<Incoming>,
    rules: &HostRules,
    host: &str,
) -> Option<Response<Body>> {
    if let Some(probe) = request.headers().get(headers::PROBE)
        && probe == "probe"
    {
        let mut response = text(StatusCode::OK, "");
        match request.headers().get(headers::HASH) {
            Some(hash) if hash == "override" => {
                response.headers_mut().insert(headers::HASH, rules.hash.clone());
            }
            Some(hash) if !hash.is_empty() => {
                response.headers_mut().insert(headers::HASH, hash.clone());
            }
            _ => {
                return Some(text(
                    StatusCode::BAD_REQUEST,
                    "a probe request must contain a non-empty \"K-Network-Hash\" header",
                ));
            }
        }
        return Some(response);
    }
    if rules.redirect && origin.visibility == Visibility::External && !origin.secure {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let location = format!("https://{}{target}", crate::route::without_port(host));
        let mut response = text(StatusCode::MOVED_PERMANENTLY, "");
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return Some(response);
    }
    None
}

#[expect(clippy::too_many_arguments, reason = "the pieces of one request, used once")]
async fn forward(
    shared: &Arc<Shared>,
    origin: &Origin,
    mut request: Request<Incoming>,
    revision: Arc<Revision>,
    rules: &HostRules,
    rule: &PathRule,
    split: &Split,
    host: HeaderValue,
) -> Response<Body> {
    let start = clock::now();
    let policy = revision.policy().clone();
    let metrics = revision.metrics(&shared.metrics);
    let mut track = Track::new(revision.clone(), start);
    let deadline = start + policy.timeout;
    let arrival = revision.arrive(start);
    let upgrade = prepare(origin, &mut request, rules, rule, split, &host);
    let permit = match arrival {
        Arrival::Admitted(permit) => Ok(permit),
        held => wait(shared, &revision, held, deadline).await,
    };
    let permit = match permit {
        Ok(permit) => permit,
        Err(failure) => return failure.respond(&mut track),
    };
    if permit.was_held() {
        metrics.held(clock::now().saturating_duration_since(start));
    }
    let exchange = send(shared, &revision, request, permit, &policy, upgrade, start, deadline);
    match exchange.await {
        Ok(Sent { response, carrier, permit, downstream }) => {
            track.status(response.status());
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let limits = tunnel::Limits::new(&policy, start, deadline);
                return tunnel::start(shared, response, carrier, permit, track, downstream, limits);
            }
            let idle = (!policy.idle_timeout.is_zero()).then_some(policy.idle_timeout);
            let (mut parts, incoming) = response.into_parts();
            headers::clean_response(&mut parts.headers);
            parts.version = Version::HTTP_11;
            let body = Body::exchange(incoming, carrier, permit, track, Limits { total: deadline, idle });
            Response::from_parts(parts, body)
        }
        Err(failure) => failure.respond(&mut track),
    }
}

/// Edits the request for the instance. Answers the protocol it wants to switch to.
fn prepare(
    origin: &Origin,
    request: &mut Request<Incoming>,
    rules: &HostRules,
    rule: &PathRule,
    split: &Split,
    host: &HeaderValue,
) -> Option<HeaderValue> {
    let http1 = request.version() <= Version::HTTP_11;
    let outside = origin.visibility == Visibility::External;
    let edited = request.headers_mut();
    let upgrade = headers::strip_hop_by_hop(edited).filter(|_| http1);
    headers::forward(edited, &origin.peer, host, outside, origin.secure);
    if edited.get(headers::HASH).is_some_and(|hash| hash == "override") {
        edited.insert(headers::HASH, rules.hash.clone());
    }
    set(edited, &rule.append);
    set(edited, &split.headers);
    edited.insert(header::HOST, rule.rewrite_host.clone().unwrap_or_else(|| host.clone()));
    upgrade
}

fn set(headers: &mut HeaderMap, pairs: &[(http::HeaderName, HeaderValue)]) {
    for (name, value) in pairs {
        headers.insert(name.clone(), value.clone());
    }
}

/// Waits for a place: asks for instances at once, gives up at `deadline`.
async fn wait(
    shared: &Shared,
    revision: &Arc<Revision>,
    arrival: Arrival,
    deadline: Instant,
) -> Result<Permit, Failure> {
    match arrival {
        Arrival::Admitted(permit) => Ok(permit),
        Arrival::Refused => Err(Failure::QueueFull),
        Arrival::Held { mut held, queued, none_ready } => {
            if none_ready && queued == 1 {
                revision.metrics(&shared.metrics).cold_start();
            }
            shared.demand(&revision.key, queued);
            let granted = tokio::select! {
                biased;
                permit = held.granted() => permit,
                () = clock::sleep_until(deadline) => return Err(Failure::HeldTooLong),
            };
            granted.ok_or(Failure::Gone)
        }
    }
}

/// Why a request got no response from an instance.
#[derive(Debug)]
enum Failure {
    QueueFull,
    HeldTooLong,
    /// The revision was deleted while the request waited.
    Gone,
    Timeout,
    TooLarge,
    BadHost,
    Unreachable(std::io::Error),
    Broken(hyper::Error),
}

impl Failure {
    fn respond(self, track: &mut Track) -> Response<Body> {
        let response = match self {
            Self::QueueFull => text(StatusCode::SERVICE_UNAVAILABLE, "pending request queue full"),
            Self::HeldTooLong => text(StatusCode::GATEWAY_TIMEOUT, "activator request timeout"),
            Self::Gone => text(StatusCode::SERVICE_UNAVAILABLE, "revision is gone"),
            Self::Timeout => text(StatusCode::GATEWAY_TIMEOUT, "request timeout"),
            Self::TooLarge => text(StatusCode::PAYLOAD_TOO_LARGE, "request body is too large\n"),
            Self::BadHost => text(StatusCode::BAD_REQUEST, "invalid host\n"),
            Self::Unreachable(error) => {
                tracing::debug!(%error, "instance cannot be reached");
                text(StatusCode::BAD_GATEWAY, "instance cannot be reached\n")
            }
            Self::Broken(error) => {
                tracing::debug!(error = %dormouse_base::chain(&error), "instance broke the connection");
                text(StatusCode::BAD_GATEWAY, "instance closed the connection without an answer\n")
            }
        };
        track.status(response.status());
        response
    }
}

struct Sent {
    response: Response<Answer>,
    carrier: Carrier,
    permit: Permit,
    /// The client's side of a protocol switch.
    downstream: Option<hyper::upgrade::OnUpgrade>,
}

/// What an attempt came to.
enum Attempt {
    Answered(Box<Response<Answer>>, Carrier),
    /// Nothing was sent: the request is unharmed.
    Unsent(Box<Request<RequestBody>>, Option<std::io::Error>),
    Failed(Failure),
}

#[expect(clippy::too_many_arguments, reason = "the pieces of one request, used once")]
async fn send(
    shared: &Arc<Shared>,
    revision: &Arc<Revision>,
    mut request: Request<Incoming>,
    mut permit: Permit,
    policy: &RevisionPolicy,
    upgrade: Option<HeaderValue>,
    start: Instant,
    deadline: Instant,
) -> Result<Sent, Failure> {
    let downstream = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    if let Some(protocol) = upgrade {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(header::UPGRADE, protocol);
    }
    let h2c = policy.protocol == Protocol::H2c && downstream.is_none();
    if !address_for(&mut request, h2c) {
        return Err(Failure::BadHost);
    }
    let exceeded = (shared.config.max_body > 0).then(|| Arc::new(AtomicBool::new(false)));
    let limit = exceeded.clone().map(|flag| (shared.config.max_body, flag));
    let mut request = request.map(|incoming| RequestBody::new(incoming, limit));
    let answer_by = first_byte_deadline(policy, start, deadline);
    let mut attempts = 0;
    loop {
        let Some(endpoint) = permit.endpoint().cloned() else { return Err(Failure::Gone) };
        let attempt = if let Some(instance) = &endpoint.call {
            within(answer_by, over_call(&**instance, request)).await
        } else if h2c {
            within(answer_by, over_http2(shared, &endpoint, request)).await
        } else {
            within(answer_by, over_http1(&endpoint, request)).await
        };
        let error = match attempt {
            None => return Err(Failure::Timeout),
            Some(Attempt::Answered(response, carrier)) => {
                return Ok(Sent { response: *response, carrier, permit, downstream });
            }
            Some(Attempt::Failed(failure)) => {
                let too_large = exceeded.is_some_and(|flag| flag.load(Ordering::Acquire));
                return Err(if too_large { Failure::TooLarge } else { failure });
            }
            Some(Attempt::Unsent(back, error)) => {
                request = *back;
                error
            }
        };
        let Some(error) = error else { continue };
        // The instance has just vanished: another one, or this one after a moment, for as long as nothing was sent.
        attempts += 1;
        if attempts >= CONNECT_ATTEMPTS && !endpoint.is_removed() {
            return Err(Failure::Unreachable(error));
        }
        if !endpoint.is_removed() && attempts > 1 {
            clock::sleep(Duration::from_millis(1 << attempts.min(7))).await;
        }
        permit = match revision.again(permit) {
            Arrival::Admitted(permit) => permit,
            held => wait(shared, revision, held, deadline).await?,
        };
    }
}

fn first_byte_deadline(policy: &RevisionPolicy, start: Instant, deadline: Instant) -> Instant {
    let mut by = deadline;
    for limit in [policy.response_start_timeout, policy.idle_timeout] {
        if !limit.is_zero() {
            by = by.min(start + limit);
        }
    }
    by
}

/// Gives the request the target form and version that the protocol wants. `false` if its host cannot be one.
fn address_for(request: &mut Request<Incoming>, h2c: bool) -> bool {
    if h2c {
        let host = request.headers_mut().remove(header::HOST);
        let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let Some(authority) = authority else { return false };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority);
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        }
        let Ok(uri) = Uri::from_parts(parts) else { return false };
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
    } else {
        if request.uri().authority().is_some() {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = None;
            parts.authority = None;
            let Ok(uri) = Uri::from_parts(parts) else { return false };
            *request.uri_mut() = uri;
        }
        *request.version_mut() = Version::HTTP_11;
    }
    true
}

/// `None` if `deadline` comes first. The timer is armed only when the work does not finish at once.
async fn within<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut timer = pin!(tokio::time::sleep_until(tokio::time::Instant::from_std(deadline)));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = work.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        timer.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// Gives the request to code of this process, on this thread.
async fn over_call(instance: &dyn Call, request: Request<RequestBody>) -> Attempt {
    let response = instance.call(request).await;
    Attempt::Answered(Box::new(response.map(Answer::Called)), Carrier::Call)
}

async fn over_http1(endpoint: &crate::gate::Endpoint, request: Request<RequestBody>) -> Attempt {
    let mut connection = match endpoint.pool.take() {
        Some(connection) => connection,
        None => match pool::connect(endpoint.address).await {
            Ok(connection) => connection,
            Err(error) => return Attempt::Unsent(Box::new(request), Some(error)),
        },
    };
    let answer = {
        let mut response = pin!(connection.sender.try_send_request(request));
        let mut driven = Driven { driver: &mut connection.driver, done: &mut connection.done };
        std::future::poll_fn(|context| driven.poll(context, response.as_mut())).await
    };
    match answer {
        Ok(response) => {
            Attempt::Answered(Box::new(response.map(Answer::Connected)), Carrier::Http1(connection))
        }
        Err(mut error) => match error.take_message() {
            Some(request) => Attempt::Unsent(Box::new(request), None),
            None => Attempt::Failed(Failure::Broken(error.into_error())),
        },
    }
}

/// The parts of a connection that are not borrowed by a request in the making.
struct Driven<'a> {
    driver: &'a mut Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    done: &'a mut bool,
}

impl Driven<'_> {
    /// Drives the connection, then looks for the response: only driving brings it, so it needs no waker of its own.
    fn poll<F: Future>(&mut self, context: &mut Context<'_>, response: Pin<&mut F>) -> Poll<F::Output> {
        if !*self.done && self.driver.as_mut().poll(context).is_ready() {
            *self.done = true;
        }
        if *self.done {
            return response.poll(context);
        }
        response.poll(&mut Context::from_waker(Waker::noop()))
    }
}

async fn over_http2(
    shared: &Shared,
    endpoint: &crate::gate::Endpoint,
    request: Request<RequestBody>,
) -> Attempt {
    let mut stream = match endpoint.pool.stream(endpoint.address, &shared.tasks).await {
        Ok(stream) => stream,
        Err(error) => return Attempt::Unsent(Box::new(request), Some(error)),
    };
    match stream.sender.try_send_request(request).await {
        Ok(response) => {
            Attempt::Answered(Box::new(response.map(Answer::Connected)), Carrier::Http2 { _stream: stream })
        }
        Err(mut error) => match error.take_message() {
            Some(request) => Attempt::Unsent(Box::new(request), None),
            None => Attempt::Failed(Failure::Broken(error.into_error())),
        },
    }
}

/// A short plain-text response.
pub(crate) fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    if !body.is_empty() {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}
