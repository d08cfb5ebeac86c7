//! The content store: blobs by digest, names for some of them, and layers unpacked for overlayfs.
//!
//! Problem: several processes (the platform and a command beside it) share one directory, any of them can be killed at any
//! moment, and nothing may be stored twice or half. Decision: plain files and the kernel's own atomic steps.
//!
//! - `blobs/<algorithm>/<hex>`: written under `tmp/`, synced, renamed, directory synced. Never modified.
//! - `layers/<hex of the diff id>`: an unpacked layer in overlayfs form; made under `tmp/`, synced, renamed.
//! - `refs/<hash of the name>`: one small JSON record per name ([`refs`]).
//! - `lock`: shared by every process that has the store open. Whoever can have it alone (in its `turn`) may remove
//!   leftovers and sweep.
//!
//! A blob that was just written or looked up for a transfer is *claimed* so that a sweep leaves it alone until a name
//! reaches it; claims expire after [`CLAIM_MAX`].

pub(crate) mod blob;
pub(crate) mod refs;
pub(crate) mod sweep;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dormouse_base::clock;
use rustix::fs::FlockOperation;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{CONFIG_BYTES_MAX, Document, MANIFEST_BYTES_MAX};

/// How long a transfer may take from its first blob to its manifest before a sweep may take its blobs away.
const CLAIM_MAX: Duration = Duration::from_secs(3600);

/// A handle of the store; clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    lock: File,
    claims: Mutex<HashMap<Digest, Instant>>,
    names: Mutex<refs::Cache>,
    /// Held for reading while a name is written and for writing while a sweep runs.
    gate: RwLock<()>,
}

// === impl Store ===

impl Store {
    /// Opens or makes the store in `root`. Blocking.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        for name in ["", "tmp", "blobs", "blobs/sha256", "blobs/sha512", "refs", "layers"] {
            let path = root.join(name);
            // Layers hold set-uid programs: nobody but the owner may reach them.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|source| Error::file("create directory", &path, source))?;
        }
        let path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::file("open", &path, source))?;
        let inner = Inner {
            root: root.to_path_buf(),
            lock,
            claims: Mutex::default(),
            names: Mutex::default(),
            gate: RwLock::new(()),
        };
        let store = Self { inner: Arc::new(inner) };
        store.alone(|alone| if alone { store.remove_leftovers() } else { Ok(()) })?;
        Ok(store)
    }

    /// Runs `work` and tells it whether no other process has the store open, or can open it meanwhile.
    fn alone<T>(&self, work: impl FnOnce(bool) -> Result<T>) -> Result<T> {
        let fail = |errno| Error::file("lock", self.inner.root.join("lock"), errno);
        // A failed attempt at the exclusive lock drops the shared one for a moment. Whoever makes an attempt holds the
        // turn, so nobody can take that moment for being alone.
        let path = self.inner.root.join("turn");
        let turn = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::file("open", &path, source))?;
        rustix::fs::flock(&turn, FlockOperation::LockExclusive).map_err(fail)?;
        let result = match rustix::fs::flock(&self.inner.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => work(true),
            Err(rustix::io::Errno::WOULDBLOCK) => work(false),
            Err(errno) => Err(fail(errno)),
        };
        rustix::fs::flock(&self.inner.lock, FlockOperation::LockShared).map_err(fail)?;
        result
    }

    /// Removes what a crash left under `tmp/`.
    fn remove_leftovers(&self) -> Result<()> {
        let tmp = self.inner.root.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(|source| Error::file("read directory", &tmp, source))? {
            let entry = entry.map_err(|source| Error::file("read directory", &tmp, source))?;
            remove_any(&entry.path())?;
        }
        Ok(())
    }

    /// A fresh path under `tmp/`.
    pub(crate) fn temporary(&self, kind: &str) -> PathBuf {
        self.inner.root.join("tmp").join(format!("{kind}-{}", uuid::Uuid::new_v4()))
    }

    /// Where a blob is or would be.
    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.inner.root.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// Where an unpacked layer is or would be.
    pub(crate) fn layer_path(&self, diff_id: Digest) -> PathBuf {
        self.inner.root.join("layers").join(diff_id.hex())
    }

    /// The size of a blob, if it is there.
    pub(crate) fn size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().filter(|meta| meta.is_file()).map(|meta| meta.len())
    }

    /// Like [`Store::size`], and keeps the blob from being swept until a name reaches it.
    pub(crate) fn claim(&self, digest: Digest) -> Option<u64> {
        let mut claims = self.claims();
        let size = self.size(digest)?;
        claims.insert(digest, clock::now());
        Some(size)
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.inner.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a small blob whole and verifies it. A damaged one is removed.
    pub(crate) fn read(&self, subject: &str, digest: Digest, limit: u64) -> Result<Bytes> {
        let path = self.blob_path(digest);
        let size = self.size(digest).ok_or_else(|| Error::Missing { subject: subject.to_owned(), digest })?;
        if size > limit {
            return Err(Error::TooLarge { subject: format!("{subject} ({digest})"), limit });
        }
        let bytes = fs::read(&path).map_err(|source| Error::file("read", &path, source))?;
        if digest.same_of(&bytes) != digest {
            let _ = fs::remove_file(&path);
            return Err(Error::Damaged { digest });
        }
        Ok(bytes.into())
    }

    /// Reads and parses a manifest.
    pub(crate) fn document(&self, digest: Digest) -> Result<(Document, Bytes)> {
        let subject = digest.to_string();
        let bytes = self.read(&subject, digest, MANIFEST_BYTES_MAX)?;
        Ok((Document::parse(&subject, None, &bytes)?, bytes))
    }

    /// Reads an image configuration.
    pub(crate) fn config(&self, digest: Digest) -> Result<Bytes> {
        self.read("the image configuration", digest, CONFIG_BYTES_MAX)
    }

    /// Puts a finished layer directory in its place; a directory that is there already wins. Blocking.
    pub(crate) fn publish_layer(&self, temporary: &Path, diff_id: Digest) -> Result<PathBuf> {
        let target = self.layer_path(diff_id);
        let dir = File::open(temporary).map_err(|source| Error::file("open", temporary, source))?;
        rustix::fs::syncfs(&dir).map_err(|errno| Error::file("sync", temporary, errno))?;
        match fs::rename(temporary, &target) {
            Ok(()) => sync_dir(&self.inner.root.join("layers"))?,
            Err(_) if target.is_dir() => remove_any(temporary)?,
            Err(source) => return Err(Error::file("rename", temporary, source)),
        }
        Ok(target)
    }
}

/// Makes a rename in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| Error::file("sync directory", dir, source))
}

/// Removes a file or a whole directory; one that is gone already is fine.
pub(crate) fn remove_any(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", path, source))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
