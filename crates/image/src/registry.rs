//! The embedded registry: the OCI distribution protocol over the content store, for `docker`, `skopeo`, `buildah`, `ko`…
//!
//! A repository's manifests are names in the store, so a push is durable when its manifest is answered with 201. Blobs
//! belong to a repository while one of its manifests leads to them; before that, this process remembers who sent them.
//! Upload sessions live in memory: after a restart clients begin their upload anew, and its leftovers are gone.
//!
//! There is no authentication: bind it to loopback. Browsers are kept out by refusing writes that carry an `Origin`.

mod answer;
mod blobs;
mod lists;
mod manifests;
mod uploads;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dormouse_base::clock;
use dormouse_base::task::Tasks;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::error::Result;
use crate::images::{Images, Seen};
use crate::reference::{At, Reference, check_repository, check_tag};
use crate::store::refs::{LOCAL, Names};
use answer::{Answer, Code, Problem};

/// Connections at the same time; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 512;
/// The bound for a request's head to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the listener rests when the machine has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the endpoint remembers between requests.
#[derive(Default)]
pub(crate) struct State {
    uploads: uploads::Uploads,
    seen: Mutex<Seen>,
    reachable: Mutex<HashMap<String, Reachable>>,
}

/// The blobs that a repository's manifests lead to, as of one copy of the names.
struct Reachable {
    names: Arc<Names>,
    digests: Arc<HashSet<Digest>>,
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Base,
    Catalog,
    Tags(&'a str),
    Referrers(&'a str, &'a str),
    Manifest(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Uploads(&'a str),
    Upload(&'a str, &'a str),
}

/// Serves until the tasks' shutdown; requests in progress are finished. Errors of single connections end only these.
pub async fn serve(listener: TcpListener, images: Images, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shutdown = tasks.shutdown().clone();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        // Shutdown first: no connection is accepted once it was given. Both branches are cancel-safe.
        let accepted = tokio::select! {
            biased;
            () = shutdown.wait() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the registry cannot accept a connection");
                clock::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (images, shutdown) = (images.clone(), shutdown.clone());
        tasks.spawn_connection("registry connection", async move {
            let _slot = slot;
            let service = hyper::service::service_fn(move |request| {
                let images = images.clone();
                async move { Ok::<_, Infallible>(handle(&images, request).await) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            builder.http2().timer(TokioTimer::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                biased;
                result = connection.as_mut() => result,
                () = shutdown.wait() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(error, "a registry connection ended early");
            }
        });
    }
}

/// Answers one request; the only place where a problem becomes a response.
async fn handle(images: &Images, request: Request<Incoming>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match dispatch(images, request).await {
        Ok(response) => response,
        Err(problem) => {
            if problem.status().is_server_error() {
                tracing::warn!(%method, path, problem = %problem.message, "the registry failed");
            }
            problem.answer()
        }
    };
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("docker-distribution-api-version", version);
    response
}

async fn dispatch(images: &Images, request: Request<Incoming>) -> std::result::Result<Answer, Problem> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let read = matches!(method, Method::GET | Method::HEAD);
    if !read && request.headers().contains_key(http::header::ORIGIN) {
        return Err(Problem::new(Code::Denied, "requests of web pages are refused"));
    }
    let Some(route) = route(&path) else {
        return Err(Problem::new(Code::Unsupported, format!("nothing is served at {path}"))
            .with(StatusCode::NOT_FOUND));
    };
    if let Some(repository) = route.repository() {
        check_repository(repository).map_err(|reason| Problem::new(Code::NameInvalid, reason))?;
    }
    match (&route, &method) {
        (Route::Base, _) if read => Ok(answer::json(StatusCode::OK, "application/json", b"{}".to_vec())),
        (Route::Catalog, _) if read => lists::catalog(images, &request).await,
        (Route::Tags(name), _) if read => lists::tags(images, name, &request).await,
        (Route::Referrers(name, digest), _) if read => lists::referrers(images, name, digest, &request).await,
        (Route::Manifest(name, at), _) => {
            let at = manifest_at(at)?;
            match method {
                Method::GET | Method::HEAD => manifests::get(images, name, at).await,
                Method::PUT => manifests::put(images, name, at, request).await,
                Method::DELETE => manifests::delete(images, name, at).await,
                _ => Err(unsupported(&method)),
            }
        }
        (Route::Blob(name, digest), _) => {
            let digest = parse_digest(digest)?;
            match method {
                Method::GET | Method::HEAD => blobs::get(images, name, digest, &request).await,
                Method::DELETE => blobs::delete(images, name, digest).await,
                _ => Err(unsupported(&method)),
            }
        }
        (Route::Uploads(name), &Method::POST) => uploads::begin(images, name, request).await,
        (Route::Upload(name, id), _) => match method {
            Method::GET => uploads::status(images, name, id).await,
            Method::PATCH => uploads::patch(images, name, id, request).await,
            Method::PUT => uploads::put(images, name, id, request).await,
            Method::DELETE => uploads::cancel(images, name, id),
            _ => Err(unsupported(&method)),
        },
        _ => Err(unsupported(&method)),
    }
}

fn unsupported(method: &Method) -> Problem {
    Problem::new(Code::Unsupported, format!("{method} is not supported here"))
}

fn parse_digest(text: &str) -> std::result::Result<Digest, Problem> {
    text.parse().map_err(|error: crate::Error| Problem::new(Code::DigestInvalid, error.to_string()))
}

fn manifest_at(text: &str) -> std::result::Result<At, Problem> {
    if text.contains(':') {
        return parse_digest(text).map(At::Digest);
    }
    check_tag(text).map_err(|reason| Problem::new(Code::TagInvalid, reason))?;
    Ok(At::Tag(text.to_owned()))
}

/// Reads a path from its end, because repositories may be called `blobs` or `manifests` too.
fn route(path: &str) -> Option<Route<'_>> {
    let rest = path.strip_prefix("/v2")?;
    if matches!(rest, "" | "/") {
        return Some(Route::Base);
    }
    let rest = rest.strip_prefix('/')?;
    if rest == "_catalog" {
        return Some(Route::Catalog);
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Some(Route::Tags(name));
    }
    if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
        return Some(Route::Uploads(name));
    }
    let (front, last) = rest.rsplit_once('/')?;
    if let Some(name) = front.strip_suffix("/blobs/uploads") {
        return Some(Route::Upload(name, last));
    }
    let (name, kind) = front.rsplit_once('/')?;
    match kind {
        "manifests" => Some(Route::Manifest(name, last)),
        "blobs" => Some(Route::Blob(name, last)),
        "referrers" => Some(Route::Referrers(name, last)),
        _ => None,
    }
}

impl Route<'_> {
    fn repository(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags(name)
            | Self::Referrers(name, _)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _) => Some(name),
        }
    }
}

// === impl State ===

impl State {
    /// Remembers that `repository` was sent a blob.
    fn saw(&self, repository: &str, digest: Digest) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(repository.to_owned()).or_default().insert(digest);
    }

    /// Forgets it; answers whether it was remembered.
    fn forget(&self, repository: &str, digest: Digest) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(blobs) = seen.get_mut(repository) else { return false };
        let known = blobs.remove(&digest);
        if blobs.is_empty() {
            seen.remove(repository);
        }
        known
    }

    fn has_seen(&self, repository: &str, digest: Digest) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(repository).is_some_and(|blobs| blobs.contains(&digest))
    }
}

/// The reference of a manifest in the embedded registry.
fn named(repository: &str, at: At) -> Reference {
    Reference::of(LOCAL, repository, at)
}

/// What follows a repository's name in the names of its manifests (`:tag` or `@digest`), with their records.
fn manifests_of<'a>(
    names: &'a Names,
    repository: &str,
) -> impl Iterator<Item = (&'a str, &'a crate::store::refs::Record)> {
    let prefix = format!("{LOCAL}/{repository}");
    names
        .range(prefix.clone()..)
        .map_while(move |(name, record)| {
            // Names of longer repositories ("x-y" after "x") stand between those of this one.
            name.starts_with(&prefix).then(|| (name.get(prefix.len()..).unwrap_or_default(), record))
        })
        .filter(|(rest, _)| rest.starts_with([':', '@']))
}

/// Whether the blob is in the store and belongs to the repository. Blocking.
fn belongs(images: &Images, repository: &str, digest: Digest) -> Result<Option<u64>> {
    let Some(size) = images.store().size(digest) else { return Ok(None) };
    if images.inner.registry.has_seen(repository, digest) || reachable(images, repository)?.contains(&digest)
    {
        return Ok(Some(size));
    }
    Ok(None)
}

/// The blobs that the repository's manifests lead to. Blocking.
fn reachable(images: &Images, repository: &str) -> Result<Arc<HashSet<Digest>>> {
    let names = images.store().names()?;
    let cache = || images.inner.registry.reachable.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = cache().get(repository)
        && Arc::ptr_eq(&known.names, &names)
    {
        return Ok(known.digests.clone());
    }
    let mut digests = HashSet::new();
    for (_, record) in manifests_of(&names, repository) {
        images.store().reach(record.digest, &mut digests);
    }
    let digests = Arc::new(digests);
    let mut cache = cache();
    // Repositories of older names would hold those names in memory.
    cache.retain(|_, known| Arc::ptr_eq(&known.names, &names));
    cache.insert(repository.to_owned(), Reachable { names, digests: digests.clone() });
    Ok(digests)
}

/// Runs blocking work for an answer.
fn working<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> impl Future<Output = std::result::Result<T, Problem>> {
    let running = crate::error::blocking(work);
    async move { running.await.map_err(Problem::from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        for (path, expect) in [
            ("/v2/", Some(Route::Base)),
            ("/v2", Some(Route::Base)),
            ("/v2/_catalog", Some(Route::Catalog)),
            ("/v2/a/tags/list", Some(Route::Tags("a"))),
            ("/v2/a/b/manifests/t", Some(Route::Manifest("a/b", "t"))),
            ("/v2/a/manifests/manifests/t", Some(Route::Manifest("a/manifests", "t"))),
            ("/v2/a/blobs/sha256:0", Some(Route::Blob("a", "sha256:0"))),
            ("/v2/a/blobs/uploads/", Some(Route::Uploads("a"))),
            ("/v2/a/blobs/uploads/id", Some(Route::Upload("a", "id"))),
            ("/v2/a/referrers/sha256:0", Some(Route::Referrers("a", "sha256:0"))),
            ("/v2/a", None),
            ("/v1/", None),
            ("/v2x", None),
        ] {
            assert_eq!(route(path), expect, "{path}");
        }
    }
}
