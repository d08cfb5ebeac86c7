//! JSON → typed → JSON, finding what the types do not know and which field has the wrong type.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Denied, Request, Strictness};

/// The typed object and the warnings about what was dropped.
pub(super) fn decode<K: DeserializeOwned + Serialize>(
    request: &Request<'_>,
    object: &Value,
) -> Result<(K, Vec<String>), Denied> {
    let typed: K = match K::deserialize(object) {
        Ok(typed) => typed,
        Err(error) => {
            let path = culprit::<K>(object);
            let message = match path.as_str() {
                "" => error.to_string(),
                path => format!("{path}: {error}"),
            };
            return Err(Denied::BadRequest(format!("{}: {message}", cannot(request))));
        }
    };
    if request.strict == Strictness::Ignore {
        return Ok((typed, Vec::new()));
    }
    let again = serde_json::to_value(&typed).unwrap_or_default();
    let mut unknown = Vec::new();
    compare("", object, &again, &mut unknown);
    if unknown.is_empty() {
        return Ok((typed, Vec::new()));
    }
    let texts: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    if request.strict == Strictness::Strict {
        return Err(Denied::BadRequest(format!(
            "{}: strict decoding error: {}",
            cannot(request),
            texts.join(", ")
        )));
    }
    Ok((typed, texts))
}

fn cannot(request: &Request<'_>) -> String {
    let kind = request.kind;
    format!("{} in version {:?} cannot be handled as a {}", kind.kind, kind.version, kind.kind)
}

/// The smallest part of `object` without which its decoding fails no more, or fails differently.
fn culprit<K: DeserializeOwned>(object: &Value) -> String {
    let mut root = object.clone();
    let mut path = String::new();
    let mut pointer = String::new();
    while let Some((step, name)) = next::<K>(&mut root, &pointer) {
        pointer.push_str(&step);
        if name.starts_with('[') || path.is_empty() {
            path.push_str(&name);
        } else {
            path.push('.');
            path.push_str(&name);
        }
    }
    path
}

fn next<K: DeserializeOwned>(root: &mut Value, pointer: &str) -> Option<(String, String)> {
    let before = K::deserialize(&*root).err()?.to_string();
    let steps: Vec<(String, String)> = match root.pointer(pointer)? {
        Value::Object(map) => map
            .keys()
            .map(|key| (format!("/{}", key.replace('~', "~0").replace('/', "~1")), key.clone()))
            .collect(),
        Value::Array(list) => {
            (0..list.len()).map(|index| (format!("/{index}"), format!("[{index}]"))).collect()
        }
        _ => return None,
    };
    for (step, name) in steps {
        let array = name.starts_with('[');
        let parent = root.pointer_mut(pointer)?;
        let saved = parent.clone();
        match parent {
            Value::Object(map) => {
                map.remove(&name);
            }
            Value::Array(list) if array => {
                let index = name.trim_matches(['[', ']']).parse::<usize>().ok()?;
                list.remove(index);
            }
            _ => return None,
        }
        let after = K::deserialize(&*root).err().map(|error| error.to_string());
        *root.pointer_mut(pointer)? = saved;
        if after.as_deref() != Some(before.as_str()) {
            return Some((step, name));
        }
    }
    None
}

fn compare(path: &str, given: &Value, known: &Value, unknown: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(known) => compare(&path, value, known, unknown),
                    None if empty_status(&path, value) => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                compare(&format!("{path}[{index}]"), given, known, unknown);
            }
        }
        _ => {}
    }
}

/// Statuses leave out empty lists and maps; that is not a loss.
fn empty_status(path: &str, value: &Value) -> bool {
    let empty = match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    empty && path.starts_with("status.")
}
