//! The table of messages, read once from `fields.txt`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// One message type.
#[derive(Debug)]
pub(crate) struct Message {
    /// Package and name, such as `core.Pod`.
    pub(crate) name: &'static str,
    /// In the order of their numbers.
    pub(crate) fields: Vec<Field>,
}

/// One field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    number: u32,
    /// The JSON name; empty when flattened.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
    /// Whether the zero of this field means something.
    pub(super) pointer: bool,
    /// Whether the fields of this message appear in the parent's JSON.
    pub(crate) flattened: bool,
}

/// How often a field occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    List,
    /// From strings.
    Map,
}

/// The type of a field, or of its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    String,
    Bytes,
    Bool,
    Int,
    Double,
    Message(&'static str),
    Quantity,
    IntOrString,
    /// In seconds.
    Time,
    /// In microseconds.
    MicroTime,
    /// Embedded as it is.
    Json,
    /// A message that holds a list of strings.
    Strings,
}

impl Message {
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }
}

static SOURCE: &str = include_str!("fields.txt");

static MESSAGES: LazyLock<BTreeMap<&'static str, Message>> = LazyLock::new(|| read(SOURCE));

/// The message with this name.
pub(crate) fn message(name: &str) -> Option<&'static Message> {
    MESSAGES.get(name)
}

/// Every message, for tests.
#[cfg(test)]
pub(crate) fn messages() -> impl Iterator<Item = &'static Message> {
    MESSAGES.values()
}

/// The message of a kind. `DeleteOptions` belongs to every group.
pub(super) fn of_kind(api_version: &str, kind: &str) -> Option<&'static Message> {
    if kind == "DeleteOptions" {
        return message("meta.DeleteOptions");
    }
    let package = package(api_version)?;
    // Only whole objects have metadata; a mere part such as PodSpec is no kind.
    message(&format!("{package}.{kind}"))
        .filter(|message| message.fields.iter().any(|field| field.name == "metadata"))
}

/// The package of a group and version.
pub(crate) fn package(api_version: &str) -> Option<&'static str> {
    Some(match api_version {
        "v1" => "core",
        "apps/v1" => "apps",
        "authentication.k8s.io/v1" => "authentication",
        "authorization.k8s.io/v1" => "authorization",
        "autoscaling/v1" => "autoscaling",
        "coordination.k8s.io/v1" => "coordination",
        "discovery.k8s.io/v1" => "discovery",
        "events.k8s.io/v1" => "events",
        "policy/v1" => "policy",
        _ => return None,
    })
}

fn read(source: &'static str) -> BTreeMap<&'static str, Message> {
    let mut messages = BTreeMap::new();
    let mut current: Option<Message> = None;
    for line in source.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            if let Some(done) = current.replace(Message { name, fields: Vec::new() }) {
                messages.insert(done.name, done);
            }
        } else if let (Some(message), Some(field)) = (current.as_mut(), read_field(line)) {
            message.fields.push(field);
        }
    }
    messages.extend(current.map(|done| (done.name, done)));
    messages
}

/// `N name type`, with the marks that the file's head explains.
fn read_field(line: &'static str) -> Option<Field> {
    let mut words = line.split(' ');
    let number = words.next()?.parse().ok()?;
    let name = words.next()?;
    let marked = words.next()?;
    let (kind, pointer) = marked.strip_suffix('?').map_or((marked, false), |kind| (kind, true));
    let (kind, shape) = if let Some(kind) = kind.strip_suffix('*') {
        (kind, Shape::List)
    } else if let Some(kind) = kind.strip_suffix("{}") {
        (kind, Shape::Map)
    } else {
        (kind, Shape::One)
    };
    let kind = match kind {
        "string" => Kind::String,
        "bytes" => Kind::Bytes,
        "bool" => Kind::Bool,
        "int" => Kind::Int,
        "double" => Kind::Double,
        "quantity" => Kind::Quantity,
        "intOrString" => Kind::IntOrString,
        "time" => Kind::Time,
        "microTime" => Kind::MicroTime,
        "fields" | "raw" => Kind::Json,
        "strings" => Kind::Strings,
        name if name.contains('.') => Kind::Message(name),
        _ => return None,
    };
    let flattened = name == "=";
    Some(Field { number, name: if flattened { "" } else { name }, kind, shape, pointer, flattened })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_and_every_message_exists() {
        let fields =
            SOURCE.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).count();
        assert_eq!(messages().map(|message| message.fields.len()).sum::<usize>(), fields);
        for message in messages() {
            for field in &message.fields {
                if let Kind::Message(name) = field.kind {
                    assert!(super::message(name).is_some(), "{name} in {}", message.name);
                }
            }
        }
    }

    #[test]
    fn every_built_in_kind_has_a_message() {
        for kind in dormouse_api::kind::kinds() {
            let read_only = kind.kind == "CustomResourceDefinition";
            assert_eq!(
                of_kind(&kind.api_version(), kind.kind).is_some(),
                !kind.custom && !read_only,
                "{}",
                kind.kind
            );
        }
        assert!(of_kind("v1", "PodSpec").is_none());
    }
}
