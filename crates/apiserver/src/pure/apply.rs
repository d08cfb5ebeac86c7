//! Server-side apply: who owns which field, and what an applied object changes.
//!
//! An object is tracked from the first Apply on; until then it has no `managedFields`, and everything it has is given
//! to one entry when that Apply comes. This spares all objects that are never applied (Knative's controllers and
//! `kubectl apply` without `--server-side` never do) the cost of tracking.
//!
//! Apply: merge the applied object over the live one; fields that would change and belong to others are conflicts, or
//! become ours with `force`; fields that we applied earlier and now leave out go away unless others own them, too.

mod fields;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use dormouse_api::kind::KindInfo;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::fields::{Set, edges};
use super::schema::{self, Apply, Field};
use super::status::{Cause, Status};
use super::text;

/// More `Update` entries than this are folded into one.
const UPDATES_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";
const BEFORE: &str = "before-first-apply";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Parts of metadata that nobody owns.
const UNOWNED: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
    "deletionTimestamp",
];

/// Who writes, where, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    /// The field manager, or the client's name.
    pub(crate) manager: &'a str,
    /// Such as `status`.
    pub(crate) subresource: Option<&'a str>,
    /// For the entry's time.
    pub(crate) now: Timestamp,
}

/// What a manager owns.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    fields: Set,
}

// === apply ===

/// What the live object, or none, becomes by applying `body`. An Apply that changes nothing answers the live object.
///
/// # Errors
/// The body is no object of this kind, names another version of the object, or changes fields that others own while
/// `force` is false.
pub(crate) fn apply(
    kind: &KindInfo,
    live: Option<&Value>,
    body: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    check(kind, live, body)?;
    let root = root(kind);
    let mut body = without_nulls(body);
    keep_writable(kind, writer.subresource, &mut body);
    let applied = owned(&body, root);
    let Some(live) = live else {
        let mut created = body;
        set_entries(&mut created, vec![Entry::new(kind, writer, "Apply", applied)]);
        return Ok(created);
    };

    let mut entries = entries(live);
    if entries.is_empty() {
        let first = Writer { manager: BEFORE, subresource: None, ..*writer };
        entries.push(Entry::new(kind, &first, "Update", owned(live, root)));
    }
    let mine = Entry::new(kind, writer, "Apply", applied.clone());
    let at = entries.iter().position(|entry| entry.is_of(&mine));
    let previous = at.map(|at| entries.remove(at));

    let changed = Set::changed(Some(live), &merge(Some(live), &body, root), root).both(&applied);
    let conflicts: Vec<(Entry, Set)> = entries
        .iter()
        .map(|entry| (entry.clone(), entry.fields.both(&changed)))
        .filter(|(_, fields)| !fields.is_empty())
        .collect();
    if !conflicts.is_empty() && !force && !explained(kind, live, writer, &conflicts) {
        return Err(conflict(&conflicts));
    }
    for entry in &mut entries {
        if let Some((_, fields)) = conflicts.iter().find(|(each, _)| each.is_of(entry)) {
            entry.fields = entry.fields.minus(fields);
        }
    }

    let mut result = merge(Some(live), &body, root);
    if let Some(previous) = &previous {
        let dropped = previous.fields.minus(&applied);
        let keep: Vec<&Set> = entries.iter().map(|entry| &entry.fields).chain([&applied]).collect();
        prune(&mut result, &dropped, &keep, root);
    }
    let same_owner =
        previous.as_ref().is_some_and(|previous| previous.fields == applied) && conflicts.is_empty();
    if same_owner && without_managed(&result) == without_managed(live) {
        return Ok(live.clone());
    }
    entries.push(mine);
    finish(&mut entries, &result, root);
    set_entries(&mut result, entries);
    Ok(result)
}

/// The object to store after a write other than Apply. Objects that were never applied stay without tracking; a
/// client that sends an empty `managedFields` ends it.
pub(crate) fn track_update(kind: &KindInfo, live: &Value, new: Value, writer: &Writer<'_>) -> Value {
    let mut new = new;
    let mut entries = entries(live);
    let reset = match new.pointer("/metadata/managedFields") {
        Some(Value::Array(list)) => list.is_empty() || *list == [json!({})],
        _ => false,
    };
    if entries.is_empty() || reset {
        set_entries(&mut new, Vec::new());
        return new;
    }
    let root = root(kind);
    let changed = strip(Set::changed(Some(live), &new, root));
    for entry in &mut entries {
        entry.fields = entry.fields.minus(&changed);
    }
    if !changed.is_empty() {
        let mut mine = Entry::new(kind, writer, "Update", changed);
        if let Some(at) = entries.iter().position(|entry| entry.is_of(&mine)) {
            mine.fields.union(&entries.remove(at).fields);
        }
        entries.push(mine);
    }
    finish(&mut entries, &new, root);
    set_entries(&mut new, entries);
    new
}

/// Forgets fields that are gone and managers that own nothing, and folds old updates.
fn finish(entries: &mut Vec<Entry>, result: &Value, root: Field) {
    for entry in entries.iter_mut() {
        entry.fields = entry.fields.existing(result, root);
    }
    // An Apply of nothing still counts as one: the manager may have owned something before.
    entries.retain(|entry| !entry.fields.is_empty() || entry.operation == "Apply");
    while entries.iter().filter(|entry| entry.operation == "Update").count() > UPDATES_MAX {
        let oldest = |entries: &[Entry]| {
            let updates = entries.iter().enumerate().filter(|(_, entry)| entry.operation == "Update");
            updates
                .filter(|(_, entry)| entry.manager != ANCIENT)
                .min_by(|a, b| a.1.time.cmp(&b.1.time))
                .map(|(at, _)| at)
        };
        let Some(at) = oldest(entries) else { return };
        let old = entries.remove(at);
        match entries
            .iter_mut()
            .find(|entry| entry.manager == ANCIENT && entry.api_version == old.api_version)
        {
            Some(ancient) => {
                ancient.fields.union(&old.fields);
                ancient.time = old.time;
            }
            None => entries.push(Entry { manager: ANCIENT.to_owned(), subresource: String::new(), ..old }),
        }
    }
}

fn check(kind: &KindInfo, live: Option<&Value>, body: &Value) -> Result<(), Status> {
    let found = (text(body, "/apiVersion"), text(body, "/kind"));
    if found != (kind.api_version().as_str(), kind.kind) {
        return Err(Status::bad_request(format!(
            "an applied object must have apiVersion {} and kind {}, found \"{}\" and \"{}\"",
            kind.api_version(),
            kind.kind,
            found.0,
            found.1
        )));
    }
    if body.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let name = text(body, "/metadata/name");
    for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let wanted = text(body, &format!("/metadata/{field}"));
        let present = live.map(|live| text(live, &format!("/metadata/{field}"))).unwrap_or_default();
        if !wanted.is_empty() && wanted != present {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {present}"
            );
            return Err(if field == "uid" {
                Status::conflict_because(kind, name, &why)
            } else {
                Status::conflict(kind, name)
            });
        }
    }
    Ok(())
}

fn root(kind: &KindInfo) -> Field {
    Field::whole(schema::of(kind))
}

/// The leaves of an object, without those that nobody owns.
fn owned(object: &Value, root: Field) -> Set {
    strip(Set::of(object, root))
}

fn strip(mut set: Set) -> Set {
    set.own = false;
    set.without(&["apiVersion"]);
    set.without(&["kind"]);
    for field in UNOWNED {
        set.without(&["metadata", field]);
    }
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.own = false;
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    set
}

/// A main write leaves the status alone, and a status write everything else.
fn keep_writable(kind: &KindInfo, subresource: Option<&str>, body: &mut Value) {
    let Some(fields) = body.as_object_mut() else { return };
    match subresource {
        None if kind.status => {
            fields.remove("status");
        }
        Some("status") => {
            fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
        }
        _ => {}
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

fn without_managed(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// `over` laid on `under`: objects by field, lists by their rule, in the order of `under`.
fn merge(under: Option<&Value>, over: &Value, field: Field) -> Value {
    let Some(under) = under else { return over.clone() };
    match (under, over) {
        (Value::Object(under), Value::Object(map)) if field.apply != Apply::Atomic => {
            let mut result = under.clone();
            for (name, value) in map {
                result.insert(name.clone(), merge(under.get(name), value, field.inner.field(name)));
            }
            Value::Object(result)
        }
        (Value::Array(_), Value::Array(_)) if matches!(field.apply, Apply::Keyed(_) | Apply::Set) => {
            let mut over = edges(over, field);
            let mut result = Vec::new();
            for (edge, value, _) in edges(under, field) {
                match over.iter().position(|(each, _, _)| *each == edge) {
                    Some(at) => {
                        let (_, new, rule) = over.remove(at);
                        result.push(merge(Some(value), new, rule));
                    }
                    None => result.push(value.clone()),
                }
            }
            result.extend(over.into_iter().map(|(_, value, _)| value.clone()));
            Value::Array(result)
        }
        (_, over) => over.clone(),
    }
}

/// Takes away what is in `dropped`, except what is in one of the sets to keep. Containers that become empty go, too.
fn prune(value: &mut Value, dropped: &Set, keep: &[&Set], field: Field) {
    for (edge, dropped) in &dropped.children {
        let keep: Vec<&Set> =
            keep.iter().filter_map(|set| set.children.get(edge)).filter(|set| !set.is_empty()).collect();
        let place = edges(value, field).iter().position(|(each, _, _)| each == edge);
        let Some((place, rule)) = place.and_then(|at| Some((at, edges(value, field).into_iter().nth(at)?.2)))
        else {
            continue;
        };
        let whole = dropped.own && keep.is_empty();
        match value {
            Value::Object(map) => {
                let Some(name) = edge.strip_prefix("f:") else { continue };
                let gone = whole
                    || map.get_mut(name).is_some_and(|child| {
                        prune(child, dropped, &keep, rule);
                        is_hollow(child) && keep.is_empty()
                    });
                if gone {
                    map.remove(name);
                }
            }
            Value::Array(list) if whole => {
                list.remove(place);
            }
            Value::Array(list) => {
                if let Some(child) = list.get_mut(place) {
                    prune(child, dropped, &keep, rule);
                }
            }
            _ => {}
        }
    }
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

// === conflicts ===

/// Whether kubectl itself wrote all of this earlier, by its client-side apply: then it may go on as the owner.
fn explained(kind: &KindInfo, live: &Value, writer: &Writer<'_>, conflicts: &[(Entry, Set)]) -> bool {
    let annotation = live.pointer("/metadata/annotations").and_then(|all| all.get(LAST_APPLIED));
    let last = annotation.and_then(Value::as_str).and_then(|json| serde_json::from_str::<Value>(json).ok());
    match last {
        Some(last) if writer.manager == "kubectl" => {
            let written = owned(&without_nulls(&last), root(kind));
            conflicts.iter().all(|(_, fields)| fields.minus(&written).is_empty())
        }
        _ => false,
    }
}

fn conflict(conflicts: &[(Entry, Set)]) -> Status {
    let mut causes = Vec::new();
    let mut by_manager: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (entry, fields) in conflicts {
        for path in fields.paths() {
            causes.push(Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {}", entry.title()),
                field: path.clone(),
            });
            by_manager.entry(entry.title()).or_default().push(path);
        }
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => {
            let lines: Vec<String> = by_manager
                .iter()
                .map(|(title, paths)| format!("conflicts with {title}:\n- {}", paths.join("\n- ")))
                .collect();
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    Status::apply_conflict(message, &causes)
}

// === impl Entry ===

impl Entry {
    fn new(kind: &KindInfo, writer: &Writer<'_>, operation: &str, fields: Set) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            operation: operation.to_owned(),
            api_version: kind.api_version(),
            subresource: writer.subresource.unwrap_or_default().to_owned(),
            time: writer.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            fields,
        }
    }

    fn is_of(&self, other: &Self) -> bool {
        let identity = |entry: &Self| {
            [&entry.manager, &entry.operation, &entry.api_version, &entry.subresource].map(String::clone)
        };
        identity(self) == identity(other)
    }

    /// How conflicts name the entry.
    fn title(&self) -> String {
        let mut title = format!("\"{}\"", self.manager);
        if !self.subresource.is_empty() {
            title.push_str(&format!(" with subresource \"{}\"", self.subresource));
        }
        if self.operation == "Update" {
            title.push_str(&format!(" using {}", self.api_version));
            if !self.time.is_empty() {
                title.push_str(&format!(" at {}", self.time));
            }
        }
        title
    }

    fn encode(&self) -> Value {
        let mut value = json!({
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.encode(),
        });
        if let Some(map) = value.as_object_mut() {
            for (name, text) in [("time", &self.time), ("subresource", &self.subresource)] {
                if !text.is_empty() {
                    map.insert(name.to_owned(), Value::from(text.as_str()));
                }
            }
        }
        value
    }

    fn decode(value: &Value) -> Self {
        let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            manager: field("manager"),
            operation: field("operation"),
            api_version: field("apiVersion"),
            subresource: field("subresource"),
            time: field("time"),
            fields: value.get("fieldsV1").map(Set::decode).unwrap_or_default(),
        }
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    super::items(object, "/metadata/managedFields").iter().map(Entry::decode).collect()
}

fn set_entries(object: &mut Value, mut entries: Vec<Entry>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    entries.sort_by(|a, b| (&a.operation, &a.time, &a.manager).cmp(&(&b.operation, &b.time, &b.manager)));
    metadata.insert("managedFields".to_owned(), entries.iter().map(Entry::encode).collect());
}
