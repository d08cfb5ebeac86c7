//! From a plan's copies to the entries of a layer: only content, never the machine's times, owners or masks.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use dormouse_image::{LayerContent, LayerItem};

use crate::error::{Error, Reason, Result};
use crate::plan::{Copy, LayerPlan};

/// The static file server.
const SERVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/serve"));

/// Entries by their path in the image.
pub(crate) type Items = BTreeMap<PathBuf, LayerItem>;

/// Where the places of a plan are.
pub(crate) struct Places<'a> {
    /// `$SRC`.
    pub(crate) source: &'a Path,
    /// `$STAGE/<name>`.
    pub(crate) stages: &'a BTreeMap<String, PathBuf>,
}

/// The entries of `layer`.
pub(crate) fn items(layer: &LayerPlan, places: &Places<'_>) -> Result<Items> {
    let mut items = Items::new();
    for copy in &layer.copies {
        if let Some(name) = copy.from.strip_prefix("builtin:") {
            let content = match name {
                "serve" => LayerContent::Bytes(SERVE.to_vec()),
                _ => return Err(Error::new(Reason::Internal, format!("nothing is built in as {name}"))),
            };
            items.insert(relative(&copy.to), LayerItem::File { mode: 0o755, content });
            continue;
        }
        let from = places.resolve(copy)?;
        add(&from, &relative(&copy.to), &copy.except, &mut items)?;
    }
    Ok(items)
}

/// Adds the file or tree at `from` as `to`.
pub(crate) fn add(from: &Path, to: &Path, except: &[String], items: &mut Items) -> Result<()> {
    let unreadable = |source| Error::file("read", from, source);
    let meta = fs::symlink_metadata(from).map_err(unreadable)?;
    if meta.is_symlink() {
        let target = fs::read_link(from).map_err(unreadable)?;
        items.insert(to.to_path_buf(), LayerItem::Link { target });
    } else if meta.is_file() {
        let mode = if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
        items.insert(
            to.to_path_buf(),
            LayerItem::File { mode, content: LayerContent::Path(from.to_path_buf()) },
        );
    } else if meta.is_dir() {
        items.insert(to.to_path_buf(), LayerItem::Directory { mode: 0o755 });
        for entry in fs::read_dir(from).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            if !excepted(except, &name.to_string_lossy()) {
                add(&entry.path(), &to.join(&name), except, items)?;
            }
        }
    }
    // Sockets and pipes that a build leaves are no content.
    Ok(())
}

fn excepted(except: &[String], name: &str) -> bool {
    except.iter().any(|entry| match entry.strip_prefix('*') {
        Some(suffix) => name.ends_with(suffix),
        None => entry == name,
    })
}

fn relative(path: &str) -> PathBuf {
    PathBuf::from(path.trim_start_matches('/'))
}

impl Places<'_> {
    /// The place of a copy's origin. A build step may have left a link where the plan expects a directory; following it
    /// would put the machine's own files into the image.
    pub(crate) fn resolve(&self, copy: &Copy) -> Result<PathBuf> {
        let internal = || Error::new(Reason::Internal, format!("the plan copies from {}", copy.from));
        let (place, rest) = match copy.from.strip_prefix("$STAGE/") {
            Some(rest) => {
                let (stage, rest) = rest.split_once('/').unwrap_or((rest, ""));
                (self.stages.get(stage).ok_or_else(internal)?.as_path(), rest)
            }
            None => match copy.from.strip_prefix("$SRC") {
                Some(rest) => (self.source, rest.trim_start_matches('/')),
                None => return Err(internal()),
            },
        };
        let missing = || {
            Error::new(Reason::OutputMissing, format!("the build left no {}", copy.from))
                .with_remedy(Reason::OutputMissing.remedy())
        };
        let mut path = place.to_path_buf();
        let mut parts = Path::new(rest).components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else { return Err(internal()) };
            path.push(name);
            let meta = fs::symlink_metadata(&path).map_err(|_| missing())?;
            if parts.peek().is_some() && !meta.is_dir() {
                return Err(missing());
            }
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(from: &str, to: &str, except: &[&str]) -> LayerPlan {
        let except = except.iter().map(|name| (*name).to_owned()).collect();
        LayerPlan { name: "x".into(), copies: vec![Copy { from: from.into(), to: to.into(), except }] }
    }

    #[test]
    fn trees_are_copied_without_what_is_excepted() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/b.txt", "a/c.pyc", "a/__pycache__/d"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let stages = BTreeMap::new();
        let places = Places { source: dir.path(), stages: &stages };
        let items = items(&copies("$SRC/a", "/app", &["*.pyc", "__pycache__"]), &places).unwrap();
        let names: Vec<_> = items.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, ["app", "app/b.txt"]);
    }

    #[test]
    fn a_link_left_by_a_step_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        let stages = BTreeMap::from([("compile".to_owned(), dir.path().to_path_buf())]);
        let places = Places { source: dir.path(), stages: &stages };
        let error = items(&copies("$STAGE/compile/out/shadow", "/x", &[]), &places).err().unwrap();
        assert_eq!(error.reason, Reason::OutputMissing);
        let items = items(&copies("$STAGE/compile/out", "/x", &[]), &places).unwrap();
        assert!(matches!(items.get(Path::new("x")), Some(LayerItem::Link { .. })));
    }

    #[test]
    fn what_the_build_did_not_leave_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let stages = BTreeMap::from([("compile".to_owned(), dir.path().to_path_buf())]);
        let places = Places { source: dir.path(), stages: &stages };
        let error = items(&copies("$STAGE/compile/app", "/app", &[]), &places).err().unwrap();
        assert_eq!(error.reason, Reason::OutputMissing);
        assert!(error.message.contains("$STAGE/compile/app"));
    }
}
