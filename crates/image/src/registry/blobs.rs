//! Reading and deleting blobs.

use http::header::{CONTENT_LENGTH, RANGE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::answer::{Answer, Code, Problem, empty, set};
use super::{belongs, reachable, working};
use crate::client::file_body;
use crate::digest::Digest;
use crate::images::Images;

pub(super) async fn get(
    images: &Images,
    repository: &str,
    digest: Digest,
    request: &Request<Incoming>,
) -> Result<Answer, Problem> {
    let (owner, name) = (images.clone(), repository.to_owned());
    let size =
        working(move || belongs(&owner, &name, digest)).await?.ok_or_else(|| unknown(repository, digest))?;
    let headers = vec![
        ("docker-content-digest", digest.to_string()),
        ("content-type", "application/octet-stream".to_owned()),
        ("accept-ranges", "bytes".to_owned()),
        ("etag", format!("\"{digest}\"")),
    ];
    let path = images.store().blob_path(digest);
    let range = request.headers().get(RANGE).and_then(|value| value.to_str().ok());
    let (status, offset, length, more) = match range.and_then(|range| byte_range(range, size)) {
        None => (StatusCode::OK, 0, size, None),
        Some(Some((first, last))) => {
            let told = ("content-range", format!("bytes {first}-{last}/{size}"));
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1, Some(told))
        }
        Some(None) => {
            let problem = Problem::new(Code::RangeInvalid, format!("the blob has {size} bytes"));
            return Err(problem.header("content-range", format!("bytes */{size}")));
        }
    };
    let mut answer = match *request.method() {
        Method::HEAD => empty(status, &headers),
        _ => {
            let mut answer = Response::new(file_body(&path, offset, length));
            *answer.status_mut() = status;
            set(answer, &headers)
        }
    };
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    Ok(set(answer, more.as_slice()))
}

fn unknown(repository: &str, digest: Digest) -> Problem {
    Problem::new(Code::BlobUnknown, format!("blob {digest} is not in repository {repository}"))
}

/// One `bytes=` range: nothing if the header is to be ignored, inner nothing if it cannot be satisfied.
fn byte_range(header: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    if last.contains(',') {
        return None;
    }
    let (first, last) = match (first.trim(), last.trim()) {
        ("", suffix) => {
            let suffix: u64 = suffix.parse().ok()?;
            (size.saturating_sub(suffix), if suffix == 0 { 0 } else { size.saturating_sub(1) })
        }
        (first, "") => (first.parse().ok()?, size.saturating_sub(1)),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(size.saturating_sub(1))),
    };
    Some((first <= last && first < size).then_some((first, last)))
}

/// Takes a blob away from the repository; its bytes go with the next sweep if nothing else needs them.
pub(super) async fn delete(images: &Images, repository: &str, digest: Digest) -> Result<Answer, Problem> {
    let (owner, name) = (images.clone(), repository.to_owned());
    let used = working(move || Ok(reachable(&owner, &name)?.contains(&digest))).await?;
    if used {
        let message = format!("blob {digest} is used by a manifest of {repository}: delete that first");
        return Err(Problem::new(Code::Unsupported, message));
    }
    match images.inner.registry.forget(repository, digest) {
        true => Ok(empty(StatusCode::ACCEPTED, &[])),
        false => Err(unknown(repository, digest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_tells() {
        for (header, expect) in [
            ("bytes=0-4", Some(Some((0, 4)))),
            ("bytes=5-", Some(Some((5, 9)))),
            ("bytes=-3", Some(Some((7, 9)))),
            ("bytes=-30", Some(Some((0, 9)))),
            ("bytes=5-99", Some(Some((5, 9)))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=4-2", Some(None)),
            ("bytes=0-1,3-4", None),
            ("lines=1-2", None),
            ("bytes=x-2", None),
        ] {
            assert_eq!(byte_range(header, 10), expect, "{header}");
        }
    }
}
