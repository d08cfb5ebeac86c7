//! What the binary plugs into the server.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// What the server cannot know by itself.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Who has the logs of pods; without it they answer 501 in words.
    pub logs: Option<Arc<dyn PodLogs>>,
    /// Our version, shown as build metadata of the Kubernetes version.
    pub version: String,
    /// Signs tokens of service accounts; without it there are none.
    pub signer: Option<crate::Signer>,
    /// The public gateway's port on this machine, where clients look for the ingress.
    pub gateway_port: Option<u16>,
    /// The certificate authority in PEM, published as ConfigMap `kube-root-ca.crt` in each namespace.
    pub authority: Option<String>,
}

/// Which part of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// The container; `None` when the pod has one.
    pub container: Option<String>,
    /// Whether to go on as the container writes.
    pub follow: bool,
    /// Whether the terminated predecessor's log is meant.
    pub previous: bool,
    /// Whether each line starts with its time.
    pub timestamps: bool,
    /// Only this many of the last lines.
    pub tail_lines: Option<u64>,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
    /// Only lines younger than this.
    pub since_seconds: Option<u64>,
    /// Only lines from this time on.
    pub since_time: Option<jiff::Timestamp>,
}

/// The bytes of a log, ready to be sent.
pub type LogStream = BoxStream<'static, Bytes>;

/// Why there is no log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The request cannot be served now, in Kubernetes' words.
    #[error("{0}")]
    BadRequest(String),
    /// There is no such pod or container.
    #[error("{0}")]
    NotFound(String),
    /// Our own failure.
    #[error("{0}")]
    Internal(String),
}

/// Reads the logs of pods; the node implements it.
pub trait PodLogs: Send + Sync {
    /// Opens one log.
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        query: LogQuery,
    ) -> BoxFuture<'static, Result<LogStream, LogError>>;
}
