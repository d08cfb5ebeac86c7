//! What the host may use, what one instance may use, and what a component is allowed to touch.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::log::LogSink;
use crate::outbound::Outbound;

/// The largest linear memory that any limit may allow: it decides how the pool is laid out.
pub const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// What the host may use on this machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where compiled components are kept; nobody but the owner may write there, for it is code that is run.
    pub cache_dir: PathBuf,
    /// Bytes of compiled components that are kept; the least recently stored ones go first.
    pub cache_bytes_max: u64,
    /// The largest component that is compiled.
    pub component_bytes_max: u64,
    /// Instances at once, over all components. Further requests wait until their deadline.
    pub instances_max: u32,
    /// Loaded components that are kept ready in memory; others are mapped again when they are needed.
    pub loaded_max: usize,
    /// Threads for components that compute for long.
    pub background_threads: usize,
}

impl Config {
    /// The defaults, with the cache below `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            cache_bytes_max: 4 << 30,
            component_bytes_max: 256 << 20,
            instances_max: 1000,
            loaded_max: 1024,
            background_threads: 2,
        }
    }
}

/// What one request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance; at most [`MEMORY_BYTES_MAX`].
    pub memory_bytes: u64,
    /// From the arrival of a request to the last byte of its response.
    pub request_timeout: Duration,
    /// Requests that one instance serves, one after the other, before it is thrown away. One is full isolation.
    pub requests_per_instance: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            request_timeout: Duration::from_secs(300),
            requests_per_instance: NonZeroU32::MIN,
        }
    }
}

/// A directory of this machine that a component sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Where it is here.
    pub host: PathBuf,
    /// Where the component finds it.
    pub guest: String,
    /// Whether the component may change it.
    pub writable: bool,
}

/// What a component may touch. The default is nothing: it can compute, tell the time and draw random numbers.
#[derive(Clone, Default)]
pub struct Grants {
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Arguments of the program.
    pub arguments: Vec<String>,
    /// Where its output and the reasons of its failures go.
    pub log: Option<Arc<dyn LogSink>>,
    /// Directories.
    pub directories: Vec<Directory>,
    /// Outgoing HTTP requests; without it every one is denied.
    pub outbound: Option<Outbound>,
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values of the environment are secrets.
        let names: Vec<&String> = self.environment.iter().map(|(name, _)| name).collect();
        formatter
            .debug_struct("Grants")
            .field("environment", &names)
            .field("arguments", &self.arguments)
            .field("log", &self.log.is_some())
            .field("directories", &self.directories)
            .field("outbound", &self.outbound)
            .finish()
    }
}
