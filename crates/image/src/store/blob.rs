//! Writing blobs: verified while streaming, visible only when complete.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use bytes::Bytes;
use dormouse_base::clock;
use tokio::task::JoinHandle;

use super::{Store, sync_dir};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// How much the asynchronous writer gathers before it hands over to a blocking thread.
const GATHER_BYTES: usize = 512 << 10;

/// What a finished blob must be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expect {
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
}

/// Writes one blob. Dropped before [`BlobWriter::finish`], it leaves nothing. Blocking.
pub(crate) struct BlobWriter {
    store: Store,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
    limit: u64,
    published: bool,
}

/// The same for asynchronous callers: hashing and writing happen on a blocking thread while the next bytes arrive.
/// Every method is cancel-safe.
pub(crate) struct AsyncWriter {
    state: State,
    buffer: Vec<u8>,
    size: u64,
}

enum State {
    Idle(Box<BlobWriter>),
    Busy(JoinHandle<Result<Box<BlobWriter>>>),
    Failed,
}

// === impl BlobWriter ===

impl BlobWriter {
    /// Begins a blob of at most `limit` bytes.
    pub(crate) fn new(store: &Store, limit: u64) -> Result<Self> {
        let path = store.temporary("blob");
        let file = File::options()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::file("create", &path, source))?;
        Ok(Self {
            store: store.clone(),
            path,
            file,
            hasher: Hasher::default(),
            size: 0,
            limit,
            published: false,
        })
    }

    /// Appends `bytes`.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            return Err(Error::TooLarge { subject: "the blob".into(), limit: self.limit });
        }
        self.file.write_all(bytes).map_err(|source| Error::file("write", &self.path, source))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Verifies and publishes the blob; it is durable when this returns, and claimed.
    pub(crate) fn finish(mut self, expect: &Expect, subject: &str) -> Result<Digest> {
        if let Some(expected) = expect.size
            && expected != self.size
        {
            return Err(Error::SizeMismatch { subject: subject.to_owned(), expected, actual: self.size });
        }
        let mut digest = self.hasher.clone().finish();
        // Rare enough to read the file once more: the algorithm is known only at the end.
        if let Some(expected) = expect.digest.filter(|expected| expected.algorithm() != digest.algorithm()) {
            digest = expected.same_of_file(&self.path)?;
        }
        if let Some(expected) = expect.digest
            && expected != digest
        {
            return Err(Error::DigestMismatch {
                subject: subject.to_owned(),
                expected: expected.into(),
                actual: digest.into(),
            });
        }
        if self.store.claim(digest) == Some(self.size) {
            return Ok(digest);
        }
        self.file.sync_all().map_err(|source| Error::file("sync", &self.path, source))?;
        let target = self.store.blob_path(digest);
        self.store.claims().insert(digest, clock::now());
        std::fs::rename(&self.path, &target).map_err(|source| Error::file("rename", &self.path, source))?;
        self.published = true;
        if let Some(parent) = target.parent() {
            sync_dir(parent)?;
        }
        Ok(digest)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.append(bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// === impl AsyncWriter ===

impl AsyncWriter {
    /// Begins a blob of at most `limit` bytes.
    pub(crate) fn new(store: &Store, limit: u64) -> Result<Self> {
        let writer = BlobWriter::new(store, limit)?;
        Ok(Self { state: State::Idle(Box::new(writer)), buffer: Vec::new(), size: 0 })
    }

    /// Bytes taken so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Appends `bytes`.
    pub(crate) async fn write(&mut self, bytes: &Bytes) -> Result<()> {
        if self.buffer.len() >= GATHER_BYTES {
            self.hand_over().await?;
        }
        self.size += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<()> {
        let mut writer = self.settle().await?;
        let buffer = std::mem::take(&mut self.buffer);
        self.state = State::Busy(tokio::task::spawn_blocking(move || {
            writer.append(&buffer)?;
            Ok(writer)
        }));
        Ok(())
    }

    /// Waits for the blocking thread and takes the writer back; the state is `Failed` until it is put again.
    async fn settle(&mut self) -> Result<Box<BlobWriter>> {
        if let State::Busy(handle) = &mut self.state {
            let result = handle.await;
            self.state = State::Failed;
            return match result {
                Ok(result) => result,
                Err(error) => Err(Error::Internal(format!("writing a blob ended early: {error}"))),
            };
        }
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(writer) => Ok(writer),
            State::Busy(_) | State::Failed => Err(Error::Internal("this blob failed before".into())),
        }
    }

    /// Verifies and publishes the blob; see [`BlobWriter::finish`].
    pub(crate) async fn finish(mut self, expect: Expect, subject: String) -> Result<Digest> {
        let mut writer = self.settle().await?;
        let buffer = std::mem::take(&mut self.buffer);
        crate::error::blocking(move || {
            writer.append(&buffer)?;
            writer.finish(&expect, &subject)
        })
        .await
    }
}

// === impl Store ===

impl Store {
    /// Stores a small blob whole. Blocking.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        self.put_as(bytes, None)
    }

    /// The same under the name that others know it by; it must be its digest. Blocking.
    pub(crate) fn put_as(&self, bytes: &[u8], digest: Option<Digest>) -> Result<Digest> {
        let mut writer = BlobWriter::new(self, bytes.len() as u64)?;
        writer.append(bytes)?;
        writer.finish(&Expect { digest, size: None }, "the blob")
    }

    /// Stores what `reader` gives. Blocking.
    pub(crate) fn put_reader(
        &self,
        reader: &mut dyn std::io::Read,
        expect: &Expect,
        limit: u64,
        subject: &str,
    ) -> Result<(Digest, u64)> {
        let mut writer = BlobWriter::new(self, limit)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = reader.read(&mut buffer).map_err(|source| Error::file("read", subject, source))?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            writer.append(bytes)?;
        }
        let size = writer.size();
        Ok((writer.finish(expect, subject)?, size))
    }
}
