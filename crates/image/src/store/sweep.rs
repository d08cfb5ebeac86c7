//! Removing what no name, no running instance and no transfer reaches.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::PoisonError;

use dormouse_base::clock;

use super::{CLAIM_MAX, Store, remove_any};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{ConfigFile, Document};

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs removed.
    pub blobs: usize,
    /// Bytes of those blobs.
    pub bytes: u64,
    /// Unpacked layers removed.
    pub layers: usize,
    /// Another process has the store open, so nothing was removed: its sweep will do it.
    pub postponed: bool,
}

impl Store {
    /// Adds `digest` and everything it leads to; what is missing or unreadable leads nowhere. Also diff ids.
    pub(crate) fn reach(&self, digest: Digest, reached: &mut HashSet<Digest>) {
        if !reached.insert(digest) {
            return;
        }
        let Ok((document, _)) = self.document(digest) else { return };
        if let Document::Image(image) = &document
            && let Ok(bytes) = self.config(image.config.digest)
            && let Ok(config) = serde_json::from_slice::<ConfigFile>(&bytes)
        {
            reached.extend(config.rootfs.diff_ids.unwrap_or_default());
        }
        reached.extend(document.blobs().map(|blob| blob.digest));
        for child in document.manifests() {
            self.reach(child.digest, reached);
        }
    }

    /// Removes blobs and layers that neither a name nor `in_use` (manifest digests) reaches. Blocking.
    pub(crate) fn sweep(&self, in_use: &HashSet<Digest>) -> Result<Swept> {
        let _gate = self.inner.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.alone(|alone| match alone {
            true => self.sweep_alone(in_use),
            false => Ok(Swept { postponed: true, ..Swept::default() }),
        })
    }

    fn sweep_alone(&self, in_use: &HashSet<Digest>) -> Result<Swept> {
        let mut reached = HashSet::new();
        for record in self.names()?.values() {
            self.reach(record.digest, &mut reached);
        }
        for digest in in_use {
            self.reach(*digest, &mut reached);
        }
        // A claimed manifest protects what it leads to: a pull may be at its last step.
        let claimed: Vec<Digest> = self.claims().keys().copied().collect();
        for digest in
            claimed.into_iter().filter(|digest| self.size(*digest).is_some_and(|size| size < 1 << 20))
        {
            self.reach(digest, &mut reached);
        }
        let mut swept = Swept::default();
        let blobs = [self.stored("blobs/sha256")?, self.stored("blobs/sha512")?].concat();
        for (digest, path) in blobs {
            if reached.contains(&digest) {
                continue;
            }
            let mut claims = self.claims();
            let now = clock::now();
            if claims.get(&digest).is_some_and(|since| now.duration_since(*since) < CLAIM_MAX) {
                continue;
            }
            claims.remove(&digest);
            swept.bytes += fs::metadata(&path).map(|meta| meta.len()).unwrap_or_default();
            swept.blobs += 1;
            remove_any(&path)?;
        }
        for (diff_id, path) in self.stored("layers")? {
            if !reached.contains(&diff_id) {
                // Renamed first, so that a crash leaves a leftover rather than half a layer.
                let doomed = self.temporary("swept");
                fs::rename(&path, &doomed).map_err(|source| Error::file("rename", &path, source))?;
                remove_any(&doomed)?;
                swept.layers += 1;
            }
        }
        Ok(swept)
    }

    fn stored(&self, folder: &str) -> Result<Vec<(Digest, std::path::PathBuf)>> {
        let dir: &Path = &self.inner.root.join(folder);
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(|source| Error::file("read directory", dir, source))? {
            let entry = entry.map_err(|source| Error::file("read directory", dir, source))?;
            if let Some(digest) = entry.file_name().to_str().and_then(Digest::from_hex) {
                found.push((digest, entry.path()));
            }
        }
        Ok(found)
    }
}
