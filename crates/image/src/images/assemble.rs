//! Putting images together: a base, layers, how to run them; and what is said about an image afterwards.

use std::collections::BTreeMap;

use serde_json::json;

use super::Images;
use super::build::BuildOptions;
use super::layer::Layer;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{
    ConfigFile, Descriptor, Document, ImageManifest, LAYERS_MAX, OCI_CONFIG, OCI_MANIFEST, RootFs, RunConfig,
    host_architecture,
};
use crate::store::refs::Origin;

/// When everything was made: digests must not depend on the day.
pub(super) const CREATED: &str = "1970-01-01T00:00:00Z";
/// The configuration of artifacts that have none, as the specification names it.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// What an image is put together from.
#[derive(Clone, Debug, Default)]
pub struct ImageSpec {
    /// The stored image below; an index stands for this machine's. Nothing when absent.
    pub base: Option<Digest>,
    /// Layers above the base, bottom first, each with what made it.
    pub layers: Vec<(Layer, String)>,
    /// How it runs; what is empty or absent here stays as the base has it, variables are replaced by name.
    pub options: BuildOptions,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// A statement about an image: an SBOM, a provenance, a signature.
#[derive(Clone, Debug)]
pub struct Referrer {
    /// What kind of statement.
    pub artifact_type: String,
    /// The type of `bytes`.
    pub media_type: String,
    /// The statement.
    pub bytes: Vec<u8>,
    /// Annotations of the artifact.
    pub annotations: BTreeMap<String, String>,
}

impl Images {
    /// Puts an image together and gives it `name` at the very end, in one step. The same spec gives the same digest.
    /// Blocking.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::Missing`] for a base or layer that is not in the store, [`Error::Manifest`] for
    /// a base that cannot be built upon or too many layers, [`Error::DiskFull`]…
    pub fn assemble(&self, spec: &ImageSpec, name: &str) -> Result<Digest> {
        let reference = self.canonical(name)?;
        let (mut layers, base) = match spec.base {
            Some(digest) => self.base(digest)?,
            None => (Vec::new(), ConfigFile::default()),
        };
        let mut diff_ids = base.rootfs.diff_ids.unwrap_or_default();
        let mut history = base.history;
        for (layer, made_by) in &spec.layers {
            if !self.has_layer(layer) {
                return Err(Error::Missing { subject: name.to_owned(), digest: layer.digest });
            }
            layers.push(Descriptor::new(&layer.media_type, layer.digest, layer.bytes));
            diff_ids.push(layer.diff_id);
            history.push(json!({ "created": CREATED, "created_by": made_by }));
        }
        if layers.len() > LAYERS_MAX {
            let reason = format!("{} layers; at most {LAYERS_MAX} are possible", layers.len());
            return Err(Error::Manifest { subject: name.to_owned(), reason });
        }
        let config = ConfigFile {
            created: Some(CREATED.into()),
            architecture: host_architecture().into(),
            os: "linux".into(),
            config: Some(merge(base.config.unwrap_or_default(), spec.options.clone())),
            rootfs: RootFs { kind: "layers".into(), diff_ids: Some(diff_ids) },
            history,
        };
        let config = self.put_json(&config, OCI_CONFIG)?;
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.into()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: Some(spec.annotations.clone()).filter(|map| !map.is_empty()),
        };
        let digest = self.put_json(&manifest, OCI_MANIFEST)?.digest;
        self.store().set_names(Self::records(&reference, OCI_MANIFEST, digest, Origin::Local))?;
        Ok(digest)
    }

    /// The layers and the configuration of a stored image of this machine.
    fn base(&self, digest: Digest) -> Result<(Vec<Descriptor>, ConfigFile)> {
        let subject = digest.to_string();
        let mut document = self.store().document(digest)?.0;
        if let Document::Index(index) = &document {
            document = self.store().document(index.choose(&subject)?.digest)?.0;
        }
        let Document::Image(image) = document else {
            return Err(Error::Manifest { subject, reason: "an index within an index".into() });
        };
        for blob in std::iter::once(&image.config).chain(&image.layers) {
            self.store()
                .claim(blob.digest)
                .ok_or(Error::Missing { subject: subject.clone(), digest: blob.digest })?;
        }
        let config = ConfigFile::parse(&subject, &self.store().config(image.config.digest)?)?;
        Ok((image.layers, config))
    }

    /// Gives another name to a stored image. Blocking.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::Missing`] if it is not in the store, [`Error::File`]…
    pub fn name(&self, digest: Digest, name: &str) -> Result<()> {
        let reference = self.canonical(name)?;
        let (document, _) = self.store().document(digest)?;
        self.store().set_names(Self::records(&reference, document.media_type(), digest, Origin::Local))
    }

    /// What the store alone says a name stands for. Blocking.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::File`] if the store cannot be read.
    pub fn stored(&self, name: &str) -> Result<Option<Digest>> {
        Ok(self.store().named(&self.canonical(name)?)?.map(|record| record.digest))
    }

    /// Bytes of everything that a stored image consists of, compressed. Blocking.
    pub fn size(&self, digest: Digest) -> u64 {
        self.bytes(digest)
    }

    /// Says something about a stored image, in the repository of `name`; the registry lists it among the image's
    /// referrers. The same statement is the same artifact. Blocking.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::Missing`] if the image is not in the store, [`Error::DiskFull`]…
    pub fn attach(&self, subject: Digest, name: &str, referrer: &Referrer) -> Result<Digest> {
        let reference = self.canonical(name)?;
        let (document, size) = self.store().document(subject)?;
        let config = Descriptor::new(EMPTY, self.store().put(b"{}")?, 2);
        let content = self.store().put(&referrer.bytes)?;
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.into()),
            artifact_type: Some(referrer.artifact_type.clone()),
            config,
            layers: vec![Descriptor::new(&referrer.media_type, content, referrer.bytes.len() as u64)],
            subject: Some(Box::new(Descriptor::new(document.media_type(), subject, size.len() as u64))),
            annotations: Some(referrer.annotations.clone()).filter(|map| !map.is_empty()),
        };
        let digest = self.put_json(&manifest, OCI_MANIFEST)?.digest;
        // By digest only: a statement has no tag of its own.
        let mut records = Self::records(&reference, OCI_MANIFEST, digest, Origin::Local);
        records.truncate(1);
        self.store().set_names(records)?;
        Ok(digest)
    }

    /// Stores a document and points at it.
    pub(super) fn put_json(&self, document: &impl serde::Serialize, media_type: &str) -> Result<Descriptor> {
        let bytes = serde_json::to_vec(document).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Descriptor::new(media_type, self.store().put(&bytes)?, bytes.len() as u64))
    }
}

/// How the image runs: the base's word unless the options have one.
pub(super) fn merge(base: RunConfig, options: BuildOptions) -> RunConfig {
    let mut env = base.env.unwrap_or_default();
    for variable in options.env {
        let name = variable.split('=').next().unwrap_or_default().to_owned();
        env.retain(|known| known.split('=').next() != Some(name.as_str()));
        env.push(variable);
    }
    let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    // A new program does not take the old one's arguments.
    let (entrypoint, cmd) = match (some(options.entrypoint), some(options.cmd)) {
        (None, None) => (base.entrypoint, base.cmd),
        (None, cmd) => (base.entrypoint, cmd),
        (entrypoint, cmd) => (entrypoint, cmd),
    };
    let mut ports = base.exposed_ports.unwrap_or_default();
    if let Some(port) = options.port {
        ports.insert(format!("{port}/tcp"), json!({}));
    }
    let mut labels = base.labels.unwrap_or_default();
    labels.extend(options.labels);
    RunConfig {
        user: options.user.or(base.user),
        exposed_ports: Some(ports).filter(|ports| !ports.is_empty()),
        env: some(env),
        entrypoint,
        cmd,
        volumes: base.volumes,
        working_dir: options.working_dir.or(base.working_dir),
        labels: Some(labels).filter(|labels| !labels.is_empty()),
        stop_signal: base.stop_signal,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::images::Config;
    use crate::images::layer::{Compression, LayerContent, LayerItem};

    const NAME: &str = "127.0.0.1:5000/default/app:latest";

    fn store() -> (tempfile::TempDir, Images) {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(&dir.path().join("store"), Config::default()).unwrap();
        (dir, images)
    }

    fn layer(images: &Images, path: &str) -> (Layer, String) {
        let file = LayerItem::File { mode: 0o644, content: LayerContent::Bytes(path.into()) };
        let items = BTreeMap::from([(PathBuf::from(path), file)]);
        (images.write_layer(&items, Compression::Gzip).unwrap(), path.to_owned())
    }

    #[tokio::test]
    async fn an_image_stands_on_its_base_and_keeps_what_it_says() {
        let (_dir, images) = store();
        let options = BuildOptions {
            env: vec!["PATH=/bin".into(), "A=1".into()],
            user: Some("65532".into()),
            ..BuildOptions::default()
        };
        let spec = ImageSpec { layers: vec![layer(&images, "base")], options, ..ImageSpec::default() };
        let base = images.assemble(&spec, "127.0.0.1:5000/base/x:1").unwrap();
        let options = BuildOptions {
            entrypoint: vec!["/app".into()],
            env: vec!["A=2".into()],
            port: Some(9000),
            ..BuildOptions::default()
        };
        let spec = ImageSpec {
            base: Some(base),
            layers: vec![layer(&images, "app")],
            options,
            ..ImageSpec::default()
        };
        let digest = images.assemble(&spec, NAME).unwrap();
        assert_eq!(images.assemble(&spec, "127.0.0.1:5000/other:1").unwrap(), digest);
        assert_eq!(images.stored(NAME).unwrap(), Some(digest));
        assert!(images.complete(digest).await.unwrap());
        let prepared = images.prepare(digest).await.unwrap();
        assert_eq!(prepared.layers.len(), 2);
        assert_eq!(prepared.config.env, ["PATH=/bin", "A=2"]);
        assert_eq!(prepared.config.user, "65532");
        assert_eq!(prepared.config.exposed_ports, ["9000/tcp"]);
    }

    #[test]
    fn a_failed_assembly_leaves_no_name() {
        let (_dir, images) = store();
        let mut lost = layer(&images, "x");
        lost.0.digest = Digest::of(b"nothing of it is here");
        let spec = ImageSpec { layers: vec![lost], ..ImageSpec::default() };
        assert!(matches!(images.assemble(&spec, NAME), Err(Error::Missing { .. })));
        assert_eq!(images.stored(NAME).unwrap(), None);
    }

    #[test]
    fn a_new_program_does_not_take_the_old_ones_arguments() {
        let base = RunConfig {
            entrypoint: Some(vec!["/sh".into()]),
            cmd: Some(vec!["-c".into()]),
            ..RunConfig::default()
        };
        let kept = merge(base.clone(), BuildOptions::default());
        assert_eq!((kept.entrypoint.clone(), kept.cmd.clone()), (base.entrypoint.clone(), base.cmd.clone()));
        let options = BuildOptions { entrypoint: vec!["/app".into()], ..BuildOptions::default() };
        let merged = merge(base, options);
        assert_eq!((merged.entrypoint, merged.cmd), (Some(vec!["/app".to_owned()]), None));
    }

    #[test]
    fn a_statement_about_an_image_is_the_same_artifact_each_time() {
        let (_dir, images) = store();
        let spec = ImageSpec { layers: vec![layer(&images, "x")], ..ImageSpec::default() };
        let subject = images.assemble(&spec, NAME).unwrap();
        let referrer = Referrer {
            artifact_type: "application/spdx+json".into(),
            media_type: "application/spdx+json".into(),
            bytes: b"{}".to_vec(),
            annotations: BTreeMap::new(),
        };
        let one = images.attach(subject, NAME, &referrer).unwrap();
        assert_eq!(images.attach(subject, NAME, &referrer).unwrap(), one);
        let (document, _) = images.store().document(one).unwrap();
        assert_eq!(document.subject().unwrap().digest, subject);
        assert_eq!(images.stored(NAME).unwrap(), Some(subject));
    }
}
