//! The KIngress and the placeholder Services of a Route. Pure.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_api::networking::{
    HeaderMatch, HttpIngressPath, HttpIngressRule, Ingress, IngressBackendSplit, IngressRule, IngressSpec,
    Visibility,
};
use dormouse_api::serving::route::Route;
use dormouse_api::vocabulary::{
    DEFAULT_ROUTE, HEADER_NAMESPACE, HEADER_REVISION, INGRESS_CLASS, LAST_APPLIED, OUR_INGRESS_CLASS,
    ROUTE_LABEL, ROUTE_NAMESPACE_LABEL, TAG_HEADER, TAG_TO_HOST, VISIBILITY_LABEL,
};
use k8s_openapi::api::core::v1::{Service as CoreService, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::Target;
use crate::serving::context::owner;
use crate::serving::naming::Names;

/// Core Service ports that tell the gateway which protocol the backend speaks (facts/serving.md §5.1).
const HTTP1_PORT: i32 = 80;
const H2C_PORT: i32 = 81;

/// Targets by tag, the Route's own host first.
fn groups(targets: &[Target]) -> BTreeMap<&str, Vec<&Target>> {
    let mut groups: BTreeMap<&str, Vec<&Target>> = BTreeMap::new();
    groups.entry("").or_default();
    for target in targets {
        if target.percent > 0 {
            groups.entry("").or_default().push(target);
        }
        if !target.tag.is_empty() {
            groups.entry(&target.tag).or_default().push(target);
        }
    }
    groups
}

/// The KIngress that tells the gateway what to serve.
pub(crate) fn ingress(route: &Route, targets: &[Target], names: &Names<'_>) -> Ingress {
    let name = route.metadata.name.as_deref().unwrap_or_default();
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    let mut rules = Vec::new();
    let mut tag_hosts = BTreeMap::new();
    let groups = groups(targets);
    for (tag, group) in &groups {
        let (tag, mut paths) = (*tag, vec![path(namespace, tag, group)]);
        if names.tag_header() {
            by_tag_header(namespace, tag, &groups, &mut paths);
        }
        let http = HttpIngressRule { paths };
        rules.push(IngressRule {
            hosts: names.cluster_hosts(tag),
            visibility: Visibility::ClusterLocal,
            http: Some(http.clone()),
        });
        if !names.is_private(tag) {
            let public = names.host(tag);
            if !tag.is_empty() {
                tag_hosts.insert(tag, vec![public.clone()]);
            }
            rules.push(IngressRule {
                hosts: vec![public],
                visibility: Visibility::ExternalIP,
                http: Some(http),
            });
        }
    }
    let mut annotations = route.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    annotations.entry(INGRESS_CLASS.to_owned()).or_insert_with(|| OUR_INGRESS_CLASS.to_owned());
    if !tag_hosts.is_empty()
        && let Ok(text) = serde_json::to_string(&tag_hosts)
    {
        annotations.insert(TAG_TO_HOST.to_owned(), text);
    }
    let mut labels = route.metadata.labels.clone().unwrap_or_default();
    labels.insert(ROUTE_LABEL.to_owned(), name.to_owned());
    labels.insert(ROUTE_NAMESPACE_LABEL.to_owned(), namespace.to_owned());
    Ingress {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(owner(route)),
            ..ObjectMeta::default()
        },
        spec: IngressSpec { http_option: Some("Enabled".to_owned()), rules, tls: Vec::new() },
        status: None,
    }
}

/// One path for a group. A tag's only target gets everything; equal Revisions are one split.
fn path(namespace: &str, tag: &str, group: &[&Target]) -> HttpIngressPath {
    let mut shares: BTreeMap<&str, (i64, bool)> = BTreeMap::new();
    let only = !tag.is_empty() && group.len() == 1;
    for target in group {
        let share = shares.entry(&target.revision).or_insert((0, target.h2c));
        share.0 += if only { 100 } else { target.percent };
    }
    let splits = shares.into_iter().map(|(revision, (percent, h2c))| IngressBackendSplit {
        service_namespace: namespace.to_owned(),
        service_name: revision.to_owned(),
        service_port: if h2c { H2C_PORT } else { HTTP1_PORT },
        percent: Some(percent),
        append_headers: BTreeMap::from([
            (HEADER_REVISION.to_owned(), revision.to_owned()),
            (HEADER_NAMESPACE.to_owned(), namespace.to_owned()),
        ]),
    });
    HttpIngressPath { splits: splits.collect(), ..HttpIngressPath::default() }
}

/// Lets a header choose the tag on the Route's own host, as the hosts of the tags do.
fn by_tag_header(
    namespace: &str,
    tag: &str,
    groups: &BTreeMap<&str, Vec<&Target>>,
    paths: &mut Vec<HttpIngressPath>,
) {
    let (header, value) = if tag.is_empty() { (DEFAULT_ROUTE, "true") } else { (TAG_HEADER, tag) };
    for path in paths.iter_mut() {
        path.append_headers.insert(header.to_owned(), value.to_owned());
    }
    if tag.is_empty() {
        let tagged = groups.iter().filter(|(tag, _)| !tag.is_empty()).map(|(tag, group)| HttpIngressPath {
            headers: BTreeMap::from([(TAG_HEADER.to_owned(), HeaderMatch { exact: (*tag).to_owned() })]),
            ..path(namespace, tag, group)
        });
        let tagged: Vec<_> = tagged.collect();
        paths.splice(0..0, tagged);
    }
}

/// The existing KIngress made equal to what is wanted, or `None` when it already is.
pub(crate) fn merge_ingress(existing: &Ingress, wanted: &Ingress) -> Option<Ingress> {
    let same = existing.spec == wanted.spec
        && existing.metadata.labels == wanted.metadata.labels
        && existing.metadata.annotations == wanted.metadata.annotations;
    if same {
        return None;
    }
    let mut merged = existing.clone();
    merged.spec = wanted.spec.clone();
    merged.metadata.labels.clone_from(&wanted.metadata.labels);
    merged.metadata.annotations.clone_from(&wanted.metadata.annotations);
    Some(merged)
}

/// One core Service for the Route and one for each tag: the names by which others find it.
pub(crate) fn placeholders(route: &Route, targets: &[Target], names: &Names<'_>) -> Vec<CoreService> {
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    let tags: BTreeSet<&str> = targets.iter().map(|target| target.tag.as_str()).chain([""]).collect();
    tags.into_iter().map(|tag| placeholder(route, &names.label(tag), namespace)).collect()
}

fn placeholder(route: &Route, name: &str, namespace: &str) -> CoreService {
    let mut labels = route.metadata.labels.clone().unwrap_or_default();
    labels.remove(VISIBILITY_LABEL);
    labels.insert(ROUTE_LABEL.to_owned(), route.metadata.name.clone().unwrap_or_default());
    let mut annotations = route.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    CoreService {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(owner(route)),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ExternalName".to_owned()),
            external_name: Some(super::super::domain::INTERNAL_GATEWAY.to_owned()),
            session_affinity: Some("None".to_owned()),
            ports: Some(vec![ServicePort {
                name: Some("http2".to_owned()),
                app_protocol: Some("kubernetes.io/h2c".to_owned()),
                port: 80,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..CoreService::default()
    }
}

/// Brings labels and annotations of an existing placeholder up to date; keys of others stay.
pub(crate) fn merge_placeholder(existing: &CoreService, wanted: &CoreService) -> Option<CoreService> {
    let mut merged = existing.clone();
    let add = |into: &mut Option<BTreeMap<String, String>>, from: &Option<BTreeMap<String, String>>| {
        let into = into.get_or_insert_default();
        for (key, value) in from.iter().flatten() {
            into.insert(key.clone(), value.clone());
        }
    };
    add(&mut merged.metadata.labels, &wanted.metadata.labels);
    add(&mut merged.metadata.annotations, &wanted.metadata.annotations);
    let changed = existing.metadata.labels.as_ref() != merged.metadata.labels.as_ref()
        || existing
            .metadata
            .annotations
            .as_ref()
            .is_none_or(|before| Some(before) != merged.metadata.annotations.as_ref());
    changed.then_some(merged)
}
