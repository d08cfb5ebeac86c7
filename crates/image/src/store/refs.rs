//! Names: one small file per name, replaced atomically, readable by several processes.
//!
//! The file `generation` grows by one byte with every change, so readers know cheaply whether their copy is current.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{Store, sync_dir};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// The registry part under which the embedded registry's own repositories are stored, whatever port it listens on.
pub(crate) const LOCAL: &str = "registry.dormouse.internal";

/// Where a name came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// Pushed, built or imported here: this store is the authority.
    Local,
    /// Copied from a registry, which remains the authority.
    Pulled,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) origin: Origin,
}

/// All names, sorted.
pub(crate) type Names = BTreeMap<String, Record>;

/// The last reading of the directory.
#[derive(Default)]
pub(crate) struct Cache {
    generation: Option<u64>,
    names: Arc<Names>,
}

// === impl Store ===

impl Store {
    /// A consistent copy of all names. Blocking, but only after a change by another process.
    pub(crate) fn names(&self) -> Result<Arc<Names>> {
        let mut cache = self.name_cache();
        self.refresh(&mut cache)?;
        Ok(cache.names.clone())
    }

    /// What `reference` stands for.
    pub(crate) fn named(&self, reference: &Reference) -> Result<Option<Record>> {
        Ok(self.names()?.get(&reference.to_string()).cloned())
    }

    /// Gives names to one manifest; durable when this returns, and the manifest's claims end. Blocking.
    pub(crate) fn set_names(&self, records: Vec<Record>) -> Result<()> {
        let _gate = self.inner.gate.read().unwrap_or_else(PoisonError::into_inner);
        let digests: Vec<Digest> = records.iter().map(|record| record.digest).collect();
        self.change(|store, names| {
            for record in records {
                if names.get(&record.name) != Some(&record) {
                    store.write_record(&record)?;
                    names.insert(record.name.clone(), record);
                }
            }
            Ok(())
        })?;
        let mut reached = std::collections::HashSet::new();
        for digest in digests {
            self.reach(digest, &mut reached);
        }
        self.claims().retain(|digest, _| !reached.contains(digest));
        Ok(())
    }

    /// Takes names away; unknown ones are fine. Durable when this returns. Blocking.
    pub(crate) fn remove_names(&self, removed: &[String]) -> Result<()> {
        self.change(|store, names| {
            for name in removed {
                if names.remove(name).is_some() {
                    super::remove_any(&store.record_path(name))?;
                }
            }
            Ok(())
        })
    }

    fn change(&self, edit: impl FnOnce(&Self, &mut Names) -> Result<()>) -> Result<()> {
        let path = self.inner.root.join("generation");
        let mut generation = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::file("open", &path, source))?;
        // In-process writers queue at the cache, other processes at the file.
        let mut cache = self.name_cache();
        rustix::fs::flock(&generation, FlockOperation::LockExclusive)
            .map_err(|errno| Error::file("lock", &path, errno))?;
        self.refresh(&mut cache)?;
        let mut names = (*cache.names).clone();
        let result = edit(self, &mut names).and_then(|()| sync_dir(&self.inner.root.join("refs")));
        // Also after a failure: part of the change may have been made, so everybody must look again.
        let grown = generation.write_all(b".").map_err(|source| Error::file("write", &path, source));
        match (&result, &grown) {
            (Ok(()), Ok(())) => {
                *cache = Cache { generation: Some(self.generation()?), names: Arc::new(names) }
            }
            _ => cache.generation = None,
        }
        result.and(grown)
    }

    fn name_cache(&self) -> MutexGuard<'_, Cache> {
        self.inner.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generation(&self) -> Result<u64> {
        let path = self.inner.root.join("generation");
        match fs::metadata(&path) {
            Ok(meta) => Ok(meta.len()),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(Error::file("read", &path, source)),
        }
    }

    fn refresh(&self, cache: &mut Cache) -> Result<()> {
        let generation = self.generation()?;
        if cache.generation == Some(generation) {
            return Ok(());
        }
        let dir = self.inner.root.join("refs");
        let mut names = Names::new();
        for entry in fs::read_dir(&dir).map_err(|source| Error::file("read directory", &dir, source))? {
            let entry = entry.map_err(|source| Error::file("read directory", &dir, source))?;
            if let Some(record) = read_record(&entry.path())? {
                names.insert(record.name.clone(), record);
            }
        }
        *cache = Cache { generation: Some(generation), names: Arc::new(names) };
        Ok(())
    }

    fn record_path(&self, name: &str) -> std::path::PathBuf {
        self.inner.root.join("refs").join(Digest::of(name.as_bytes()).hex())
    }

    fn write_record(&self, record: &Record) -> Result<()> {
        let path = self.temporary("ref");
        let target = self.record_path(&record.name);
        let text = serde_json::to_vec(record).map_err(|error| Error::Internal(error.to_string()))?;
        let write = || -> std::io::Result<()> {
            let mut file = File::options().create_new(true).write(true).mode(0o600).open(&path)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&path, &target)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&path);
            Error::file("write", &target, source)
        })
    }
}

/// A record that the disk damaged is reported and skipped: one lost name must not make all images unusable.
fn read_record(path: &Path) -> Result<Option<Record>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::file("read", path, source)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(record) => Ok(Some(record)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "an image name is damaged and ignored");
            Ok(None)
        }
    }
}
