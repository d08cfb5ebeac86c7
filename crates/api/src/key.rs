//! Identifiers that travel between crates.

use std::fmt;
use std::sync::Arc;

/// Names one Revision: what the gateway, the autoscaler and the node agree on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevisionKey {
    /// The Revision's namespace.
    pub namespace: Arc<str>,
    /// The Revision's name.
    pub name: Arc<str>,
}

impl RevisionKey {
    /// The key of `namespace/name`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for RevisionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}
