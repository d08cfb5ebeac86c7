//! What can go wrong on the node, whose fault it is, and what to do.

use std::io;
use std::path::Path;
use std::time::Duration;

use dormouse_base::class::{Action, Class, Origin};

/// An error of the node component.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on files, sockets or namespaces failed.
    #[error("{step}")]
    Io {
        /// What was attempted, with its subject.
        step: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a change of the network.
    #[error("{step}")]
    Network {
        /// What was attempted, with its subject.
        step: String,
        /// Why it failed.
        #[source]
        source: rtnetlink::Error,
    },
    /// No block of 10.64.0.0/10 is free.
    #[error("no free network: every /16 of 10.64.0.0/10 overlaps an address or a route of this machine")]
    NoSubnet,
    /// All addresses, or all ports of the bridge, are in use.
    #[error("all {0} instance networks are in use")]
    NetworksExhausted(u32),
    /// Masquerading cannot be set up: instances answer but cannot reach beyond this machine.
    #[error("{0}")]
    Firewall(String),
    /// The sandbox component failed.
    #[error("{step}")]
    Sandbox {
        /// What was attempted.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: dormouse_sandbox::Error,
    },
    /// The API refused or could not be reached.
    #[error("{step}")]
    Api {
        /// What was attempted, with its subject.
        step: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The network worker thread is gone.
    #[error("the network worker has stopped")]
    Stopped,
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

// === impl Error ===

impl Error {
    /// Whose fault it is and what to do.
    pub fn class(&self) -> Class {
        let retry = Action::RetryAfter(Duration::from_secs(1));
        match self {
            Self::Io { .. } | Self::Network { .. } => Class::new(Origin::Ourselves, retry),
            Self::NetworksExhausted(_) | Self::Api { .. } => Class::new(Origin::Upstream, retry),
            Self::NoSubnet | Self::Firewall(_) => Class::new(Origin::Upstream, Action::GiveUp),
            Self::Sandbox { source, .. } => source.class(),
            Self::Stopped => Class::new(Origin::Ourselves, Action::Fatal),
        }
    }

    pub(crate) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }

    pub(crate) fn path<E: Into<io::Error>>(verb: &str, path: &Path) -> impl FnOnce(E) -> Self {
        let step = format!("{verb} {}", path.display());
        move |source| Self::Io { step, source: source.into() }
    }

    pub(crate) fn network(step: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let step = step.into();
        move |source| Self::Network { step, source }
    }

    pub(crate) fn api(step: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let step = step.into();
        move |source| Self::Api { step, source: Box::new(source) }
    }
}
