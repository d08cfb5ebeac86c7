//! What the node is told at its start, and the names that follow from it.

use std::path::{Path, PathBuf};

use dormouse_base::task::Tasks;
use sha2::{Digest, Sha256};

/// Configuration of the node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The platform's data directory; the node uses `work/`, `logs/`, `volumes/` and `node/` below it.
    pub data_dir: PathBuf,
    /// A directory for mounts of network namespaces, best on a tmpfs (`/run/dormouse/<name>`).
    pub run_dir: PathBuf,
    /// This program, executed as `<exe> keeper --dir <keeper_dir>` when the keeper has died.
    pub exe: PathBuf,
    /// The keeper's directory.
    pub keeper_dir: PathBuf,
    /// Name of the Node object and of `spec.nodeName`.
    pub node_name: String,
    /// Version told in the Node object.
    pub version: String,
    /// How many networks are kept ready; the pool grows past it when instances end, up to four times as many.
    pub networks_ready: usize,
    /// How many cgroups with work directories are kept ready.
    pub slots_ready: usize,
    /// Where the tasks of instances run, so that nothing else delays a start; else in the caller's runtime.
    pub hot: Option<tokio::runtime::Handle>,
    /// Name servers for instances; empty takes those of the host.
    pub nameservers: Vec<String>,
}

impl Config {
    /// The defaults for a data directory: pools of 32, names derived from the path.
    pub fn new(data_dir: &Path, exe: PathBuf) -> Self {
        Self {
            data_dir: data_dir.to_path_buf(),
            run_dir: PathBuf::from("/run/dormouse").join(hash(data_dir)),
            exe,
            keeper_dir: data_dir.join("keeper"),
            node_name: "dormouse".to_owned(),
            version: String::new(),
            networks_ready: 32,
            slots_ready: 32,
            hot: None,
            nameservers: Vec::new(),
        }
    }

    /// `tasks`, for what a starting instance waits for.
    pub(crate) fn hot_tasks(&self, tasks: &Tasks) -> Tasks {
        self.hot.as_ref().map_or_else(|| tasks.clone(), |hot| tasks.at(hot.clone()))
    }

    pub(crate) fn names(&self) -> Names {
        Names::new(&self.data_dir)
    }
}

/// What everything of one platform instance is called in the kernel, so that it can be found and removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// Eight hexadecimal digits from the data directory.
    pub(crate) hash: String,
}

impl Names {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { hash: hash(data_dir) }
    }

    pub(crate) fn bridge(&self) -> String {
        format!("dm{}", self.hash)
    }

    pub(crate) fn link_prefix(&self) -> String {
        format!("dv{}", self.hash)
    }

    /// At most 14 characters; the kernel takes 15.
    pub(crate) fn link(&self, number: u16) -> String {
        format!("dv{}{number:04x}", self.hash)
    }

    pub(crate) fn table(&self) -> String {
        format!("dormouse_{}", self.hash)
    }

    pub(crate) fn cgroup(&self) -> String {
        format!("dormouse-{}", self.hash)
    }
}

fn hash(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_differ_between_data_directories() {
        let (one, two) = (Names::new(Path::new("/a")), Names::new(Path::new("/b")));
        assert_ne!(one, two);
        assert!(one.bridge().len() <= 15);
        assert!(one.link(u16::MAX).len() <= 15);
        assert!(one.link(7).starts_with(&one.link_prefix()));
    }
}
