//! What a build tells while it runs, and what it leaves.

use std::time::Duration;

use dormouse_image::Digest;
use serde::{Deserialize, Serialize};

use crate::project::Language;

/// One thing that happens during a build.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The project was recognised.
    Detected {
        /// What it is.
        language: Language,
        /// The files that told it.
        evidence: &'a [String],
        /// Files of the source.
        files: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// A phase begins.
    Started(&'a str),
    /// A phase has ended well.
    Finished(&'a Phase),
    /// A line that a tool wrote, without its end.
    Output(&'a str),
}

/// Where a build tells what happens; called from the thread that builds.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
    /// Whether the build shall end now.
    fn canceled(&self) -> bool {
        false
    }
}

/// Tells nobody and is never canceled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn event(&self, _: Event<'_>) {}
}

/// One phase: a stage of the plan, the base, a layer, the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// `dependencies`, `compile`, `base`, `layers`…
    pub name: String,
    /// Whether an earlier result was taken.
    pub reused: bool,
    /// How long it took.
    #[serde(with = "seconds")]
    pub took: Duration,
}

/// A finished build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Built {
    /// The image with its tag.
    pub image: String,
    /// The manifest.
    pub digest: Digest,
    /// What it was built from.
    pub language: Language,
    /// The service's name.
    pub name: String,
    /// The port that it listens on.
    pub port: u16,
    /// The digest of the plan.
    pub plan: Digest,
    /// Compressed bytes of all layers and documents, the base included.
    pub bytes: u64,
    /// Whether nothing had to be done at all.
    pub reused: bool,
    /// What was done.
    pub phases: Vec<Phase>,
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(took.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        f64::deserialize(deserializer).map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
    }
}
