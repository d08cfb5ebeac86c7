//! Service, Configuration, Revision, Route and DomainMapping.

pub mod configuration;
pub mod domainmapping;
pub(crate) mod meta;
pub mod revision;
pub mod route;
pub mod service;

use serde::{Deserialize, Serialize};

/// Something with a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressable {
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}
