//! Strategic merge patch: a merge patch whose lists merge by key, with directives for what a plain object cannot say.
//!
//! | directive | where | effect |
//! |---|---|---|
//! | `$patch: replace` | object or list item | the object or list becomes what the patch says |
//! | `$patch: delete` | object or list item | the object's fields or the item with that key go away |
//! | `$patch: merge` | object or list item | as without it |
//! | `$deleteFromPrimitiveList/<field>` | beside a list of scalars | these values go away |
//! | `$setElementOrder/<field>` | beside a merged list | the order of the items that the patch knows |
//! | `$retainKeys` | object | every other key goes away |

use serde_json::{Map, Value};

use crate::pure::schema::{Field, Patch, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// A directive is used wrongly.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object.
    #[error("{0}")]
    Unmatched(String),
}

type Object = Map<String, Value>;

/// The object that `current` becomes.
pub(super) fn merge(current: &Value, patch: &Value, schema: &Type) -> Result<Value, Error> {
    let empty = Object::new();
    let current = current.as_object().unwrap_or(&empty);
    let patch = patch.as_object().unwrap_or(&empty);
    merge_object(current, patch, schema, false).map(Value::Object)
}

fn directive(patch: &Object) -> Result<Option<&str>, Error> {
    match patch.get(DIRECTIVE) {
        None => Ok(None),
        Some(Value::String(text)) if matches!(text.as_str(), "replace" | "delete" | "merge") => {
            Ok(Some(text))
        }
        Some(other) => Err(Error::Malformed(format!("unknown patch type: {other}"))),
    }
}

fn without_directive(patch: &Object) -> Object {
    patch
        .iter()
        .filter(|(key, _)| *key != DIRECTIVE)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn merge_object(current: &Object, patch: &Object, schema: &Type, retain_keys: bool) -> Result<Object, Error> {
    match directive(patch)? {
        Some("replace") => return Ok(without_directive(patch)),
        Some("delete") => return Ok(Object::new()),
        _ => {}
    }
    let mut result = current.clone();
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain(&mut result, patch, keys, retain_keys)?;
    }
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            delete_values(&mut result, name, value)?;
        }
    }
    for (key, value) in patch {
        if key == DIRECTIVE
            || key == RETAIN_KEYS
            || key.starts_with(DELETE_FROM)
            || key.starts_with(SET_ORDER)
        {
            continue;
        }
        if value.is_null() {
            result.remove(key);
            continue;
        }
        let field = schema.field(key);
        // A field that is absent merges onto nothing, which also resolves the directives inside it.
        let merged = merge_field(result.get(key), value, field)?;
        result.insert(key.clone(), merged);
    }
    for (key, order) in patch {
        if let Some(name) = key.strip_prefix(SET_ORDER) {
            reorder(&mut result, current, name, order, schema.field(name))?;
        }
    }
    Ok(result)
}

fn merge_field(current: Option<&Value>, patch: &Value, field: Field) -> Result<Value, Error> {
    match patch {
        Value::Object(patch) if field.patch != Patch::Replace => {
            let empty = Object::new();
            let current = current.and_then(Value::as_object).unwrap_or(&empty);
            merge_object(current, patch, field.inner, field.retain_keys).map(Value::Object)
        }
        Value::Array(patch) => {
            let current = current.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            match field.patch {
                Patch::Keyed(key) => merge_list(current, patch, key, field).map(Value::Array),
                Patch::Set => Ok(Value::Array(union(current, patch))),
                Patch::Default | Patch::Replace => Ok(Value::Array(patch.clone())),
            }
        }
        other => Ok(other.clone()),
    }
}

fn retain(result: &mut Object, patch: &Object, keys: &Value, allowed: bool) -> Result<(), Error> {
    let keys = keys.as_array().ok_or_else(|| {
        Error::Malformed("invalid patch format of retainKeys: it must be a list".to_owned())
    })?;
    let kept = |key: &str| keys.iter().any(|each| each.as_str() == Some(key));
    let stray = patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !kept(key));
    if let Some((key, _)) = stray {
        return Err(Error::Malformed(format!(
            "invalid patch format of retainKeys: the list must name every field of the patch, and '{key}' is missing"
        )));
    }
    if allowed {
        result.retain(|key, _| kept(key));
    }
    Ok(())
}

fn delete_values(result: &mut Object, name: &str, values: &Value) -> Result<(), Error> {
    let values = values.as_array().ok_or_else(|| {
        Error::Malformed(format!("invalid patch format of primitive list: {DELETE_FROM}{name}"))
    })?;
    if let Some(Value::Array(list)) = result.get_mut(name) {
        list.retain(|each| !values.contains(each));
    }
    Ok(())
}

fn union(current: &[Value], patch: &[Value]) -> Vec<Value> {
    let mut result = current.to_vec();
    for value in patch {
        if !result.contains(value) {
            result.push(value.clone());
        }
    }
    result
}

fn key_of<'a>(item: &'a Value, key: &str) -> Result<&'a Value, Error> {
    let object = item.as_object().ok_or_else(|| {
        Error::Unmatched(format!("a list that merges by '{key}' has an item that is no object"))
    })?;
    object
        .get(key)
        .ok_or_else(|| Error::Unmatched(format!("map: {item} does not contain declared merge key: {key}")))
}

fn merge_list(current: &[Value], patch: &[Value], key: &str, field: Field) -> Result<Vec<Value>, Error> {
    let is = |item: &Value, wanted: &str| item.get(DIRECTIVE).and_then(Value::as_str) == Some(wanted);
    for item in patch {
        if let Some(object) = item.as_object() {
            directive(object)?;
        }
    }
    if patch.iter().any(|item| is(item, "replace")) {
        // The item that says so carries nothing else.
        let rest = patch.iter().filter(|item| !is(item, "replace"));
        return Ok(rest.filter(|item| !is(item, "delete")).cloned().collect());
    }
    let mut result = current.to_vec();
    for item in patch.iter().filter(|item| is(item, "delete")) {
        let wanted = key_of(item, key)?;
        result.retain(|each| each.get(key) != Some(wanted));
    }
    for item in patch.iter().filter(|item| !is(item, "delete")) {
        let wanted = key_of(item, key)?;
        let empty = Object::new();
        let patch = item.as_object().unwrap_or(&empty);
        match result.iter_mut().find(|each| each.get(key) == Some(wanted)) {
            Some(found) => {
                let object = found.as_object().unwrap_or(&empty);
                *found = Value::Object(merge_object(object, patch, field.inner, field.retain_keys)?);
            }
            None => result.push(Value::Object(merge_object(&empty, patch, field.inner, field.retain_keys)?)),
        }
    }
    Ok(result)
}

/// Puts the items that the patch knows in the patch's order, and each other item before the first known one that it
/// preceded in the present object.
fn reorder(
    result: &mut Object,
    current: &Object,
    name: &str,
    order: &Value,
    field: Field,
) -> Result<(), Error> {
    let order = order
        .as_array()
        .ok_or_else(|| Error::Malformed(format!("invalid patch format of setElementOrder list: {name}")))?;
    let identity = |item: &Value| -> Value {
        match field.patch {
            Patch::Keyed(key) => item.get(key).cloned().unwrap_or(Value::Null),
            _ => item.clone(),
        }
    };
    if !matches!(field.patch, Patch::Keyed(_) | Patch::Set) {
        return Ok(());
    }
    let Some(Value::Array(list)) = result.get_mut(name) else { return Ok(()) };
    let order: Vec<Value> = order.iter().map(identity).collect();
    let before: Vec<Value> =
        current.get(name).and_then(Value::as_array).into_iter().flatten().map(identity).collect();
    let place = |list: &[Value], item: &Value| list.iter().position(|each| *each == identity(item));

    let (mut known, others): (Vec<Value>, Vec<Value>) =
        std::mem::take(list).into_iter().partition(|item| place(&order, item).is_some());
    known.sort_by_key(|item| place(&order, item));
    let mut others = others.into_iter().peekable();
    for item in known {
        while let Some(other) = others.next_if(|other| match (place(&before, other), place(&before, &item)) {
            (Some(other), Some(item)) => other < item,
            _ => false,
        }) {
            list.push(other);
        }
        list.push(item);
    }
    list.extend(others);
    Ok(())
}
