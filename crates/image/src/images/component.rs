//! WebAssembly components as images, in the artifact layout that the CNCF's WebAssembly group agreed on: a configuration
//! of type `application/vnd.wasm.config.v0+json` and the component itself, uncompressed, as the only layer.
//!
//! Nothing is unpacked: the blob in the store is what the engine compiles.

mod interface;

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Images;
use crate::digest::Digest;
use crate::error::{Error, Result, blocking};
use crate::manifest::{Descriptor, Document, ImageManifest, OCI_MANIFEST};
use crate::store::refs::Origin;

const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
/// What earlier tools called the layer.
const OLD_LAYERS: [&str; 2] =
    ["application/vnd.wasm.content.layer.v1+wasm", "application/vnd.module.wasm.content.layer.v1+wasm"];
/// When everything was made: digests must not depend on the day.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// As many imports or exports as are told in the configuration.
const NAMES_MAX: usize = 1000;

/// A component in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// What was asked for: the manifest or index.
    pub digest: Digest,
    /// The component's own digest.
    pub content: Digest,
    /// Where its bytes are; they may go when nothing refers to the image any more.
    pub path: PathBuf,
}

impl Images {
    /// The component of the stored image `digest`, or `None` if it is a container image.
    ///
    /// # Errors
    /// [`Error::Missing`] if content is not in the store, [`Error::Manifest`] for an artifact that is no usable component.
    pub async fn component(&self, digest: Digest) -> Result<Option<Component>> {
        let store = self.store().clone();
        blocking(move || {
            let subject = digest.to_string();
            let image = match store.document(digest)?.0 {
                Document::Image(image) => image,
                Document::Index(index) => match store.document(index.choose(&subject)?.digest)?.0 {
                    Document::Image(image) => image,
                    Document::Index(_) => return Ok(None),
                },
            };
            let Some(content) = layer(&subject, &image)?.map(|layer| layer.digest) else { return Ok(None) };
            match store.claim(content) {
                Some(_) => Ok(Some(Component { digest, content, path: store.blob_path(content) })),
                None => Err(Error::Missing { subject, digest: content }),
            }
        })
        .await
    }

    /// Makes an image named `name` of the component in `path` and answers its digest.
    ///
    /// # Errors
    /// [`Error::Build`] for what is no component, [`Error::Reference`], [`Error::File`], [`Error::TooLarge`]…
    pub async fn build_component(&self, path: &Path, name: &str) -> Result<Digest> {
        let reference = self.canonical(name)?;
        let (images, path) = (self.clone(), path.to_path_buf());
        blocking(move || {
            let limit = images.inner.config.limits.blob_bytes;
            let size = std::fs::metadata(&path).map_err(|source| Error::file("read", &path, source))?.len();
            if size > limit {
                return Err(Error::TooLarge { subject: path.display().to_string(), limit });
            }
            let bytes = std::fs::read(&path).map_err(|source| Error::file("read", &path, source))?;
            check_kind(&path, &bytes)?;
            let content = images.store().put(&bytes)?;
            let mut config = json!({
                "created": CREATED, "architecture": "wasm", "os": "wasip2", "layerDigests": [content],
            });
            if let (Some((imports, exports)), Some(fields)) =
                (interface::read(&bytes, NAMES_MAX), config.as_object_mut())
            {
                fields.insert("component".to_owned(), json!({ "imports": imports, "exports": exports }));
            }
            let config = config.to_string().into_bytes();
            let manifest = ImageManifest {
                schema_version: 2,
                media_type: Some(OCI_MANIFEST.into()),
                artifact_type: None,
                config: Descriptor::new(CONFIG, images.store().put(&config)?, config.len() as u64),
                layers: vec![Descriptor::new(LAYER, content, bytes.len() as u64)],
                subject: None,
                annotations: None,
            };
            let manifest =
                serde_json::to_vec(&manifest).map_err(|error| Error::Internal(error.to_string()))?;
            let digest = images.store().put(&manifest)?;
            images.store().set_names(Self::records(&reference, OCI_MANIFEST, digest, Origin::Local))?;
            Ok(digest)
        })
        .await
    }
}

/// The layer that is a component; `None` for a container image.
pub(super) fn layer<'a>(subject: &str, image: &'a ImageManifest) -> Result<Option<&'a Descriptor>> {
    let is_component =
        |layer: &&Descriptor| layer.media_type == LAYER || OLD_LAYERS.contains(&layer.media_type.as_str());
    match (image.layers.as_slice(), image.config.media_type == CONFIG) {
        ([only], _) if is_component(&only) => Ok(Some(only)),
        (layers, false) if !layers.iter().any(|layer| is_component(&layer)) => Ok(None),
        (layers, _) => Err(Error::Manifest {
            subject: subject.to_owned(),
            reason: format!(
                "a WebAssembly artifact has exactly one layer, of type {LAYER}; this one has {}",
                layers.len()
            ),
        }),
    }
}

fn check_kind(path: &Path, bytes: &[u8]) -> Result<()> {
    let reason = match (bytes.get(..4), bytes.get(4..8)) {
        (Some(b"\0asm"), Some([_, _, 1, 0])) => return Ok(()),
        (Some(b"\0asm"), _) => {
            "it is a core module, not a component: build it for a component target such as wasm32-wasip2"
        }
        _ => "it does not begin with the WebAssembly magic number",
    };
    Err(Error::Build { path: path.to_path_buf(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: &str, layers: &[&str]) -> ImageManifest {
        let descriptor = |kind: &&str| Descriptor::new(kind, Digest::of(kind.as_bytes()), 1);
        ImageManifest {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            config: descriptor(&config),
            layers: layers.iter().map(descriptor).collect(),
            subject: None,
            annotations: None,
        }
    }

    #[test]
    fn a_component_is_told_from_a_container_image() {
        let oci = "application/vnd.oci.image.config.v1+json";
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        let found = |config, layers: &[&str]| layer("x", &image(config, layers)).map(|found| found.is_some());
        assert!(found(CONFIG, &[LAYER]).unwrap());
        assert!(found(oci, &[LAYER]).unwrap(), "an ordinary configuration with a component as its layer");
        assert!(found("application/vnd.wasm.config.v1+json", &[OLD_LAYERS[0]]).unwrap());
        assert!(!found(oci, &[tar]).unwrap());
        assert!(!found(oci, &[tar, tar]).unwrap());
        for (config, layers) in [(CONFIG, vec![]), (CONFIG, vec![tar]), (oci, vec![tar, LAYER])] {
            let error = found(config, &layers).unwrap_err().to_string();
            assert!(error.contains("exactly one layer"), "{error}");
        }
    }
}
