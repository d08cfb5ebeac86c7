//! Everything that can go wrong with an image, with its subject.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dormouse_base::class::{Action, Class, Origin};

use crate::digest::Digest;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure, naming the reference, digest, host or file that it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not an image reference.
    #[error("invalid image reference {input:?}: {reason}")]
    Reference {
        /// What was given.
        input: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The text is not a digest.
    #[error("invalid digest {input:?}: {reason}")]
    Digest {
        /// What was given.
        input: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The registry has no such image.
    #[error("image {reference} does not exist in registry {host}")]
    NotFound {
        /// The image.
        reference: String,
        /// The registry asked.
        host: String,
    },
    /// The name can only be in the local store and is not.
    #[error("image {reference} is not in the local store: push, build or import it first")]
    NotLocal {
        /// The image.
        reference: String,
    },
    /// No connection to the registry.
    #[error("registry {host} cannot be reached")]
    Unreachable {
        /// Host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The registry stopped answering.
    #[error("registry {host} did not answer within {limit:?} while {doing}")]
    Timeout {
        /// Host and port.
        host: String,
        /// The operation.
        doing: String,
        /// The bound.
        limit: Duration,
    },
    /// 401 or 403.
    #[error("registry {host} refused access to {reference} ({status}): {hint}")]
    Denied {
        /// The image.
        reference: String,
        /// The registry.
        host: String,
        /// The status code.
        status: u16,
        /// Whether credentials were missing or wrong, and the registry's own words.
        hint: String,
    },
    /// An answer that the operation does not expect.
    #[error("registry {host} answered {status} while {doing}: {detail}")]
    Status {
        /// Host and port.
        host: String,
        /// The operation.
        doing: String,
        /// The status code.
        status: u16,
        /// The registry's own words.
        detail: String,
    },
    /// The other side does not speak the distribution protocol.
    #[error("registry {host} broke the protocol: {reason}")]
    Protocol {
        /// Host and port.
        host: String,
        /// What it did.
        reason: String,
    },
    /// Content does not have the digest it was asked by.
    #[error("digest mismatch of {subject}: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What was read.
        subject: String,
        /// The digest asked for.
        expected: Box<Digest>,
        /// The digest of what arrived.
        actual: Box<Digest>,
    },
    /// Content does not have the size that its descriptor tells.
    #[error("size mismatch of {subject}: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// What was read.
        subject: String,
        /// The size promised.
        expected: u64,
        /// The size that arrived.
        actual: u64,
    },
    /// A bound was exceeded.
    #[error("{subject} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        subject: String,
        /// The bound.
        limit: u64,
    },
    /// A manifest, index or image configuration that cannot be used.
    #[error("invalid manifest {subject}: {reason}")]
    Manifest {
        /// Digest or name.
        subject: String,
        /// What is wrong.
        reason: String,
    },
    /// The image is for other machines.
    #[error("image {subject} is not for {wanted}, only for {available}")]
    Platform {
        /// Digest or name.
        subject: String,
        /// This machine.
        wanted: String,
        /// What the image offers.
        available: String,
    },
    /// A layer entry that must not be unpacked.
    #[error("layer {layer} refused: entry {entry:?} {reason}")]
    Entry {
        /// The layer's blob.
        layer: Digest,
        /// The entry's name as it stands in the archive.
        entry: String,
        /// Why.
        reason: String,
    },
    /// A layer that exceeds a bound while it is unpacked.
    #[error("layer {layer} refused: {reason}")]
    Bomb {
        /// The layer's blob.
        layer: Digest,
        /// The bound.
        reason: String,
    },
    /// A layer that is not a readable (compressed) archive.
    #[error("layer {layer} is corrupt")]
    Corrupt {
        /// The layer's blob.
        layer: Digest,
        /// What the decoder says.
        source: io::Error,
    },
    /// An unpacked layer is not what the image's configuration promises.
    #[error("layer {layer} does not unpack to its diff id: expected {expected}, got {actual}")]
    DiffId {
        /// The layer's blob.
        layer: Digest,
        /// The configuration's entry.
        expected: Box<Digest>,
        /// The digest of the uncompressed archive.
        actual: Box<Digest>,
    },
    /// Content that should be in the store is not.
    #[error("{subject} needs {digest}, which is not in the store")]
    Missing {
        /// Who needs it.
        subject: String,
        /// The content.
        digest: Digest,
    },
    /// Stored content was damaged on disk; it has been removed so that it can be fetched again.
    #[error("stored content {digest} was damaged on disk and has been removed: pull or push it again")]
    Damaged {
        /// The content.
        digest: Digest,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// A verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No space or quota left.
    #[error("disk full: cannot {action} {}", path.display())]
    DiskFull {
        /// A verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Credentials that cannot be read.
    #[error("credentials in {origin}: {reason}")]
    Credentials {
        /// File or secret.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// The image's or the specification's user does not exist in the image.
    #[error("user {spec:?} of the image: {reason}")]
    User {
        /// The specification.
        spec: String,
        /// What is missing.
        reason: String,
    },
    /// Something that no image can be made of.
    #[error("cannot build an image from {}: {reason}", path.display())]
    Build {
        /// The input.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file that holds no image.
    #[error("cannot import {}: {reason}", path.display())]
    Import {
        /// The input.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A failure inside this crate that no input explains.
    #[error("internal failure: {0}")]
    Internal(String),
    /// The failure of an operation that several callers waited for.
    #[error(transparent)]
    Shared(Arc<Error>),
}

impl Error {
    /// Whose fault it is and what to do.
    pub fn class(&self) -> Class {
        const SOON: Action = Action::RetryAfter(Duration::from_secs(5));
        const LATER: Action = Action::RetryAfter(Duration::from_secs(60));
        match self {
            Self::Reference { .. }
            | Self::Digest { .. }
            | Self::NotLocal { .. }
            | Self::Credentials { .. }
            | Self::User { .. }
            | Self::Build { .. }
            | Self::Import { .. } => Class::new(Origin::Caller, Action::GiveUp),
            Self::NotFound { .. } | Self::Denied { .. } => Class::new(Origin::Caller, LATER),
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Damaged { .. } | Self::Missing { .. } => {
                Class::new(Origin::Upstream, SOON)
            }
            Self::Status { status, .. } if *status >= 500 || *status == 429 => {
                Class::new(Origin::Upstream, SOON)
            }
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => Class::new(Origin::Upstream, LATER),
            Self::DiskFull { .. } | Self::File { .. } => Class::new(Origin::Upstream, LATER),
            Self::Status { .. }
            | Self::Protocol { .. }
            | Self::TooLarge { .. }
            | Self::Manifest { .. }
            | Self::Platform { .. }
            | Self::Entry { .. }
            | Self::Bomb { .. }
            | Self::Corrupt { .. }
            | Self::DiffId { .. } => Class::new(Origin::Upstream, Action::GiveUp),
            Self::Internal(_) => Class::new(Origin::Ourselves, Action::GiveUp),
            Self::Shared(inner) => inner.class(),
        }
    }

    /// The innermost failure when several callers waited for one operation.
    pub fn inner(&self) -> &Error {
        match self {
            Self::Shared(inner) => inner.inner(),
            other => other,
        }
    }

    /// A failed file operation; tells a full disk apart.
    pub(crate) fn file(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        let path = path.as_ref().to_path_buf();
        // One of ours that had to pass through an I/O interface comes out as it went in.
        let source = match source.into().downcast::<Error>() {
            Ok(own) => return own,
            Err(source) => source,
        };
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { action, path, source }
            }
            _ => Self::File { action, path, source },
        }
    }
}

/// Runs blocking work on the runtime's blocking threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Internal(format!("a blocking task ended early: {error}"))),
    }
}
