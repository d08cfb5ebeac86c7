//! What is stored: keys, objects as JSON text, changes.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// `group/plural`, for the core group `/plural`.
    pub resource: Arc<str>,
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of one object.
    pub fn new(
        resource: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}/{}", self.resource, self.namespace, self.name)
    }
}

/// Where an object lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk, synced before the write is answered.
    Durable,
    /// In memory only: gone after a restart.
    Ephemeral,
}

/// One state of one object. It is kept as JSON text: a fraction of the memory of a tree, and ready to be sent.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Whose state it is.
    pub key: ObjectKey,
    /// The revision of the change that made this state.
    pub revision: u64,
    /// Where the object lives.
    pub durability: Durability,
    /// JSON text with `metadata.resourceVersion` set to the revision.
    pub bytes: Bytes,
}

impl Stored {
    /// The object as a tree, parsed at every call.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("the store holds only text that it serialised itself")
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It did not exist before.
    Added,
    /// It has a new state.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change, as watches deliver it.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The new state; for a deletion the last state, under the deletion's own revision.
    pub object: Arc<Stored>,
    /// The state before.
    pub previous: Option<Arc<Stored>>,
}

/// An object's text without a revision, and where the revision belongs.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    bytes: Bytes,
    /// Just after the opening brace of `metadata`.
    splice: usize,
    /// Whether `metadata` has other fields.
    comma: bool,
}

impl Draft {
    pub(crate) fn new(mut value: Value) -> Self {
        if !value.is_object() {
            value = Value::Object(serde_json::Map::new());
        }
        let mut bytes = Vec::with_capacity(512);
        let (mut splice, mut comma) = (0, false);
        bytes.push(b'{');
        if let Some(map) = value.as_object_mut() {
            let metadata = map.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if !metadata.is_object() {
                *metadata = Value::Object(serde_json::Map::new());
            }
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.remove("resourceVersion");
                comma = !metadata.is_empty();
            }
            for (index, (name, field)) in map.iter().enumerate() {
                if index > 0 {
                    bytes.push(b',');
                }
                write_json(&mut bytes, name);
                bytes.push(b':');
                if name == "metadata" {
                    splice = bytes.len() + 1;
                }
                write_json(&mut bytes, field);
            }
        }
        bytes.push(b'}');
        Self { bytes: bytes.into(), splice, comma }
    }

    /// The text under `revision`.
    pub(crate) fn at(&self, revision: u64) -> Bytes {
        let version = revision.to_string();
        let mut text = BytesMut::with_capacity(self.bytes.len() + version.len() + 24);
        text.put_slice(self.bytes.get(..self.splice).unwrap_or_default());
        text.put_slice(b"\"resourceVersion\":\"");
        text.put_slice(version.as_bytes());
        text.put_slice(if self.comma { b"\"," } else { b"\"" });
        text.put_slice(self.bytes.get(self.splice..).unwrap_or_default());
        text.freeze()
    }
}

fn write_json<T: serde::Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(bytes, value).expect("a JSON tree always serialises into memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_spliced_into_the_top_level_metadata() {
        for value in [
            serde_json::json!({"data": {"metadata": {"x": "\"metadata\":{"}}, "metadata": {"name": "a", "resourceVersion": "3"}}),
            serde_json::json!({"metadata": {}}),
            serde_json::json!({"kind": "X"}),
            serde_json::json!({"a": 1, "metadata": null, "z": 2}),
        ] {
            let text = Draft::new(value.clone()).at(41);
            let read: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(read["metadata"]["resourceVersion"], "41", "{value}");
            assert_eq!(read["data"], value["data"]);
        }
    }
}
