//! Records of func.yaml: typed fields by their key, and every key that no type knows kept where it stood.

use std::collections::BTreeMap;

use super::yaml::{Node, Value};

/// A value that can stand in func.yaml.
pub(super) trait Field: Sized + Default {
    /// Reads a node that is not null; `None` after noting that it is of another kind.
    fn read(notes: &mut Notes, node: &Node) -> Option<Self>;
    /// Writes it.
    fn write(&self) -> Node;
    /// Whether it is left out where upstream leaves it out.
    fn is_empty(&self) -> bool;
}

/// What was odd in the file: it does not stop anything, as upstream's reader does not stop either.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Values of the wrong kind, in the words of Go's YAML library.
    pub(super) mistyped: Vec<String>,
    /// Keys that no type knows, with their line.
    pub(super) unknown: Vec<(usize, String)>,
}

// === impl Notes ===

impl Notes {
    /// Notes that `node` is not what `wanted` (a Go type) needs.
    pub(super) fn mistyped<T>(&mut self, node: &Node, wanted: &str) -> Option<T> {
        let shown = match &node.value {
            Value::Scalar { text, .. } => {
                let short: String = text.chars().take(10).collect();
                if short.len() < text.len() { format!(" `{short}...`") } else { format!(" `{text}`") }
            }
            _ => String::new(),
        };
        self.mistyped.push(format!(
            "line {}: cannot unmarshal {}{shown} into {wanted}",
            node.line,
            node.tag()
        ));
        None
    }
}

/// A struct of func.yaml. `"key"` is left out when empty, `"key", always` is not.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $name:ident as $go:literal {
            $( $(#[$field_meta:meta])* $field:ident : $type:ty = $key:literal $(, $always:ident)? ; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
            /// Keys that this version does not know: they are written back.
            pub unknown: Vec<(String, Node)>,
        }

        impl Field for $name {
            fn read(notes: &mut Notes, node: &Node) -> Option<Self> {
                let Value::Map(fields) = &node.value else { return notes.mistyped(node, $go) };
                let mut record = Self::default();
                for (key, node) in fields {
                    match key.as_str() {
                        $( $key => if !node.is_null()
                            && let Some(value) = <$type as Field>::read(notes, node)
                        {
                            record.$field = value;
                        }, )*
                        _ => {
                            notes.unknown.push((node.line, key.clone()));
                            record.unknown.push((key.clone(), node.clone()));
                        }
                    }
                }
                Some(record)
            }

            fn write(&self) -> Node {
                let mut fields = Vec::new();
                $( if record!(@always $($always)?) || !Field::is_empty(&self.$field) {
                    fields.push(($key.to_owned(), Field::write(&self.$field)));
                } )*
                fields.extend(self.unknown.iter().cloned());
                Node::map(fields)
            }

            fn is_empty(&self) -> bool {
                $( !record!(@always $($always)?) && Field::is_empty(&self.$field) && )* self.unknown.is_empty()
            }
        }
    };
    (@always always) => { true };
    (@always) => { false };
}
pub(super) use record;

// === impl Field ===

impl Field for String {
    fn read(notes: &mut Notes, node: &Node) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text.clone()),
            _ => notes.mistyped(node, "string"),
        }
    }

    fn write(&self) -> Node {
        Node::text(self)
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

/// A scalar that is written without quotes: a point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Time(pub String);

impl Field for Time {
    fn read(notes: &mut Notes, node: &Node) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, .. }
                if text.len() >= 10 && text.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                Some(Self(text.clone()))
            }
            _ => notes.mistyped(node, "time.Time"),
        }
    }

    fn write(&self) -> Node {
        Node::plain(if self.0.is_empty() { Self::ZERO } else { &self.0 })
    }

    fn is_empty(&self) -> bool {
        !self.is_set()
    }
}

impl Time {
    /// Go's zero time.
    const ZERO: &str = "0001-01-01T00:00:00Z";

    /// Whether it is a time at all.
    pub fn is_set(&self) -> bool {
        !self.0.is_empty() && !self.0.starts_with("0001-01-01")
    }
}

impl Field for bool {
    fn read(notes: &mut Notes, node: &Node) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, plain: true } => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" => Some(true),
                "false" | "no" | "off" | "n" => Some(false),
                _ => notes.mistyped(node, "bool"),
            },
            _ => notes.mistyped(node, "bool"),
        }
    }

    fn write(&self) -> Node {
        Node::plain(self)
    }

    fn is_empty(&self) -> bool {
        !*self
    }
}

/// Numbers are empty only as the content of an `Option`, which then is absent.
macro_rules! number {
    ($type:ty, $go:literal) => {
        impl Field for $type {
            fn read(notes: &mut Notes, node: &Node) -> Option<Self> {
                match &node.value {
                    Value::Scalar { text, plain: true } => match text.parse::<$type>() {
                        Ok(number) => Some(number),
                        Err(_) => notes.mistyped(node, $go),
                    },
                    _ => notes.mistyped(node, $go),
                }
            }

            fn write(&self) -> Node {
                Node::plain(self)
            }

            fn is_empty(&self) -> bool {
                false
            }
        }
    };
}
number!(i64, "int64");
number!(f64, "float64");

impl<T: Field> Field for Option<T> {
    fn read(notes: &mut Notes, node: &Node) -> Option<Self> {
        T::read(notes, node).map(Some)
    }

    fn write(&self) -> Node {
        self.as_ref().map(Field::write).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(notes: &mut Notes, node: &Node) -> Option<Self> {
        let Value::List(list) = &node.value else { return notes.mistyped(node, "[]interface {}") };
        // An entry of the wrong kind leaves an empty one, so that the others keep their numbers.
        Some(list.iter().map(|node| T::read(notes, node).unwrap_or_default()).collect())
    }

    fn write(&self) -> Node {
        Node::list(self.iter().map(Field::write).collect())
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

impl Field for BTreeMap<String, String> {
    fn read(notes: &mut Notes, node: &Node) -> Option<Self> {
        let Value::Map(fields) = &node.value else { return notes.mistyped(node, "map[string]string") };
        let mut map = Self::new();
        for (key, node) in fields {
            let value = if node.is_null() { Some(String::new()) } else { String::read(notes, node) };
            map.extend(value.map(|value| (key.clone(), value)));
        }
        Some(map)
    }

    fn write(&self) -> Node {
        Node::map(self.iter().map(|(key, value)| (key.clone(), Node::text(value))).collect())
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}
