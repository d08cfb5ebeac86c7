//! What all four kinds share: who created and changed an object, and the rules for metadata.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use crate::autoscaling;
use crate::fielderror::FieldError;
use crate::names;
use crate::vocabulary::{
    AUTOSCALING_PREFIX, CREATOR, LAST_MODIFIER, ROLLOUT_DURATION, ROLLOUT_DURATION_ALIAS, SERVICE_LABEL,
};

/// Annotations below `networking.knative.dev/` that are known.
const NETWORKING: &[&str] = &[
    "certificate-class",
    "certificate.class",
    "disable-auto-tls",
    "disable-external-domain-tls",
    "disableAutoTLS",
    "http-option",
    "http-protocol",
    "httpOption",
    "httpProtocol",
    "ingress-class",
    "ingress.class",
];

/// Stamps who created the object, and who changed its spec last.
pub(crate) fn stamp(metadata: &mut ObjectMeta, old: Option<&ObjectMeta>, spec_changed: bool, user: &str) {
    if user.is_empty() || metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty()) {
        return;
    }
    let annotations = metadata.annotations.get_or_insert_default();
    match old {
        None => {
            annotations.insert(CREATOR.to_owned(), user.to_owned());
            annotations.insert(LAST_MODIFIER.to_owned(), user.to_owned());
        }
        Some(old) => {
            for key in [CREATOR, LAST_MODIFIER] {
                if let Some(value) = old.annotations.as_ref().and_then(|map| map.get(key)) {
                    annotations.entry(key.to_owned()).or_insert_with(|| value.clone());
                }
            }
            if spec_changed {
                annotations.insert(LAST_MODIFIER.to_owned(), user.to_owned());
            } else if let Some(before) = old.annotations.as_ref().and_then(|map| map.get(LAST_MODIFIER)) {
                annotations.insert(LAST_MODIFIER.to_owned(), before.clone());
            }
        }
    }
}

/// What is wrong with the metadata of a Service, Configuration or Route.
pub(crate) fn metadata(metadata: &ObjectMeta, old: Option<&ObjectMeta>) -> FieldError {
    let mut errors = FieldError::none();
    if let Some(name) = metadata.name.as_deref().filter(|name| !name.is_empty()) {
        if let Some(error) = names::label_1035_error(name) {
            errors.add(FieldError::new(format!("not a DNS 1035 label: [{error}]"), &["name"]));
        }
    } else if let Some(prefix) = metadata.generate_name.as_deref() {
        let trimmed = prefix.strip_suffix('-').unwrap_or(prefix);
        if let Some(error) = names::label_1035_error(trimmed) {
            errors.add(FieldError::new(format!("not a DNS 1035 label prefix: [{error}]"), &["generateName"]));
        }
    } else {
        errors.add(FieldError::missing(&["name"]));
    }
    let empty = BTreeMap::new();
    let annotations = metadata.annotations.as_ref().unwrap_or(&empty);
    for key in annotations.keys().filter(|key| key.starts_with(AUTOSCALING_PREFIX)) {
        errors.add(FieldError::invalid_key(
            key,
            "annotations",
            "autoscaling annotations must be put under \"spec.template.metadata.annotations\" to work",
        ));
    }
    errors.add(networking(annotations).via("annotations"));
    errors.add(rollout(annotations).via("annotations"));
    if let Some(before) = old.and_then(|old| old.annotations.as_ref()).and_then(|map| map.get(CREATOR))
        && annotations.get(CREATOR) != Some(before)
    {
        errors.add(FieldError::new("annotation value is immutable", &[&format!("annotations.{CREATOR}")]));
    }
    let owned = metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
    let labelled = metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(SERVICE_LABEL));
    if labelled && !owned {
        errors.add(FieldError::missing(&[&format!("labels.{SERVICE_LABEL}")]));
    }
    errors.via("metadata")
}

/// What is wrong with networking annotations; paths are keys.
pub(crate) fn networking(annotations: &BTreeMap<String, String>) -> FieldError {
    let mut errors = FieldError::none();
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix("networking.knative.dev/") else { continue };
        if !NETWORKING.contains(&name) {
            errors.add(FieldError::invalid_key(key, "", ""));
        } else if name.to_ascii_lowercase().starts_with("http") {
            match value.to_ascii_lowercase().as_str() {
                "enabled" => {}
                "redirected" => errors.add(unsupported("redirection to https", key)),
                _ => errors.add(FieldError::invalid(value, key)),
            }
        }
    }
    errors
}

fn rollout(annotations: &BTreeMap<String, String>) -> FieldError {
    let found = [ROLLOUT_DURATION, ROLLOUT_DURATION_ALIAS]
        .into_iter()
        .find_map(|key| annotations.get(key).map(|value| (key, value)));
    let Some((key, value)) = found else { return FieldError::none() };
    match autoscaling::parse_duration(value) {
        None => FieldError::invalid(value, key),
        Some(nanoseconds) if nanoseconds < 0 => {
            FieldError::new(format!("rollout-duration={value} must be positive"), &[key])
        }
        Some(nanoseconds) if nanoseconds % 1_000_000_000 != 0 => {
            FieldError::new(format!("rollout-duration={value} is not at second precision"), &[key])
        }
        Some(0) => FieldError::none(),
        Some(_) => unsupported("a gradual rollout", key),
    }
}

/// The refusal of something that Knative offers and this version cannot honour.
pub(crate) fn unsupported(what: &str, path: &str) -> FieldError {
    FieldError::new(format!("{what} is not supported by this version of Dormouse"), &[path])
}

/// The fields of an object that are set.
pub(crate) fn keys(object: &impl Serialize) -> Vec<String> {
    match serde_json::to_value(object) {
        Ok(Value::Object(map)) => {
            map.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key).collect()
        }
        _ => Vec::new(),
    }
}

/// The leaves in which two values differ, one block each.
pub(crate) fn diff(old: &impl Serialize, new: &impl Serialize) -> String {
    let mut text = String::new();
    let value = |object: serde_json::Result<Value>| object.unwrap_or_default();
    walk("spec", &value(serde_json::to_value(old)), &value(serde_json::to_value(new)), &mut text);
    text
}

fn walk(path: &str, old: &Value, new: &Value, text: &mut String) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(before), Value::Object(after)) => {
            let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let get = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                walk(&format!("{path}.{name}"), &get(before), &get(after), text);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for index in 0..before.len().max(after.len()) {
                let get = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                walk(&format!("{path}[{index}]"), &get(before), &get(after), text);
            }
        }
        _ => text.push_str(&format!("{path}:\n\t-: {old}\n\t+: {new}\n")),
    }
}

/// Whether `image` has the shape of an image reference.
pub(crate) fn is_image_reference(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if let Some(digest) = digest {
        let hex = |text: &str| text.len() == 64 && text.bytes().all(|letter| letter.is_ascii_hexdigit());
        if !digest.strip_prefix("sha256:").is_some_and(hex) {
            return false;
        }
    }
    let slash = name.rfind('/').map_or(0, |slash| slash + 1);
    let last = name.get(slash..).unwrap_or_default();
    let (repository, tag) = match last.split_once(':') {
        Some((last, tag)) => (name.get(..slash + last.len()).unwrap_or_default(), Some(tag)),
        None => (name, None),
    };
    let tag_ok = tag.is_none_or(|tag| {
        !tag.is_empty()
            && tag.len() <= 128
            && tag.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter))
    });
    let mut parts = repository.split('/').peekable();
    let first_is_host = repository.contains('/')
        && parts.peek().is_some_and(|host| host.contains(['.', ':']) || *host == "localhost");
    if first_is_host {
        parts.next();
    }
    let part_ok = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|letter| {
                letter.is_ascii_lowercase() || letter.is_ascii_digit() || b"_.-".contains(&letter)
            })
            && part.bytes().next().is_some_and(|letter| letter.is_ascii_alphanumeric())
    };
    tag_ok && parts.all(part_ok)
}

/// Whether `text` is a Kubernetes quantity.
pub(crate) fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end =
        unsigned.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let exponent = suffix.strip_prefix(['e', 'E']).is_some_and(|power| power.parse::<i32>().is_ok());
    number.parse::<f64>().is_ok()
        && (exponent
            || matches!(
                suffix,
                "" | "n"
                    | "u"
                    | "m"
                    | "k"
                    | "M"
                    | "G"
                    | "T"
                    | "P"
                    | "E"
                    | "Ki"
                    | "Mi"
                    | "Gi"
                    | "Ti"
                    | "Pi"
                    | "Ei"
            ))
}
