//! What the user asked for and what was found: the request, the languages, the project.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use dormouse_image::Digest;
use serde::{Deserialize, Serialize};

/// The port that programs listen on unless their project says otherwise.
pub const DEFAULT_PORT: u16 = 8080;

/// What a project is written in, which decides how it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// `go.mod`.
    Go,
    /// `Cargo.toml`.
    Rust,
    /// `package.json`.
    Node,
    /// `package.json` with `tsconfig.json`.
    TypeScript,
    /// `pyproject.toml`, `requirements.txt`, or Python files only.
    Python,
    /// `pom.xml`, or Java files only.
    Java,
    /// `index.html`.
    Static,
    /// `Procfile`, or one program.
    Binary,
    /// One `.wasm` component.
    Wasm,
    /// `Dockerfile` or `Containerfile`.
    Dockerfile,
}

/// What to build. [`Request::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Request {
    /// The project's directory, or one file (a program or a component).
    pub source: PathBuf,
    /// The name of the service and of the image [default: the directory's name].
    pub name: Option<String>,
    /// Instead of detection.
    pub language: Option<Language>,
    /// Files laid over the source before it is hashed and built, by their path in the project: what a function
    /// project's main program needs. They replace the project's files of the same path.
    pub scaffold: BTreeMap<PathBuf, String>,
    /// Variables of the build steps. Loader, shell and interpreter hooks are refused.
    pub build_env: BTreeMap<String, String>,
    /// Instead of the command that the project tells.
    pub command: Vec<String>,
    /// More variables of the image.
    pub env: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// The port to expose [default: the project's, or 8080].
    pub port: Option<u16>,
    /// A base image instead of the usual one.
    pub base: Option<String>,
    /// Never use the network.
    pub offline: bool,
    /// Bounds of the build steps.
    pub limits: StepLimits,
}

/// Bounds of every build step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Wall-clock time of one step.
    pub timeout: Duration,
    /// Memory in bytes, where cgroups are available.
    pub memory_bytes: u64,
    /// Processes and threads, where cgroups are available.
    pub processes: u64,
    /// Output in bytes; what is beyond it is counted and dropped.
    pub output_bytes: u64,
    /// The size of one file, in bytes.
    pub file_bytes: u64,
    /// The largest source tree, in bytes.
    pub source_bytes: u64,
}

/// A project as it was found.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its directory, absolute. For a single file, the directory that holds it.
    pub root: PathBuf,
    /// The only file, by its name in `root`, when the project is one file.
    pub file: Option<String>,
    /// A DNS label.
    pub name: String,
    /// What decides how it is built.
    pub language: Language,
    /// The files that led to the language, for the report.
    pub evidence: Vec<String>,
    /// Its content, ignored files left out.
    pub tree: Tree,
}

/// The content of a source tree. Equal content gives an equal digest wherever it lies and whenever it was touched.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Relative paths with `/`, sorted by bytes.
    pub entries: BTreeMap<String, Entry>,
    /// The digest over paths, kinds, executable bits and contents.
    pub digest: Option<Digest>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file of the project.
    File {
        /// Whether it may be executed: the only part of the mode that is content.
        executable: bool,
        /// Of its bytes.
        digest: Digest,
        /// Its length.
        bytes: u64,
    },
    /// A symbolic link that stays inside.
    Link {
        /// As it stands.
        target: String,
    },
    /// A file of the request's scaffold.
    Scaffold {
        /// Its content.
        text: String,
    },
}

// === impl Language ===

impl Language {
    /// All of them, in the order in which they are looked for.
    pub const ALL: [Self; 10] = [
        Self::Dockerfile,
        Self::Go,
        Self::Rust,
        Self::TypeScript,
        Self::Node,
        Self::Python,
        Self::Java,
        Self::Static,
        Self::Binary,
        Self::Wasm,
    ];

    /// The name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Rust => "rust",
            Self::Node => "node",
            Self::TypeScript => "typescript",
            Self::Python => "python",
            Self::Java => "java",
            Self::Static => "static",
            Self::Binary => "binary",
            Self::Wasm => "wasm",
            Self::Dockerfile => "dockerfile",
        }
    }

    /// Reads the name as users write it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.name() == text)
    }
}

impl std::fmt::Display for Language {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Request ===

impl Request {
    /// A build of `source` with everything detected.
    pub fn new(source: impl Into<PathBuf>) -> Self {
        Self {
            source: source.into(),
            name: None,
            language: None,
            scaffold: BTreeMap::new(),
            build_env: BTreeMap::new(),
            command: Vec::new(),
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            port: None,
            base: None,
            offline: false,
            limits: StepLimits::default(),
        }
    }
}

impl Default for StepLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            memory_bytes: 4 << 30,
            processes: 2048,
            output_bytes: 4 << 20,
            file_bytes: 4 << 30,
            source_bytes: 2 << 30,
        }
    }
}

// === impl Tree ===

impl Tree {
    /// Whether there is a file (or link) of this path.
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// The names directly in the root that are files.
    pub fn top(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str).filter(|path| !path.contains('/'))
    }
}
