//! `<data-dir>/run/state.json`: how a running platform is found. Written whole when it is truly ready, removed at the end.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// Where a running platform listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The main process.
    pub pid: u32,
    /// The keeper process.
    pub keeper_pid: u32,
    /// Kubernetes API, `address:port`.
    pub api: String,
    /// Public gateway.
    pub gateway: String,
    /// Gateway for cluster-local hosts.
    pub internal_gateway: String,
    /// OCI registry.
    pub registry: String,
    /// Health, metrics and status.
    pub admin: String,
    /// Credentials for kubectl.
    pub kubeconfig: PathBuf,
}

impl State {
    /// The file's place in `data_dir`.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("run/state.json")
    }

    /// Replaces the file in one step.
    ///
    /// # Errors
    /// Names the file.
    pub fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(data_dir);
        let parent = path.parent().context("state.json has a parent")?;
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let temporary = path.with_extension("json.new");
        std::fs::write(&temporary, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", temporary.display()))?;
        std::fs::rename(&temporary, &path).with_context(|| format!("replace {}", path.display()))
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// Names the file when it cannot be read or understood.
    pub fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(data_dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => bail!("read {}: {error}", path.display()),
        };
        Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))?))
    }

    /// Removes the file; none is fine.
    pub fn remove(data_dir: &Path) {
        let _ = std::fs::remove_file(Self::path(data_dir));
    }

    /// Whether the process of this state still runs (and is a dormouse, not a reused process id).
    pub fn runs(&self) -> bool {
        process_is_dormouse(self.pid)
    }
}

/// Whether process `pid` exists, has not ended (a zombie waits only for its parent) and is called dormouse.
pub fn process_is_dormouse(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_live_dormouse(&stat))
}

fn is_live_dormouse(stat: &str) -> bool {
    // `pid (name) state …`; a name may contain parentheses, so the last one counts.
    let Some((head, tail)) = stat.rsplit_once(')') else { return false };
    let named = head.split_once('(').is_some_and(|(_, name)| name.starts_with("dormouse"));
    named && !matches!(tail.trim_start().chars().next(), Some('Z' | 'X') | None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_or_another_program_is_not_running() {
        assert!(is_live_dormouse("12 (dormouse) S 1 2"));
        assert!(!is_live_dormouse("12 (dormouse) Z 1 2"));
        assert!(!is_live_dormouse("12 (bash) S 1 2"));
        assert!(!is_live_dormouse(""));
    }

    #[test]
    fn a_written_state_reads_back_and_a_broken_one_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), None);
        let state = State {
            pid: 1,
            keeper_pid: 2,
            api: "127.0.0.1:6443".into(),
            gateway: "127.0.0.1:80".into(),
            internal_gateway: "127.0.0.1:8081".into(),
            registry: "127.0.0.1:5000".into(),
            admin: "127.0.0.1:9091".into(),
            kubeconfig: dir.path().join("kubeconfig"),
        };
        state.write(dir.path()).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), Some(state));
        std::fs::write(State::path(dir.path()), b"{").unwrap();
        let text = format!("{:#}", State::read(dir.path()).unwrap_err());
        assert!(text.contains("state.json"), "{text}");
    }
}
