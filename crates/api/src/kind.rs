//! The one table of every kind that is served: discovery, OpenAPI, tables, CRD objects and storage derive from it.

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// On disk, synced before the write is answered.
    Durable,
    /// In memory, under the same revision counter: instances and what is told about them.
    Ephemeral,
}

/// A printer column after Name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The header.
    pub name: &'static str,
    /// `string`, `integer` or `date`.
    pub kind: &'static str,
    /// A JSONPath of the subset that Kubernetes uses.
    pub path: &'static str,
    /// Shown only with `-o wide`.
    pub wide: bool,
}

/// Everything the API machinery must know about a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Served version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The resource name in URLs.
    pub plural: &'static str,
    /// The singular name.
    pub singular: &'static str,
    /// Short names for `kubectl get`.
    pub short_names: &'static [&'static str],
    /// Categories such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `/status` exists.
    pub status: bool,
    /// Whether `/scale` exists.
    pub scale: bool,
    /// Whether it is presented as a custom resource.
    pub custom: bool,
    /// Where objects live.
    pub storage: Storage,
    /// Labels of the CustomResourceDefinition object.
    pub labels: &'static [(&'static str, &'static str)],
    /// Printer columns of a custom kind.
    pub columns: &'static [Column],
}
