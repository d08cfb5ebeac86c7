//! What can go wrong: with a component when it is loaded, with a request when it is served.

use std::path::PathBuf;
use std::time::Duration;

use dormouse_base::class::{Action, Class, Origin};
use http::StatusCode;

/// The cause of an error, as the engine tells it.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a component could not be loaded or a request not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine could not be made on this machine.
    #[error("start the WebAssembly engine")]
    Engine(#[source] Cause),
    /// A file of the cache of compiled components.
    #[error("{operation} {}", path.display())]
    Cache {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The text is no digest.
    #[error("{0:?} is not a digest like sha256:<64 hexadecimal digits>")]
    Digest(String),
    /// The bytes are not those that the digest names.
    #[error("the component's bytes are {found}, not {expected}")]
    DigestMismatch {
        /// The digest that was asked for.
        expected: String,
        /// The digest of the bytes.
        found: String,
    },
    /// Larger than is compiled.
    #[error("the component has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The bytes are no component at all.
    #[error("not a WebAssembly component: {0}")]
    NotComponent(&'static str),
    /// The component is damaged or uses what the engine does not know.
    #[error("compile the component")]
    Compile(#[source] Cause),
    /// The component does not answer HTTP.
    #[error("the component exports no {wanted}; it exports {found}")]
    MissingExport {
        /// The interface that is called.
        wanted: &'static str,
        /// What it has instead.
        found: String,
    },
    /// The component needs an interface that this host does not give.
    #[error("the component imports {0}, which is not granted")]
    ImportNotGranted(String),
    /// An import is granted under this name but has another type.
    #[error("link the component")]
    Link(#[source] Cause),
    /// A granted directory cannot be opened.
    #[error("open the granted directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Cause,
    },
    /// All instances are busy and were until the deadline.
    #[error("no free instance before the deadline")]
    Overloaded,
    /// The request cannot be given to a component.
    #[error("the request cannot be given to a component")]
    Request(#[source] Cause),
    /// The component did what WebAssembly forbids, or gave up.
    #[error("the component trapped")]
    Trap(#[source] Cause),
    /// The component ended its process instead of answering.
    #[error("the component exited with {0} instead of answering")]
    Exit(i32),
    /// The component asked for more memory than its limit.
    #[error("the component needs more than its limit of {limit} bytes of memory")]
    OutOfMemory {
        /// The limit.
        limit: u64,
    },
    /// The component was not done in time.
    #[error("the component was not done after {0:?}")]
    Deadline(Duration),
    /// The component returned without setting a response.
    #[error("the component returned without a response")]
    NoResponse,
    /// The component ended its response before it was complete.
    #[error("the component broke its response off")]
    BrokenOff,
    /// The component answered with an error code instead of a response.
    #[error("the component refused the request: {0}")]
    Refused(String),
    /// A socket to serve on.
    #[error("listen for requests")]
    Listen(#[source] std::io::Error),
}

impl Error {
    /// Whose fault it is and what to do.
    pub fn class(&self) -> Class {
        use Action::{Fatal, GiveUp, RetryAfter};
        let (origin, action) = match self {
            Self::Engine(_) => (Origin::Ourselves, Fatal),
            Self::Cache { .. } | Self::Listen(_) => (Origin::Upstream, RetryAfter(Duration::from_secs(10))),
            Self::Digest(_)
            | Self::DigestMismatch { .. }
            | Self::TooLarge { .. }
            | Self::NotComponent(_)
            | Self::Compile(_)
            | Self::MissingExport { .. }
            | Self::ImportNotGranted(_)
            | Self::Link(_)
            | Self::Directory { .. }
            | Self::Request(_) => (Origin::Caller, GiveUp),
            Self::Overloaded => (Origin::Ourselves, RetryAfter(Duration::from_secs(1))),
            Self::Trap(_)
            | Self::Exit(_)
            | Self::OutOfMemory { .. }
            | Self::Deadline(_)
            | Self::NoResponse
            | Self::BrokenOff
            | Self::Refused(_) => (Origin::Upstream, GiveUp),
        };
        Class::new(origin, action)
    }

    /// The status of the response to a request that ended so.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn cache(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Cache { operation, path, source }
    }
}

/// An engine's error as a cause.
pub(crate) fn cause(error: wasmtime::Error) -> Cause {
    error.into_boxed_dyn_error()
}
