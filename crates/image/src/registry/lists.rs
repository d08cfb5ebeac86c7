//! Tags, repositories and referrers.

use std::collections::BTreeSet;

use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::answer::{Answer, Code, Problem, json, query, set};
use super::{manifests_of, parse_digest, working};
use crate::images::Images;
use crate::manifest::{Descriptor, Index, OCI_INDEX};
use crate::store::refs::LOCAL;

/// Entries of one page when the client does not say.
const PAGE_MAX: usize = 1000;

/// One page of a sorted list.
struct Page {
    items: Vec<String>,
    /// The `Link` to the next page.
    next: Option<String>,
}

/// Cuts the page that the request's `n` and `last` ask for.
fn page(all: impl IntoIterator<Item = String>, path: &str, uri: &http::Uri) -> Result<Page, Problem> {
    let wanted = match query(uri, "n") {
        Some(text) => text.parse::<usize>().map_err(|_| {
            Problem::new(Code::PaginationNumberInvalid, format!("n={text:?} is not a number of entries"))
        })?,
        None => PAGE_MAX,
    };
    let last = query(uri, "last");
    let mut rest = all.into_iter().filter(|item| last.as_ref().is_none_or(|last| item > last));
    let items: Vec<String> = rest.by_ref().take(wanted).collect();
    let more = rest.next().is_some();
    let next =
        items.last().filter(|_| more).map(|last| format!("<{path}?n={wanted}&last={last}>; rel=\"next\""));
    Ok(Page { items, next })
}

fn answer(page: Page, body: impl FnOnce(Vec<String>) -> serde_json::Value) -> Answer {
    let text = body(page.items).to_string().into_bytes();
    let answer = json(StatusCode::OK, "application/json", text);
    match page.next {
        Some(next) => set(answer, &[("link", next)]),
        None => answer,
    }
}

pub(super) async fn tags(
    images: &Images,
    repository: &str,
    request: &Request<Incoming>,
) -> Result<Answer, Problem> {
    let (store, name) = (images.store().clone(), repository.to_owned());
    let found = working(move || {
        let names = store.names()?;
        let mut known = false;
        let mut tags = BTreeSet::new();
        for (rest, _) in manifests_of(&names, &name) {
            known = true;
            tags.extend(rest.strip_prefix(':').map(str::to_owned));
        }
        Ok(known.then_some(tags))
    });
    let Some(tags) = found.await? else {
        return Err(Problem::new(Code::NameUnknown, format!("no repository {repository}")));
    };
    let page = page(tags, &format!("/v2/{repository}/tags/list"), request.uri())?;
    Ok(answer(page, |tags| serde_json::json!({ "name": repository, "tags": tags })))
}

pub(super) async fn catalog(images: &Images, request: &Request<Incoming>) -> Result<Answer, Problem> {
    let store = images.store().clone();
    let repositories = working(move || {
        let prefix = format!("{LOCAL}/");
        let repository = |name: &String| {
            let rest = name.strip_prefix(&prefix)?;
            rest.find([':', '@']).and_then(|end| rest.get(..end)).map(str::to_owned)
        };
        Ok(store.names()?.keys().filter_map(repository).collect::<BTreeSet<String>>())
    });
    let page = page(repositories.await?, "/v2/_catalog", request.uri())?;
    Ok(answer(page, |repositories| serde_json::json!({ "repositories": repositories })))
}

/// The manifests whose subject is `digest`, as an index. A subject that is not there yet has none so far.
pub(super) async fn referrers(
    images: &Images,
    repository: &str,
    digest: &str,
    request: &Request<Incoming>,
) -> Result<Answer, Problem> {
    let digest = parse_digest(digest)?;
    let wanted = query(request.uri(), "artifactType").filter(|wanted| !wanted.is_empty());
    let (store, name, filter) = (images.store().clone(), repository.to_owned(), wanted.clone());
    let found = working(move || {
        let names = store.names()?;
        let mut manifests = Vec::new();
        for (_, record) in manifests_of(&names, &name).filter(|(rest, _)| rest.starts_with('@')) {
            let Ok((document, bytes)) = store.document(record.digest) else { continue };
            let kind = document.artifact_type().filter(|kind| !kind.is_empty());
            let fits = filter.is_none() || kind == filter.as_deref();
            if fits && document.subject().is_some_and(|subject| subject.digest == digest) {
                manifests.push(Descriptor {
                    artifact_type: kind.map(str::to_owned),
                    annotations: document.annotations().cloned(),
                    ..Descriptor::new(&record.media_type, record.digest, bytes.len() as u64)
                });
            }
        }
        Ok(manifests)
    });
    let index = Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.into()),
        artifact_type: None,
        manifests: found.await?,
        subject: None,
        annotations: None,
    };
    let text = serde_json::to_vec(&index).map_err(|error| Problem::new(Code::Unknown, error.to_string()))?;
    let answer = json(StatusCode::OK, OCI_INDEX, text);
    Ok(match wanted {
        Some(_) => set(answer, &[("oci-filters-applied", "artifactType".to_owned())]),
        None => answer,
    })
}
