//! The directory being filled. Every operation is relative to the descriptor of its parent, which is reached one component
//! at a time with `O_NOFOLLOW`: no name and no link in the archive can lead anywhere else.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::Attributes;
use crate::error::{Error, Result};

/// Why an entry was not unpacked.
#[derive(Debug)]
pub(super) enum Refused {
    /// The entry is hostile or unusable.
    Entry(String),
    /// The file system refused.
    File(PathBuf, io::Error),
    /// The archive could not be read.
    Read(io::Error),
}

/// A special file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    Character((u32, u32)),
    Block((u32, u32)),
    Fifo,
}

/// A layer's directory.
pub(super) struct Tree {
    path: PathBuf,
    root: OwnedFd,
    /// The parent of the last entry: archives list directories one after another.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Times of directories are set at the end, because filling them changes them.
    directories: Vec<(Vec<u8>, Timestamps)>,
    /// Only root may give files away.
    privileged: bool,
    buffer: Vec<u8>,
}

type Step<T> = std::result::Result<T, Refused>;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const OPAQUE: &str = "trusted.overlay.opaque";

impl Tree {
    /// Makes the empty directory `path` and holds it.
    pub(super) fn create(path: &Path) -> Result<Self> {
        std::fs::create_dir(path).map_err(|source| Error::file("create directory", path, source))?;
        let open = || -> rustix::io::Result<OwnedFd> {
            rustix::fs::chmod(path, Mode::from_raw_mode(0o755))?;
            rustix::fs::open(path, DIRECTORY, Mode::empty())
        };
        let root = open().map_err(|errno| Error::file("open", path, errno))?;
        Ok(Self {
            path: path.to_path_buf(),
            root,
            last: None,
            directories: Vec::new(),
            privileged: rustix::process::geteuid().is_root(),
            buffer: vec![0; 256 << 10],
        })
    }

    /// The root directory's own entry.
    pub(super) fn root(&mut self, attributes: &Attributes) -> Step<()> {
        let root = self.root.try_clone().map_err(|error| self.failed(&[], b"", error))?;
        self.attributes(root.as_fd(), attributes).map_err(|error| self.failed(&[], b"", error))?;
        self.directories.push((b".".to_vec(), attributes.times.clone()));
        Ok(())
    }

    /// A directory; one that is there keeps its content.
    pub(super) fn directory(&mut self, parent: &[&[u8]], name: &[u8], attributes: &Attributes) -> Step<()> {
        let dir = self.parent(parent)?;
        let result = (|| -> io::Result<()> {
            let hidden = match self.existing(dir.as_fd(), name)? {
                Some(Existing::Directory) => false,
                Some(Existing::Whiteout) => {
                    self.clear(dir.as_fd(), name)?;
                    true
                }
                Some(Existing::Other) => {
                    self.clear(dir.as_fd(), name)?;
                    false
                }
                None => false,
            };
            match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let made = rustix::fs::openat(&dir, name, DIRECTORY, Mode::empty())?;
            if hidden {
                set_opaque(made.as_fd())?;
            }
            self.attributes(made.as_fd(), attributes)
        })();
        result.map_err(|error| self.failed(parent, name, error))?;
        self.directories.push((joined(parent, name), attributes.times.clone()));
        Ok(())
    }

    /// A regular file with what `content` gives.
    pub(super) fn file(
        &mut self,
        parent: &[&[u8]],
        name: &[u8],
        attributes: &Attributes,
        content: &mut impl Read,
    ) -> Step<()> {
        let dir = self.parent(parent)?;
        self.make_room(&dir, parent, name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| self.failed(parent, name, errno.into()))?;
        let mut file = std::fs::File::from(file);
        let mut buffer = std::mem::take(&mut self.buffer);
        let copied = (|| loop {
            let count = content.read(&mut buffer).map_err(Refused::Read)?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            io::Write::write_all(&mut file, bytes).map_err(|error| self.failed(parent, name, error))?;
        })();
        self.buffer = buffer;
        copied?;
        self.attributes(file.as_fd(), attributes)
            .and_then(|()| Ok(rustix::fs::futimens(&file, &attributes.times)?))
            .map_err(|error| self.failed(parent, name, error))
    }

    /// A symbolic link; where it points does not matter because nothing here follows it.
    pub(super) fn symlink(
        &mut self,
        parent: &[&[u8]],
        name: &[u8],
        attributes: &Attributes,
        target: &[u8],
    ) -> Step<()> {
        let dir = self.parent(parent)?;
        self.make_room(&dir, parent, name)?;
        let result = rustix::fs::symlinkat(target, &dir, name)
            .map_err(io::Error::from)
            .and_then(|()| self.link_attributes(&dir, name, attributes));
        result.map_err(|error| self.failed(parent, name, error))
    }

    /// Another name for a file of this layer.
    pub(super) fn hard_link(&mut self, parent: &[&[u8]], name: &[u8], target: &[&[u8]]) -> Step<()> {
        let shown = || String::from_utf8_lossy(&target.join(&b'/')).into_owned();
        let Some((target_name, target_parent)) = target.split_last() else {
            return Err(Refused::Entry("is a hard link to the root directory".into()));
        };
        let from = self.walk(target_parent, Make::Nothing).map_err(|refused| match refused {
            Refused::Entry(reason) => {
                Refused::Entry(format!("is a hard link to {:?}, which {reason}", shown()))
            }
            other => other,
        })?;
        let dir = self.parent(parent)?;
        if target_parent == parent && *target_name == name {
            return Ok(());
        }
        match self.existing(from.as_fd(), target_name).map_err(|error| self.failed(parent, name, error))? {
            Some(Existing::Other) => {}
            Some(Existing::Directory) => {
                return Err(Refused::Entry(format!("is a hard link to the directory {:?}", shown())));
            }
            Some(Existing::Whiteout) | None => {
                return Err(Refused::Entry(format!(
                    "is a hard link to {:?}, which is not in the layer",
                    shown()
                )));
            }
        }
        self.make_room(&dir, parent, name)?;
        rustix::fs::linkat(&from, *target_name, &dir, name, AtFlags::empty())
            .map_err(|errno| self.failed(parent, name, errno.into()))
    }

    /// A device or pipe.
    pub(super) fn node(
        &mut self,
        parent: &[&[u8]],
        name: &[u8],
        attributes: &Attributes,
        node: Node,
    ) -> Step<()> {
        let dir = self.parent(parent)?;
        self.make_room(&dir, parent, name)?;
        let (kind, (major, minor)) = match node {
            Node::Character(device) => (FileType::CharacterDevice, device),
            Node::Block(device) => (FileType::BlockDevice, device),
            Node::Fifo => (FileType::Fifo, (0, 0)),
        };
        let device = rustix::fs::makedev(major, minor);
        let result = rustix::fs::mknodat(&dir, name, kind, attributes.mode, device)
            .and_then(|()| rustix::fs::chmodat(&dir, name, attributes.mode, AtFlags::empty()))
            .map_err(io::Error::from)
            .and_then(|()| self.link_attributes(&dir, name, attributes));
        result.map_err(|error| self.failed(parent, name, error))
    }

    /// Hides `name` of the layers below.
    pub(super) fn whiteout(&mut self, parent: &[&[u8]], name: &[u8]) -> Step<()> {
        let dir = self.parent(parent)?;
        let result = (|| -> io::Result<()> {
            match self.existing(dir.as_fd(), name)? {
                // This layer's own directory stays and hides what is below it.
                Some(Existing::Directory) => {
                    let own = rustix::fs::openat(&dir, name, DIRECTORY, Mode::empty())?;
                    set_opaque(own.as_fd())
                }
                Some(Existing::Other | Existing::Whiteout) => Ok(()),
                None => Ok(make_whiteout(dir.as_fd(), name)?),
            }
        })();
        result.map_err(|error| self.failed(parent, name, error))
    }

    /// Hides everything that the layers below have in `parent`.
    pub(super) fn opaque(&mut self, parent: &[&[u8]]) -> Step<()> {
        let dir = self.parent(parent)?;
        set_opaque(dir.as_fd()).map_err(|error| self.failed(parent, b"", error))
    }

    /// Sets the directories' times. Nothing may be unpacked afterwards.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        for (path, times) in std::mem::take(&mut self.directories) {
            let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| *part != b".").collect();
            // A directory that a later entry replaced has no times to set.
            if let Ok(dir) = self.walk(&parts, Make::Nothing) {
                rustix::fs::futimens(&dir, &times)?;
            }
        }
        Ok(())
    }

    fn parent(&mut self, parts: &[&[u8]]) -> Step<OwnedFd> {
        let key = parts.join(&b'/');
        if let Some((last, dir)) = &self.last
            && *last == key
        {
            return dir.try_clone().map_err(|error| self.failed(parts, b"", error));
        }
        let dir = self.walk(parts, Make::Parents)?;
        self.last = match dir.try_clone() {
            Ok(copy) => Some((key, copy)),
            Err(_) => None,
        };
        Ok(dir)
    }

    /// Goes down one component at a time, never through a link.
    fn walk(&self, parts: &[&[u8]], make: Make) -> Step<OwnedFd> {
        let mut dir = self.root.try_clone().map_err(|error| self.failed(&[], b"", error))?;
        for (depth, part) in parts.iter().enumerate() {
            let here =
                || String::from_utf8_lossy(&parts.get(..=depth).unwrap_or_default().join(&b'/')).into_owned();
            let next = match rustix::fs::openat(&dir, *part, DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) if make == Make::Parents => self.make_parent(&dir, part, false),
                Err(Errno::NOENT) => return Err(Refused::Entry(format!("has no directory {:?}", here()))),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    match self.existing(dir.as_fd(), part).map_err(|error| self.failed(parts, b"", error))? {
                        Some(Existing::Whiteout) if make == Make::Parents => {
                            self.make_parent(&dir, part, true)
                        }
                        _ if is_symlink(&dir, part) => {
                            return Err(Refused::Entry(format!(
                                "passes through the symbolic link {:?}",
                                here()
                            )));
                        }
                        _ => {
                            return Err(Refused::Entry(format!(
                                "passes through {:?}, not a directory",
                                here()
                            )));
                        }
                    }
                }
                other => other.map_err(io::Error::from),
            };
            dir = next.map_err(|error| self.failed(parts, b"", error))?;
        }
        Ok(dir)
    }

    fn make_parent(&self, dir: &OwnedFd, name: &[u8], hidden: bool) -> io::Result<OwnedFd> {
        if hidden {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        }
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
        let made = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
        if hidden {
            set_opaque(made.as_fd())?;
        }
        Ok(made)
    }

    /// Removes what has the name already: the later entry counts.
    fn make_room(&mut self, dir: &OwnedFd, parent: &[&[u8]], name: &[u8]) -> Step<()> {
        self.clear(dir.as_fd(), name).map_err(|error| self.failed(parent, name, error))
    }

    fn clear(&mut self, dir: impl AsFd, name: &[u8]) -> io::Result<()> {
        match self.existing(dir.as_fd(), name)? {
            None => Ok(()),
            Some(Existing::Directory) => {
                // A remembered parent may be below what vanishes.
                self.last = None;
                remove_tree(dir.as_fd(), name)
            }
            Some(_) => Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?),
        }
    }

    fn existing(&self, dir: impl AsFd, name: &[u8]) -> io::Result<Option<Existing>> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
            Ok(stat) => Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Existing::Directory,
                FileType::CharacterDevice if stat.st_rdev == 0 => Existing::Whiteout,
                _ => Existing::Other,
            })),
        }
    }

    /// Owner, mode and attributes of an open file or directory; the owner first, because changing it clears set-uid bits.
    fn attributes(&self, file: impl AsFd, attributes: &Attributes) -> io::Result<()> {
        let file = file.as_fd();
        if self.privileged {
            rustix::fs::fchown(file, Some(uid(attributes.owner)), Some(gid(attributes.group)))?;
        }
        rustix::fs::fchmod(file, attributes.mode)?;
        for (name, value) in &attributes.xattrs {
            match rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
                // Without this file system's or caller's support the attribute is lost, as with other runtimes.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(Errno::PERM) if !self.privileged => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Owner and time of what cannot be opened.
    fn link_attributes(&self, dir: &OwnedFd, name: &[u8], attributes: &Attributes) -> io::Result<()> {
        if self.privileged {
            let (owner, group) = (Some(uid(attributes.owner)), Some(gid(attributes.group)));
            rustix::fs::chownat(dir, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(rustix::fs::utimensat(dir, name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn failed(&self, parent: &[&[u8]], name: &[u8], error: io::Error) -> Refused {
        let path = joined(parent, name);
        Refused::File(self.path.join(String::from_utf8_lossy(&path).as_ref()), error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    Parents,
    Nothing,
}

enum Existing {
    Directory,
    Whiteout,
    Other,
}

fn uid(id: u32) -> Uid {
    Uid::from_raw(id)
}

fn gid(id: u32) -> Gid {
    Gid::from_raw(id)
}

fn joined(parent: &[&[u8]], name: &[u8]) -> Vec<u8> {
    parent.iter().copied().chain(std::iter::once(name)).collect::<Vec<_>>().join(&b'/')
}

fn is_symlink(dir: &OwnedFd, name: &[u8]) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn set_opaque(dir: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty())?)
}

fn make_whiteout(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), rustix::fs::makedev(0, 0))
}

/// Removes a directory of this tree with everything in it. Its depth is bounded because every path was.
fn remove_tree(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    let own = rustix::fs::openat(&dir, name, DIRECTORY, Mode::empty())?;
    let mut names: Vec<(CString, bool)> = Vec::new();
    for entry in rustix::fs::Dir::read_from(&own)? {
        let entry = entry?;
        let child = entry.file_name().to_owned();
        if !matches!(child.to_bytes(), b"." | b"..") {
            let stat = rustix::fs::statat(&own, &child, AtFlags::SYMLINK_NOFOLLOW)?;
            names.push((child, FileType::from_raw_mode(stat.st_mode) == FileType::Directory));
        }
    }
    for (child, directory) in names {
        match directory {
            true => remove_tree(&own, child.to_bytes())?,
            false => rustix::fs::unlinkat(&own, &child, AtFlags::empty())?,
        }
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}
