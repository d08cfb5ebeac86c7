//! Our custom kinds as CustomResourceDefinition objects: clients look for them, nobody writes them.

use dormouse_api::kind::{KindInfo, kinds};
use serde_json::{Map, Value, json};

use super::openapi;

/// One CustomResourceDefinition per custom kind, without `resourceVersion` and `uid`.
pub(crate) fn crd_objects(now: jiff::Timestamp) -> Vec<Value> {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    kinds().iter().filter(|kind| kind.custom).map(|kind| crd_object(kind, &now)).collect()
}

fn crd_object(kind: &KindInfo, now: &str) -> Value {
    let labels: Map<String, Value> =
        kind.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let mut names = json!({
        "kind": kind.kind,
        "listKind": format!("{}List", kind.kind),
        "plural": kind.plural,
        "singular": kind.singular,
    });
    if let Some(names) = names.as_object_mut() {
        for (key, list) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
            if !list.is_empty() {
                names.insert(key.to_owned(), json!(list));
            }
        }
    }
    let mut version = json!({
        "name": kind.version,
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": openapi::crd_schema(kind)},
        "additionalPrinterColumns": columns(kind),
    });
    if let (true, Some(version)) = (kind.status, version.as_object_mut()) {
        version.insert("subresources".to_owned(), json!({"status": {}}));
    }
    let condition = |name: &str, reason: &str, message: &str| json!({"type": name, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", kind.plural, kind.group),
            "labels": labels,
            "creationTimestamp": now,
            "generation": 1,
        },
        "spec": {
            "group": kind.group,
            "names": names,
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [version],
            "conversion": {"strategy": "None"},
        },
        "status": {
            "acceptedNames": names,
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
            "storedVersions": [kind.version],
        },
    })
}

fn columns(kind: &KindInfo) -> Vec<Value> {
    kind.columns
        .iter()
        .map(|column| {
            let mut value = json!({"name": column.name, "type": column.kind, "jsonPath": column.path});
            if let (true, Some(value)) = (column.wide, value.as_object_mut()) {
                value.insert("priority".to_owned(), json!(1));
            }
            value
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_custom_kind_is_an_established_definition() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let objects = crd_objects(now);
        assert_eq!(objects.len(), kinds().iter().filter(|kind| kind.custom).count());
        for object in &objects {
            assert_eq!(object["spec"]["versions"][0]["served"], true);
            assert_eq!(object["status"]["conditions"][1]["type"], "Established");
            assert_eq!(object["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
        }
    }

    #[test]
    fn service_carries_its_duck_labels_and_names() {
        let objects = crd_objects(jiff::Timestamp::UNIX_EPOCH);
        let service = objects
            .iter()
            .find(|object| object["metadata"]["name"] == "services.serving.knative.dev")
            .unwrap();
        let labels = &service["metadata"]["labels"];
        for label in
            ["duck.knative.dev/addressable", "duck.knative.dev/podspecable", "knative.dev/crd-install"]
        {
            assert_eq!(labels[label], "true");
        }
        assert_eq!(service["spec"]["names"]["shortNames"], json!(["kservice", "ksvc"]));
        assert_eq!(service["spec"]["versions"][0]["additionalPrinterColumns"][0]["jsonPath"], ".status.url");
    }
}
