//! The facade: one handle for the node, the controllers, the commands and the registry endpoint.

pub(crate) mod assemble;
pub(crate) mod build;
pub(crate) mod component;
pub(crate) mod import;
pub(crate) mod layer;
pub(crate) mod prepare;
mod transfer;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::auth::Auth;
use crate::client::{Client, Session};
use crate::digest::Digest;
use crate::error::{Error, Result, blocking};
use crate::flight::Flights;
use crate::manifest::Document;
use crate::reference::Reference;
use crate::registry::State;
use crate::store::Store;
use crate::store::refs::{LOCAL, Origin, Record};
use crate::store::sweep::Swept;

/// Registry names that never leave the machine: what `ko` and `kind` users write.
const LOCAL_ONLY: [&str; 3] = ["ko.local", "kind.local", "dev.local"];

/// How images are found and bounded.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses of the embedded registry; references to them are answered from the store. The first one is shown.
    pub local_hosts: Vec<String>,
    /// Hosts besides loopback that may be talked to without TLS when they do not speak it.
    pub insecure_hosts: Vec<String>,
    /// PEM files with root certificates to trust besides the machine's.
    pub root_certificates: Vec<PathBuf>,
    /// Blobs larger than this are pushed in pieces of this many bytes; none means always whole.
    pub push_chunk_bytes: Option<u64>,
    /// Bounds against hostile content.
    pub limits: Limits,
}

/// Bounds against hostile content.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest blob, compressed.
    pub blob_bytes: u64,
    /// The largest layer, uncompressed.
    pub layer_bytes: u64,
    /// The most entries of a layer.
    pub layer_entries: u64,
    /// The most times that a layer may be larger uncompressed; checked beyond 128 MiB.
    pub layer_ratio: u64,
}

/// One name in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name as users write it.
    pub reference: String,
    /// The manifest or index.
    pub digest: Digest,
    /// Bytes of its blobs, compressed, manifests included; blobs shared with other names count for each.
    pub bytes: u64,
    /// Whether it was copied from another registry rather than pushed, built or imported here.
    pub pulled: bool,
}

/// The images of this machine. Clones share everything.
#[derive(Clone)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) config: Config,
    client: Client,
    pulls: Flights<Digest, ()>,
    layers: Flights<Digest, PathBuf>,
    pub(crate) registry: State,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            local_hosts: vec!["127.0.0.1:5000".into(), "localhost:5000".into()],
            insecure_hosts: Vec::new(),
            root_certificates: Vec::new(),
            push_chunk_bytes: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { blob_bytes: 16 << 30, layer_bytes: 32 << 30, layer_entries: 1_000_000, layer_ratio: 200 }
    }
}

// === impl Images ===

impl Images {
    /// Opens or makes the store in `dir`; several processes may have it open. Blocking.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::DiskFull`], naming the file.
    pub fn open(dir: &Path, config: Config) -> Result<Self> {
        let store = Store::open(dir)?;
        let client = Client::new(config.insecure_hosts.clone(), config.root_certificates.clone());
        let inner = Inner {
            store,
            config,
            client,
            pulls: Flights::new(),
            layers: Flights::new(),
            registry: State::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The reference under which a name is stored: the embedded registry's addresses are one name.
    pub(crate) fn canonical(&self, reference: &str) -> Result<Reference> {
        let reference = Reference::parse(reference)?;
        Ok(match self.inner.config.local_hosts.iter().any(|host| host == reference.registry()) {
            true => reference.in_registry(LOCAL),
            false => reference,
        })
    }

    /// The name as users write it.
    fn shown(&self, name: &str) -> String {
        match (name.strip_prefix(LOCAL), self.inner.config.local_hosts.first()) {
            (Some(rest), Some(host)) => format!("{host}{rest}"),
            _ => name.to_owned(),
        }
    }

    fn not_local(&self, reference: &Reference) -> Error {
        Error::NotLocal { reference: self.shown(&reference.to_string()) }
    }

    /// The digest that the store alone can tell: it is the authority for the name, or the name cannot be elsewhere.
    fn resolve_here(&self, reference: &Reference) -> Result<Option<Digest>> {
        let only_here = reference.registry() == LOCAL || LOCAL_ONLY.contains(&reference.registry());
        if let Some(digest) = reference.digest() {
            return match only_here && self.store().size(digest).is_none() {
                true => Err(self.not_local(reference)),
                false => Ok(Some(digest)),
            };
        }
        match self.store().named(reference)? {
            Some(record) if only_here || record.origin == Origin::Local => Ok(Some(record.digest)),
            _ if only_here => Err(self.not_local(reference)),
            _ => Ok(None),
        }
    }

    /// The digest that `reference` stands for now. Names of the embedded registry and names built or imported here are
    /// answered from the store; others are asked of their registry; a digest answers itself.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::NotLocal`], [`Error::NotFound`], [`Error::Denied`], [`Error::Unreachable`]…
    pub async fn resolve(&self, reference: &str, auth: &Auth) -> Result<Digest> {
        let reference = self.canonical(reference)?;
        if let Some(digest) = self.resolve_here(&reference)? {
            return Ok(digest);
        }
        Session::open(&self.inner.client, &reference, auth, "pull", None).await?.digest().await
    }

    /// Every tagged name, and names at a digest that no tag of the same repository covers. Sorted.
    ///
    /// # Errors
    /// [`Error::File`] if the store cannot be read.
    pub async fn list(&self) -> Result<Vec<Listed>> {
        let images = self.clone();
        blocking(move || {
            let names = images.store().names()?;
            let repository = |name: &str| name.split_once('@').map_or(name, |(name, _)| name).to_owned();
            let tagged: HashSet<(String, Digest)> = names
                .values()
                .filter(|record| !record.name.contains('@'))
                .flat_map(|record| {
                    let name = record
                        .name
                        .rsplit_once(':')
                        .map_or(record.name.as_str(), |(name, _)| name)
                        .to_owned();
                    let mut reached = HashSet::new();
                    images.manifests(record.digest, &mut reached);
                    reached.into_iter().map(move |digest| (name.clone(), digest))
                })
                .collect();
            Ok(names
                .values()
                .filter(|record| {
                    !record.name.contains('@') || !tagged.contains(&(repository(&record.name), record.digest))
                })
                .map(|record| Listed {
                    reference: images.shown(&record.name),
                    digest: record.digest,
                    bytes: images.bytes(record.digest),
                    pulled: record.origin == Origin::Pulled,
                })
                .collect())
        })
        .await
    }

    /// A manifest and the manifests below it.
    fn manifests(&self, digest: Digest, reached: &mut HashSet<Digest>) {
        if reached.insert(digest)
            && let Ok((Document::Index(index), _)) = self.store().document(digest)
        {
            for child in &index.manifests {
                self.manifests(child.digest, reached);
            }
        }
    }

    fn bytes(&self, digest: Digest) -> u64 {
        let mut reached = HashSet::new();
        self.store().reach(digest, &mut reached);
        reached.into_iter().filter_map(|digest| self.store().size(digest)).sum()
    }

    /// Takes a name away and frees what nothing else reaches. `in_use` are the manifests of revisions that may run.
    /// A tag's manifest stays only while another tag of the repository has it; a reference with a digest removes all of
    /// the repository's names of that digest.
    ///
    /// # Errors
    /// [`Error::NotLocal`] if there is no such name.
    pub async fn remove(&self, reference: &str, in_use: &HashSet<Digest>) -> Result<Swept> {
        let reference = self.canonical(reference)?;
        let (images, in_use) = (self.clone(), in_use.clone());
        blocking(move || {
            let names = images.store().names()?;
            let prefix = reference.name();
            // The records of this repository, by what stands behind its name.
            let own: BTreeMap<&str, &Record> = names
                .values()
                .filter_map(|record| {
                    let rest = record.name.strip_prefix(&prefix)?;
                    rest.starts_with([':', '@']).then_some((rest, record))
                })
                .collect();
            let (mut gone, roots): (Vec<&str>, Vec<Digest>) = match reference.digest() {
                Some(digest) => {
                    own.iter().filter(|(_, r)| r.digest == digest).map(|(rest, r)| (*rest, r.digest)).unzip()
                }
                None => {
                    let tag = format!(":{}", reference.version());
                    own.iter().filter(|(rest, _)| **rest == tag).map(|(rest, r)| (*rest, r.digest)).unzip()
                }
            };
            if gone.is_empty() {
                return Err(images.not_local(&reference));
            }
            let mut kept = HashSet::new();
            for (rest, record) in &own {
                if rest.starts_with(':') && !gone.contains(rest) {
                    images.manifests(record.digest, &mut kept);
                }
            }
            let mut doomed = HashSet::new();
            for root in roots {
                images.manifests(root, &mut doomed);
            }
            // Referrers of what goes go with it.
            for (rest, record) in &own {
                if rest.starts_with('@')
                    && let Ok((document, _)) = images.store().document(record.digest)
                    && document.subject().is_some_and(|subject| {
                        doomed.contains(&subject.digest) && !kept.contains(&subject.digest)
                    })
                {
                    gone.push(rest);
                }
            }
            gone.extend(own.iter().filter_map(|(rest, record)| {
                let unneeded = doomed.contains(&record.digest) && !kept.contains(&record.digest);
                (rest.starts_with('@') && unneeded).then_some(*rest)
            }));
            let gone: Vec<String> = gone.into_iter().map(|rest| format!("{prefix}{rest}")).collect();
            images.store().remove_names(&gone)?;
            images.store().sweep(&in_use)
        })
        .await
    }

    /// Removes blobs and unpacked layers that neither a name nor `in_use` (manifests of revisions that may run) reaches.
    /// Postponed while another process has the store open.
    ///
    /// # Errors
    /// [`Error::File`], naming the file that cannot be removed.
    pub async fn sweep(&self, in_use: &HashSet<Digest>) -> Result<Swept> {
        let (store, in_use) = (self.store().clone(), in_use.clone());
        blocking(move || store.sweep(&in_use)).await
    }

    /// The records that give `reference` to a manifest: its tag, if any, and always the digest.
    pub(crate) fn records(
        reference: &Reference,
        media_type: &str,
        digest: Digest,
        origin: Origin,
    ) -> Vec<Record> {
        let record = |name: String| Record { name, media_type: media_type.to_owned(), digest, origin };
        let tagged = reference.tag().map(|tag| record(format!("{}:{tag}", reference.name())));
        std::iter::once(record(reference.at(digest).to_string())).chain(tagged).collect()
    }
}

/// Which repositories have seen which blobs in this process; see [`crate::registry`].
pub(crate) type Seen = HashMap<String, HashSet<Digest>>;
