//! Images without a base: a static program or a directory becomes one layer. The same input gives the same digest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Images;
use super::assemble::ImageSpec;
use super::layer::{Compression, LayerContent, LayerItem};
use crate::digest::Digest;
use crate::error::{Error, Result, blocking};
use crate::manifest::host_architecture;

/// Entries by their path in the image.
type Items = BTreeMap<PathBuf, LayerItem>;

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

impl Images {
    /// Makes an image named `name` and answers its digest.
    ///
    /// # Errors
    /// [`Error::Build`] for an input that cannot run, [`Error::Reference`], [`Error::File`]…
    pub async fn build(&self, input: BuildInput, name: &str, options: BuildOptions) -> Result<Digest> {
        self.canonical(name)?;
        let (images, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let (items, run) = plan(&input, options)?;
            let layer = images.write_layer(&items, Compression::Gzip)?;
            let spec = ImageSpec {
                layers: vec![(layer, "dormouse image build".to_owned())],
                options: run,
                ..ImageSpec::default()
            };
            images.assemble(&spec, &name)
        })
        .await
    }
}

fn plan(input: &BuildInput, mut options: BuildOptions) -> Result<(Items, BuildOptions)> {
    let mut items = Items::new();
    match input {
        BuildInput::Binary(path) => {
            let wrong = |reason: String| Error::Build { path: path.clone(), reason };
            check_program(path)?;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.is_empty() || matches!(name, "etc" | "tmp") {
                return Err(wrong(format!("{name:?} cannot be the program's name in the image: rename it")));
            }
            let content = LayerContent::Path(path.clone());
            items.insert(name.into(), LayerItem::File { mode: 0o755, content });
            items.insert("tmp".into(), LayerItem::Directory { mode: 0o1777 });
            let passwd: &[u8] =
                b"root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n";
            let group: &[u8] = b"root:x:0:\nnonroot:x:65532:\n";
            for (name, bytes) in [("etc/passwd", passwd), ("etc/group", group)] {
                let content = LayerContent::Bytes(bytes.to_vec());
                items.insert(name.into(), LayerItem::File { mode: 0o644, content });
            }
            if options.entrypoint.is_empty() {
                options.entrypoint = vec![format!("/{name}")];
            }
            options.user.get_or_insert_with(|| NONROOT.to_owned());
        }
        BuildInput::Directory(path) => {
            if options.entrypoint.is_empty() {
                let reason = "an entrypoint is needed: name the program to run".to_owned();
                return Err(Error::Build { path: path.clone(), reason });
            }
            walk(path, path, &mut items)?;
        }
    }
    Ok((items, options))
}

/// Collects a directory.
fn walk(root: &Path, dir: &Path, items: &mut Items) -> Result<()> {
    let wrong =
        |path: &Path, reason: &str| Error::Build { path: path.to_path_buf(), reason: reason.to_owned() };
    for entry in fs::read_dir(dir).map_err(|source| Error::file("read directory", dir, source))? {
        let path = entry.map_err(|source| Error::file("read directory", dir, source))?.path();
        let meta = fs::symlink_metadata(&path).map_err(|source| Error::file("read", &path, source))?;
        let name = path.strip_prefix(root).map_err(|_| wrong(&path, "it left the directory"))?;
        let name = name.to_path_buf();
        let item = if meta.is_dir() {
            walk(root, &path, items)?;
            // The sticky bit is content: everybody may write to /tmp.
            let sticky = meta.permissions().mode() & 0o1000 != 0;
            LayerItem::Directory { mode: if sticky { 0o1777 } else { 0o755 } }
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(|source| Error::file("read", &path, source))?;
            LayerItem::Link { target }
        } else if meta.is_file() {
            // The executable bit is content; the rest of the mode is the machine's umask.
            let mode = if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
            LayerItem::File { mode, content: LayerContent::Path(path) }
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
