//! The rules of `metadata`: what the server sets, what a client may change, what a name may be.

use dormouse_api::kind::KindInfo;
use serde_json::{Map, Value, json};

use crate::json::{at, meta_mut, put, root_mut, text};
use crate::pure::status::{Cause, Status};

/// Characters of generated suffixes: no vowels and nothing that reads as another one.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_BASE_MAX: usize = 58;
const ANNOTATIONS_MAX: usize = 256 << 10;

/// Fields that only the server writes, taken over from the stored object at every update.
const SERVER_OWNED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
];

/// Whether the kind counts changes of its desired state.
pub(crate) fn has_generation(kind: &KindInfo) -> bool {
    kind.custom
        || matches!(kind.group, "apps" | "batch" | "discovery.k8s.io" | "policy" | "apiextensions.k8s.io")
        || kind.group == "networking.k8s.io"
        || (kind.group.is_empty() && kind.kind == "Pod")
}

/// A name from `metadata.generateName`.
pub(crate) fn generate_name(base: &str) -> String {
    let base: String = base.chars().take(GENERATED_BASE_MAX).collect();
    let mut name = base;
    for _ in 0..5 {
        let index = fastrand::usize(..SUFFIX.len());
        name.push(char::from(SUFFIX.get(index).copied().unwrap_or(b'x')));
    }
    name
}

/// The check of `apiVersion` and `kind` against the path; missing ones are filled in.
pub(crate) fn match_type(kind: &KindInfo, object: &mut Value) -> Result<(), Status> {
    let version = kind.api_version();
    let given = text(object, &["apiVersion"]).to_owned();
    if !given.is_empty() && given != version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({version})"
        )));
    }
    let given = text(object, &["kind"]).to_owned();
    if !given.is_empty() && given != kind.kind {
        return Err(Status::bad_request(format!(
            "{given} in version \"{}\" cannot be handled as a {}: expected kind {}",
            kind.version, kind.kind, kind.kind
        )));
    }
    let root = root_mut(object);
    root.insert("apiVersion".into(), version.into());
    root.insert("kind".into(), kind.kind.into());
    Ok(())
}

/// The check of the body's namespace against the path's.
pub(crate) fn match_namespace(object: &mut Value, namespace: Option<&str>) -> Result<(), Status> {
    let given = text(object, &["metadata", "namespace"]);
    match namespace {
        Some(namespace) if given.is_empty() || given == namespace => {
            meta_mut(object).insert("namespace".into(), namespace.into());
            Ok(())
        }
        Some(_) => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        None => {
            meta_mut(object).remove("namespace");
            Ok(())
        }
    }
}

/// Fills what the server sets at creation. The name is already there.
pub(crate) fn stamp_new(kind: &KindInfo, object: &mut Value, now: jiff::Timestamp) {
    let meta = meta_mut(object);
    for name in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        meta.remove(name);
    }
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), now.to_string().into());
    if has_generation(kind) {
        meta.insert("generation".into(), 1.into());
    }
    tidy(meta);
    if kind.kind == "Namespace" && kind.group.is_empty() {
        let name = text(object, &["metadata", "name"]).to_owned();
        let meta = meta_mut(object);
        crate::json::root_mut(meta.entry("labels").or_insert_with(|| json!({})))
            .insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

/// Takes the server's fields over from `current` and moves the generation when the desired state differs.
pub(crate) fn stamp_update(current: &Value, object: &mut Value) {
    let meta = meta_mut(object);
    for name in SERVER_OWNED {
        put(meta, name, at(current, &["metadata", name]).cloned());
    }
    tidy(meta);
}

/// Whether two states differ in nothing but who manages them.
pub(crate) fn same_but_managers(left: &Value, right: &Value) -> bool {
    let bare = |value: &Value| {
        let mut value = value.clone();
        meta_mut(&mut value).remove("managedFields");
        value
    };
    bare(left) == bare(right)
}

/// Moves the generation if anything but metadata and status changed.
pub(crate) fn count_generation(kind: &KindInfo, current: &Value, object: &mut Value) {
    if !has_generation(kind) || same_desired(current, object) {
        return;
    }
    let generation = at(current, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(1);
    meta_mut(object).insert("generation".into(), (generation + 1).into());
}

fn same_desired(left: &Value, right: &Value) -> bool {
    let desired = |value: &'_ Value| -> Map<String, Value> {
        let all = value.as_object().into_iter().flatten();
        all.filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    desired(left) == desired(right)
}

/// Empty maps and lists mean absent.
fn tidy(meta: &mut Map<String, Value>) {
    for name in ["labels", "annotations"] {
        if meta.get(name).and_then(Value::as_object).is_some_and(Map::is_empty) {
            meta.remove(name);
        }
    }
    for name in ["finalizers", "ownerReferences"] {
        if meta.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            meta.remove(name);
        }
    }
}

/// Everything that may be wrong with `metadata`.
pub(crate) fn validate(kind: &KindInfo, current: Option<&Value>, object: &Value) -> Result<(), Status> {
    let mut causes = Vec::new();
    let name = text(object, &["metadata", "name"]);
    if current.is_none() {
        validate_name(kind, name, &mut causes);
    }
    validate_map(object, "labels", &mut causes);
    validate_map(object, "annotations", &mut causes);
    validate_owners(object, &mut causes);
    validate_finalizers(kind, current, object, &mut causes);
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid(kind, name, causes)) }
}

fn cause(reason: &str, field: impl Into<String>, message: impl Into<String>) -> Cause {
    Cause { reason: reason.into(), field: field.into(), message: message.into() }
}

fn invalid(field: impl Into<String>, value: &str, why: &str) -> Cause {
    cause("FieldValueInvalid", field, format!("Invalid value: {value:?}: {why}"))
}

fn is_label(name: &str, first_letter: bool) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let first = |c: char| allowed(c) && c != '-' && !(first_letter && c.is_ascii_digit());
    (1..=63).contains(&name.len())
        && name.chars().all(allowed)
        && name.starts_with(first)
        && !name.ends_with('-')
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|part| is_label(part, false) || (part.len() > 63 && is_long_label(part)))
}

fn is_long_label(part: &str) -> bool {
    part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !part.starts_with('-')
        && !part.ends_with('-')
}

fn validate_name(kind: &KindInfo, name: &str, causes: &mut Vec<Cause>) {
    const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    if name.is_empty() {
        causes.push(cause(
            "FieldValueRequired",
            "metadata.name",
            "Required value: name or generateName is required",
        ));
        return;
    }
    let (fine, why) = match (kind.group, kind.kind) {
        ("", "Namespace") => (is_label(name, false), LABEL),
        ("", "Service") => (is_label(name, true), LABEL_1035),
        ("rbac.authorization.k8s.io", _) => {
            (!name.contains(['/', '%']) && name != "." && name != "..", "may not contain '/' or '%'")
        }
        _ => (is_subdomain(name), SUBDOMAIN),
    };
    if !fine {
        causes.push(invalid("metadata.name", name, why));
    }
}

fn is_qualified(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(is_subdomain) && is_label_text(name) && !name.is_empty()
}

fn is_label_text(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && edge(text.chars().next())
        && edge(text.chars().next_back())
}

fn validate_map(object: &Value, field: &str, causes: &mut Vec<Cause>) {
    const KEY: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    let path = format!("metadata.{field}");
    let Some(value) = at(object, &["metadata", field]) else { return };
    let Some(map) = value.as_object() else {
        causes.push(invalid(path, &value.to_string(), "must be an object"));
        return;
    };
    let mut size = 0;
    for (key, value) in map {
        let Some(value) = value.as_str() else {
            causes.push(invalid(path.clone(), key, "must be a string"));
            continue;
        };
        size += key.len() + value.len();
        // Annotation keys are compared in lower case by Kubernetes, so upper-case prefixes pass there.
        let checked = if field == "annotations" { key.to_ascii_lowercase() } else { key.clone() };
        if !is_qualified(&checked) {
            causes.push(invalid(path.clone(), key, KEY));
        }
        if field == "labels" && !is_label_text(value) {
            causes.push(invalid(path.clone(), value, VALUE));
        }
    }
    if field == "annotations" && size > ANNOTATIONS_MAX {
        let message = format!("Too long: may not be more than {ANNOTATIONS_MAX} bytes");
        causes.push(cause("FieldValueTooLong", path, message));
    }
}

fn validate_owners(object: &Value, causes: &mut Vec<Cause>) {
    let Some(owners) = at(object, &["metadata", "ownerReferences"]).and_then(Value::as_array) else { return };
    let mut controllers = 0;
    for (index, owner) in owners.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &[field]).is_empty() {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                causes.push(invalid(path, "", &format!("{field} must not be empty")));
            }
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        causes.push(invalid("metadata.ownerReferences", &controllers.to_string(), why));
    }
}

fn validate_finalizers(kind: &KindInfo, current: Option<&Value>, object: &Value, causes: &mut Vec<Cause>) {
    let path = ["metadata", "finalizers"];
    let finalizers = crate::json::texts(object, &path);
    let old = current.map(|current| crate::json::texts(current, &path)).unwrap_or_default();
    let deleting = current.is_some_and(|current| at(current, &["metadata", "deletionTimestamp"]).is_some());
    for finalizer in finalizers {
        let known = matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
        // Only built-in kinds insist on a domain; Knative's own are named `routes.serving.knative.dev`.
        let qualified = (kind.custom || finalizer.contains('/')) && is_qualified(finalizer);
        if !(known || qualified || old.contains(&finalizer)) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(invalid("metadata.finalizers", finalizer, why));
        }
        if deleting && !old.contains(&finalizer) {
            let message = format!(
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {finalizer:?}"
            );
            causes.push(cause("FieldValueForbidden", "metadata.finalizers", message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_api::kind::by_kind;

    #[test]
    fn names_follow_their_kinds_rule() {
        let check = |kind: &str, name: &str| {
            let mut causes = Vec::new();
            validate_name(by_kind("", kind).unwrap(), name, &mut causes);
            causes.is_empty()
        };
        assert!(check("ConfigMap", "a.b-c"));
        assert!(!check("ConfigMap", "a_b"));
        assert!(!check("ConfigMap", ""));
        assert!(check("Service", "a1") && !check("Service", "1a") && !check("Service", "a.b"));
        assert!(check("Namespace", "1a") && !check("Namespace", "a.b"));
    }

    #[test]
    fn generation_moves_with_the_desired_state_only() {
        let kind = by_kind("serving.knative.dev", "Service").unwrap();
        let current = json!({"metadata": {"generation": 3}, "spec": {"a": 1}, "status": {}});
        let mut same = json!({"metadata": {"generation": 3, "labels": {"x": "y"}}, "spec": {"a": 1}, "status": {"b": 1}});
        count_generation(kind, &current, &mut same);
        assert_eq!(same["metadata"]["generation"], 3);
        let mut other = json!({"metadata": {"generation": 3}, "spec": {"a": 2}});
        count_generation(kind, &current, &mut other);
        assert_eq!(other["metadata"]["generation"], 4);
    }

    #[test]
    fn generated_names_keep_their_base() {
        let name = generate_name("job-");
        assert!(name.starts_with("job-") && name.len() == 9, "{name}");
        assert_eq!(generate_name(&"x".repeat(100)).len(), 63);
    }

    #[test]
    fn bad_labels_owners_and_finalizers_are_named() {
        let object = json!({"metadata": {"name": "a", "labels": {"a b": "x", "ok": "-"}, "finalizers": ["plain"],
            "ownerReferences": [{"kind": "X", "name": "n", "uid": "u"}]}});
        let error = validate(by_kind("", "ConfigMap").unwrap(), None, &object).unwrap_err();
        assert_eq!(error.code(), 422);
        for part in ["metadata.labels", "metadata.finalizers", "ownerReferences[0].apiVersion"] {
            assert!(error.message().contains(part), "{}", error.message());
        }
    }
}
