//! Manifests and indexes by tag and digest.

use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::answer::{Answer, Code, Problem, empty, set, with_body};
use super::{manifests_of, named, working};
use crate::client::PIECE_TIMEOUT;
use crate::digest::Digest;
use crate::error::{Error, Result as Read};
use crate::images::Images;
use crate::manifest::{Document, MANIFEST_BYTES_MAX};
use crate::reference::At;
use crate::store::refs::Origin;

pub(super) async fn get(images: &Images, repository: &str, at: At) -> Result<Answer, Problem> {
    let reference = named(repository, at);
    let store = images.store().clone();
    let wanted = reference.clone();
    let found = working(move || match store.named(&wanted)? {
        Some(record) => Ok(Some((store.read("the manifest", record.digest, MANIFEST_BYTES_MAX)?, record))),
        None => Ok(None),
    });
    let Some((bytes, record)) = found.await? else {
        let message = format!("manifest {} is not in repository {repository}", reference.version());
        return Err(Problem::new(Code::ManifestUnknown, message));
    };
    // hyper leaves the body out of answers to HEAD and keeps its length.
    let digest = record.digest.to_string();
    let headers = [("docker-content-digest", digest.clone()), ("etag", format!("\"{digest}\""))];
    Ok(set(with_body(StatusCode::OK, &record.media_type, bytes), &headers))
}

pub(super) async fn put(
    images: &Images,
    repository: &str,
    at: At,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let media_type =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let limit = usize::try_from(MANIFEST_BYTES_MAX).unwrap_or(usize::MAX);
    let collected =
        tokio::time::timeout(PIECE_TIMEOUT, Limited::new(request.into_body(), limit).collect()).await;
    let bytes = match collected {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("the manifest is larger than {MANIFEST_BYTES_MAX} bytes");
            return Err(Problem::new(Code::SizeInvalid, message).with(StatusCode::PAYLOAD_TOO_LARGE));
        }
        Ok(Err(error)) => {
            return Err(Problem::new(Code::ManifestInvalid, format!("the body broke off: {error}")));
        }
        Err(_) => {
            let message = "the manifest did not arrive in time";
            return Err(Problem::new(Code::ManifestInvalid, message).with(StatusCode::REQUEST_TIMEOUT));
        }
    };
    let digest = match &at {
        At::Digest(expected) => expected.same_of(&bytes),
        At::Tag(_) => Digest::of(&bytes),
    };
    if let At::Digest(expected) = &at
        && *expected != digest
    {
        return Err(Problem::new(Code::DigestInvalid, format!("the manifest's digest is {digest}")));
    }
    let document = Document::parse(&digest.to_string(), media_type.as_deref(), &bytes)?;
    let subject = document.subject().map(|subject| subject.digest);
    let reference = named(repository, at);
    let (owner, name) = (images.clone(), repository.to_owned());
    let stored = working(move || {
        if let Some(missing) = missing(&owner, &name, &document)? {
            return Ok(Err(missing));
        }
        owner.store().put_as(&bytes, Some(digest))?;
        let records = Images::records(&reference, document.media_type(), digest, Origin::Local);
        owner.store().set_names(records)?;
        Ok(Ok(()))
    });
    if let Err(missing) = stored.await? {
        let message = format!("the manifest refers to {missing}, which was not pushed");
        return Err(Problem::new(Code::ManifestBlobUnknown, message));
    }
    let place = ("location", format!("/v2/{repository}/manifests/{digest}"));
    let answer = empty(StatusCode::CREATED, &[place, ("docker-content-digest", digest.to_string())]);
    Ok(match subject {
        Some(subject) => set(answer, &[("oci-subject", subject.to_string())]),
        None => answer,
    })
}

/// The first thing that a manifest refers to and the store lacks; the others are claimed.
fn missing(images: &Images, repository: &str, document: &Document) -> Read<Option<Digest>> {
    for blob in document.blobs().filter(|blob| !blob.is_foreign()) {
        match images.store().claim(blob.digest) {
            Some(size) if size != blob.size => {
                let subject = format!("blob {}", blob.digest);
                return Err(Error::SizeMismatch { subject, expected: blob.size, actual: size });
            }
            Some(_) => {}
            None => return Ok(Some(blob.digest)),
        }
    }
    for child in document.manifests() {
        let known = images.store().named(&named(repository, At::Digest(child.digest)))?.is_some();
        if !known || images.store().claim(child.digest).is_none() {
            return Ok(Some(child.digest));
        }
    }
    Ok(None)
}

/// A tag goes alone; a digest goes with all tags that stand for it.
pub(super) async fn delete(images: &Images, repository: &str, at: At) -> Result<Answer, Problem> {
    let (store, name) = (images.store().clone(), repository.to_owned());
    let reference = named(repository, at.clone());
    let removed = working(move || {
        let names = store.names()?;
        let doomed: Vec<String> = match &at {
            At::Tag(_) => {
                names.get(&reference.to_string()).map(|record| record.name.clone()).into_iter().collect()
            }
            At::Digest(digest) => manifests_of(&names, &name)
                .filter(|(_, record)| record.digest == *digest)
                .map(|(_, record)| record.name.clone())
                .collect(),
        };
        store.remove_names(&doomed)?;
        Ok(!doomed.is_empty())
    });
    match removed.await? {
        true => Ok(empty(StatusCode::ACCEPTED, &[])),
        false => {
            let message = format!("no such manifest in repository {repository}");
            Err(Problem::new(Code::ManifestUnknown, message))
        }
    }
}
