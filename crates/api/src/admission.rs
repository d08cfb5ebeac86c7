//! What happens to an object between a client and the store: decode → default → validate → JSON.
//!
//! Pure: JSON in, JSON out. Knative's kinds answer with the texts of its webhooks, built-in kinds with field causes.

mod builtin;
mod custom;
mod decode;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::Value;

use crate::config::Settings;
use crate::kind::KindInfo;

/// Whether an object is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is.
    Create,
    /// It replaces [`Request::old`].
    Update,
}

/// What to do with fields that nobody knows: the client's `fieldValidation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    Warn,
    /// Refuse the object.
    Strict,
}

/// What is known about a write beside the object itself.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kind.
    pub kind: &'a KindInfo,
    /// Whether the object is new.
    pub operation: Operation,
    /// `status` or another part, when only that is written.
    pub subresource: Option<&'a str>,
    /// Who writes.
    pub user: &'a str,
    /// The stored object of an update.
    pub old: Option<&'a Value>,
    /// What to do with unknown fields.
    pub strict: Strictness,
    /// What the platform's configuration says.
    pub settings: &'a Settings,
    /// The time of the write.
    pub now: Timestamp,
}

/// An object that may be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// The object with defaults and without unknown fields.
    pub object: Value,
    /// What the client should hear.
    pub warnings: Vec<String>,
}

/// Why an object may not be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// 400 with this message.
    #[error("{0}")]
    BadRequest(String),
    /// 422 with this message and these causes.
    #[error("{message}")]
    Invalid {
        /// The whole message.
        message: String,
        /// One cause per field.
        causes: Vec<Cause>,
    },
}

impl Denied {
    /// Always the caller's fault, and nothing will change by itself.
    pub fn class(&self) -> dormouse_base::class::Class {
        use dormouse_base::class::{Action, Class, Origin};
        Class::new(Origin::Caller, Action::GiveUp)
    }
}

/// What is wrong with one field of a built-in kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// For example `FieldValueRequired`.
    pub reason: String,
    /// For example `Required value`.
    pub message: String,
    /// For example `spec.selector`.
    pub field: String,
}

/// Decodes, defaults and validates `object`.
///
/// # Errors
/// [`Denied`] with upstream's text when the object cannot be decoded or is not valid.
pub fn admit(request: &Request<'_>, object: Value) -> Result<Admitted, Denied> {
    match (request.kind.group, request.kind.kind) {
        (
            "serving.knative.dev" | "networking.internal.knative.dev" | "autoscaling.internal.knative.dev",
            _,
        ) => custom::admit(request, object),
        _ => builtin::admit(request, object),
    }
}
