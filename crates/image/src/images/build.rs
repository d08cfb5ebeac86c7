//! Images without a base: a static program or a directory becomes one layer. The same input gives the same digest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Images;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result, blocking};
use crate::manifest::{
    ConfigFile, Descriptor, ImageManifest, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, RootFs, RunConfig,
    host_architecture,
};
use crate::store::blob::{BlobWriter, Expect};
use crate::store::refs::Origin;

/// Fixed, because a layer's digest depends on it.
const GZIP_LEVEL: u32 = 6;
/// When everything was made: digests must not depend on the day.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// The user of programs that say nothing else: nobody in particular.
const NONROOT: &str = "65532:65532";

/// What to build from.
#[derive(Clone, Debug)]
pub enum BuildInput {
    /// A static program; it becomes `/<its file name>` and the entrypoint, beside `/etc/passwd`, `/etc/group`, `/tmp`.
    Binary(PathBuf),
    /// A directory that becomes the root file system.
    Directory(PathBuf),
}

/// How the image runs. Empty and absent fields take the input's defaults.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// Program and first arguments; required for a directory.
    pub entrypoint: Vec<String>,
    /// More arguments.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `[user][:group]`; a binary runs as 65532 by default, a directory as root.
    pub user: Option<String>,
    /// Where the program starts.
    pub working_dir: Option<String>,
    /// The TCP port that it listens on.
    pub port: Option<u16>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Entries of the layer in the order they are written.
enum Item {
    Directory { mode: u32 },
    File { mode: u32, content: Content },
    Link { target: PathBuf },
}

enum Content {
    Path(PathBuf),
    Bytes(&'static [u8]),
}

impl Images {
    /// Makes an image named `name` and answers its digest.
    ///
    /// # Errors
    /// [`Error::Build`] for an input that cannot run, [`Error::Reference`], [`Error::File`]…
    pub async fn build(&self, input: BuildInput, name: &str, options: BuildOptions) -> Result<Digest> {
        let reference = self.canonical(name)?;
        let images = self.clone();
        blocking(move || {
            let (items, run) = plan(&input, options)?;
            let (layer, diff_id, size) = images.write_layer(&items)?;
            let config = ConfigFile {
                created: Some(CREATED.into()),
                architecture: host_architecture().into(),
                os: "linux".into(),
                config: Some(run),
                rootfs: RootFs { kind: "layers".into(), diff_ids: Some(vec![diff_id]) },
                history: vec![
                    serde_json::json!({ "created": CREATED, "created_by": "dormouse image build" }),
                ],
            };
            let internal = |error: serde_json::Error| Error::Internal(error.to_string());
            let config = serde_json::to_vec(&config).map_err(internal)?;
            let manifest = ImageManifest {
                schema_version: 2,
                media_type: Some(OCI_MANIFEST.into()),
                artifact_type: None,
                config: Descriptor::new(OCI_CONFIG, images.store().put(&config)?, config.len() as u64),
                layers: vec![Descriptor::new(OCI_LAYER_GZIP, layer, size)],
                subject: None,
                annotations: None,
            };
            let digest = images.store().put(&serde_json::to_vec(&manifest).map_err(internal)?)?;
            images.store().set_names(Self::records(&reference, OCI_MANIFEST, digest, Origin::Local))?;
            Ok(digest)
        })
        .await
    }

    /// Writes the layer's archive, compressed; answers its digest, its diff id and its size.
    fn write_layer(&self, items: &BTreeMap<Vec<u8>, Item>) -> Result<(Digest, Digest, u64)> {
        let blob = BlobWriter::new(self.store(), self.inner.config.limits.blob_bytes)?;
        let gzip = flate2::GzBuilder::new().mtime(0).write(blob, flate2::Compression::new(GZIP_LEVEL));
        let mut archive = tar::Builder::new(Tee { hasher: Hasher::default(), inner: gzip });
        let store = self.store().temporary("layer");
        for (path, item) in items {
            append(&mut archive, Path::new(std::ffi::OsStr::from_bytes(path)), item).map_err(
                |(file, source)| {
                    let failed = file.unwrap_or_else(|| store.clone());
                    Error::file("add to the layer", failed, source)
                },
            )?;
        }
        let failed = |source| Error::file("write", &store, source);
        let tee = archive.into_inner().map_err(failed)?;
        let diff_id = tee.hasher.finish();
        let blob = tee.inner.finish().map_err(failed)?;
        let size = blob.size();
        Ok((blob.finish(&Expect::default(), "the layer")?, diff_id, size))
    }
}

/// Hashes what passes.
struct Tee<W> {
    hasher: Hasher,
    inner: W,
}

impl<W: std::io::Write> std::io::Write for Tee<W> {
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

/// One entry: owner root, time zero, folded mode; never the machine's own.
fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, path: &Path, item: &Item) -> Appended {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let plain = |source| (None, source);
    match item {
        Item::Directory { mode } => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            archive.append_data(&mut header, path, std::io::empty()).map_err(plain)
        }
        Item::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, path, target).map_err(plain)
        }
        Item::File { mode, content } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(*mode);
            match content {
                Content::Bytes(bytes) => {
                    header.set_size(bytes.len() as u64);
                    archive.append_data(&mut header, path, *bytes).map_err(plain)
                }
                Content::Path(file) => {
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

fn plan(input: &BuildInput, options: BuildOptions) -> Result<(BTreeMap<Vec<u8>, Item>, RunConfig)> {
    let mut items = BTreeMap::new();
    let mut entrypoint = options.entrypoint;
    let mut user = options.user;
    match input {
        BuildInput::Binary(path) => {
            let wrong = |reason: String| Error::Build { path: path.clone(), reason };
            check_program(path)?;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.is_empty() || matches!(name, "etc" | "tmp") {
                return Err(wrong(format!("{name:?} cannot be the program's name in the image: rename it")));
            }
            let content = Content::Path(path.clone());
            items.insert(name.as_bytes().to_vec(), Item::File { mode: 0o755, content });
            items.insert(b"etc".to_vec(), Item::Directory { mode: 0o755 });
            items.insert(b"tmp".to_vec(), Item::Directory { mode: 0o1777 });
            let passwd: &[u8] =
                b"root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n";
            let group: &[u8] = b"root:x:0:\nnonroot:x:65532:\n";
            for (name, bytes) in [("etc/passwd", passwd), ("etc/group", group)] {
                items.insert(name.into(), Item::File { mode: 0o644, content: Content::Bytes(bytes) });
            }
            if entrypoint.is_empty() {
                entrypoint = vec![format!("/{name}")];
            }
            user.get_or_insert_with(|| NONROOT.to_owned());
        }
        BuildInput::Directory(path) => {
            if entrypoint.is_empty() {
                let reason = "an entrypoint is needed: name the program to run".to_owned();
                return Err(Error::Build { path: path.clone(), reason });
            }
            walk(path, path, &mut items)?;
        }
    }
    let port = options.port.map(|port| BTreeMap::from([(format!("{port}/tcp"), serde_json::json!({}))]));
    let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    let run = RunConfig {
        user,
        exposed_ports: port,
        env: some(options.env),
        entrypoint: some(entrypoint),
        cmd: some(options.cmd),
        volumes: None,
        working_dir: options.working_dir,
        labels: Some(options.labels).filter(|labels| !labels.is_empty()),
        stop_signal: None,
    };
    Ok((items, run))
}

/// Collects a directory; the map sorts by path bytes.
fn walk(root: &Path, dir: &Path, items: &mut BTreeMap<Vec<u8>, Item>) -> Result<()> {
    let wrong =
        |path: &Path, reason: &str| Error::Build { path: path.to_path_buf(), reason: reason.to_owned() };
    for entry in fs::read_dir(dir).map_err(|source| Error::file("read directory", dir, source))? {
        let path = entry.map_err(|source| Error::file("read directory", dir, source))?.path();
        let meta = fs::symlink_metadata(&path).map_err(|source| Error::file("read", &path, source))?;
        let name = path.strip_prefix(root).map_err(|_| wrong(&path, "it left the directory"))?;
        let name = name.as_os_str().as_bytes().to_vec();
        let item = if meta.is_dir() {
            walk(root, &path, items)?;
            // The sticky bit is content: everybody may write to /tmp.
            let sticky = meta.permissions().mode() & 0o1000 != 0;
            Item::Directory { mode: if sticky { 0o1777 } else { 0o755 } }
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(|source| Error::file("read", &path, source))?;
            Item::Link { target }
        } else if meta.is_file() {
            // The executable bit is content; the rest of the mode is the machine's umask.
            let mode = if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
            Item::File { mode, content: Content::Path(path) }
        } else {
            return Err(wrong(&path, "devices, pipes and sockets cannot go into an image"));
        };
        items.insert(name, item);
    }
    Ok(())
}

/// A program that needs a loader would not start in an image that has none; say so now.
fn check_program(path: &Path) -> Result<()> {
    let wrong = |reason: String| Error::Build { path: path.to_path_buf(), reason };
    let failed = |source| Error::file("read", path, source);
    let mut file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(wrong("it is not a file".into()));
    }
    let mut head = [0u8; 64];
    if file.read_exact(&mut head).is_err() || !head.starts_with(b"\x7fELF") {
        return Err(wrong("it is not a Linux program (ELF)".into()));
    }
    let number = |bytes: &[u8], offset: usize, length: usize| -> u64 {
        let field = bytes.get(offset..offset + length).unwrap_or_default();
        field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    let machine = number(&head, 18, 2);
    let expected = if host_architecture() == "arm64" { 183 } else { 62 };
    if machine != expected && matches!(host_architecture(), "amd64" | "arm64") {
        return Err(wrong(format!("it is for another machine, not {}", host_architecture())));
    }
    // 64-bit little-endian program headers; an interpreter among them means dynamic linking.
    let (table, size, count) = (number(&head, 32, 8), number(&head, 54, 2), number(&head, 56, 2));
    for position in 0..count {
        let mut header = [0u8; 56];
        let offset = table.saturating_add(position * size);
        if file.seek(SeekFrom::Start(offset)).is_err() || file.read_exact(&mut header).is_err() {
            return Err(wrong("its program headers cannot be read".into()));
        }
        if number(&header, 0, 4) == 3 {
            let mut interpreter = vec![0; number(&header, 32, 8).min(256) as usize];
            let read = file
                .seek(SeekFrom::Start(number(&header, 8, 8)))
                .and_then(|_| file.read_exact(&mut interpreter));
            let name = String::from_utf8_lossy(&interpreter).trim_end_matches('\0').to_owned();
            let name = if read.is_ok() { name } else { "an interpreter".into() };
            return Err(wrong(format!(
                "it is dynamically linked and needs {name}: link it statically (for Rust, --target \
                 {}-unknown-linux-musl), or build from a directory that holds its libraries",
                std::env::consts::ARCH
            )));
        }
    }
    Ok(())
}
