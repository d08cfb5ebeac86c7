//! The DomainMapping kind: a name of one's own for a Service.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Addressable, meta};
use crate::condition::{self, Condition, Manager, Set};
use crate::fielderror::FieldError;
use crate::names;
use crate::resource::object;
use crate::vocabulary::{CLUSTER_DOMAIN, SERVING_GROUP};

object! {
    /// Leads requests for the host that is its name to a Service or Route.
    DomainMapping(DomainMappingSpec, DomainMappingStatus) = SERVING_GROUP, "v1beta1", "domainmappings"
}

/// What the domain leads to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainMappingSpec {
    /// The target.
    #[serde(default, rename = "ref")]
    pub target: Reference,
    /// The certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<SecretTls>,
}

/// Names an object with an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// Its kind.
    #[serde(default)]
    pub kind: String,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Group and version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
}

/// A certificate in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretTls {
    /// The Secret.
    #[serde(default)]
    pub secret_name: String,
}

/// What was last observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainMappingStatus {
    /// The generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Annotations of the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The URL of the domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The same, for those who look for an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Addressable>,
}

/// The condition that sums up.
pub const READY: &str = "Ready";
/// The name belongs to this namespace.
pub const DOMAIN_CLAIMED: &str = "DomainClaimed";
/// The target exists and has a place in the cluster.
pub const REFERENCE_RESOLVED: &str = "ReferenceResolved";
/// The gateway serves the domain.
pub const INGRESS_READY: &str = "IngressReady";
/// TLS is provided as wanted.
pub const CERTIFICATE_PROVISIONED: &str = "CertificateProvisioned";
/// The conditions of a DomainMapping.
pub static CONDITIONS: Set = Set {
    happy: READY,
    dependents: &[CERTIFICATE_PROVISIONED, DOMAIN_CLAIMED, INGRESS_READY, REFERENCE_RESOLVED],
};

impl DomainMappingStatus {
    /// A writer over the conditions that stamps changes with `now`.
    pub fn manage(&mut self, now: Timestamp) -> Manager<'_> {
        CONDITIONS.manage(&mut self.conditions, now)
    }
    /// The condition of type `type_`.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        condition::find(&self.conditions, type_)
    }
}

/// Fills in what is left open, and tells what is wrong.
pub(crate) fn admit(new: &mut DomainMapping, old: Option<&DomainMapping>, user: &str) -> FieldError {
    let namespace = new.metadata.namespace.clone().unwrap_or_default();
    if new.spec.target.namespace.is_empty() {
        new.spec.target.namespace.clone_from(&namespace);
    }
    let changed = old.is_some_and(|old| old.spec != new.spec);
    meta::stamp(&mut new.metadata, old.map(|old| &old.metadata), changed, user);
    let mut errors = name(new);
    let target = &new.spec.target;
    for (field, value) in
        [("name", &target.name), ("kind", &target.kind), ("apiVersion", &target.api_version)]
    {
        if value.is_empty() {
            errors.add(FieldError::missing(&[field]).via("ref").via("spec"));
        }
    }
    if target.namespace != namespace {
        errors.add(
            FieldError::detailed(
                "mismatched namespaces",
                &["namespace"],
                format!("parent namespace: {namespace:?} does not match ref: {:?}", target.namespace),
            )
            .via("ref")
            .via("spec"),
        );
    }
    if new.spec.tls.is_some() {
        errors.add(meta::unsupported("a certificate for a domain", "tls").via("spec"));
    }
    errors
}

fn name(mapping: &DomainMapping) -> FieldError {
    if mapping.metadata.generate_name.as_deref().is_some_and(|prefix| !prefix.is_empty()) {
        return FieldError::disallowed(&["metadata.generateName"]);
    }
    let name = mapping.metadata.name.as_deref().unwrap_or_default();
    let invalid = |why: String| FieldError::new(format!("invalid name {name:?}: {why}"), &["metadata.name"]);
    let quoted = |why: &str| format!("name: Invalid value: {name:?}: {why}");
    if let Some(why) = names::subdomain_error(name) {
        return invalid(quoted(&why));
    }
    if !name.contains('.') {
        return invalid(quoted("should be a domain with at least two segments separated by dots"));
    }
    let cluster = CLUSTER_DOMAIN.strip_prefix("svc.").unwrap_or(CLUSTER_DOMAIN);
    if name.ends_with(&format!(".{cluster}")) {
        return invalid(format!("must not be a subdomain of cluster local domain {cluster:?}"));
    }
    FieldError::none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, namespace: &str) -> Option<String> {
        let mut mapping: DomainMapping = serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"ref": {"kind": "Service", "name": "hello", "apiVersion": "serving.knative.dev/v1",
                "namespace": namespace}},
        }))
        .unwrap();
        let result = admit(&mut mapping, None, "me").into_result().err();
        assert!(!mapping.spec.target.namespace.is_empty());
        result
    }

    #[test]
    fn a_domain_has_two_segments_and_is_not_one_of_the_cluster() {
        assert_eq!(refused("hello.example.org", ""), None);
        for (name, namespace, text) in [
            ("hello", "", "at least two segments"),
            ("hello.default.svc.cluster.local", "", "must not be a subdomain of cluster local domain"),
            ("hello.example.org", "other", "mismatched namespaces: spec.ref.namespace"),
        ] {
            let error = refused(name, namespace).unwrap();
            assert!(error.contains(text), "{error}");
        }
    }
}
