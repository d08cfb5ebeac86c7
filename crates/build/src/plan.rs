//! The plan: everything that a build will do, as data. The same source and tools give the same plan wherever the source
//! lies, so its digest is the key of the whole build.
//!
//! Paths in commands use places that the engine fills in: `$SRC` (a private copy of the source, where commands start),
//! `$OUT` (an empty directory for results), `$STAGE/<name>` (the results of an earlier stage, read-only) and
//! `$CACHE/<name>` (kept between builds).

use std::collections::{BTreeMap, BTreeSet};

use dormouse_image::Digest;
use serde::{Deserialize, Serialize};

use crate::project::Language;

/// Changes whenever the same plan would give another image.
pub const RECIPE: u32 = 1;

/// What a build will do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The version of the recipes.
    pub recipe: u32,
    /// The service's and image's name.
    pub name: String,
    /// What the project is written in.
    pub language: Language,
    /// The digest of the source tree.
    pub source: Digest,
    /// The tools that stages run; their versions are part of every key.
    pub tools: Vec<Tool>,
    /// What is run, in this order.
    pub stages: Vec<Stage>,
    /// What lies below the layers.
    pub base: Base,
    /// What is assembled, bottom first.
    pub layers: Vec<LayerPlan>,
    /// How the image runs.
    pub run: Run,
}

/// A tool of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tool {
    /// `go`, `node`…
    pub name: String,
    /// As the tool tells it.
    pub version: String,
}

/// One stage: commands that run one after the other in one sandbox, and what they leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// `dependencies`, `compile`…
    pub name: String,
    /// The program and its arguments, for each command.
    pub commands: Vec<Vec<String>>,
    /// Variables of the commands.
    pub env: BTreeMap<String, String>,
    /// Whether the commands may use the network; no code of the project or of its dependencies runs then.
    pub network: bool,
    /// The source files that the stage sees; all when empty. Entries are paths or `*.suffix`.
    pub inputs: Vec<String>,
    /// Caches that it may use.
    pub caches: BTreeSet<Cache>,
    /// Whether what it leaves in `$OUT` stays valid for the same inputs, so that it need not run again.
    pub keep: bool,
}

/// A directory kept between builds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// Its name below `$CACHE`.
    pub name: String,
    /// Whether all projects share it (downloads) or each has its own (what its code may write).
    pub shared: bool,
}

/// What lies below the layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Base {
    /// Nothing but `/etc/passwd`, `/tmp` and certificates.
    Scratch,
    /// An image of the store or of a registry.
    Image {
        /// Its name.
        reference: String,
    },
    /// The host's interpreter, made into an image once.
    Interpreter {
        /// `node`, `python` or `java`.
        name: String,
        /// Its version.
        version: String,
    },
    /// No image at all: the result is an artifact of one file.
    Artifact,
    /// What the project's Dockerfile says, which buildah builds.
    Dockerfile,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerPlan {
    /// `dependencies`, `application`…
    pub name: String,
    /// What goes in.
    pub copies: Vec<Copy>,
}

/// A file or directory that goes into a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copy {
    /// `$SRC/…`, `$STAGE/<name>/…`, or `builtin:<name>` for what this program brings along.
    pub from: String,
    /// Absolute path in the image.
    pub to: String,
    /// Names (at any depth) and `*.suffix` left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// How the image runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `NAME` to `value`.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub working_dir: String,
    /// The port that it listens on.
    pub port: u16,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
}

// === impl Plan ===

impl Plan {
    /// The digest of its canonical JSON: the key of the whole build.
    pub fn digest(&self) -> Digest {
        // Only strings, numbers and sorted maps: this cannot fail.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

// === impl Cache ===

impl Cache {
    /// A cache of downloads, shared by all projects.
    pub fn shared(name: &str) -> Self {
        Self { name: name.to_owned(), shared: true }
    }

    /// A cache of this project alone.
    pub fn own(name: &str) -> Self {
        Self { name: name.to_owned(), shared: false }
    }
}
