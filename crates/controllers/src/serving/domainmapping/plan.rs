//! The KIngress of a DomainMapping and what its conditions say. Pure.

use std::collections::BTreeMap;

use dormouse_api::names::child_name;
use dormouse_api::networking::{
    self, HttpIngressPath, HttpIngressRule, Ingress, IngressRule, IngressSpec, Visibility,
};
use dormouse_api::serving::Addressable;
use dormouse_api::serving::domainmapping::{
    CERTIFICATE_PROVISIONED, DOMAIN_CLAIMED, DomainMapping, DomainMappingStatus, INGRESS_READY,
    REFERENCE_RESOLVED,
};
use dormouse_api::vocabulary::{CLUSTER_DOMAIN, INGRESS_CLASS, LAST_APPLIED, OUR_INGRESS_CLASS};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::serving::context::owner;

/// Tells the workload which domain was asked for.
const ORIGINAL_HOST: &str = "K-Original-Host";
const UID_LABEL: &str = "serving.knative.dev/domainMappingUID";
const NAMESPACE_LABEL: &str = "serving.knative.dev/domainMappingNamespace";
const NOT_RECONCILED: &str = "Ingress has not yet been reconciled.";

/// Where a target leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    host: String,
    paths: Vec<HttpIngressPath>,
}

/// The paths of a target's host inside, taken from the KIngress of its Route.
pub(super) fn resolve(ingress: &Ingress, namespace: &str, target: &str) -> Option<Resolved> {
    let host = format!("{target}.{namespace}.{CLUSTER_DOMAIN}");
    let rule = ingress.spec.rules.iter().find(|rule| rule.hosts.contains(&host))?;
    let paths = rule.http.as_ref()?.paths.clone();
    Some(Resolved { host, paths })
}

/// The KIngress that serves the domain.
pub(super) fn wanted(mapping: &DomainMapping, resolved: &Resolved) -> Ingress {
    let domain = mapping.metadata.name.clone().unwrap_or_default();
    let namespace = mapping.metadata.namespace.clone().unwrap_or_default();
    let mut annotations = mapping.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    annotations.entry(INGRESS_CLASS.to_owned()).or_insert_with(|| OUR_INGRESS_CLASS.to_owned());
    let uid = mapping.metadata.uid.clone().unwrap_or_default();
    let labels =
        BTreeMap::from([(UID_LABEL.to_owned(), uid), (NAMESPACE_LABEL.to_owned(), namespace.clone())]);
    let paths = resolved.paths.iter().cloned().map(|mut path| {
        path.rewrite_host = Some(resolved.host.clone());
        path.append_headers.insert(ORIGINAL_HOST.to_owned(), domain.clone());
        path
    });
    let rule = IngressRule {
        hosts: vec![domain.clone()],
        visibility: Visibility::ExternalIP,
        http: Some(HttpIngressRule { paths: paths.collect() }),
    };
    Ingress {
        metadata: ObjectMeta {
            name: Some(child_name(&domain, "")),
            namespace: Some(namespace),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(owner(mapping)),
            ..ObjectMeta::default()
        },
        spec: IngressSpec { http_option: Some("Enabled".to_owned()), rules: vec![rule], tls: Vec::new() },
        status: None,
    }
}

/// Starts a round.
pub(super) fn begin(mapping: &DomainMapping, url: &str, status: &mut DomainMappingStatus, now: Timestamp) {
    let fresh = status.observed_generation != mapping.metadata.generation;
    status.observed_generation = mapping.metadata.generation;
    status.url = Some(url.to_owned());
    status.address = Some(Addressable { url: Some(url.to_owned()) });
    let mut conditions = status.manage(now);
    conditions.initialize();
    conditions.mark_true_with(CERTIFICATE_PROVISIONED, "TLSNotEnabled", "external-domain-tls is not enabled");
    if fresh {
        conditions.mark_unknown(INGRESS_READY, "IngressNotConfigured", NOT_RECONCILED);
    }
}

pub(super) fn claimed(status: &mut DomainMappingStatus, now: Timestamp) {
    status.manage(now).mark_true(DOMAIN_CLAIMED);
}

pub(super) fn not_claimed(why: &str, status: &mut DomainMappingStatus, now: Timestamp) {
    status.manage(now).mark_false(DOMAIN_CLAIMED, "DomainAlreadyClaimed", why);
}

pub(super) fn resolved(status: &mut DomainMappingStatus, now: Timestamp) {
    status.manage(now).mark_true(REFERENCE_RESOLVED);
}

pub(super) fn unresolved(why: &str, status: &mut DomainMappingStatus, now: Timestamp) {
    status.manage(now).mark_false(REFERENCE_RESOLVED, "ResolveFailed", why);
}

/// Copies the KIngress' readiness; `Err` names one that is not ours.
pub(super) fn ingress(ingress: Result<&Ingress, &String>, status: &mut DomainMappingStatus, now: Timestamp) {
    let mut conditions = status.manage(now);
    let ingress = match ingress {
        Ok(ingress) => ingress,
        Err(name) => {
            let message = format!("There is an existing Ingress \"{name}\" that we do not own.");
            return conditions.mark_false(INGRESS_READY, "NotOwned", &message);
        }
    };
    let seen = ingress.status.as_ref();
    let current = seen.filter(|seen| seen.observed_generation == ingress.metadata.generation);
    match current.and_then(|seen| seen.condition(networking::READY)) {
        Some(ready) => conditions.mark(INGRESS_READY, &ready.status, ready.reason(), ready.message()),
        None => conditions.mark_unknown(INGRESS_READY, "IngressNotConfigured", NOT_RECONCILED),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_domain_leads_where_the_route_leads_and_the_host_is_rewritten() {
        let route: Ingress = serde_json::from_value(json!({
            "metadata": {"name": "hello", "namespace": "default"},
            "spec": {"rules": [
                {"hosts": ["hello.default.localhost"], "http": {"paths": []}},
                {"hosts": ["hello.default", "hello.default.svc.cluster.local"], "visibility": "ClusterLocal",
                    "http": {"paths": [{"splits": [{"serviceName": "hello-00001", "percent": 100}]}]}}]},
        }))
        .unwrap();
        let mapping: DomainMapping = serde_json::from_value(json!({
            "metadata": {"name": "hello.example.org", "namespace": "default", "uid": "u", "generation": 1},
            "spec": {"ref": {"kind": "Service", "name": "hello"}},
        }))
        .unwrap();
        let resolved = resolve(&route, "default", "hello").unwrap();
        let ingress = wanted(&mapping, &resolved);
        let rule = &ingress.spec.rules[0];
        assert_eq!(
            (rule.hosts.as_slice(), rule.visibility),
            (&["hello.example.org".to_owned()][..], Visibility::ExternalIP)
        );
        let path = &rule.http.as_ref().unwrap().paths[0];
        assert_eq!(path.splits[0].service_name, "hello-00001");
        assert_eq!(path.rewrite_host.as_deref(), Some("hello.default.svc.cluster.local"));
        assert_eq!(path.append_headers[ORIGINAL_HOST], "hello.example.org");
        assert_eq!(resolve(&route, "default", "other"), None);
    }

    #[test]
    fn a_domain_of_somebody_else_is_not_ready_and_says_so() {
        let mapping = DomainMapping::default();
        let mut status = DomainMappingStatus::default();
        begin(&mapping, "http://a.example.org", &mut status, Timestamp::UNIX_EPOCH);
        not_claimed("taken", &mut status, Timestamp::UNIX_EPOCH);
        let ready = status.condition(dormouse_api::serving::domainmapping::READY).unwrap();
        assert_eq!((ready.is_false(), ready.reason()), (true, "DomainAlreadyClaimed"));
    }
}
