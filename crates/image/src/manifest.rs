//! Manifests, indexes and image configurations: only the fields that are used; unknown ones pass through as bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// What a client accepts as a manifest.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// The largest manifest or index, as other registries have it.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// The largest image configuration.
pub(crate) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// The most layers: overlayfs takes no more lower directories than this with room to spare.
pub(crate) const LAYERS_MAX: usize = 128;

/// Points at content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

/// What a manifest of an index is for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// One image (or artifact).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageManifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Box<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// Several manifests, usually one per platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// A parsed manifest of either sort.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Image(ImageManifest),
    Index(Index),
}

/// The image configuration blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) config: Option<RunConfig>,
    #[serde(default)]
    pub(crate) rootfs: RootFs,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) history: Vec<serde_json::Value>,
}

/// The uncompressed layers, bottom first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default, rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) diff_ids: Option<Vec<Digest>>,
}

/// How to run the image; nulls are as good as absent fields.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RunConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) env: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cmd: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) volumes: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) working_dir: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<String>,
}

// === impl Descriptor ===

impl Descriptor {
    /// Points at content of the given type.
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            artifact_type: None,
            annotations: None,
            platform: None,
        }
    }

    /// Layers that registries need not hold.
    pub(crate) fn is_foreign(&self) -> bool {
        self.media_type.contains("foreign") || self.media_type.contains("nondistributable")
    }
}

// === impl Document ===

impl Document {
    /// Parses a manifest. `media_type` is what the transport says; the document's own word must agree with it.
    pub(crate) fn parse(subject: &str, media_type: Option<&str>, bytes: &[u8]) -> Result<Self> {
        let invalid = |reason: String| Error::Manifest { subject: subject.to_owned(), reason };
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| invalid(format!("not JSON: {error}")))?;
        let object = value.as_object().ok_or_else(|| invalid("not a JSON object".into()))?;
        let own = object.get("mediaType").and_then(|own| own.as_str());
        let told = media_type
            .map(|told| told.split(';').next().unwrap_or(told).trim())
            .filter(|told| is_known(told));
        if let (Some(own), Some(told)) = (own, told)
            && own != told
        {
            return Err(invalid(format!("it says it is {own} but was sent as {told}")));
        }
        if own.or(told).is_some_and(|kind| kind.starts_with(DOCKER_SCHEMA_1))
            || object.contains_key("fsLayers")
        {
            return Err(invalid(
                "Docker's manifest schema 1 is not supported: push the image again with a current tool"
                    .into(),
            ));
        }
        let (image, index) = (
            object.contains_key("config") || object.contains_key("layers"),
            object.contains_key("manifests"),
        );
        if image && index {
            return Err(invalid("it is both an image and an index".into()));
        }
        let as_index = match own.or(told) {
            Some(OCI_INDEX | DOCKER_LIST) => true,
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
            Some(other) => return Err(invalid(format!("unknown media type {other:?}"))),
            None => index,
        };
        if as_index && image || !as_index && index {
            return Err(invalid("its fields do not fit its media type".into()));
        }
        let wrong = |error: serde_json::Error| invalid(error.to_string());
        let document = match as_index {
            true => Self::Index(serde_json::from_slice(bytes).map_err(wrong)?),
            false => Self::Image(serde_json::from_slice(bytes).map_err(wrong)?),
        };
        let version = match &document {
            Self::Image(image) => image.schema_version,
            Self::Index(index) => index.schema_version,
        };
        if version != 2 {
            return Err(invalid(format!("schemaVersion is {version}, not 2")));
        }
        Ok(document)
    }

    /// The media type, from the document or from its shape.
    pub(crate) fn media_type(&self) -> &str {
        match self {
            Self::Image(image) => image.media_type.as_deref().unwrap_or(OCI_MANIFEST),
            Self::Index(index) => index.media_type.as_deref().unwrap_or(OCI_INDEX),
        }
    }

    /// Blobs that it points at (not manifests).
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let image = match self {
            Self::Image(image) => Some(image),
            Self::Index(_) => None,
        };
        image.into_iter().flat_map(|image| std::iter::once(&image.config).chain(&image.layers))
    }

    /// Manifests that it points at.
    pub(crate) fn manifests(&self) -> &[Descriptor] {
        match self {
            Self::Image(_) => &[],
            Self::Index(index) => &index.manifests,
        }
    }

    /// What it says something about, if it is a referrer.
    pub(crate) fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Image(image) => image.subject.as_deref(),
            Self::Index(index) => index.subject.as_ref(),
        }
    }

    /// The artifact type that the referrers API tells.
    pub(crate) fn artifact_type(&self) -> Option<&str> {
        match self {
            Self::Image(image) => image.artifact_type.as_deref().or(Some(image.config.media_type.as_str())),
            Self::Index(index) => index.artifact_type.as_deref(),
        }
    }

    /// Its annotations.
    pub(crate) fn annotations(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Image(image) => image.annotations.as_ref(),
            Self::Index(index) => index.annotations.as_ref(),
        }
    }
}

fn is_known(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | OCI_INDEX | DOCKER_MANIFEST | DOCKER_LIST)
        || media_type.starts_with(DOCKER_SCHEMA_1)
}

// === impl Index ===

impl Index {
    /// The manifest for this machine.
    pub(crate) fn choose(&self, subject: &str) -> Result<&Descriptor> {
        let wanted = host_architecture();
        let fits = |found: &&Descriptor| {
            found
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "linux" && platform.architecture == wanted)
        };
        // An index of one manifest without a platform is an image in an envelope.
        let only = match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        // WebAssembly runs on every machine.
        let portable = |found: &&Descriptor| {
            found.platform.as_ref().is_some_and(|platform| platform.architecture == "wasm")
        };
        let chosen = self.manifests.iter().find(fits).or_else(|| self.manifests.iter().find(portable));
        chosen.or(only).ok_or_else(|| Error::Platform {
            subject: subject.to_owned(),
            wanted: format!("linux/{wanted}"),
            available: self
                .manifests
                .iter()
                .filter_map(|found| found.platform.as_ref())
                .filter(|platform| platform.os != "unknown")
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

// === impl ConfigFile ===

impl ConfigFile {
    /// Parses an image configuration and checks that it is for this machine.
    pub(crate) fn parse(subject: &str, bytes: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(bytes).map_err(|error| Error::Manifest {
            subject: subject.to_owned(),
            reason: format!("image configuration: {error}"),
        })?;
        let wanted = host_architecture();
        let other_os = !config.os.is_empty() && config.os != "linux";
        let other_machine = !config.architecture.is_empty() && config.architecture != wanted;
        if other_os || other_machine {
            return Err(Error::Platform {
                subject: subject.to_owned(),
                wanted: format!("linux/{wanted}"),
                available: format!("{}/{}", config.os, config.architecture),
            });
        }
        Ok(config)
    }
}

/// This machine's architecture in OCI's words.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_image_and_index_is_refused() {
        let text = br#"{"schemaVersion":2,"layers":[],"manifests":[]}"#;
        let error = Document::parse("x", None, text).unwrap_err();
        assert!(error.to_string().contains("both an image and an index"), "{error}");
    }

    #[test]
    fn the_media_type_of_the_transport_must_agree() {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
        assert!(Document::parse("x", Some(OCI_INDEX), text.as_bytes()).is_ok());
        let error = Document::parse("x", Some(OCI_MANIFEST), text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("was sent as"), "{error}");
    }

    #[test]
    fn an_index_without_this_machine_names_what_it_has() {
        let digest = Digest::of(b"");
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":1,
               "platform":{{"os":"linux","architecture":"s390x"}}}},{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}",
               "size":1,"platform":{{"os":"unknown","architecture":"unknown"}}}}]}}"#
        );
        let Document::Index(index) = Document::parse("x", None, text.as_bytes()).unwrap() else { panic!() };
        let error = index.choose("x").unwrap_err().to_string();
        assert!(error.contains("only for linux/s390x"), "{error}");
    }
}
