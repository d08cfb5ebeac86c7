//! Reading from a registry: digests, manifests, blobs.

use std::sync::Arc;

use bytes::Bytes;
use dormouse_base::clock;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, StatusCode};

use super::session::{Call, RETRIES_MAX, Session};
use super::{Payload, body, piece};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{self, Descriptor, Document, MANIFEST_BYTES_MAX};
use crate::progress::{Event, Progress};
use crate::store::Store;
use crate::store::blob::{AsyncWriter, Expect};

/// A manifest as it came over the wire, verified.
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) document: Document,
    pub(crate) bytes: Bytes,
}

impl Session {
    /// The digest that the reference stands for now.
    pub(crate) async fn digest(&self) -> Result<Digest> {
        let call = self.manifest_call(Method::HEAD, &self.reference().version());
        let answer = self.call(&call).await?;
        let told =
            answer.response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        if answer.response.status() == StatusCode::OK
            && let Some(told) = told
        {
            return told.parse();
        }
        match answer.response.status() {
            // Without the header, or without HEAD at all: the manifest itself tells.
            StatusCode::OK | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Ok(self.manifest(&self.reference().version(), self.reference().digest()).await?.digest)
            }
            _ => {
                self.expect(&call, answer, &[]).await?;
                Err(Error::Internal("no status is expected, yet one was accepted".into()))
            }
        }
    }

    /// The manifest at a tag or digest, verified against `expected`.
    pub(crate) async fn manifest(&self, version: &str, expected: Option<Digest>) -> Result<Fetched> {
        let call = self.manifest_call(Method::GET, version);
        let answer = self.call(&call).await?;
        let answer = self.expect(&call, answer, &[StatusCode::OK]).await?;
        let headers = answer.response.headers();
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let told =
            headers.get("docker-content-digest").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = body(self.host(), &call.doing, answer.response.into_body(), MANIFEST_BYTES_MAX).await?;
        let expected = expected.or_else(|| told.and_then(|told| told.parse().ok()));
        let actual = expected.map_or_else(|| Digest::of(&bytes), |expected| expected.same_of(&bytes));
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            let subject = format!("the manifest of {}", self.reference());
            return Err(Error::DigestMismatch { subject, expected: expected.into(), actual: actual.into() });
        }
        let document = Document::parse(&self.reference().to_string(), media_type.as_deref(), &bytes)?;
        Ok(Fetched { digest: actual, document, bytes })
    }

    fn manifest_call(&self, method: Method, version: &str) -> Call {
        Call {
            method,
            target: self.path(&format!("manifests/{version}")),
            headers: vec![(ACCEPT, manifest::ACCEPT.to_owned())],
            payload: Payload::Empty,
            doing: format!("reading the manifest of {}", self.reference()),
        }
    }

    /// Downloads a blob into the store, verified; one that is there already is not transferred again.
    pub(crate) async fn blob(
        &self,
        store: &Store,
        wanted: &Descriptor,
        limit: u64,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let (digest, size) = (wanted.digest, wanted.size);
        if store.claim(digest) == Some(size) {
            progress.event(Event::Present { digest, size });
            return Ok(());
        }
        if size > limit {
            return Err(Error::TooLarge {
                subject: format!("layer {digest} of {}", self.reference()),
                limit,
            });
        }
        let mut attempt = 0;
        loop {
            progress.event(Event::Started { digest, size });
            match self.blob_once(store, wanted, progress).await {
                Ok(()) => {
                    progress.event(Event::Finished { digest, size });
                    return Ok(());
                }
                // The head was answered but the body broke off; failures before it were repeated already.
                Err(Broke::Body(Error::Unreachable { .. } | Error::Timeout { .. }))
                    if attempt < RETRIES_MAX =>
                {
                    attempt += 1;
                    clock::sleep(std::time::Duration::from_millis(200) * attempt).await;
                }
                Err(Broke::Head(error) | Broke::Body(error)) => return Err(error),
            }
        }
    }

    async fn blob_once(
        &self,
        store: &Store,
        wanted: &Descriptor,
        progress: &Arc<dyn Progress>,
    ) -> std::result::Result<(), Broke> {
        let (digest, size) = (wanted.digest, wanted.size);
        let subject = format!("blob {digest} of {}", self.reference().name());
        let call = Call {
            method: Method::GET,
            target: self.path(&format!("blobs/{digest}")),
            headers: Vec::new(),
            payload: Payload::Empty,
            doing: format!("reading {subject}"),
        };
        let answer = self.call(&call).await.map_err(Broke::Head)?;
        let answer = self.expect(&call, answer, &[StatusCode::OK]).await.map_err(Broke::Head)?;
        let wrong =
            |actual| Broke::Head(Error::SizeMismatch { subject: subject.clone(), expected: size, actual });
        let length = answer.response.headers().get(CONTENT_LENGTH);
        let told = length.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
        if let Some(told) = told.filter(|told| *told != size) {
            return Err(wrong(told));
        }
        let host = answer.uri.authority().map(|authority| authority.to_string()).unwrap_or_default();
        let mut body = answer.response.into_body();
        let mut writer = AsyncWriter::new(store, size).map_err(Broke::Head)?;
        let mut reported = 0;
        while let Some(bytes) = piece(&host, &call.doing, &mut body).await.map_err(Broke::Body)? {
            let done = writer.size() + bytes.len() as u64;
            if done > size {
                return Err(wrong(done));
            }
            writer.write(&bytes).await.map_err(Broke::Head)?;
            if done - reported >= 256 << 10 {
                reported = done;
                progress.event(Event::Advanced { digest, done, size });
            }
        }
        let expect = Expect { digest: Some(digest), size: Some(size) };
        writer.finish(expect, subject).await.map_err(Broke::Head)?;
        Ok(())
    }
}

/// Where a download failed, which decides whether it is worth another attempt.
enum Broke {
    Head(Error),
    Body(Error),
}
