//! Image references become digests: declared here, implemented by the image store, wired by the binary.

use futures::future::BoxFuture;

/// Why a reference has no digest; the text names the reference and the registry's answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ResolveError {
    /// What the user reads in the Revision's condition.
    pub message: String,
    /// Whether the same question may have another answer soon: a registry that is down, not an image that is missing.
    pub transient: bool,
}

/// Answers which digest a reference stands for now.
pub trait Resolve: Send + Sync {
    /// `repository@sha256:…` of `reference`, or `None` when the reference is kept as it is (local-only registries).
    /// `pull_secrets` are the `.dockerconfigjson` contents of the Revision's imagePullSecrets.
    fn resolve(
        &self,
        reference: String,
        pull_secrets: Vec<Vec<u8>>,
    ) -> BoxFuture<'static, Result<Option<String>, ResolveError>>;
}
