//! Sets of fields: what a manager owns, as a tree whose edges are named as in `FieldsV1`.
//!
//! | edge | leads to |
//! |---|---|
//! | `f:name` | a field of an object |
//! | `k:{"name":"x"}` | the item of a list with these keys |
//! | `v:"x"` | the scalar in a list used as a set |

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::pure::schema::{Apply, Field};

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// Whether the place itself is in the set.
    pub(super) own: bool,
    pub(super) children: BTreeMap<String, Set>,
}

/// An edge, the value it leads to, and the rule for that value.
pub(super) type Edge<'a> = (String, &'a Value, Field);

/// The parts of a value that are owned apart from each other; none when it is owned as a whole.
pub(super) fn edges(value: &Value, field: Field) -> Vec<Edge<'_>> {
    match (value, field.apply) {
        (_, Apply::Atomic) => Vec::new(),
        (Value::Object(map), _) => {
            map.iter().map(|(name, value)| (format!("f:{name}"), value, field.inner.field(name))).collect()
        }
        (Value::Array(list), Apply::Keyed(keys)) => {
            let item = Field { apply: Apply::Default, ..field };
            list.iter().map(|value| (key_edge(value, keys), value, item)).collect()
        }
        (Value::Array(list), Apply::Set) => {
            let item = Field { apply: Apply::Atomic, ..field };
            list.iter().map(|value| (format!("v:{value}"), value, item)).collect()
        }
        _ => Vec::new(),
    }
}

fn key_edge(item: &Value, keys: &[(&str, Option<&str>)]) -> String {
    // Sorted by key, whatever order the item has.
    let key: BTreeMap<&str, Value> = keys
        .iter()
        .map(|(name, default)| {
            let value = item.get(name).cloned().filter(|value| !value.is_null());
            (*name, value.unwrap_or_else(|| default.map_or(Value::Null, Value::from)))
        })
        .collect();
    let pairs: Vec<String> =
        key.iter().map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
    format!("k:{{{}}}", pairs.join(","))
}

/// Whether an edge leads to the item of a list, which is in a set beside its fields.
fn is_item(edge: &str) -> bool {
    !edge.starts_with("f:")
}

impl Set {
    /// Every leaf of a value.
    pub(super) fn of(value: &Value, field: Field) -> Self {
        let edges = edges(value, field);
        let own = edges.is_empty();
        let children = edges
            .into_iter()
            .map(|(edge, value, field)| {
                let mut child = Self::of(value, field);
                child.own |= is_item(&edge);
                (edge, child)
            })
            .collect();
        Self { own, children }
    }

    /// The leaves of `new` that `old` has not, or has differently.
    pub(super) fn changed(old: Option<&Value>, new: &Value, field: Field) -> Self {
        let Some(old) = old else { return Self::of(new, field) };
        if old == new {
            return Self::default();
        }
        let after = edges(new, field);
        let before: BTreeMap<String, &Value> =
            edges(old, field).into_iter().map(|(edge, value, _)| (edge, value)).collect();
        if after.is_empty() {
            return Self { own: true, children: BTreeMap::new() };
        }
        let mut set = Self::default();
        for (edge, value, field) in after {
            let old = before.get(&edge).copied();
            let mut child = Self::changed(old, value, field);
            child.own |= old.is_none() && is_item(&edge);
            if !child.is_empty() {
                set.children.insert(edge, child);
            }
        }
        set
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.own && self.children.values().all(Self::is_empty)
    }

    /// The union.
    pub(super) fn union(&mut self, other: &Self) {
        self.own |= other.own;
        for (edge, child) in &other.children {
            self.children.entry(edge.clone()).or_default().union(child);
        }
    }

    /// What is in this set and not in the other.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let mut result = Self { own: self.own && !other.own, children: BTreeMap::new() };
        for (edge, child) in &self.children {
            let rest = other.children.get(edge).map_or_else(|| child.clone(), |other| child.minus(other));
            if !rest.is_empty() {
                result.children.insert(edge.clone(), rest);
            }
        }
        result
    }

    /// What is in both sets.
    pub(super) fn both(&self, other: &Self) -> Self {
        let mut result = Self { own: self.own && other.own, children: BTreeMap::new() };
        for (edge, child) in &self.children {
            let common = other.children.get(edge).map(|other| child.both(other)).unwrap_or_default();
            if !common.is_empty() {
                result.children.insert(edge.clone(), common);
            }
        }
        result
    }

    /// What still exists in a value.
    pub(super) fn existing(&self, value: &Value, field: Field) -> Self {
        let mut result = Self { own: self.own, children: BTreeMap::new() };
        for (edge, value, field) in edges(value, field) {
            if let Some(child) = self.children.get(&edge) {
                let child = child.existing(value, field);
                if !child.is_empty() {
                    result.children.insert(edge, child);
                }
            }
        }
        result
    }

    /// Removes what stands under a path of field names.
    pub(super) fn without(&mut self, path: &[&str]) {
        if let Some((first, rest)) = path.split_first() {
            let edge = format!("f:{first}");
            if rest.is_empty() {
                self.children.remove(&edge);
            } else if let Some(child) = self.children.get_mut(&edge) {
                child.without(rest);
                if child.is_empty() {
                    self.children.remove(&edge);
                }
            }
        }
    }

    /// Every member as kubectl prints it: `.spec.containers[name="c"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, prefix: &str, found: &mut Vec<String>) {
        if self.own && !prefix.is_empty() {
            found.push(prefix.to_owned());
        }
        for (edge, child) in &self.children {
            child.collect(&format!("{prefix}{}", step(edge)), found);
        }
    }

    // === FieldsV1 ===

    /// As in `managedFields[].fieldsV1`.
    pub(super) fn encode(&self) -> Value {
        let mut map = Map::new();
        if self.own && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (edge, child) in &self.children {
            map.insert(edge.clone(), child.encode());
        }
        Value::Object(map)
    }

    /// From `managedFields[].fieldsV1`.
    pub(super) fn decode(value: &Value) -> Self {
        let mut set = Self::decode_below(value);
        // The object itself is nobody's.
        set.own = false;
        set
    }

    fn decode_below(value: &Value) -> Self {
        let Some(map) = value.as_object() else { return Self::default() };
        let own = map.is_empty() || map.contains_key(".");
        let children = map
            .iter()
            .filter(|(edge, _)| *edge != ".")
            .map(|(edge, value)| (edge.clone(), Self::decode_below(value)))
            .collect();
        Self { own, children }
    }
}

/// One step of a printed path.
fn step(edge: &str) -> String {
    if let Some(name) = edge.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(value) = edge.strip_prefix("v:") {
        return format!("[={value}]");
    }
    let keys: BTreeMap<String, Value> =
        edge.strip_prefix("k:").and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("[{}]", keys.join(","))
}
