//! WebAssembly components: instances without a process. The node declares what it needs of an engine, the binary wires one.
//!
//! A component's instance is a listener on the loopback and a log; it costs nothing while no request comes. There is no
//! sandbox, no network and no cgroup: the engine bounds memory and time, and what the component may touch is listed in its
//! [`ComponentPlan`].

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dormouse_base::clock;
use dormouse_sandbox::{Log, LogPlan, Stream};
use futures::future::BoxFuture;

/// Runs components in this process.
pub trait Components: Send + Sync {
    /// Makes a component ready ahead of its first request: compiled, or found compiled. Answers when it can be served.
    fn prepare(&self, source: ComponentSource) -> BoxFuture<'static, Result<(), ComponentError>>;

    /// Answers requests on a loopback address until it is told to stop. It runs while a request waits: everything slow
    /// belongs into [`Components::prepare`].
    fn serve(&self, plan: ComponentPlan) -> BoxFuture<'static, Result<Box<dyn Serving>, ComponentError>>;
}

/// A component that takes requests.
pub trait Serving: Send + Sync {
    /// Where.
    fn address(&self) -> SocketAddr;
    /// Accepts no more, waits at most `grace` for requests in flight, cuts the rest.
    fn stop(&self, grace: Duration) -> BoxFuture<'_, ()>;
}

/// Why a component cannot run, in the words of a container's waiting state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentError {
    /// One word, as `ImportNotGranted`.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// Which component, and what else must be right before it can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSource {
    /// `sha256:…` of its bytes.
    pub digest: String,
    /// Where its bytes are now.
    pub path: PathBuf,
    /// Hosts that it may call.
    pub allowed_hosts: Vec<String>,
}

/// A directory that a component sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentDirectory {
    /// Where it is on this machine.
    pub host: PathBuf,
    /// Where the component finds it.
    pub guest: String,
    /// Whether the component may change it.
    pub writable: bool,
}

/// One instance of a component: all that it may use and touch.
#[derive(Debug)]
pub struct ComponentPlan {
    /// Which one.
    pub source: ComponentSource,
    /// Arguments of the program, its name first.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Directories.
    pub directories: Vec<ComponentDirectory>,
    /// Memory of each request; the engine's default when absent.
    pub memory_bytes: Option<u64>,
    /// From the arrival of a request to the last byte of its response.
    pub request_timeout: Duration,
    /// Requests that are served one after the other with the same memory.
    pub requests_per_instance: NonZeroU32,
    /// Takes its output.
    pub log: ComponentLog,
}

/// The log of an instance: what `kubectl logs` reads.
#[derive(Debug)]
pub struct ComponentLog {
    log: Mutex<Log>,
    broken: AtomicBool,
}

// === impl ComponentLog ===

impl ComponentLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { log: Mutex::new(Log::new(LogPlan::new(path))), broken: AtomicBool::new(false) }
    }

    /// Takes output as it comes; `stderr` tells which of the two.
    pub fn write(&self, stderr: bool, bytes: &[u8]) {
        let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        self.note(log.feed(stream, bytes, clock::wall()));
    }

    /// A full disk is told once, not per line.
    fn note(&self, written: std::io::Result<()>) {
        if let Err(error) = written
            && !self.broken.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "could not write the log of a component");
        }
    }
}

impl Drop for ComponentLog {
    fn drop(&mut self) {
        let written = self.log.get_mut().unwrap_or_else(PoisonError::into_inner).finish(clock::wall());
        self.note(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_lines_of_both_streams_and_the_unfinished_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = ComponentLog::new(path.clone());
        assert!(!path.exists(), "a silent instance has no file");
        log.write(false, b"hello\nwor");
        log.write(true, b"oops\n");
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> =
            text.lines().filter_map(|line| line.split_once(' ')).map(|(_, line)| line).collect();
        assert_eq!(lines, ["stdout F hello", "stderr F oops", "stdout F wor"]);
    }
}
