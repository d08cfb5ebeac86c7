//! Tables: what `kubectl get` prints. Columns of built-in kinds are code, those of custom kinds come from the registry.

mod builtin;
mod pod;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use dormouse_api::kind::KindInfo;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, jsonpath, text};

/// What each row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata; the default.
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// The value of the query parameter `includeObject`; anything unknown is the default.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// A column: its header, its type, and whether only `-o wide` shows it.
struct Definition {
    name: &'static str,
    kind: &'static str,
    wide: bool,
}

const fn column(name: &'static str) -> Definition {
    Definition { name, kind: "string", wide: false }
}

const fn count(name: &'static str) -> Definition {
    Definition { name, kind: "integer", wide: false }
}

const fn wide(name: &'static str) -> Definition {
    Definition { name, kind: "string", wide: true }
}

/// The table of some objects of a kind. `list_meta` is the list's metadata; for a single object its
/// `resourceVersion`.
pub(crate) fn table(
    kind: &KindInfo,
    objects: &[Arc<Value>],
    list_meta: Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let (definitions, cells) = layout(kind, now);
    let columns: Vec<Value> = definitions
        .iter()
        .map(|column| {
            let format = if column.name == "Name" && !column.wide { "name" } else { "" };
            json!({
                "name": column.name,
                "type": column.kind,
                "format": format,
                "description": "",
                "priority": i32::from(column.wide),
            })
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": cells(object)});
            if let (Some(included), Some(row)) = (included(object, include), row.as_object_mut()) {
                row.insert("object".to_owned(), included);
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// Only the metadata of an object.
pub(crate) fn partial(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

fn included(object: &Value, include: IncludeObject) -> Option<Value> {
    match include {
        IncludeObject::None => None,
        IncludeObject::Metadata => Some(partial(object)),
        IncludeObject::Object => Some(object.clone()),
    }
}

type Cells<'a> = Box<dyn Fn(&Value) -> Vec<Value> + 'a>;

fn layout(kind: &KindInfo, now: Timestamp) -> (Vec<Definition>, Cells<'_>) {
    if !kind.custom
        && let Some((columns, cells)) = builtin::layout(kind)
    {
        return (columns, Box::new(move |object| cells(object, now)));
    }
    let mut definitions = vec![column("Name")];
    definitions.extend(kind.columns.iter().map(|each| Definition {
        name: each.name,
        kind: each.kind,
        wide: each.wide,
    }));
    if kind.columns.is_empty() {
        definitions.push(Definition { name: "Age", kind: "date", wide: false });
    }
    let cells = move |object: &Value| {
        let mut cells = vec![name(object)];
        cells.extend(kind.columns.iter().map(|column| custom_cell(object, column.path, column.kind, now)));
        if kind.columns.is_empty() {
            cells.push(age_of(object, now));
        }
        cells
    };
    (definitions, Box::new(cells))
}

fn custom_cell(object: &Value, path: &str, kind: &str, now: Timestamp) -> Value {
    let found = jsonpath::select(object, path).first().copied().filter(|value| !value.is_null());
    match (kind, found) {
        ("date", found) => Value::from(age::since(found.and_then(Value::as_str).unwrap_or_default(), now)),
        // A label holds its number as text; clients that print do not care.
        ("integer", Some(value)) if value.is_number() => value.clone(),
        (_, Some(Value::String(found))) => Value::from(found.as_str()),
        (_, Some(other)) => Value::from(other.to_string()),
        (_, None) => Value::from(""),
    }
}

fn name(object: &Value) -> Value {
    Value::from(text(object, "/metadata/name"))
}

fn age_of(object: &Value, now: Timestamp) -> Value {
    Value::from(age::since(text(object, "/metadata/creationTimestamp"), now))
}
