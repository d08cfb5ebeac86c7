//! What can go wrong in a reconcile, and what to do then.

use std::time::Duration;

use dormouse_base::class::{Action, Class, Origin};

/// A reconcile that must be repeated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API failed.
    #[error("{what}")]
    Api {
        /// What was attempted, with its object.
        what: String,
        /// Why it failed.
        #[source]
        source: kube::Error,
    },
    /// The object lacks what every stored object has.
    #[error("{0} has no {1}")]
    Incomplete(String, &'static str),
}

impl Error {
    /// Wraps an API error with what was attempted.
    pub(crate) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source }
    }

    /// Whether somebody else wrote first: re-read and decide again.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Api(status), .. } if status.code == 409)
    }

    /// Whose fault it is and whether to retry.
    pub fn class(&self) -> Class {
        match self {
            Self::Api { .. } if self.is_conflict() => Class::new(Origin::Ourselves, Action::Conflict),
            Self::Api { .. } => Class::new(Origin::Upstream, Action::RetryAfter(Duration::from_millis(200))),
            Self::Incomplete(..) => Class::new(Origin::Ourselves, Action::GiveUp),
        }
    }
}
