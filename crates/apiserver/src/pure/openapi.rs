//! OpenAPI v3: enough for `kubectl apply` to leave validation to us and for `kubectl explain` to show every field.
//!
//! The schemas of built-in kinds come from the protobuf table, which has every field's name and type; those of Knative's
//! kinds are written out. Strategic merge patch is not listed as a body of PATCH on purpose: without it kubectl uses
//! the merge keys that it has compiled in.

mod knative;

use std::sync::LazyLock;

use dormouse_api::kind::{KindInfo, kinds};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::protobuf::{Field, Kind, Message, Shape, message, package};

const OBJECT_META: &str = "meta.ObjectMeta";

/// A group and version with its document and the document's hash.
struct Document {
    group: &'static str,
    version: &'static str,
    content: Value,
    hash: String,
}

static DOCUMENTS: LazyLock<Vec<Document>> = LazyLock::new(|| {
    let mut documents: Vec<Document> = Vec::new();
    for kind in kinds() {
        if documents.iter().any(|document| (document.group, document.version) == (kind.group, kind.version)) {
            continue;
        }
        let content = build(kind.group, kind.version);
        let hash: String =
            Sha256::digest(content.to_string()).iter().take(16).map(|byte| format!("{byte:02X}")).collect();
        documents.push(Document { group: kind.group, version: kind.version, content, hash });
    }
    documents
});

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `/openapi/v3`: the documents and where they are.
pub(crate) fn index() -> Value {
    let paths: Map<String, Value> = DOCUMENTS
        .iter()
        .map(|document| {
            let path = path_of(document.group, document.version);
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/{group}/{version}`.
pub(crate) fn document(group: &str, version: &str) -> Option<Value> {
    let document = DOCUMENTS.iter().find(|each| each.group == group && each.version == version)?;
    Some(document.content.clone())
}

/// The schema of a custom kind inside its definition object, where references are not allowed.
pub(crate) fn crd_schema(kind: &KindInfo) -> Value {
    let open = |what: &str| json!({"type": "object", "description": what, "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "type": "object",
        "description": knative::description(kind),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": open("What is wanted."),
            "status": open("What was last seen."),
        },
    })
}

fn build(group: &str, version: &str) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in kinds().iter().filter(|kind| kind.group == group && kind.version == version) {
        add_paths(&mut paths, kind);
        add_kind(&mut schemas, kind);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Dormouse", "version": "v1.35.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn group_version_kind(kind: &KindInfo) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn add_paths(paths: &mut Map<String, Value>, kind: &KindInfo) {
    let base = format!("/{}", path_of(kind.group, kind.version));
    let collection = if kind.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{base}/{}", kind.plural)
    };
    let reference = format!("#/components/schemas/{}", schema_name(kind));
    let operation = |action: &str, checked: bool| {
        let mut operation = json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": group_version_kind(kind),
            "responses": {"200": {
                "description": "OK",
                "content": {"application/json": {"schema": {"$ref": reference}}},
            }},
        });
        if let (true, Some(fields)) = (checked, operation.as_object_mut()) {
            let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
            let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"].map(parameter).into();
            fields.insert("parameters".to_owned(), Value::Array(parameters));
        }
        operation
    };
    let named = format!("{collection}/{{name}}");
    paths.insert(collection, json!({"get": operation("list", false), "post": operation("post", true)}));
    paths.insert(
        named,
        json!({
            "get": operation("get", false),
            "put": operation("put", true),
            "patch": operation("patch", true),
            "delete": operation("delete", false),
        }),
    );
}

// === schemas ===

fn schema_name(kind: &KindInfo) -> String {
    match package(&kind.api_version()).filter(|_| !kind.custom) {
        Some(package) => definition(&format!("{package}.{}", kind.kind)),
        None => {
            let mut parts: Vec<&str> = kind.group.split('.').collect();
            parts.reverse();
            format!("{}.{}.{}", parts.join("."), kind.version, kind.kind)
        }
    }
}

/// The name of a message's schema, as Kubernetes spells it.
fn definition(message: &str) -> String {
    match message.split_once('.') {
        Some(("meta", name)) => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"),
        Some((package, name)) => format!("io.k8s.api.{package}.v1.{name}"),
        None => message.to_owned(),
    }
}

/// A reference to a message's schema, which is added with all that it refers to.
fn reference(schemas: &mut Map<String, Value>, message_name: &str) -> Value {
    let name = definition(message_name);
    if let (false, Some(message)) = (schemas.contains_key(&name), message(message_name)) {
        // Reserve the name first, so that a type which contains itself ends.
        schemas.insert(name.clone(), Value::Null);
        let schema = json!({
            "type": "object",
            "description": format!("{} of Kubernetes.", short(message_name)),
            "properties": properties(schemas, message),
        });
        schemas.insert(name.clone(), schema);
    }
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn short(message: &str) -> &str {
    message.rsplit('.').next().unwrap_or(message)
}

fn properties(schemas: &mut Map<String, Value>, message_type: &Message) -> Map<String, Value> {
    let mut found = Map::new();
    for field in &message_type.fields {
        match (field.flattened, field.kind) {
            (true, Kind::Message(inner)) => {
                if let Some(inner) = message(inner) {
                    found.extend(properties(schemas, inner));
                }
            }
            _ => {
                found.insert(field.name.to_owned(), field_schema(schemas, field));
            }
        }
    }
    found
}

fn field_schema(schemas: &mut Map<String, Value>, field: &Field) -> Value {
    let inner = match field.kind {
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int => json!({"type": "integer", "format": "int64"}),
        Kind::Double => json!({"type": "number", "format": "double"}),
        Kind::Quantity => json!({"type": "string", "description": "An amount such as 100m or 1Gi."}),
        Kind::IntOrString => json!({"type": "string", "format": "int-or-string"}),
        Kind::Time | Kind::MicroTime => json!({"type": "string", "format": "date-time"}),
        Kind::Json => json!({"type": "object"}),
        Kind::Strings => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Message(name) => reference(schemas, name),
    };
    match field.shape {
        Shape::One => inner,
        Shape::List => json!({"type": "array", "items": inner}),
        Shape::Map => json!({"type": "object", "additionalProperties": inner}),
    }
}

fn add_kind(schemas: &mut Map<String, Value>, kind: &KindInfo) {
    let built_in = package(&kind.api_version())
        .filter(|_| !kind.custom)
        .and_then(|package| message(&format!("{package}.{}", kind.kind)));
    let (description, own) = match built_in {
        Some(message) => (format!("{} of Kubernetes.", kind.kind), properties(schemas, message)),
        None if kind.custom => (knative::description(kind).to_owned(), knative::properties(schemas, kind)),
        None => (format!("{} of Kubernetes.", kind.kind), opaque(schemas)),
    };
    let mut all = Map::new();
    let text = |what: &str| json!({"type": "string", "description": what});
    all.insert("apiVersion".to_owned(), text("The group and version of this object."));
    all.insert("kind".to_owned(), text("The kind of this object."));
    all.extend(own);
    schemas.insert(
        schema_name(kind),
        json!({
            "type": "object",
            "description": description,
            "properties": all,
            "x-kubernetes-group-version-kind": [group_version_kind(kind)],
        }),
    );
}

fn opaque(schemas: &mut Map<String, Value>) -> Map<String, Value> {
    let mut properties = Map::new();
    properties.insert("metadata".to_owned(), reference(schemas, OBJECT_META));
    for part in ["spec", "status"] {
        properties.insert(part.to_owned(), json!({"type": "object"}));
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.push(reference.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_is_resolved_within_its_document() {
        for each in DOCUMENTS.iter() {
            let mut found = Vec::new();
            references(&each.content, &mut found);
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(each.content.pointer(pointer).is_some_and(Value::is_object), "{reference}");
            }
        }
    }

    #[test]
    fn every_kind_can_be_patched_with_field_validation_and_explained() {
        for kind in kinds() {
            let document = document(kind.group, kind.version).unwrap();
            let paths = document["paths"].as_object().unwrap();
            let patched = paths.values().any(|item| {
                item["patch"]["x-kubernetes-group-version-kind"] == group_version_kind(kind)
                    && item["patch"]["parameters"].to_string().contains("fieldValidation")
            });
            assert!(patched, "{}", kind.kind);
            let schema = &document["components"]["schemas"][schema_name(kind)];
            assert_eq!(schema["x-kubernetes-group-version-kind"][0], group_version_kind(kind));
            assert!(schema["properties"]["metadata"]["$ref"].is_string());
        }
    }

    #[test]
    fn index_names_a_stable_hash_of_each_document() {
        let index = index();
        let url = index["paths"]["apis/serving.knative.dev/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/apis/serving.knative.dev/v1?hash="));
        assert!(index["paths"]["api/v1"].is_object());
        assert!(document("nope", "v1").is_none());
    }

    #[test]
    fn a_knative_template_shows_both_its_own_and_the_pods_fields() {
        let document = document("serving.knative.dev", "v1").unwrap();
        let schemas = &document["components"]["schemas"];
        let spec = &schemas["dev.knative.serving.v1.RevisionSpec"]["properties"];
        assert_eq!(spec["containerConcurrency"]["type"], "integer");
        assert!(spec["containers"]["items"]["$ref"].is_string());
    }
}
