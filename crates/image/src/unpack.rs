//! Unpacking a layer into a directory that overlayfs can take as a lower one.
//!
//! The archive is hostile until proved otherwise. Problem: names such as `../x`, links that lead outside, archives that
//! unpack to terabytes. Decision: every operation is relative to a file descriptor of its parent directory, which is
//! reached component by component without following any link ([`tree`]); the stream counts and hashes what it yields
//! ([`stream`]); the diff id is compared before the directory gets its name. Rejected: checking path strings (races and
//! forgotten cases) and a chrooted helper process (a fork per layer).
//!
//! Whiteouts become what overlayfs reads: a character device 0/0, and `trusted.overlay.opaque` on opaque directories.

mod stream;
mod tree;

pub(crate) use stream::decode;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, Timespec, Timestamps};
use tar::EntryType;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::images::Limits;
use crate::store::{Store, remove_any};
use stream::LayerStream;
use tree::{Refused, Tree};

/// The longest extended header (pax) or long name; real ones hold a path and a few attributes.
const EXTENDED_BYTES_MAX: u64 = 1 << 20;
/// The longest path or link target, the kernel's own bound.
const PATH_BYTES_MAX: usize = 4096;
/// The deepest path.
const PATH_DEPTH_MAX: usize = 256;

/// Unpacks the layer blob `layer` whose uncompressed archive must hash to `diff_id`; answers its directory.
/// A layer that is unpacked already costs one `stat`. Blocking.
pub(crate) fn unpack(store: &Store, layer: Digest, diff_id: Digest, limits: &Limits) -> Result<PathBuf> {
    let target = store.layer_path(diff_id);
    if target.is_dir() {
        return Ok(target);
    }
    let temporary = store.temporary("layer");
    let cleanup = Cleanup(&temporary);
    let path = store.blob_path(layer);
    let blob = match File::open(&path) {
        Ok(blob) => blob,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Missing { subject: "the image".into(), digest: layer });
        }
        Err(source) => return Err(Error::file("open", &path, source)),
    };
    let unpacked = unpack_into(&temporary, layer, diff_id, blob, limits);
    let actual = match unpacked {
        Ok(actual) if actual == diff_id => actual,
        other => {
            // Bytes that the disk changed are not the image's fault: fetch them again.
            if damaged(&path, layer) {
                remove_any(&path)?;
                return Err(Error::Damaged { digest: layer });
            }
            let actual = other?;
            return Err(Error::DiffId { layer, expected: diff_id.into(), actual: actual.into() });
        }
    };
    let published = store.publish_layer(&temporary, actual)?;
    std::mem::forget(cleanup);
    Ok(published)
}

/// Removes a half-made layer directory.
struct Cleanup<'a>(&'a Path);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let _ = remove_any(self.0);
    }
}

fn damaged(path: &Path, digest: Digest) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let mut hasher = digest.hasher();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return hasher.finish() != digest,
            Ok(count) => hasher.update(buffer.get(..count).unwrap_or_default()),
            Err(_) => return false,
        }
    }
}

/// Unpacks into the new directory `dir`; answers the digest of the uncompressed archive.
fn unpack_into(dir: &Path, layer: Digest, diff_id: Digest, blob: File, limits: &Limits) -> Result<Digest> {
    let mut stream = LayerStream::open(blob, diff_id.hasher(), limits)
        .map_err(|source| Error::Corrupt { layer, source })?;
    let mut tree = Tree::create(dir)?;
    let result = entries(&mut stream, &mut tree, layer, limits);
    // What stopped the stream explains the failure better than the archive reader's view of it.
    if let Some(reason) = stream.exceeded() {
        return Err(Error::Bomb { layer, reason });
    }
    result?;
    tree.finish().map_err(|source| Error::file("set times in", dir, source))?;
    let drained = std::io::copy(&mut stream, &mut std::io::sink());
    if let Some(reason) = stream.exceeded() {
        return Err(Error::Bomb { layer, reason });
    }
    drained.map_err(|source| Error::Corrupt { layer, source })?;
    Ok(stream.finish())
}

/// What extended headers told about the entry that follows them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    owner: Option<u32>,
    group: Option<u32>,
    mtime: Option<Timespec>,
    size: Option<u64>,
    xattrs: BTreeMap<String, Vec<u8>>,
    sparse: bool,
}

fn entries(stream: &mut LayerStream, tree: &mut Tree, layer: Digest, limits: &Limits) -> Result<()> {
    let corrupt = |source| Error::Corrupt { layer, source };
    let mut archive = tar::Archive::new(stream);
    let mut count: u64 = 0;
    let mut extended = Extended::default();
    for entry in archive.entries().map_err(corrupt)?.raw(true) {
        let mut entry = entry.map_err(corrupt)?;
        count += 1;
        if count > limits.layer_entries {
            return Err(Error::Bomb {
                layer,
                reason: format!("it has more than {} entries", limits.layer_entries),
            });
        }
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => continue,
            EntryType::XHeader => {
                let bytes = extension(&mut entry, layer)?;
                extended.read_pax(&bytes).map_err(corrupt)?;
                continue;
            }
            EntryType::GNULongName => {
                extended.path = Some(terminated(extension(&mut entry, layer)?));
                continue;
            }
            EntryType::GNULongLink => {
                extended.link = Some(terminated(extension(&mut entry, layer)?));
                continue;
            }
            _ => {}
        }
        let extended = std::mem::take(&mut extended);
        let name = match &extended.path {
            Some(path) => path.clone(),
            None => entry.path_bytes().into_owned(),
        };
        let refuse = |refused: Refused| match refused {
            Refused::Entry(reason) => {
                Error::Entry { layer, entry: String::from_utf8_lossy(&name).into_owned(), reason }
            }
            Refused::File(path, source) => Error::file("unpack", path, source),
            Refused::Read(source) => Error::Corrupt { layer, source },
        };
        one(&mut entry, &name, extended, tree).map_err(refuse)?;
    }
    Ok(())
}

/// Reads an extended header whole.
fn extension(entry: &mut tar::Entry<'_, impl Read>, layer: Digest) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry
        .take(EXTENDED_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Corrupt { layer, source })?;
    if bytes.len() as u64 > EXTENDED_BYTES_MAX {
        let reason = format!("it has an extended header of more than {EXTENDED_BYTES_MAX} bytes");
        return Err(Error::Bomb { layer, reason });
    }
    Ok(bytes)
}

/// Long names end with a zero byte.
fn terminated(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

impl Extended {
    fn read_pax(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        for record in tar::PaxExtensions::new(bytes) {
            let record = record?;
            let value = record.value_bytes();
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"uid" => self.owner = number().and_then(|id| u32::try_from(id).ok()),
                b"gid" => self.group = number().and_then(|id| u32::try_from(id).ok()),
                b"size" => self.size = number(),
                b"mtime" => self.mtime = std::str::from_utf8(value).ok().and_then(pax_time),
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                        && let Ok(name) = std::str::from_utf8(name)
                        && wanted_xattr(name)
                    {
                        self.xattrs.insert(name.to_owned(), value.to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Attributes that mean the same in a container. `trusted.*` would steer overlayfs itself and is dropped.
fn wanted_xattr(name: &str) -> bool {
    name == "security.capability"
        || name.starts_with("system.posix_acl_")
        || (name.starts_with("user.") && !name.starts_with("user.overlay."))
}

/// `seconds[.fraction]`, possibly negative.
fn pax_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let tv_sec = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec { tv_sec, tv_nsec: digits.parse().ok()? })
}

/// Splits an entry's name into components; refuses what leads outside.
fn components(name: &[u8]) -> std::result::Result<Vec<&[u8]>, String> {
    if name.first() == Some(&b'/') {
        return Err("has an absolute path".into());
    }
    if name.contains(&0) {
        return Err("has a zero byte in its path".into());
    }
    if name.len() >= PATH_BYTES_MAX {
        return Err(format!("has a path longer than {PATH_BYTES_MAX} bytes"));
    }
    let parts: Vec<&[u8]> =
        name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err("leads outside the layer (..)".into());
    }
    if parts.len() > PATH_DEPTH_MAX {
        return Err(format!("has a path deeper than {PATH_DEPTH_MAX} directories"));
    }
    if parts.iter().any(|part| part.len() > 255) {
        return Err("has a path component longer than 255 bytes".into());
    }
    Ok(parts)
}

/// Ownership, mode and time of one entry.
#[derive(Clone, Debug)]
struct Attributes {
    mode: Mode,
    owner: u32,
    group: u32,
    times: Timestamps,
    xattrs: BTreeMap<String, Vec<u8>>,
}

fn one(
    entry: &mut tar::Entry<'_, impl Read>,
    name: &[u8],
    extended: Extended,
    tree: &mut Tree,
) -> std::result::Result<(), Refused> {
    let parts = components(name).map_err(Refused::Entry)?;
    let header = entry.header();
    let bad = |what: &str, error: std::io::Error| Refused::Entry(format!("has a bad {what}: {error}"));
    let size = header.entry_size().map_err(|error| bad("size", error))?;
    if extended.sparse || extended.size.is_some_and(|told| told != size) {
        return Err(Refused::Entry("is a sparse file or larger than 8 GiB, which is not supported".into()));
    }
    let kind = match header.entry_type() {
        EntryType::Regular if name.ends_with(b"/") => EntryType::Directory,
        other => other,
    };
    let link = match (&extended.link, kind) {
        (Some(link), _) => link.clone(),
        (None, EntryType::Link | EntryType::Symlink) => {
            header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let id = |told: Option<u32>, read: std::io::Result<u64>, what| match told {
        Some(id) => Ok(id),
        None => read
            .map_err(|error| bad(what, error))
            .and_then(|id| u32::try_from(id).map_err(|_| Refused::Entry(format!("has a bad {what}")))),
    };
    let seconds = header.mtime().map_err(|error| bad("time", error))?;
    let mtime = extended.mtime.unwrap_or(Timespec { tv_sec: seconds.try_into().unwrap_or(0), tv_nsec: 0 });
    let attributes = Attributes {
        mode: Mode::from_raw_mode(header.mode().map_err(|error| bad("mode", error))? & 0o7777),
        owner: id(extended.owner, header.uid(), "owner")?,
        group: id(extended.group, header.gid(), "group")?,
        times: Timestamps { last_access: mtime, last_modification: mtime },
        xattrs: extended.xattrs,
    };
    let Some((base, parent)) = parts.split_last() else {
        return match kind {
            EntryType::Directory => tree.root(&attributes),
            _ => Err(Refused::Entry("replaces the root directory".into())),
        };
    };
    if let Some(hidden) = base.strip_prefix(b".wh.") {
        return match hidden {
            b".wh..opq" => tree.opaque(parent),
            // Bookkeeping of aufs.
            _ if hidden.starts_with(b".wh.") => Ok(()),
            b"" | b"." | b".." => Err(Refused::Entry("is a whiteout of nothing".into())),
            _ => tree.whiteout(parent, hidden),
        };
    }
    if parent.iter().any(|part| part.starts_with(b".wh.")) {
        return Err(Refused::Entry("lies under a whiteout".into()));
    }
    let device = || -> std::result::Result<_, Refused> {
        let major = header.device_major().map_err(|error| bad("device", error))?;
        let minor = header.device_minor().map_err(|error| bad("device", error))?;
        Ok((major.unwrap_or(0), minor.unwrap_or(0)))
    };
    match kind {
        EntryType::Directory => tree.directory(parent, base, &attributes),
        EntryType::Regular | EntryType::Continuous => tree.file(parent, base, &attributes, entry),
        EntryType::Symlink if link.is_empty() || link.len() >= PATH_BYTES_MAX || link.contains(&0) => {
            Err(Refused::Entry("is a symbolic link with a bad target".into()))
        }
        EntryType::Symlink => tree.symlink(parent, base, &attributes, &link),
        EntryType::Link => {
            let target = components(&link)
                .map_err(|reason| Refused::Entry(format!("is a hard link whose target {reason}")))?;
            tree.hard_link(parent, base, &target)
        }
        EntryType::Char => tree.node(parent, base, &attributes, tree::Node::Character(device()?)),
        EntryType::Block => tree.node(parent, base, &attributes, tree::Node::Block(device()?)),
        EntryType::Fifo => tree.node(parent, base, &attributes, tree::Node::Fifo),
        other => Err(Refused::Entry(format!("has the unsupported type {other:?}"))),
    }
}

#[cfg(test)]
mod tests;
