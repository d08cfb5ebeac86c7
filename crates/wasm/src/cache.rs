//! Compiled components on disk, by the digest of the component and the version and settings of the engine.
//!
//! Loading compiled code means running it, so a file is used only when it is whole: beside each `<digest>.cwasm` lies its
//! checksum, written after it, both by rename. Anything else (a crash between the two, a bad disk, another engine) counts
//! as absent and is compiled again. The directory belongs to its owner alone: the checksum tells accidents, not attacks.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

const CODE: &str = "cwasm";
const SUM: &str = "sum";

/// The digest of a component's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// Reads `sha256:<64 hexadecimal digits>`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = || Error::Digest(text.to_owned());
        let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64).ok_or_else(bad)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair =
                std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+')).ok_or_else(bad)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "sha256:{}", self.hex())
    }
}

/// The cache of one engine.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    bytes_max: u64,
}

/// A file that was whole when it was last looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) path: PathBuf,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Whole {
    fn of(path: &Path) -> std::io::Result<Self> {
        let meta = fs::metadata(path)?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        Ok(Self { path: path.to_owned(), inode: meta.ino(), bytes: meta.len(), modified })
    }

    /// Whether nobody has touched it since.
    pub(crate) fn is_unchanged(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now == *self)
    }
}

impl Cache {
    /// Opens the cache of the engine `key` below `root` and removes those of other engines.
    pub(crate) fn open(root: &Path, key: &str, bytes_max: u64) -> Result<Self> {
        let dir = root.join(key);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&dir).map_err(Error::cache("create", &dir))?;
        for entry in fs::read_dir(root).map_err(Error::cache("list", root))?.flatten() {
            if entry.file_name() != key {
                remove(&entry.path());
            }
        }
        let cache = Self { dir, bytes_max };
        // What a crash left half written.
        for path in cache.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "new"))
        {
            remove(&path);
        }
        Ok(cache)
    }

    /// The compiled form of a component, if it is there and whole.
    pub(crate) fn find(&self, digest: &Digest) -> Option<Whole> {
        let path = self.path(digest, CODE);
        let expected = fs::read_to_string(self.path(digest, SUM)).ok()?;
        let whole = Whole::of(&path).ok()?;
        let found = sum_of_file(&path).ok()?;
        if found != expected {
            tracing::warn!(path = %path.display(), "a compiled component is damaged; it is compiled again");
            return None;
        }
        Some(whole)
    }

    /// Keeps the compiled form of a component.
    pub(crate) fn store(&self, digest: &Digest, code: &[u8]) -> Result<Whole> {
        let (path, sum) = (self.path(digest, CODE), self.path(digest, SUM));
        // Between the two renames the old checksum must not vouch for the new code.
        match fs::remove_file(&sum) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::cache("remove", sum)(error));
            }
            _ => {}
        }
        write(&path, code)?;
        write(&sum, Digest::of(code).hex().as_bytes())?;
        self.shrink(&path);
        Whole::of(&path).map_err(Error::cache("read", path))
    }

    /// Removes the compiled form of a component.
    pub(crate) fn forget(&self, digest: &Digest) {
        remove(&self.path(digest, SUM));
        remove(&self.path(digest, CODE));
    }

    fn path(&self, digest: &Digest, end: &str) -> PathBuf {
        self.dir.join(format!("{}.{end}", digest.hex()))
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// Removes the oldest files while there are too many bytes. What is mapped stays usable.
    fn shrink(&self, newest: &Path) {
        let code = self.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == CODE));
        let mut files: Vec<_> = code
            .filter_map(|path| fs::metadata(&path).ok().map(|meta| (meta.mtime(), meta.len(), path)))
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.bytes_max {
                break;
            }
            if path != newest {
                remove(&path.with_extension(SUM));
                remove(&path);
                total -= bytes;
            }
        }
    }
}

fn sum_of_file(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hash.update(buffer.get(..length).unwrap_or_default());
    }
    Ok(Digest(hash.finalize().into()).hex())
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&new, path)
    });
    written.map_err(|source| {
        remove(&new);
        Error::cache("write", path)(source)
    })
}

fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not remove a compiled component");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes_max: u64) -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), "one", bytes_max).unwrap();
        (dir, cache)
    }

    #[test]
    fn a_digest_is_exactly_sixty_four_digits() {
        let text = Digest::of(b"x").to_string();
        assert_eq!(Digest::parse(&text).unwrap(), Digest::of(b"x"));
        let upwards = format!("sha256:{}", "../".repeat(22));
        for bad in
            ["", "sha256:", "sha256:12", &text.replace("sha256", "md5"), &text.replace(':', ":+"), &upwards]
        {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_whole_is_not_found() {
        let (_dir, cache) = open(1 << 20);
        let digest = Digest::of(b"x");
        assert!(cache.find(&digest).is_none());
        let whole = cache.store(&digest, b"code").unwrap();
        assert_eq!(cache.find(&digest), Some(whole.clone()));
        fs::write(&whole.path, b"kode").unwrap();
        assert!(cache.find(&digest).is_none());
        assert!(!whole.is_unchanged());
        cache.store(&digest, b"code").unwrap();
        fs::remove_file(cache.path(&digest, SUM)).unwrap();
        assert!(cache.find(&digest).is_none());
    }

    #[test]
    fn other_engines_and_half_written_files_go() {
        let (dir, cache) = open(1 << 20);
        let digest = Digest::of(b"x");
        cache.store(&digest, b"code").unwrap();
        fs::write(cache.dir.join("half.new"), b"ha").unwrap();
        let again = Cache::open(dir.path(), "one", 1 << 20).unwrap();
        assert!(again.find(&digest).is_some());
        assert_eq!(again.files().len(), 2);
        let other = Cache::open(dir.path(), "two", 1 << 20).unwrap();
        assert!(other.find(&digest).is_none() && !cache.dir.exists());
    }

    #[test]
    fn the_newest_stays_when_there_are_too_many_bytes() {
        let (_dir, cache) = open(6);
        let digests = [Digest::of(b"1"), Digest::of(b"2")];
        for digest in &digests {
            cache.store(digest, b"code").unwrap();
        }
        assert!(cache.find(&digests[0]).is_none() && cache.find(&digests[1]).is_some());
    }
}
