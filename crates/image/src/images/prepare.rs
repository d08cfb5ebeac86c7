//! From a digest to directories that overlayfs can mount.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::{Images, transfer};
use crate::digest::Digest;
use crate::error::{Error, Result, blocking};
use crate::manifest::{ConfigFile, Document, RunConfig};
use crate::{unpack, view};

/// Layers of one image that are unpacked at the same time.
const PARALLEL: usize = 4;

/// How the image wants to be run; absent fields are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, replaced when the user gives some.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `[user][:group]`, names or numbers; resolve it with [`Prepared::user`].
    pub user: String,
    /// Where the program starts; empty means `/`.
    pub working_dir: String,
    /// `8080/tcp` each, sorted.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Paths that the image wants as volumes, sorted.
    pub volumes: Vec<String>,
    /// The signal that ends the program, `SIGTERM` when absent.
    pub stop_signal: Option<String>,
}

/// An image whose layers are unpacked.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What was asked for: the manifest or index.
    pub digest: Digest,
    /// How to run it.
    pub config: ImageConfig,
    /// The layers' directories, top first, each once; read-only and shared with other images.
    pub layers: Vec<PathBuf>,
}

impl Images {
    /// Unpacks the stored image `digest`, each layer once ever. Pull it first unless it is in the embedded registry.
    ///
    /// # Errors
    /// [`Error::Missing`] if content is not in the store, [`Error::Entry`], [`Error::Bomb`], [`Error::Corrupt`],
    /// [`Error::DiffId`] for a bad layer, [`Error::DiskFull`]…
    pub async fn prepare(&self, digest: Digest) -> Result<Prepared> {
        let images = self.clone();
        let (config, pairs) = blocking(move || images.plan(digest)).await?;
        let unpacked = stream::iter(pairs)
            .map(|(layer, diff_id)| {
                let (store, limits) = (self.store().clone(), self.inner.config.limits);
                let work = move || blocking(move || unpack::unpack(&store, layer, diff_id, &limits)).boxed();
                self.inner.layers.run(diff_id, work)
            })
            .buffered(PARALLEL)
            .try_collect::<Vec<PathBuf>>()
            .await?;
        // Overlayfs takes a directory once. The topmost occurrence says everything that a lower one could.
        let mut seen = HashSet::new();
        let layers = unpacked.into_iter().rev().filter(|layer| seen.insert(layer.clone())).collect();
        Ok(Prepared { digest, config, layers })
    }

    /// The configuration, and each layer's blob with its diff id, bottom first.
    fn plan(&self, digest: Digest) -> Result<(ImageConfig, Vec<(Digest, Digest)>)> {
        let store = self.store();
        let subject = digest.to_string();
        let image = match store.document(digest)?.0 {
            Document::Image(image) => image,
            Document::Index(index) => match store.document(index.choose(&subject)?.digest)?.0 {
                Document::Image(image) => image,
                Document::Index(_) => {
                    return Err(Error::Manifest { subject, reason: "an index within an index".into() });
                }
            },
        };
        transfer::check(&subject, &image)?;
        let config = ConfigFile::parse(&subject, &store.config(image.config.digest)?)?;
        let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != image.layers.len() {
            let reason = format!("{} layers but {} diff ids", image.layers.len(), diff_ids.len());
            return Err(Error::Manifest { subject, reason });
        }
        let pairs = image.layers.iter().map(|layer| layer.digest).zip(diff_ids).collect();
        Ok((config.config.unwrap_or_default().into(), pairs))
    }
}

impl From<RunConfig> for ImageConfig {
    fn from(config: RunConfig) -> Self {
        let keys =
            |map: Option<BTreeMap<String, serde_json::Value>>| map.unwrap_or_default().into_keys().collect();
        Self {
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            exposed_ports: keys(config.exposed_ports),
            labels: config.labels.unwrap_or_default(),
            volumes: keys(config.volumes),
            stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        }
    }
}

// === impl Prepared ===

impl Prepared {
    /// Resolves `[user][:group]` (names or numbers; empty is root) to user, group and supplementary groups by the image's
    /// `etc/passwd` and `etc/group`. Blocking, a few small reads.
    ///
    /// # Errors
    /// [`Error::User`] if the image has no such user or group.
    pub fn user(&self, spec: &str) -> Result<(u32, u32, Vec<u32>)> {
        view::user(&self.layers, spec)
    }

    /// The home directory of `uid` by the image's `etc/passwd`. Blocking.
    ///
    /// # Errors
    /// [`Error::File`] if a layer cannot be read.
    pub fn home(&self, uid: u32) -> Result<Option<String>> {
        view::home(&self.layers, uid)
    }

    /// Reads a regular file of the merged image, links resolved within it; at most `limit` bytes. Blocking.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or [`Error::File`] if a layer cannot be read.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        view::read(&self.layers, path, limit)
    }
}
