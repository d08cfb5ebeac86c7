//! The source tree: found, filtered, hashed, copied. Nothing in it is followed out of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use dormouse_image::Digest;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{Error, Reason, Result};
use crate::project::{Entry, Request, Tree};

/// Never part of a project: version control, editors' and package managers' own places.
const ALWAYS_IGNORED: &[&str] = &[
    ".git",
    ".hg",
    ".svn",
    ".func",
    ".dormouse",
    ".DS_Store",
    ".idea",
    ".vscode",
    "node_modules",
    "__pycache__",
    "*.pyc",
    ".venv",
    "venv",
    ".mypy_cache",
    ".pytest_cache",
    ".tox",
];
/// Files that list what a build does not need, in `.gitignore`'s syntax.
const IGNORE_FILES: [&str; 2] = [".dockerignore", ".funcignore"];
/// The most entries of a tree.
const ENTRIES_MAX: usize = 500_000;
/// The deepest nesting of directories.
const DEPTH_MAX: usize = 256;

/// Where a project lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Absolute, links resolved.
    pub(crate) root: PathBuf,
    /// The name of the only file, if the project is one.
    pub(crate) file: Option<String>,
}

/// Finds the project that the request names.
pub(crate) fn locate(request: &Request) -> Result<Place> {
    let path = &request.source;
    let root = fs::canonicalize(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Reason::SourceNotFound, format!("{} does not exist", path.display()))
        }
        _ => Error::file("read", path, source),
    })?;
    if root.is_dir() {
        return Ok(Place { root, file: None });
    }
    let (parent, name) = (root.parent(), root.file_name().and_then(|name| name.to_str()));
    match (parent, name) {
        (Some(parent), Some(name)) if root.is_file() => {
            Ok(Place { root: parent.to_path_buf(), file: Some(name.to_owned()) })
        }
        _ => Err(Error::new(
            Reason::SourceNotFound,
            format!("{} is neither a directory nor a file with a readable name", path.display()),
        )),
    }
}

/// Reads the tree: every file hashed, ignored ones left out, the request's scaffold laid over.
pub(crate) fn scan(place: &Place, request: &Request) -> Result<Tree> {
    let mut walk = Walk {
        root: &place.root,
        ignore: rules(&place.root, place.file.is_some())?,
        entries: BTreeMap::new(),
        bytes: 0,
        limit: request.limits.source_bytes,
    };
    match &place.file {
        Some(name) => walk.file(&place.root.join(name), name.clone())?,
        None => walk.directory(&place.root, 0)?,
    }
    let Walk { mut entries, bytes, .. } = walk;
    for (path, text) in &request.scaffold {
        entries.insert(path.to_string_lossy().into_owned(), Entry::Scaffold { text: text.clone() });
    }
    let digest = Some(digest(entries.iter()));
    Ok(Tree { entries, digest, bytes })
}

/// The digest of some entries.
pub(crate) fn digest<'a>(entries: impl Iterator<Item = (&'a String, &'a Entry)>) -> Digest {
    let mut text = Vec::new();
    for (path, entry) in entries {
        let (kind, content) = match entry {
            Entry::File { executable: true, digest, .. } => ('x', digest.to_string()),
            Entry::File { digest, .. } => ('f', digest.to_string()),
            Entry::Link { target } => ('l', target.clone()),
            Entry::Scaffold { text } => ('f', Digest::of(text.as_bytes()).to_string()),
        };
        // Lengths first: no path or target can imitate another sequence.
        text.extend_from_slice(
            format!("{kind} {} {} {path} {content}\n", path.len(), content.len()).as_bytes(),
        );
    }
    Digest::of(&text)
}

/// Whether a stage with these `inputs` sees `path`: no inputs are all; entries are paths, directories or `*.suffix`.
pub(crate) fn is_input(inputs: &[String], path: &str) -> bool {
    inputs.is_empty()
        || inputs.iter().any(|input| match input.strip_prefix('*') {
            Some(suffix) => path.ends_with(suffix),
            None => {
                path == input || path.strip_prefix(input.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
        })
}

/// Copies the entries that a stage with these `inputs` sees into `to`, which exists; what has changed since the scan is
/// an error.
pub(crate) fn copy(place: &Place, tree: &Tree, inputs: &[String], to: &Path) -> Result<()> {
    for (path, entry) in tree.entries.iter().filter(|(path, _)| is_input(inputs, path)) {
        let (from, target) = (place.root.join(path), to.join(path));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|source| Error::file("create", parent, source))?;
        }
        let mode = match entry {
            Entry::Link { target: link } => {
                std::os::unix::fs::symlink(link, &target)
                    .map_err(|source| Error::file("create", &target, source))?;
                continue;
            }
            Entry::Scaffold { text } => {
                fs::write(&target, text).map_err(|source| Error::file("write", &target, source))?;
                0o644
            }
            Entry::File { executable, digest, .. } => {
                fs::copy(&from, &target).map_err(|source| Error::file("copy", &from, source))?;
                if Digest::of_file(&target)? != *digest {
                    let message = format!("{path} changed while it was read");
                    return Err(Error::new(Reason::SourceUnreadable, message)
                        .with_remedy("let the file rest and run the command again"));
                }
                if *executable { 0o755 } else { 0o644 }
            }
        };
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))
            .map_err(|source| Error::file("set the mode of", &target, source))?;
    }
    Ok(())
}

/// Changes whenever a file of the project is written, made or removed: names, lengths and times, nothing read. For
/// watching only; identity is [`Tree::digest`].
///
/// # Errors
/// As [`detect`](fn@crate::detect) where the tree cannot be walked.
pub fn stamp(request: &Request) -> Result<Digest> {
    let place = locate(request)?;
    let mut text = Vec::new();
    let ignore = rules(&place.root, place.file.is_some())?;
    let mut open = vec![match &place.file {
        Some(name) => place.root.join(name),
        None => place.root.clone(),
    }];
    while let Some(path) = open.pop() {
        // What vanishes meanwhile is a change that the next look sees.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            let children = fs::read_dir(&path).into_iter().flatten().flatten();
            let mut children: Vec<PathBuf> = children
                .filter_map(|child| {
                    let path = child.path();
                    let is_dir = child.file_type().is_ok_and(|kind| kind.is_dir());
                    (!ignore.matched(&path, is_dir).is_ignore()).then_some(path)
                })
                .collect();
            children.sort();
            open.extend(children);
            continue;
        }
        use std::os::unix::fs::MetadataExt;
        let line = format!("{} {} {} {}\n", path.display(), meta.len(), meta.mtime(), meta.mtime_nsec());
        text.extend_from_slice(line.as_bytes());
    }
    Ok(Digest::of(&text))
}

struct Walk<'a> {
    root: &'a Path,
    ignore: Gitignore,
    entries: BTreeMap<String, Entry>,
    bytes: u64,
    limit: u64,
}

impl Walk<'_> {
    fn directory(&mut self, dir: &Path, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::new(
                Reason::SourceTooLarge,
                format!("{} is more than {DEPTH_MAX} directories deep", dir.display()),
            ));
        }
        let unreadable = |source| Error::file("read directory", dir, source);
        for entry in fs::read_dir(dir).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            let kind = entry.file_type().map_err(|source| Error::file("read", &path, source))?;
            if self.ignore.matched(&path, kind.is_dir()).is_ignore() {
                continue;
            }
            if kind.is_dir() {
                self.directory(&path, depth + 1)?;
                continue;
            }
            let name = path.strip_prefix(self.root).ok().and_then(Path::to_str).ok_or_else(|| {
                Error::new(
                    Reason::SourceUnreadable,
                    format!("{} has a name that is not UTF-8", path.display()),
                )
                .with_remedy("rename the file, or list it in .funcignore")
            })?;
            if kind.is_symlink() {
                self.link(&path, name.to_owned())?;
            } else if kind.is_file() {
                self.file(&path, name.to_owned())?;
            } else {
                return Err(Error::new(
                    Reason::SourceUnreadable,
                    format!("{name} is a device, pipe or socket"),
                )
                .with_remedy("remove it, or list it in .funcignore"));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: String) -> Result<()> {
        let meta = fs::symlink_metadata(path).map_err(|source| Error::file("read", path, source))?;
        self.bytes += meta.len();
        if self.bytes > self.limit {
            return Err(Error::new(
                Reason::SourceTooLarge,
                format!("the source is larger than {} MiB; {name} exceeds it", self.limit >> 20),
            ));
        }
        let entry = Entry::File {
            executable: meta.permissions().mode() & 0o111 != 0,
            digest: Digest::of_file(path)?,
            bytes: meta.len(),
        };
        self.insert(name, entry)
    }

    fn link(&mut self, path: &Path, name: String) -> Result<()> {
        let target = fs::read_link(path).map_err(|source| Error::file("read", path, source))?;
        if !stays_inside(&name, &target) {
            return Err(Error::new(
                Reason::SymlinkEscapesRoot,
                format!("{name} points to {}, outside of the project", target.display()),
            ));
        }
        self.insert(name, Entry::Link { target: target.to_string_lossy().into_owned() })
    }

    fn insert(&mut self, name: String, entry: Entry) -> Result<()> {
        if self.entries.len() >= ENTRIES_MAX {
            return Err(Error::new(
                Reason::SourceTooLarge,
                format!("the source has more than {ENTRIES_MAX} files"),
            ));
        }
        self.entries.insert(name, entry);
        Ok(())
    }
}

/// Whether a relative link at `name` stays in the tree, each step of the way.
fn stays_inside(name: &str, target: &Path) -> bool {
    let mut depth = name.matches('/').count();
    for part in target.components() {
        match part {
            Component::ParentDir if depth == 0 => return false,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

fn rules(root: &Path, single: bool) -> Result<Gitignore> {
    let mut builder = GitignoreBuilder::new(root);
    let invalid = |error: ignore::Error| Error::new(Reason::ProjectInvalid, error.to_string());
    if !single {
        for pattern in ALWAYS_IGNORED {
            builder.add_line(None, pattern).map_err(invalid)?;
        }
        if root.join("Cargo.toml").is_file() || root.join("pom.xml").is_file() {
            builder.add_line(None, "/target").map_err(invalid)?;
        }
        for name in IGNORE_FILES {
            let path = root.join(name);
            if path.is_file()
                && let Some(error) = builder.add(&path)
            {
                return Err(invalid(error));
            }
        }
    }
    builder.build().map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(dir: &Path) -> Result<Tree> {
        let request = Request::new(dir);
        scan(&locate(&request)?, &request)
    }

    #[test]
    fn equal_content_has_an_equal_digest_wherever_it_lies() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [one.path(), two.path()] {
            fs::create_dir(dir.join("a")).unwrap();
            fs::write(dir.join("a/b.txt"), "b").unwrap();
            std::os::unix::fs::symlink("a/b.txt", dir.join("c")).unwrap();
        }
        fs::create_dir(two.path().join(".git")).unwrap();
        fs::write(two.path().join(".git/HEAD"), "ref").unwrap();
        assert_eq!(tree(one.path()).unwrap().digest, tree(two.path()).unwrap().digest);
        fs::set_permissions(two.path().join("a/b.txt"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(tree(one.path()).unwrap().digest, tree(two.path()).unwrap().digest);
    }

    #[test]
    fn links_that_leave_the_tree_are_refused() {
        for (name, target, inside) in [
            ("a", "b", true),
            ("d/a", "../b", true),
            ("a", "../b", false),
            ("d/a", "../../b", false),
            ("d/a", "../e/../../x", false),
            ("a", "/etc/passwd", false),
        ] {
            assert_eq!(stays_inside(name, Path::new(target)), inside, "{name} -> {target}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/shadow", dir.path().join("secret")).unwrap();
        let error = tree(dir.path()).unwrap_err();
        assert_eq!(error.reason, Reason::SymlinkEscapesRoot);
        assert!(error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn ignore_files_are_obeyed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["keep.txt", "drop.log", "important.log"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::write(dir.path().join(".funcignore"), "*.log\n!important.log\n").unwrap();
        let names: Vec<_> = tree(dir.path()).unwrap().entries.into_keys().collect();
        assert_eq!(names, [".funcignore", "important.log", "keep.txt"]);
    }

    #[test]
    fn a_stage_sees_its_inputs_only() {
        let inputs = ["package.json".to_owned(), "*.lock".to_owned(), "vendor".to_owned()];
        for (path, seen) in [
            ("package.json", true),
            ("sub/package.json", false),
            ("x/yarn.lock", true),
            ("vendor/a/b", true),
            ("vendored", false),
        ] {
            assert_eq!(is_input(&inputs, path), seen, "{path}");
        }
        assert!(is_input(&[], "anything"));
    }

    #[test]
    fn a_source_that_is_too_large_or_absent_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("big"), vec![0; 2000]).unwrap();
        let mut request = Request::new(dir.path());
        request.limits.source_bytes = 1000;
        let error = scan(&locate(&request).unwrap(), &request).unwrap_err();
        assert_eq!(error.reason, Reason::SourceTooLarge);
        assert!(error.message.contains("big"));
        let error = locate(&Request::new(dir.path().join("none"))).unwrap_err();
        assert_eq!(error.reason, Reason::SourceNotFound);
    }
}
