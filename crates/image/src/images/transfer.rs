//! Pull and push.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::{Images, component};
use crate::auth::Auth;
use crate::client::Session;
use crate::client::push::Sending;
use crate::digest::Digest;
use crate::error::{Error, Result, blocking};
use crate::manifest::{CONFIG_BYTES_MAX, Descriptor, Document, ImageManifest, LAYERS_MAX};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::refs::{LOCAL, Origin};

/// Blobs of one image that are transferred at the same time.
const PARALLEL: usize = 4;

impl Images {
    /// Makes the store have everything that this machine needs of `reference`, and answers its digest (of the index, if
    /// it is one). What is there already is not transferred; concurrent pulls of one image share the work.
    ///
    /// # Errors
    /// Those of [`Images::resolve`], and [`Error::DigestMismatch`], [`Error::TooLarge`], [`Error::Platform`]…
    pub async fn pull(&self, reference: &str, auth: &Auth, progress: Arc<dyn Progress>) -> Result<Digest> {
        let reference = self.canonical(reference)?;
        if let Some(digest) = self.resolve_here(&reference)?
            && self.complete(digest).await?
        {
            return Ok(digest);
        }
        if reference.registry() == LOCAL {
            return Err(self.not_local(&reference));
        }
        let session = Session::open(&self.inner.client, &reference, auth, "pull", None).await?;
        let digest = match reference.digest() {
            Some(digest) => digest,
            None => session.digest().await?,
        };
        let images = self.clone();
        let limit = self.inner.config.limits.blob_bytes;
        let work = || async move { images.fetch(&session, digest, limit, &progress).await }.boxed();
        self.inner.pulls.run(digest, work).await?;
        let (store, subject) = (self.store().clone(), reference.clone());
        blocking(move || {
            let (document, _) = store.document(digest)?;
            store.set_names(Self::records(&subject, document.media_type(), digest, Origin::Pulled))
        })
        .await?;
        Ok(digest)
    }

    /// Whether the store has all that this machine needs of a manifest; claims it, so that it stays until something
    /// refers to it.
    ///
    /// # Errors
    /// [`Error::Platform`] for an index without this machine, [`Error::File`] if the store cannot be read.
    pub async fn complete(&self, digest: Digest) -> Result<bool> {
        let store = self.store().clone();
        blocking(move || {
            let mut digest = digest;
            // An index, its image: two steps at most.
            for _ in 0..2 {
                if store.claim(digest).is_none() {
                    return Ok(false);
                }
                match store.document(digest) {
                    Ok((Document::Index(index), _)) => digest = index.choose(&digest.to_string())?.digest,
                    Ok((Document::Image(image), _)) => {
                        let there = |blob: &Descriptor| store.claim(blob.digest) == Some(blob.size);
                        return Ok(there(&image.config) && image.layers.iter().all(there));
                    }
                    Err(Error::Damaged { .. } | Error::Missing { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            Ok(false)
        })
        .await
    }

    async fn fetch(
        &self,
        session: &Session,
        digest: Digest,
        limit: u64,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        if self.complete(digest).await? {
            return Ok(());
        }
        let image = match self.fetch_manifest(session, digest).await? {
            Document::Image(image) => image,
            Document::Index(index) => {
                let child = index.choose(&session.reference().to_string())?.digest;
                match self.fetch_manifest(session, child).await? {
                    Document::Image(image) => image,
                    Document::Index(_) => {
                        let reason = "an index within an index".to_owned();
                        return Err(Error::Manifest { subject: session.reference().to_string(), reason });
                    }
                }
            }
        };
        check(&session.reference().to_string(), &image)?;
        let blobs: Vec<Descriptor> = std::iter::once(image.config).chain(image.layers).collect();
        let store = self.store();
        stream::iter(blobs)
            .map(|blob| async move { session.blob(store, &blob, limit, progress).await })
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await
    }

    async fn fetch_manifest(&self, session: &Session, digest: Digest) -> Result<Document> {
        let store = self.store().clone();
        if store.claim(digest).is_some()
            && let Ok((document, _)) = blocking(move || store.document(digest)).await
        {
            return Ok(document);
        }
        let fetched = session.manifest(&digest.to_string(), Some(digest)).await?;
        let (store, bytes) = (self.store().clone(), fetched.bytes);
        blocking(move || store.put_as(&bytes, Some(digest))).await?;
        debug_assert_eq!(fetched.digest, digest, "verified by the session");
        Ok(fetched.document)
    }

    /// Sends the stored image `reference` to `target`, blobs that the registry lacks only.
    ///
    /// # Errors
    /// [`Error::NotLocal`] if the store has no such image, [`Error::Denied`], [`Error::Unreachable`]…
    pub async fn push(
        &self,
        reference: &str,
        target: &str,
        auth: &Auth,
        progress: Arc<dyn Progress>,
    ) -> Result<Digest> {
        let source = self.canonical(reference)?;
        let record = match source.digest() {
            Some(digest) => Some(digest),
            None => self.store().named(&source)?.map(|record| record.digest),
        };
        let digest = record
            .filter(|digest| self.store().size(*digest).is_some())
            .ok_or_else(|| self.not_local(&source))?;
        let target = Reference::parse(target)?;
        let same = source.registry() == target.registry() && source.repository() != target.repository();
        let mount_from = same.then(|| source.repository().to_owned());
        let session =
            Session::open(&self.inner.client, &target, auth, "pull,push", mount_from.clone()).await?;
        let sending = Sending { mount_from, chunk: self.inner.config.push_chunk_bytes };
        let version = target.tag().map_or_else(|| digest.to_string(), str::to_owned);
        self.send(&session, digest, &version, &sending, &progress).await?;
        Ok(digest)
    }

    async fn send(
        &self,
        session: &Session,
        digest: Digest,
        version: &str,
        sending: &Sending,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let store = self.store().clone();
        let (document, bytes) = blocking(move || store.document(digest)).await?;
        if let Document::Index(index) = &document {
            for child in &index.manifests {
                // Other platforms may never have been pulled; the registry decides whether it takes such an index.
                if self.store().size(child.digest).is_some() {
                    Box::pin(self.send(session, child.digest, &child.digest.to_string(), sending, progress))
                        .await?;
                }
            }
        }
        let blobs: Vec<Descriptor> = document.blobs().filter(|blob| !blob.is_foreign()).cloned().collect();
        let store = self.store();
        stream::iter(blobs)
            .map(|blob| async move { session.push_blob(store, &blob, sending, progress).await })
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        session.push_manifest(version, document.media_type(), bytes).await
    }
}

/// Refuses images that could never be run before anything large is transferred.
pub(super) fn check(subject: &str, image: &ImageManifest) -> Result<()> {
    let invalid = |reason: String| Err(Error::Manifest { subject: subject.to_owned(), reason });
    if image.layers.len() > LAYERS_MAX {
        return invalid(format!("it has {} layers, more than {LAYERS_MAX}", image.layers.len()));
    }
    if image.config.size > CONFIG_BYTES_MAX {
        return invalid(format!("its configuration is larger than {CONFIG_BYTES_MAX} bytes"));
    }
    if component::layer(subject, image)?.is_some() {
        return Ok(());
    }
    let config = image.config.media_type.as_str();
    if !config.is_empty() && !config.contains("image.config.v1") && !config.contains("container.image.v1") {
        return invalid(format!("it is an artifact of type {config:?}, not a container image"));
    }
    match image.layers.iter().find(|layer| !layer.media_type.contains("tar")) {
        Some(layer) => invalid(format!("layer {} has the unknown type {:?}", layer.digest, layer.media_type)),
        None => Ok(()),
    }
}
