//! What the API server decides without I/O: error answers, selectors, patches, wire formats, tables, discovery.
//!
//! Everything here is a function of its arguments; `now` is one of them.

pub(crate) mod accept;
pub(crate) mod age;
pub(crate) mod apply;
pub(crate) mod crd;
pub(crate) mod discovery;
pub(crate) mod event;
pub(crate) mod jsonpath;
pub(crate) mod openapi;
pub(crate) mod patch;
pub(crate) mod protobuf;
pub(crate) mod schema;
pub(crate) mod selector;
pub(crate) mod status;
pub(crate) mod table;

use serde_json::Value;

/// The string at a JSON pointer, or the empty string.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at a JSON pointer, or zero.
fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The list at a JSON pointer, or an empty one.
fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Whether a scalar is this text: a string by its content, anything else by its JSON.
fn prints_as(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        other => {
            let shown = other.to_string();
            shown.as_str() == text
        }
    }
}
