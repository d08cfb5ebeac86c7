//! The one table of every kind that is served: discovery, OpenAPI, tables, CRD objects and storage derive from it.

mod table;

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

impl KindInfo {
    /// The value of `apiVersion`: `group/version`, or the bare version in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// How error texts name the resource: `plural.group`, or the bare plural in the core group.
    pub fn resource(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// How validation errors name the kind: `Kind.group`, or the bare kind in the core group.
    pub fn qualified_kind(&self) -> String {
        qualified(self.kind, self.group)
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// Every kind that is served, in the order of discovery. When two kinds share a short name, the first wins.
pub fn kinds() -> &'static [KindInfo] {
    table::KINDS
}

/// The kind behind a resource path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo> {
    kinds().iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind with this name in this group.
pub fn by_kind(group: &str, kind: &str) -> Option<&'static KindInfo> {
    kinds().iter().find(|info| info.group == group && info.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kinds_share_a_resource_path() {
        for (index, kind) in kinds().iter().enumerate() {
            for other in kinds().iter().skip(index + 1) {
                assert!(
                    (kind.group, kind.version, kind.plural) != (other.group, other.version, other.plural),
                    "{kind:?}"
                );
                assert!((kind.group, kind.kind) != (other.group, other.kind), "{kind:?}");
            }
        }
    }

    #[test]
    fn short_names_within_a_group_are_unique() {
        for kind in kinds() {
            for other in kinds().iter().filter(|other| other.group == kind.group && other.kind != kind.kind) {
                assert!(
                    !kind.short_names.iter().any(|name| other.short_names.contains(name)),
                    "{} and {}",
                    kind.kind,
                    other.kind
                );
            }
        }
    }

    #[test]
    fn knative_kinds_are_custom_and_have_a_status() {
        for kind in kinds() {
            let knative = kind.group.ends_with(".knative.dev");
            assert_eq!(kind.custom, knative, "{}", kind.kind);
            assert!(!knative || kind.status);
            assert_eq!(kind.labels.contains(&("knative.dev/crd-install", "true")), knative);
        }
    }

    #[test]
    fn names_in_errors_carry_the_group() {
        let service = find("serving.knative.dev", "v1", "services").unwrap();
        assert_eq!(service.resource(), "services.serving.knative.dev");
        assert_eq!(service.api_version(), "serving.knative.dev/v1");
        let pod = by_kind("", "Pod").unwrap();
        assert_eq!((pod.resource(), pod.api_version()), ("pods".to_owned(), "v1".to_owned()));
    }
}
