//! Why a build failed: a stable reason, what happened, what to do, and the tool's own words.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use dormouse_base::class::{Action, Class, Origin};
use serde::{Deserialize, Serialize};

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// The stable names of what can go wrong; they appear in conditions, logs and exit messages and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it; `remedy` has the sentence for each")]
pub enum Reason {
    SourceNotFound,
    SourceTooLarge,
    SourceUnreadable,
    SymlinkEscapesRoot,
    LanguageNotDetected,
    AmbiguousLanguage,
    ProjectInvalid,
    EntrypointNotFound,
    ToolchainMissing,
    ToolchainVersionMismatch,
    LockfileMissing,
    LockfileOutOfDate,
    DependencyFetchFailed,
    OfflineCacheMiss,
    CompileFailed,
    BaseImageNotFound,
    EngineUnavailable,
    EngineFailed,
    DockerfileInvalid,
    EnvironmentForbidden,
    LayerTooLarge,
    OutputMissing,
    PushUnauthorized,
    PushDenied,
    RegistryUnreachable,
    DiskFull,
    BuildRunTimeout,
    BuildRunCanceled,
    StepOutOfMemory,
    StepProcessLimit,
    SandboxFailed,
    GitAuthInvalidUserOrPass,
    GitAuthInvalidKey,
    GitRevisionNotFound,
    GitRemoteRepositoryNotFound,
    GitRemoteRepositoryPrivate,
    GitError,
    VulnerabilitiesFound,
    SignatureFailed,
    Internal,
}

/// A failed build.
#[derive(Debug)]
pub struct Error {
    /// The stable name.
    pub reason: Reason,
    /// What failed, with its subject.
    pub message: String,
    /// What the user can do about it; never empty.
    pub remedy: String,
    /// The failed tool's own output, already capped; empty when no tool ran.
    pub output: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

// === impl Reason ===

impl Reason {
    /// The name as it appears outside.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// What to do when nothing more precise is known.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::SourceNotFound => "check the path",
            Self::SourceTooLarge => "list what the build does not need in .funcignore",
            Self::SourceUnreadable => "make every file of the project readable, or list it in .funcignore",
            Self::SymlinkEscapesRoot => {
                "replace the link by a relative one that stays inside the project, or by a copy"
            }
            Self::LanguageNotDetected => {
                "add one of go.mod, Cargo.toml, package.json, requirements.txt, pyproject.toml, pom.xml, index.html, \
                 Procfile, Dockerfile or a .wasm file, or name the language with --language"
            }
            Self::AmbiguousLanguage => "name the language with --language",
            Self::ProjectInvalid => "correct the file",
            Self::EntrypointNotFound => "say what to run in a Procfile: `web: PROGRAM ARGUMENTS`",
            Self::ToolchainMissing => "install the tool and run the command again",
            Self::ToolchainVersionMismatch => {
                "install the version that the project asks for, or relax its requirement"
            }
            Self::LockfileMissing => "make the lock file and commit it",
            Self::LockfileOutOfDate => "bring the lock file up to date and commit it",
            Self::DependencyFetchFailed => {
                "check the dependency's name and version, and that its registry is reachable"
            }
            Self::OfflineCacheMiss => "run the build once without --offline",
            Self::CompileFailed => "correct the source as the compiler says",
            Self::BaseImageNotFound => {
                "name a base image with --base-image, or make one: `dormouse image base LANGUAGE`"
            }
            Self::EngineUnavailable => {
                "install buildah, or use only instructions that the embedded interpreter knows"
            }
            Self::EngineFailed => "see the tool's output",
            Self::DockerfileInvalid => "correct the line",
            Self::EnvironmentForbidden => {
                "remove the variable: it would change the loader, the shell or the interpreter"
            }
            Self::LayerTooLarge => "list what the program does not need in .funcignore",
            Self::OutputMissing => "check that the build writes where the plan (`--plan`) expects it",
            Self::PushUnauthorized => {
                "log in to the registry: `docker login`, `skopeo login` or `podman login`"
            }
            Self::PushDenied => "ask for the right to push to the repository, or name another with --image",
            Self::RegistryUnreachable => "check the registry's address and that it is up",
            Self::DiskFull => "free space, for instance with `dormouse image prune`",
            Self::BuildRunTimeout => "make the step faster or allow more time with --timeout",
            Self::BuildRunCanceled => "run the command again",
            Self::StepOutOfMemory => {
                "allow more memory with --memory, or let the step run fewer jobs at once"
            }
            Self::StepProcessLimit => "the step starts too many processes: see what forks",
            Self::SandboxFailed => "run `dormouse doctor`; as root, check that namespaces are allowed",
            Self::GitAuthInvalidUserOrPass => "check user name and password or token in the secret",
            Self::GitAuthInvalidKey => "check the SSH key in the secret",
            Self::GitRevisionNotFound => "check the branch, tag or commit",
            Self::GitRemoteRepositoryNotFound => "check the repository's URL",
            Self::GitRemoteRepositoryPrivate => "name a secret with credentials for the repository",
            Self::GitError => "see git's own words",
            Self::VulnerabilitiesFound => "update the packages that are listed",
            Self::SignatureFailed => "check the signing key",
            Self::Internal => "this is a bug of Dormouse: please report it",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

// === impl Error ===

impl Error {
    /// A failure with the reason's usual remedy.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            remedy: reason.remedy().to_owned(),
            output: String::new(),
            source: None,
        }
    }

    /// The same with a more precise remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The same with the tool's own words.
    #[must_use]
    pub fn with_output(mut self, output: impl Into<String>) -> Self {
        self.output = output.into();
        self
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A failed operation on a file; tells a full disk apart.
    pub fn file(action: &str, path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        let reason = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Reason::DiskFull,
            std::io::ErrorKind::PermissionDenied => Reason::SourceUnreadable,
            _ => Reason::Internal,
        };
        let error = Self::new(reason, format!("cannot {action} {}", path.as_ref().display()));
        let error = match reason {
            Reason::Internal => error.with_remedy("check the file and the disk, then run the command again"),
            _ => error,
        };
        error.with_source(source)
    }

    /// Whose fault it is and what to do.
    pub fn class(&self) -> Class {
        let later = Action::RetryAfter(Duration::from_secs(30));
        match self.reason {
            Reason::DependencyFetchFailed | Reason::RegistryUnreachable => {
                Class::new(Origin::Upstream, later)
            }
            Reason::DiskFull | Reason::SandboxFailed => Class::new(Origin::Upstream, Action::GiveUp),
            Reason::Internal => Class::new(Origin::Ourselves, Action::GiveUp),
            _ => Class::new(Origin::Caller, Action::GiveUp),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<dormouse_image::Error> for Error {
    fn from(error: dormouse_image::Error) -> Self {
        use dormouse_image::Error as Image;
        let reason = match error.inner() {
            Image::DiskFull { .. } => Reason::DiskFull,
            Image::TooLarge { .. } | Image::Bomb { .. } => Reason::LayerTooLarge,
            Image::Unreachable { .. } | Image::Timeout { .. } => Reason::RegistryUnreachable,
            Image::Denied { status: 401, .. } => Reason::PushUnauthorized,
            Image::Denied { .. } => Reason::PushDenied,
            Image::NotFound { .. } | Image::NotLocal { .. } | Image::Platform { .. } => {
                Reason::BaseImageNotFound
            }
            Image::Reference { .. } | Image::Build { .. } | Image::Import { .. } => Reason::ProjectInvalid,
            _ => Reason::EngineFailed,
        };
        let mut message = error.to_string();
        let mut cause = StdError::source(&error);
        while let Some(inner) = cause {
            message.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        Self::new(reason, message)
    }
}
