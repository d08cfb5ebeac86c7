//! What the server offers, in both styles of discovery, derived from the registry of kinds.

use dormouse_api::kind::{KindInfo, kinds};
use serde_json::{Map, Value, json};

const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const READ_VERBS: &[&str] = &["get", "list", "watch"];
const PART_VERBS: &[&str] = &["get", "patch", "update"];

/// A resource as discovery tells of it.
struct Resource {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    namespaced: bool,
    verbs: &'static [&'static str],
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    parts: Vec<Part>,
}

/// A subresource and the kind of its bodies.
struct Part {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
}

/// Questions that are answered and never stored.
const REVIEWS: &[(&str, &str, &str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview"),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "SelfSubjectAccessReview",
    ),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview"),
];

fn resources() -> Vec<Resource> {
    kinds().iter().map(resource).chain(REVIEWS.iter().map(review)).collect()
}

fn review(
    &(group, plural, singular, kind): &(&'static str, &'static str, &'static str, &'static str),
) -> Resource {
    Resource {
        group,
        version: "v1",
        plural,
        singular,
        kind,
        namespaced: false,
        verbs: &["create"],
        short_names: &[],
        categories: &[],
        parts: Vec::new(),
    }
}

fn resource(info: &KindInfo) -> Resource {
    let read_only = info.kind == "CustomResourceDefinition";
    let own = |name, verbs| Part { name, group: info.group, version: info.version, kind: info.kind, verbs };
    let mut parts = Vec::new();
    match (info.group, info.kind) {
        ("", "Namespace") => parts.push(own("finalize", &["update"])),
        ("", "Pod") => parts.push(own("log", &["get"])),
        _ => {}
    }
    if info.scale {
        parts.push(Part {
            name: "scale",
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
            verbs: PART_VERBS,
        });
    }
    if info.status {
        parts.push(own("status", if read_only { &["get"] } else { PART_VERBS }));
    }
    Resource {
        group: info.group,
        version: info.version,
        plural: info.plural,
        singular: info.singular,
        kind: info.kind,
        namespaced: info.namespaced,
        verbs: match info.kind {
            _ if read_only => READ_VERBS,
            "Namespace" => NAMESPACE_VERBS,
            _ => ALL_VERBS,
        },
        short_names: info.short_names,
        categories: info.categories,
        parts,
    }
}

/// Groups with their versions, each in the order of the registry; the core group has an empty name.
pub(super) fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
    for resource in resources() {
        match groups.iter_mut().find(|(group, _)| *group == resource.group) {
            Some((_, versions)) if versions.contains(&resource.version) => {}
            Some((_, versions)) => versions.push(resource.version),
            None => groups.push((resource.group, vec![resource.version])),
        }
    }
    groups
}

/// `/api`: the versions of the core group. `server_addr` is where clients reach the server, as `host:port`.
pub(crate) fn api_versions(server_addr: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_addr}],
    })
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({
        "name": group,
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

/// `/apis`: every named group.
pub(crate) fn api_group_list() -> Value {
    let groups: Vec<Value> = groups()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
pub(crate) fn api_group(group: &str) -> Option<Value> {
    let groups = groups();
    let (name, versions) = groups.iter().find(|(name, _)| !name.is_empty() && *name == group)?;
    let mut value = group_value(name, versions);
    let fields = value.as_object_mut()?;
    fields.insert("kind".to_owned(), json!("APIGroup"));
    fields.insert("apiVersion".to_owned(), json!("v1"));
    Some(value)
}

fn add_names(entry: &mut Map<String, Value>, resource: &Resource) {
    for (key, names) in [("shortNames", resource.short_names), ("categories", resource.categories)] {
        if !names.is_empty() {
            entry.insert(key.to_owned(), json!(names));
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// `/api/v1` and `/apis/{group}/{version}`.
pub(crate) fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut entries = Vec::new();
    for resource in
        resources().iter().filter(|resource| resource.group == group && resource.version == version)
    {
        let mut entry = object(json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
        }));
        add_names(&mut entry, resource);
        entries.push(Value::Object(entry));
        for part in &resource.parts {
            let mut entry = object(json!({
                "name": format!("{}/{}", resource.plural, part.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": part.kind,
                "verbs": part.verbs,
            }));
            if (part.group, part.version) != (group, version) {
                entry.insert("group".to_owned(), json!(part.group));
                entry.insert("version".to_owned(), json!(part.version));
            }
            entries.push(Value::Object(entry));
        }
    }
    if entries.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}),
    )
}

/// Everything at once: the core group for `/api`, the named groups for `/apis`.
pub(crate) fn aggregated(core: bool, v2beta1: bool) -> Value {
    let resources = resources();
    let entries = |group: &str, version: &str| -> Vec<Value> {
        resources
            .iter()
            .filter(|resource| resource.group == group && resource.version == version)
            .map(aggregated_resource)
            .collect()
    };
    let items: Vec<Value> = groups()
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    json!({"version": version, "freshness": "Current", "resources": entries(group, version)})
                })
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let version = if v2beta1 { "v2beta1" } else { "v2" };
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut entry = object(json!({
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    }));
    add_names(&mut entry, resource);
    if !resource.parts.is_empty() {
        let part = |part: &Part| {
            json!({
                "subresource": part.name,
                "responseKind": {"group": part.group, "version": part.version, "kind": part.kind},
                "verbs": part.verbs,
            })
        };
        entry.insert("subresources".to_owned(), resource.parts.iter().map(part).collect());
    }
    Value::Object(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_tell_of_the_same_resources() {
        for core in [true, false] {
            let aggregated = aggregated(core, false);
            for item in aggregated["items"].as_array().unwrap() {
                let group = item["metadata"]["name"].as_str().unwrap_or_default();
                for version in item["versions"].as_array().unwrap() {
                    let legacy = resource_list(group, version["version"].as_str().unwrap()).unwrap();
                    let names: Vec<String> = version["resources"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .flat_map(|resource| {
                            let plural = resource["resource"].as_str().unwrap();
                            let parts = resource["subresources"].as_array().cloned().unwrap_or_default();
                            let parts = parts.into_iter().map(move |part| {
                                format!("{plural}/{}", part["subresource"].as_str().unwrap())
                            });
                            std::iter::once(plural.to_owned()).chain(parts)
                        })
                        .collect();
                    let legacy: Vec<&str> = legacy["resources"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|resource| resource["name"].as_str().unwrap())
                        .collect();
                    assert_eq!(names, legacy);
                }
            }
        }
    }

    #[test]
    fn core_has_one_nameless_item_and_the_rest_are_named() {
        assert_eq!(aggregated(true, false)["items"].as_array().unwrap().len(), 1);
        let groups = api_group_list();
        let names: Vec<&str> = groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group["name"].as_str().unwrap())
            .collect();
        assert!(names.contains(&"serving.knative.dev") && !names.contains(&""));
        assert_eq!(api_group("apps").unwrap()["preferredVersion"]["groupVersion"], "apps/v1");
        assert!(api_group("").is_none() && api_group("nope").is_none());
        assert!(resource_list("apps", "v9").is_none());
    }

    #[test]
    fn scale_answers_with_the_autoscaling_kind() {
        let list = resource_list("apps", "v1").unwrap();
        let scale =
            list["resources"].as_array().unwrap().iter().find(|each| each["name"] == "deployments/scale");
        assert_eq!(scale.unwrap()["group"], "autoscaling");
        assert_eq!(scale.unwrap()["kind"], "Scale");
    }

    #[test]
    fn beta_differs_in_its_version_only() {
        let (v2, beta) = (aggregated(false, false), aggregated(false, true));
        assert_eq!(v2["items"], beta["items"]);
        assert_eq!(beta["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    }
}
