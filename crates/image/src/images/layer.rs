//! Writing layers: the same entries give the same bytes, whoever writes them, wherever and whenever.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Images;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::manifest::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use crate::store::blob::{BlobWriter, Expect};

/// Fixed, because a layer's digest depends on it.
const GZIP_LEVEL: u32 = 6;
/// Fixed likewise; smaller than gzip at its level and several times as fast.
const ZSTD_LEVEL: i32 = 3;

/// One entry of a layer.
#[derive(Clone, Debug)]
pub enum LayerItem {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// What is in it.
        content: LayerContent,
    },
    /// A symbolic link.
    Link {
        /// As it stands.
        target: PathBuf,
    },
}

/// Where a file's bytes come from.
#[derive(Clone, Debug)]
pub enum LayerContent {
    /// A file of this machine, read while the layer is written.
    Path(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// How a layer's archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// What every client understands.
    Gzip,
    /// Smaller and faster; what current clients understand.
    Zstd,
}

/// A layer in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// The compressed archive.
    pub digest: Digest,
    /// The archive.
    pub diff_id: Digest,
    /// Length of the compressed archive.
    pub bytes: u64,
    /// The media type of the compressed archive.
    pub media_type: String,
}

/// Compressors write what they still hold when they are finished.
enum Packer {
    Gzip(flate2::write::GzEncoder<BlobWriter>),
    Zstd(zstd::Encoder<'static, BlobWriter>),
}

impl Images {
    /// Writes a layer into the store. Paths are relative to the image's root; owner is root and time zero for every
    /// entry; directories that lead to an entry are added with mode 0755 where they are missing. Blocking.
    ///
    /// # Errors
    /// [`Error::File`] naming a file that cannot be read, [`Error::Build`] for a path that leaves the root,
    /// [`Error::TooLarge`], [`Error::DiskFull`]…
    pub fn write_layer(
        &self,
        items: &BTreeMap<PathBuf, LayerItem>,
        compression: Compression,
    ) -> Result<Layer> {
        let blob = BlobWriter::new(self.store(), self.inner.config.limits.blob_bytes)?;
        let scratch = self.store().temporary("layer");
        let failed = |source| Error::file("write", &scratch, source);
        let packer = Packer::new(blob, compression).map_err(failed)?;
        let mut archive = tar::Builder::new(Tee { hasher: Hasher::default(), inner: packer });
        let implied = LayerItem::Directory { mode: 0o755 };
        for (path, item) in complete(items, &implied)? {
            append(&mut archive, Path::new(std::ffi::OsStr::from_bytes(&path)), item).map_err(
                |(file, source)| {
                    let failed = file.unwrap_or_else(|| scratch.clone());
                    Error::file("add to the layer", failed, source)
                },
            )?;
        }
        let tee = archive.into_inner().map_err(failed)?;
        let diff_id = tee.hasher.finish();
        let blob = tee.inner.finish().map_err(failed)?;
        let bytes = blob.size();
        let digest = blob.finish(&Expect::default(), "the layer")?;
        let media_type = match compression {
            Compression::Gzip => OCI_LAYER_GZIP,
            Compression::Zstd => OCI_LAYER_ZSTD,
        };
        Ok(Layer { digest, diff_id, bytes, media_type: media_type.to_owned() })
    }

    /// Whether the layer is still in the store; claims it, so that it stays until an image has it. Blocking.
    pub fn has_layer(&self, layer: &Layer) -> bool {
        self.store().claim(layer.digest) == Some(layer.bytes)
    }
}

/// All entries by the bytes of their paths, which is the order of the archive.
fn complete<'a>(
    items: &'a BTreeMap<PathBuf, LayerItem>,
    implied: &'a LayerItem,
) -> Result<BTreeMap<Vec<u8>, &'a LayerItem>> {
    let mut all = BTreeMap::new();
    for (path, item) in items {
        let wrong =
            || Error::Build { path: path.clone(), reason: "it is no path inside an image".to_owned() };
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => clean.push(name),
                Component::ParentDir | Component::Prefix(_) => return Err(wrong()),
            }
        }
        if clean.as_os_str().is_empty() {
            // The root itself is in every image.
            continue;
        }
        for parent in clean.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            all.entry(parent.as_os_str().as_bytes().to_vec()).or_insert(implied);
        }
        all.insert(clean.as_os_str().as_bytes().to_vec(), item);
    }
    Ok(all)
}

// === impl Packer ===

impl Packer {
    fn new(blob: BlobWriter, compression: Compression) -> std::io::Result<Self> {
        Ok(match compression {
            Compression::Gzip => Self::Gzip(
                flate2::GzBuilder::new().mtime(0).write(blob, flate2::Compression::new(GZIP_LEVEL)),
            ),
            Compression::Zstd => Self::Zstd(zstd::Encoder::new(blob, ZSTD_LEVEL)?),
        })
    }

    fn finish(self) -> std::io::Result<BlobWriter> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        // A flush would end a block of the compressed stream and change its bytes.
        Ok(())
    }
}

/// Hashes what passes.
struct Tee<W> {
    hasher: Hasher,
    inner: W,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

type Appended = std::result::Result<(), (Option<PathBuf>, std::io::Error)>;

/// One entry: owner root, time zero; never the machine's own.
fn append<W: Write>(archive: &mut tar::Builder<W>, path: &Path, item: &LayerItem) -> Appended {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let plain = |source| (None, source);
    match item {
        LayerItem::Directory { mode } => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            archive.append_data(&mut header, path, std::io::empty()).map_err(plain)
        }
        LayerItem::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, path, target).map_err(plain)
        }
        LayerItem::File { mode, content } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(*mode);
            match content {
                LayerContent::Bytes(bytes) => {
                    header.set_size(bytes.len() as u64);
                    archive.append_data(&mut header, path, bytes.as_slice()).map_err(plain)
                }
                LayerContent::Path(file) => {
                    let named = |source| (Some(file.clone()), source);
                    let open = File::open(file).map_err(named)?;
                    let size = open.metadata().map_err(named)?.len();
                    header.set_size(size);
                    let mut counted = Counted { reader: open.take(size), count: 0 };
                    archive.append_data(&mut header, path, &mut counted).map_err(named)?;
                    match counted.count == size {
                        true => Ok(()),
                        false => Err(named(std::io::Error::other("the file shrank while it was read"))),
                    }
                }
            }
        }
    }
}

struct Counted<R> {
    reader: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::Config;

    #[test]
    fn missing_parents_are_added_and_paths_that_leave_the_root_refused() {
        let link = LayerItem::Link { target: "x".into() };
        let implied = LayerItem::Directory { mode: 0o755 };
        let items = BTreeMap::from([(PathBuf::from("/a/b/c"), link.clone())]);
        let names: Vec<_> = complete(&items, &implied).unwrap().into_keys().collect();
        assert_eq!(names, [b"a".to_vec(), b"a/b".to_vec(), b"a/b/c".to_vec()]);
        let items = BTreeMap::from([(PathBuf::from("a/../../b"), link)]);
        assert!(complete(&items, &implied).unwrap_err().to_string().contains("a/../../b"));
    }

    #[test]
    fn equal_entries_give_equal_bytes_in_both_compressions() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(&dir.path().join("store"), Config::default()).unwrap();
        let mut layers = Vec::new();
        for name in ["one", "two"] {
            let file = dir.path().join(name);
            std::fs::write(&file, "content").unwrap();
            let file = LayerItem::File { mode: 0o644, content: LayerContent::Path(file) };
            let items = BTreeMap::from([(PathBuf::from("app/file"), file)]);
            for compression in [Compression::Gzip, Compression::Zstd] {
                let layer = images.write_layer(&items, compression).unwrap();
                assert!(images.has_layer(&layer));
                layers.push(layer);
            }
        }
        assert_eq!(layers[0], layers[2]);
        assert_eq!(layers[1], layers[3]);
        assert_ne!(layers[0].digest, layers[1].digest);
        assert_eq!(layers[0].diff_id, layers[1].diff_id);
    }
}
