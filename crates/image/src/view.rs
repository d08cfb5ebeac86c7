//! Reading single files of the merged layers without mounting them: `etc/passwd`, `etc/group`.
//!
//! Follows overlayfs: the topmost layer wins, a character device 0/0 hides, an opaque directory ends the search.
//! Symbolic links are resolved within the image, never on this machine.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;
/// The largest `passwd` or `group` that is read.
const DATABASE_BYTES_MAX: u64 = 8 << 20;

/// What a path is in the merged view.
enum Found {
    Nothing,
    Directory,
    File(OwnedFd),
    Link(PathBuf),
    Other,
}

/// Reads `path` of the merged `layers` (top first); nothing if it is no regular file.
pub(crate) fn read(layers: &[PathBuf], path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let mut todo: VecDeque<OsString> = parts(path);
    let mut done = PathBuf::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        match lookup(layers, &next)? {
            Found::Directory => done = next,
            Found::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Ok(None);
                }
                if target.is_absolute() {
                    done = PathBuf::new();
                }
                let mut front = parts(&target);
                front.append(&mut todo);
                todo = front;
            }
            Found::File(file) if todo.is_empty() => {
                let mut bytes = Vec::new();
                std::fs::File::from(file)
                    .take(limit + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|source| Error::file("read", &next, source))?;
                if bytes.len() as u64 > limit {
                    return Err(Error::TooLarge {
                        subject: format!("{} of the image", next.display()),
                        limit,
                    });
                }
                return Ok(Some(bytes));
            }
            Found::File(_) | Found::Other | Found::Nothing => return Ok(None),
        }
    }
    Ok(None)
}

/// The components of a path; the root and `.` say nothing.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// What the topmost layer that knows `path` says; its parents are directories without links.
fn lookup(layers: &[PathBuf], path: &Path) -> Result<Found> {
    let mut visible: Vec<&PathBuf> = layers.iter().collect();
    let mut prefix = PathBuf::new();
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        prefix.push(component);
        let last = components.peek().is_none();
        let mut merged = Vec::new();
        for layer in visible {
            let full = layer.join(&prefix);
            let fail = |errno: Errno| Error::file("read", &full, errno);
            let stat = match rustix::fs::statat(rustix::fs::CWD, &full, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(errno) => return Err(fail(errno)),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    merged.push(layer);
                    if is_opaque(&full) {
                        break;
                    }
                }
                // Hidden by a directory above, or the end of the search.
                _ if !merged.is_empty() => break,
                FileType::CharacterDevice if stat.st_rdev == 0 => break,
                _ if !last => return Ok(Found::Nothing),
                FileType::RegularFile => return Ok(Found::File(open(layer, &prefix).map_err(fail)?)),
                FileType::Symlink => {
                    let target =
                        std::fs::read_link(&full).map_err(|source| Error::file("read", &full, source))?;
                    return Ok(Found::Link(target));
                }
                _ => return Ok(Found::Other),
            }
        }
        if merged.is_empty() {
            return Ok(Found::Nothing);
        }
        visible = merged;
    }
    Ok(Found::Directory)
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0u8; 4];
    rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value).is_ok_and(|length| length > 0)
}

fn open(layer: &Path, path: &Path) -> rustix::io::Result<OwnedFd> {
    let root = rustix::fs::open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
        // Kernels before 5.6; every component was just seen to be a directory.
        Err(Errno::NOSYS) => rustix::fs::openat(&root, path, flags, Mode::empty()),
        other => other,
    }
}

/// A line of `etc/passwd`.
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// A line of `etc/group`.
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// The home directory of `uid`, if the image tells one.
pub(crate) fn home(layers: &[PathBuf], uid: u32) -> Result<Option<String>> {
    Ok(accounts(layers)?
        .into_iter()
        .find(|account| account.uid == uid)
        .map(|account| account.home)
        .filter(|home| !home.is_empty()))
}

/// Resolves `[user][:group]`, each a name or a number, to user, group and supplementary groups.
pub(crate) fn user(layers: &[PathBuf], spec: &str) -> Result<(u32, u32, Vec<u32>)> {
    let missing = |reason: String| Error::User { spec: spec.to_owned(), reason };
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let accounts = accounts(layers)?;
    let number = user.parse::<u32>().ok();
    // A name that is a number counts as the number, as with other runtimes.
    let account = accounts.iter().find(|account| match number {
        Some(uid) => account.uid == uid,
        None => account.name == user,
    });
    let (uid, primary) = match (account, number) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => return Err(missing(format!("no user {user:?} in etc/passwd"))),
    };
    let groups = groups(layers)?;
    if let Some(group) = group {
        let gid = match (group.parse::<u32>(), groups.iter().find(|entry| entry.name == group)) {
            (Ok(gid), _) => gid,
            (Err(_), Some(entry)) => entry.gid,
            (Err(_), None) => return Err(missing(format!("no group {group:?} in etc/group"))),
        };
        return Ok((uid, gid, Vec::new()));
    }
    let mut more: Vec<u32> = match account {
        Some(account) => groups
            .iter()
            .filter(|entry| entry.members.contains(&account.name))
            .map(|entry| entry.gid)
            .collect(),
        None => Vec::new(),
    };
    more.sort_unstable();
    more.dedup();
    Ok((uid, primary, more))
}

fn accounts(layers: &[PathBuf]) -> Result<Vec<Account>> {
    let account = |line: &str| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Account { name: name.to_owned(), uid, gid, home: home.to_owned() })
    };
    Ok(lines(layers, "etc/passwd")?.lines().filter_map(account).collect())
}

fn groups(layers: &[PathBuf]) -> Result<Vec<Group>> {
    let group = |line: &str| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
        Some(Group { name: name.to_owned(), gid, members })
    };
    Ok(lines(layers, "etc/group")?.lines().filter_map(group).collect())
}

fn lines(layers: &[PathBuf], path: &str) -> Result<String> {
    let bytes = read(layers, Path::new(path), DATABASE_BYTES_MAX)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn layers(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..count).map(|n| dir.path().join(n.to_string())).collect();
        for layer in &layers {
            fs::create_dir_all(layer.join("etc")).unwrap();
        }
        (dir, layers)
    }

    #[test]
    fn the_topmost_layer_wins_and_links_stay_inside() {
        let (_dir, layers) = layers(2);
        fs::create_dir(layers[1].join("real")).unwrap();
        fs::write(layers[1].join("real/passwd"), "app:x:7:8::/home/app:/bin/sh\n").unwrap();
        symlink("/real/passwd", layers[0].join("etc/passwd")).unwrap();
        assert_eq!(user(&layers, "app").unwrap(), (7, 8, vec![]));
        assert_eq!(home(&layers, 7).unwrap().as_deref(), Some("/home/app"));
        symlink("../../../../etc/passwd", layers[0].join("etc/group")).unwrap();
        let found = groups(&layers).unwrap();
        assert!(found.len() == 1 && found[0].name == "app", "the image's file, not this machine's");
    }

    #[test]
    fn users_and_groups_resolve_by_name_and_number() {
        let (_dir, layers) = layers(1);
        fs::write(layers[0].join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n")
            .unwrap();
        fs::write(layers[0].join("etc/group"), "root:x:0:\napp:x:1001:\nvideo:x:44:app,root\nweb:x:80:\n")
            .unwrap();
        for (spec, expect) in [
            ("", (0, 0, vec![44])),
            ("app", (1000, 1001, vec![44])),
            ("1000", (1000, 1001, vec![44])),
            ("app:web", (1000, 80, vec![])),
            ("5:6", (5, 6, vec![])),
            ("5", (5, 0, vec![])),
            (":web", (0, 80, vec![])),
        ] {
            assert_eq!(user(&layers, spec).unwrap(), expect, "{spec:?}");
        }
        assert!(user(&layers, "nobody").unwrap_err().to_string().contains("no user \"nobody\""));
        assert!(user(&layers, "app:none").unwrap_err().to_string().contains("no group \"none\""));
    }

    #[test]
    fn whiteouts_hide_what_is_below() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: whiteout devices need root");
        }
        let (_dir, layers) = layers(2);
        fs::write(layers[1].join("etc/passwd"), "app:x:7:8::/:/bin/sh\n").unwrap();
        assert!(user(&layers, "app").is_ok());
        let whiteout = layers[0].join("etc/passwd");
        let device = rustix::fs::makedev(0, 0);
        rustix::fs::mknodat(rustix::fs::CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), device)
            .unwrap();
        assert!(user(&layers, "app").is_err());
        fs::remove_file(&whiteout).unwrap();
        rustix::fs::setxattr(
            layers[0].join("etc"),
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        assert!(user(&layers, "app").is_err());
    }
}
