//! Writing to a registry: look, mount, send whole or in chunks; then the manifest.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION};
use http::{Method, StatusCode, Uri};

use super::session::{Answer, Call, Session, Target};
use super::{Payload, resolve_location};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::Descriptor;
use crate::progress::{Event, Progress};
use crate::store::Store;

/// How to send a blob.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    /// Another repository of the same registry that may have it.
    pub(crate) mount_from: Option<String>,
    /// Larger blobs are sent in pieces of this size.
    pub(crate) chunk: Option<u64>,
}

impl Session {
    /// Makes the registry have a blob.
    pub(crate) async fn push_blob(
        &self,
        store: &Store,
        blob: &Descriptor,
        sending: &Sending,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let (digest, subject) = (blob.digest, format!("blob {} to {}", blob.digest, self.reference().name()));
        let size = store
            .size(digest)
            .ok_or_else(|| Error::Missing { subject: format!("pushing {}", self.reference()), digest })?;
        let head =
            self.plain(Method::HEAD, self.path(&format!("blobs/{digest}")), format!("looking for {subject}"));
        if self.call(&head).await?.response.status() == StatusCode::OK {
            progress.event(Event::Present { digest, size });
            return Ok(());
        }
        let mount = sending.mount_from.as_ref().map(|from| format!("?mount={digest}&from={from}"));
        let start = format!("blobs/uploads/{}", mount.unwrap_or_default());
        let post = self.plain(Method::POST, self.path(&start), format!("beginning to send {subject}"));
        let answer = self.call(&post).await?;
        let answer = self.expect(&post, answer, &[StatusCode::ACCEPTED, StatusCode::CREATED]).await?;
        if answer.response.status() == StatusCode::CREATED {
            progress.event(Event::Present { digest, size });
            return Ok(());
        }
        progress.event(Event::Started { digest, size });
        let mut place = self.location(&answer)?;
        let path = store.blob_path(digest);
        let mut rest = Payload::File { path: path.clone(), offset: 0, length: size };
        if let Some(chunk) = sending.chunk.filter(|chunk| *chunk > 0 && *chunk < size) {
            let mut offset = 0;
            while offset < size {
                let length = chunk.min(size - offset);
                let call = Call {
                    method: Method::PATCH,
                    target: Target::Place(place),
                    headers: vec![
                        (CONTENT_TYPE, "application/octet-stream".into()),
                        (CONTENT_RANGE, format!("{offset}-{}", offset + length - 1)),
                    ],
                    payload: Payload::File { path: path.clone(), offset, length },
                    doing: format!("sending {subject}"),
                };
                let answer = self.call(&call).await?;
                let answer = self.expect(&call, answer, &[StatusCode::ACCEPTED]).await?;
                place = self.location(&answer)?;
                offset += length;
                progress.event(Event::Advanced { digest, done: offset, size });
            }
            rest = Payload::Empty;
        }
        let call = Call {
            method: Method::PUT,
            target: Target::Place(with_digest(&place, digest).ok_or_else(|| self.no_location())?),
            headers: vec![(CONTENT_TYPE, "application/octet-stream".into())],
            payload: rest,
            doing: format!("sending {subject}"),
        };
        let answer = self.call(&call).await?;
        self.expect(&call, answer, &[StatusCode::CREATED, StatusCode::NO_CONTENT]).await?;
        progress.event(Event::Finished { digest, size });
        Ok(())
    }

    /// Sends a manifest to a tag or its own digest.
    pub(crate) async fn push_manifest(&self, version: &str, media_type: &str, bytes: Bytes) -> Result<()> {
        let call = Call {
            method: Method::PUT,
            target: self.path(&format!("manifests/{version}")),
            headers: vec![(CONTENT_TYPE, media_type.to_owned())],
            payload: Payload::Bytes(bytes),
            doing: format!("sending the manifest of {}", self.reference()),
        };
        let answer = self.call(&call).await?;
        self.expect(&call, answer, &[StatusCode::CREATED, StatusCode::OK]).await?;
        Ok(())
    }

    fn plain(&self, method: Method, target: Target, doing: String) -> Call {
        Call { method, target, headers: Vec::new(), payload: Payload::Empty, doing }
    }

    fn location(&self, answer: &Answer) -> Result<Uri> {
        let location = answer.response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        location
            .and_then(|location| resolve_location(&answer.uri, location))
            .ok_or_else(|| self.no_location())
    }

    fn no_location(&self) -> Error {
        let reason = "an upload without a usable location".into();
        Error::Protocol { host: self.host().to_owned(), reason }
    }
}

/// The upload's place with the digest added to its query.
fn with_digest(place: &Uri, digest: Digest) -> Option<Uri> {
    let joint = if place.query().is_some() { '&' } else { '?' };
    format!("{place}{joint}digest={digest}").parse().ok()
}
