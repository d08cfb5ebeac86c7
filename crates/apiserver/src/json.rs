//! Small helpers on JSON trees.

use serde_json::{Map, Value};

/// The text at a path such as `["metadata", "name"]`; empty when absent.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The value at a path.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

/// The object under `name`, made when it is missing or something else.
pub(crate) fn map_mut<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    let map = root_mut(value);
    let slot = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
    root_mut(slot)
}

/// The tree as an object, made empty when it is something else.
pub(crate) fn root_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}

/// `metadata` for writing.
pub(crate) fn meta_mut(value: &mut Value) -> &mut Map<String, Value> {
    map_mut(value, "metadata")
}

/// Sets or removes a field.
pub(crate) fn put(map: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(map.insert(name.into(), value)),
        None => drop(map.remove(name)),
    }
}

/// The texts in the array at a path.
pub(crate) fn texts<'a>(value: &'a Value, path: &[&str]) -> Vec<&'a str> {
    at(value, path).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Removes map entries that are null: Go clients send them for what is absent.
pub(crate) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
