//! Images from files: `docker save` archives, OCI layouts as archive or directory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Images;
use crate::digest::Digest;
use crate::error::{Error, Result, blocking};
use crate::manifest::{
    Descriptor, Document, ImageManifest, Index, MANIFEST_BYTES_MAX, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP,
    OCI_MANIFEST,
};
use crate::reference::Reference;
use crate::store::Store;
use crate::store::blob::Expect;
use crate::store::refs::Origin;

/// The largest JSON file of an archive.
const JSON_BYTES_MAX: u64 = 8 << 20;
/// The most files of an archive.
const FILES_MAX: usize = 100_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// What the archive or directory contains, by path.
#[derive(Default)]
struct Contents {
    small: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
}

impl Images {
    /// Takes the images of a `docker save` archive or an OCI layout (archive or directory) into the store and answers
    /// their names and digests. `name` names an image that carries no name of its own.
    ///
    /// # Errors
    /// [`Error::Import`], [`Error::DigestMismatch`], [`Error::File`]…
    pub async fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<(String, Digest)>> {
        let (images, path, name) = (self.clone(), path.to_path_buf(), name.map(str::to_owned));
        blocking(move || images.import_blocking(&path, name.as_deref())).await
    }

    fn import_blocking(&self, path: &Path, name: Option<&str>) -> Result<Vec<(String, Digest)>> {
        let limit = self.inner.config.limits.blob_bytes;
        let contents = match path.is_dir() {
            true => read_layout(self.store(), path, limit)?,
            false => read_archive(self.store(), path, limit)?,
        };
        let wrong = |reason: String| Error::Import { path: path.to_path_buf(), reason };
        let found = if let Some(index) = contents.small.get("index.json") {
            from_layout(index, path)?
        } else if let Some(saved) = contents.small.get("manifest.json") {
            self.saved_images(saved, &contents, path)?
        } else {
            return Err(wrong(
                "neither index.json (OCI layout) nor manifest.json (docker save) is in it".into(),
            ));
        };
        if found.is_empty() {
            return Err(wrong("it holds no image".into()));
        }
        let single = found.len() == 1;
        let mut imported = Vec::new();
        for (names, digest) in found {
            let given = name.filter(|_| single).map(str::to_owned);
            let names = given.map_or(names, |given| vec![given]);
            if names.is_empty() {
                return Err(wrong(format!("image {digest} has no name: give one")));
            }
            self.check_complete(digest)?;
            for name in names {
                let reference = self.canonical(&name)?;
                let (document, _) = self.store().document(digest)?;
                self.store().set_names(Self::records(
                    &reference,
                    document.media_type(),
                    digest,
                    Origin::Local,
                ))?;
                imported.push((self.shown(&reference.to_string()), digest));
            }
        }
        Ok(imported)
    }

    /// Everything that an image leads to must have come with it; of an index, this machine's image.
    fn check_complete(&self, digest: Digest) -> Result<()> {
        let (mut document, _) = self.store().document(digest)?;
        if let Document::Index(index) = &document {
            document = self.store().document(index.choose(&digest.to_string())?.digest)?.0;
        }
        for blob in document.blobs() {
            if self.store().size(blob.digest) != Some(blob.size) {
                return Err(Error::Missing { subject: format!("image {digest}"), digest: blob.digest });
            }
        }
        Ok(())
    }

    fn saved_images(
        &self,
        saved: &[u8],
        contents: &Contents,
        path: &Path,
    ) -> Result<Vec<(Vec<String>, Digest)>> {
        let wrong = |reason: String| Error::Import { path: path.to_path_buf(), reason };
        let saved: Vec<Saved> =
            serde_json::from_slice(saved).map_err(|error| wrong(format!("manifest.json: {error}")))?;
        let mut found = Vec::new();
        for image in saved {
            let missing = |name: &str| wrong(format!("{name} of manifest.json is not in it"));
            let (digest, size) = contents.blob(&image.config).ok_or_else(|| missing(&image.config))?;
            let config = Descriptor::new(OCI_CONFIG, digest, size);
            let mut layers = Vec::new();
            for name in &image.layers {
                let (digest, size) = contents.blob(name).ok_or_else(|| missing(name))?;
                layers.push(Descriptor::new(self.layer_type(digest)?, digest, size));
            }
            let manifest = ImageManifest {
                schema_version: 2,
                media_type: Some(OCI_MANIFEST.into()),
                artifact_type: None,
                config,
                layers,
                subject: None,
                annotations: None,
            };
            let bytes = serde_json::to_vec(&manifest).map_err(|error| Error::Internal(error.to_string()))?;
            found.push((image.repo_tags.unwrap_or_default(), self.store().put(&bytes)?));
        }
        Ok(found)
    }

    fn layer_type(&self, digest: Digest) -> Result<&'static str> {
        let path = self.store().blob_path(digest);
        let mut magic = [0; 2];
        let read = File::open(&path).and_then(|mut file| file.read(&mut magic));
        read.map_err(|source| Error::file("read", &path, source))?;
        Ok(if magic == [0x1f, 0x8b] { OCI_LAYER_GZIP } else { OCI_LAYER })
    }
}

impl Contents {
    fn blob(&self, name: &str) -> Option<(Digest, u64)> {
        let name = normal(name);
        // Old `docker save` archives link equal layers to each other.
        self.blobs.get(&name).or_else(|| self.blobs.get(self.links.get(&name)?)).copied()
    }
}

/// The images of an OCI layout's index with their names.
fn from_layout(index: &[u8], path: &Path) -> Result<Vec<(Vec<String>, Digest)>> {
    let index: Index = serde_json::from_slice(index).map_err(|error| Error::Import {
        path: path.to_path_buf(),
        reason: format!("index.json: {error}"),
    })?;
    let mut found: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for image in index.manifests {
        let annotations = image.annotations.unwrap_or_default();
        let full = annotations
            .get("io.containerd.image.name")
            .or_else(|| annotations.get("org.opencontainers.image.ref.name"));
        // A bare tag is not a name.
        let name =
            full.filter(|name| name.contains(['/', ':'])).filter(|name| Reference::parse(name).is_ok());
        found.entry(image.digest).or_default().extend(name.cloned());
    }
    Ok(found.into_iter().map(|(digest, names)| (names, digest)).collect())
}

/// `./a//b` and `a/b` are one file; `..` goes up within the archive.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The digest that a blob's path promises.
fn promised(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::from_hex(hex).filter(|digest| digest.algorithm() == algorithm)
}

fn read_archive(store: &Store, path: &Path, limit: u64) -> Result<Contents> {
    let broken = |error: std::io::Error| Error::Import {
        path: path.to_path_buf(),
        reason: format!("not a readable archive: {error}"),
    };
    let file = File::open(path).map_err(|source| Error::file("open", path, source))?;
    let reader = crate::unpack::decode(file).map_err(broken)?;
    let mut archive = tar::Archive::new(reader);
    let mut contents = Contents::default();
    for (count, entry) in archive.entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        if count >= FILES_MAX {
            return Err(Error::Import {
                path: path.to_path_buf(),
                reason: format!("more than {FILES_MAX} files"),
            });
        }
        let name = normal(&entry.path().map_err(broken)?.to_string_lossy());
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            if let Some(target) = entry.link_name().map_err(broken)? {
                let target = target.to_string_lossy();
                let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                let base = if kind.is_symlink() { parent } else { "" };
                let target = normal(&format!("{base}/{target}"));
                contents.links.insert(name, target);
            }
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        if matches!(name.as_str(), "index.json" | "manifest.json") {
            let size = entry.size();
            if size > JSON_BYTES_MAX {
                return Err(Error::TooLarge { subject: name, limit: JSON_BYTES_MAX });
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(broken)?;
            contents.small.insert(name, bytes);
            continue;
        }
        if matches!(name.as_str(), "oci-layout" | "repositories") {
            continue;
        }
        let expect = Expect { digest: promised(&name), size: None };
        let subject = format!("{name} in {}", path.display());
        let stored = store.put_reader(&mut entry, &expect, limit, &subject)?;
        contents.blobs.insert(name, stored);
    }
    Ok(contents)
}

fn read_layout(store: &Store, dir: &Path, limit: u64) -> Result<Contents> {
    let read = |name: &str, limit: u64| -> Result<Vec<u8>> {
        let path = dir.join(name);
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(|source| Error::file("read", &path, source))?;
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|source| Error::file("read", &path, source))?;
        match bytes.len() as u64 > limit {
            true => Err(Error::TooLarge { subject: path.display().to_string(), limit }),
            false => Ok(bytes),
        }
    };
    let index = read("index.json", JSON_BYTES_MAX)?;
    let mut contents = Contents::default();
    let mut todo: Vec<Digest> = from_layout(&index, dir)?.into_iter().map(|(_, digest)| digest).collect();
    let mut seen = HashSet::new();
    while let Some(digest) = todo.pop() {
        if !seen.insert(digest) {
            continue;
        }
        let bytes = match read(&format!("blobs/{}/{}", digest.algorithm(), digest.hex()), MANIFEST_BYTES_MAX)
        {
            Ok(bytes) => bytes,
            // Layouts may hold only some platforms of an index; what is needed is checked at the end.
            Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let actual = digest.same_of(&bytes);
        if actual != digest {
            let subject = format!("manifest in {}", dir.display());
            return Err(Error::DigestMismatch { subject, expected: digest.into(), actual: actual.into() });
        }
        store.put_as(&bytes, Some(digest))?;
        let document = Document::parse(&digest.to_string(), None, &bytes)?;
        todo.extend(document.manifests().iter().map(|child| child.digest));
        for blob in document.blobs() {
            let path: PathBuf = dir.join("blobs").join(blob.digest.algorithm()).join(blob.digest.hex());
            let Ok(mut file) = File::open(&path) else { continue };
            let expect = Expect { digest: Some(blob.digest), size: Some(blob.size) };
            store.put_reader(&mut file, &expect, limit, &path.display().to_string())?;
        }
    }
    contents.small.insert("index.json".into(), index);
    Ok(contents)
}
