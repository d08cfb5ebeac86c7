//! Upload sessions: whole in one request, or in chunks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dormouse_base::clock;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::answer::{Answer, Code, Problem, empty, query};
use super::{belongs, parse_digest, working};
use crate::client::PIECE_TIMEOUT;
use crate::digest::Digest;
use crate::images::Images;
use crate::reference::check_repository;
use crate::store::blob::{AsyncWriter, Expect};

/// Sessions at the same time; more are refused with 429.
const SESSIONS_MAX: usize = 1000;
/// Sessions without a request for this long make room for others.
const SESSION_IDLE_MAX: Duration = Duration::from_secs(3600);

/// The sessions by their id.
#[derive(Default)]
pub(super) struct Uploads {
    sessions: Mutex<HashMap<String, Session>>,
}

#[derive(Clone)]
struct Session {
    repository: String,
    used: Instant,
    writer: Arc<tokio::sync::Mutex<Option<AsyncWriter>>>,
}

impl Uploads {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, repository: &str, id: &str) -> Result<Session, Problem> {
        let mut sessions = self.lock();
        match sessions.get_mut(id).filter(|session| session.repository == repository) {
            Some(session) => {
                session.used = clock::now();
                Ok(session.clone())
            }
            None => Err(Problem::new(
                Code::BlobUploadUnknown,
                format!("no upload {id} in repository {repository}"),
            )),
        }
    }
}

fn location(repository: &str, id: &str) -> (&'static str, String) {
    ("location", format!("/v2/{repository}/blobs/uploads/{id}"))
}

fn progress(repository: &str, id: &str, size: u64) -> [(&'static str, String); 3] {
    let range = format!("0-{}", size.saturating_sub(1));
    [location(repository, id), ("range", range), ("docker-upload-uuid", id.to_owned())]
}

fn created(repository: &str, digest: Digest) -> Answer {
    let place = ("location", format!("/v2/{repository}/blobs/{digest}"));
    empty(StatusCode::CREATED, &[place, ("docker-content-digest", digest.to_string())])
}

/// Begins a session; or mounts; or takes the whole blob at once.
pub(super) async fn begin(
    images: &Images,
    repository: &str,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    if let Some(mounted) = query(request.uri(), "mount") {
        let digest = parse_digest(&mounted)?;
        let from = query(request.uri(), "from");
        if let Some(from) = &from {
            check_repository(from).map_err(|reason| Problem::new(Code::NameInvalid, reason))?;
        }
        let owner = images.clone();
        let found = working(move || match from {
            Some(from) => {
                let known = belongs(&owner, &from, digest)?.is_some();
                Ok(known && owner.store().claim(digest).is_some())
            }
            // Without a source any repository will do.
            None => Ok(owner.store().claim(digest).is_some()),
        });
        if found.await? {
            images.inner.registry.saw(repository, digest);
            return Ok(created(repository, digest));
        }
    }
    let mut writer = AsyncWriter::new(images.store(), images.inner.config.limits.blob_bytes)?;
    if let Some(digest) = query(request.uri(), "digest") {
        let digest = parse_digest(&digest)?;
        receive(&mut writer, request.into_body()).await?;
        return finish(images, repository, writer, digest).await;
    }
    let id = uuid::Uuid::new_v4().to_string();
    let now = clock::now();
    let mut sessions = images.inner.registry.uploads.lock();
    sessions.retain(|_, session| now.duration_since(session.used) < SESSION_IDLE_MAX);
    if sessions.len() >= SESSIONS_MAX {
        return Err(Problem::new(Code::TooManyRequests, format!("{SESSIONS_MAX} uploads are in progress")));
    }
    let writer = Arc::new(tokio::sync::Mutex::new(Some(writer)));
    sessions.insert(id.clone(), Session { repository: repository.to_owned(), used: now, writer });
    Ok(empty(StatusCode::ACCEPTED, &progress(repository, &id, 0)))
}

/// Takes the next chunk.
pub(super) async fn patch(
    images: &Images,
    repository: &str,
    id: &str,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let session = images.inner.registry.uploads.find(repository, id)?;
    let mut slot = session.writer.try_lock().map_err(|_| busy(id))?;
    let writer = slot.as_mut().ok_or_else(|| gone(id))?;
    check_range(request.headers(), writer.size(), repository, id)?;
    let promised = length(request.headers());
    let before = writer.size();
    receive(writer, request.into_body()).await?;
    if promised.is_some_and(|promised| promised != writer.size() - before) {
        return Err(Problem::new(Code::SizeInvalid, "the body is not as long as its Content-Length"));
    }
    Ok(empty(StatusCode::ACCEPTED, &progress(repository, id, writer.size())))
}

/// Takes the last chunk, if any, and closes the session.
pub(super) async fn put(
    images: &Images,
    repository: &str,
    id: &str,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let digest = query(request.uri(), "digest")
        .ok_or_else(|| Problem::new(Code::DigestInvalid, "the query parameter digest is missing"))?;
    let digest = parse_digest(&digest)?;
    let session = images.inner.registry.uploads.find(repository, id)?;
    let mut slot = session.writer.try_lock().map_err(|_| busy(id))?;
    let writer = slot.as_mut().ok_or_else(|| gone(id))?;
    check_range(request.headers(), writer.size(), repository, id)?;
    receive(writer, request.into_body()).await?;
    // Right or wrong, the session ends here: a retry begins anew.
    images.inner.registry.uploads.lock().remove(id);
    let writer = slot.take().ok_or_else(|| gone(id))?;
    finish(images, repository, writer, digest).await
}

/// How far a session has come.
pub(super) async fn status(images: &Images, repository: &str, id: &str) -> Result<Answer, Problem> {
    let session = images.inner.registry.uploads.find(repository, id)?;
    let slot = session.writer.lock().await;
    let size = slot.as_ref().ok_or_else(|| gone(id))?.size();
    Ok(empty(StatusCode::NO_CONTENT, &progress(repository, id, size)))
}

/// Forgets a session and what it received.
pub(super) fn cancel(images: &Images, repository: &str, id: &str) -> Result<Answer, Problem> {
    images.inner.registry.uploads.find(repository, id)?;
    images.inner.registry.uploads.lock().remove(id);
    Ok(empty(StatusCode::NO_CONTENT, &[]))
}

async fn finish(
    images: &Images,
    repository: &str,
    writer: AsyncWriter,
    digest: Digest,
) -> Result<Answer, Problem> {
    let expect = Expect { digest: Some(digest), size: None };
    let digest = writer.finish(expect, "the uploaded blob".into()).await?;
    images.inner.registry.saw(repository, digest);
    Ok(created(repository, digest))
}

fn busy(id: &str) -> Problem {
    Problem::new(Code::BlobUploadInvalid, format!("another request writes to upload {id}"))
}

fn gone(id: &str) -> Problem {
    Problem::new(Code::BlobUploadUnknown, format!("upload {id} has ended"))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A chunk must begin where the last one ended and be as long as it says.
fn check_range(headers: &HeaderMap, size: u64, repository: &str, id: &str) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_RANGE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let bounds = text.strip_prefix("bytes ").unwrap_or(text).split('/').next().unwrap_or_default();
    let range = bounds.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?))
    });
    let Some((first, last)) = range.filter(|(first, last)| first <= last) else {
        return Err(Problem::new(
            Code::BlobUploadInvalid,
            format!("Content-Range {text:?} is not <first>-<last>"),
        ));
    };
    if first != size {
        let message = format!("the chunk begins at {first}, but {size} bytes were received");
        let problem = Problem::new(Code::BlobUploadInvalid, message).with(StatusCode::RANGE_NOT_SATISFIABLE);
        return Err(progress(repository, id, size)
            .into_iter()
            .fold(problem, |p, (name, value)| p.header(name, value)));
    }
    match length(headers) {
        Some(length) if length != last - first + 1 => Err(Problem::new(
            Code::SizeInvalid,
            format!("Content-Range {text} does not fit Content-Length {length}"),
        )),
        _ => Ok(()),
    }
}

/// Appends a request's body; a client that stops sending is given up after [`PIECE_TIMEOUT`].
async fn receive(writer: &mut AsyncWriter, mut body: Incoming) -> Result<(), Problem> {
    loop {
        let frame = tokio::time::timeout(PIECE_TIMEOUT, body.frame()).await.map_err(|_| {
            let message = format!("nothing was received for {PIECE_TIMEOUT:?}");
            Problem::new(Code::BlobUploadInvalid, message).with(StatusCode::REQUEST_TIMEOUT)
        })?;
        match frame.transpose() {
            Ok(Some(frame)) => {
                if let Ok(data) = frame.into_data() {
                    writer.write(&data).await?;
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                return Err(Problem::new(Code::BlobUploadInvalid, format!("the body broke off: {error}")));
            }
        }
    }
}
