//! YAML as func.yaml needs it: order, raw scalars and line numbers are kept, which typed deserialisation would lose.
//! `value: 1.10` must stay `1.10`, and a field that nobody knows must survive a rewrite.

use granit_parser::{Event, Parser, ScalarStyle};

/// Nodes of one document; beyond it the document is refused, aliases counted as often as they are used.
const NODES_MAX: usize = 50_000;
/// How deep collections may nest.
const DEPTH_MAX: usize = 64;
/// The longest file that is read, in bytes.
pub(super) const FILE_MAX: usize = 1 << 20;

/// A node with the line it began on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// One-based, of its key in a map; 0 for nodes that were not read.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Keys in their order.
    Map(Vec<(String, Node)>),
    /// Entries in their order.
    List(Vec<Node>),
    /// A scalar as it was written. A plain one may mean a number, a boolean, a time or nothing at all.
    Scalar {
        /// Without quotes.
        text: String,
        /// Whether it stood without quotes.
        plain: bool,
    },
}

/// Reads the first document of `text`; an empty one is nothing.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    if text.len() > FILE_MAX {
        return Err(format!("it is larger than {FILE_MAX} bytes"));
    }
    let mut reader = Reader { anchors: Vec::new(), open: Vec::new(), nodes: 0 };
    let mut lines = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| format!("line {}: {error}", lines.max(1)))?;
        lines = span.start.line();
        if let Some(root) = reader.take(event, lines)? {
            return Ok(root);
        }
    }
    Ok(Node::default())
}

/// Writes a document in block style.
pub(super) fn write(node: &Node) -> String {
    let mut out = String::new();
    match &node.value {
        Value::Map(fields) if !fields.is_empty() => write_map(fields, 0, false, &mut out),
        Value::List(list) if !list.is_empty() => write_list(list, 0, &mut out),
        _ => {
            out.push_str(&inline(node));
            out.push('\n');
        }
    }
    out
}

/// A JSON value as YAML.
pub fn yaml(value: &serde_json::Value) -> String {
    write(&Node::from(value))
}

impl From<&serde_json::Value> for Node {
    fn from(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::plain("null"),
            serde_json::Value::Bool(truth) => Self::plain(truth),
            serde_json::Value::Number(number) => Self::plain(number),
            serde_json::Value::String(text) => Self::text(text),
            serde_json::Value::Array(list) => Self::list(list.iter().map(Self::from).collect()),
            serde_json::Value::Object(fields) => {
                Self::map(fields.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
            }
        }
    }
}

impl From<&Node> for serde_json::Value {
    fn from(node: &Node) -> Self {
        match &node.value {
            Value::Map(fields) => {
                Self::Object(fields.iter().map(|(key, node)| (key.clone(), Self::from(node))).collect())
            }
            Value::List(list) => list.iter().map(Self::from).collect(),
            Value::Scalar { text, plain } => match node.tag() {
                "!!null" => Self::Null,
                // Numbers and truth values are JSON too; what only YAML knows stays text.
                "!!bool" | "!!int" | "!!float" if *plain => {
                    serde_json::from_str(text).unwrap_or_else(|_| Self::String(text.clone()))
                }
                _ => Self::String(text.clone()),
            },
        }
    }
}

struct Reader {
    /// Finished anchored nodes by their number.
    anchors: Vec<(usize, Node)>,
    open: Vec<Open>,
    nodes: usize,
}

struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next, and its line.
    key: Option<(String, usize)>,
}

// === impl Reader ===

impl Reader {
    /// Takes one event; answers the document's root when it is complete.
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<Option<Node>, String> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value =
                    Value::Scalar { text: text.into_owned(), plain: matches!(style, ScalarStyle::Plain) };
                self.finish(Node { line, value }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(Value::List(Vec::new()), anchor, line),
            Event::MappingStart(_, anchor, _) => self.begin(Value::Map(Vec::new()), anchor, line),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(None) };
                self.finish(open.node, open.anchor)
            }
            Event::Alias(anchor) => {
                let found = self.anchors.iter().rev().find(|(known, _)| *known == anchor);
                let node = found.map(|(_, node)| node.clone()).ok_or("an alias refers to itself")?;
                self.count(weight(&node))?;
                self.finish(node, 0)
            }
            _ => Ok(None),
        }
    }

    fn begin(&mut self, value: Value, anchor: usize, line: usize) -> Result<Option<Node>, String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("line {line}: nested deeper than {DEPTH_MAX}"));
        }
        self.open.push(Open { node: Node { line, value }, anchor, key: None });
        Ok(None)
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<Option<Node>, String> {
        self.count(1)?;
        if anchor != 0 {
            self.anchors.push((anchor, node.clone()));
        }
        let Some(open) = self.open.last_mut() else { return Ok(Some(node)) };
        match &mut open.node.value {
            Value::List(list) => list.push(node),
            Value::Map(fields) => match open.key.take() {
                Some((key, line)) => {
                    if fields.iter().any(|(known, _)| *known == key) {
                        return Err(format!("line {line}: key {key:?} already set in map"));
                    }
                    fields.push((key, Node { line, ..node }));
                }
                None => match node.value {
                    Value::Scalar { text, .. } => open.key = Some((text, node.line)),
                    _ => return Err(format!("line {}: a key must be a scalar", node.line)),
                },
            },
            Value::Scalar { .. } => {}
        }
        Ok(None)
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX { Err(format!("it has more than {NODES_MAX} nodes")) } else { Ok(()) }
    }
}

fn weight(node: &Node) -> usize {
    match &node.value {
        Value::Map(fields) => 1 + fields.iter().map(|(_, node)| weight(node)).sum::<usize>(),
        Value::List(list) => 1 + list.iter().map(weight).sum::<usize>(),
        Value::Scalar { .. } => 1,
    }
}

// === impl Node ===

impl Node {
    /// A string, quoted where it must be.
    pub(super) fn text(text: &str) -> Self {
        Self { line: 0, value: Value::Scalar { text: text.to_owned(), plain: false } }
    }

    /// A number, boolean or time: it stands as it is.
    pub(super) fn plain(text: impl ToString) -> Self {
        Self { line: 0, value: Value::Scalar { text: text.to_string(), plain: true } }
    }

    pub(super) fn map(fields: Vec<(String, Self)>) -> Self {
        Self { line: 0, value: Value::Map(fields) }
    }

    pub(super) fn list(list: Vec<Self>) -> Self {
        Self { line: 0, value: Value::List(list) }
    }

    /// Nothing: absent, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value of a key of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(fields) => fields.iter().find(|(known, _)| known == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// What Go's YAML library calls the node: `!!str`, `!!map`…
    pub(super) fn tag(&self) -> &'static str {
        match &self.value {
            Value::Map(_) => "!!map",
            Value::List(_) => "!!seq",
            Value::Scalar { plain: false, .. } => "!!str",
            Value::Scalar { text, .. } => match text.as_str() {
                _ if self.is_null() => "!!null",
                "true" | "false" => "!!bool",
                text if text.parse::<i64>().is_ok() => "!!int",
                text if text.parse::<f64>().is_ok() => "!!float",
                _ => "!!str",
            },
        }
    }
}

impl Default for Value {
    fn default() -> Self {
        Self::Scalar { text: String::new(), plain: true }
    }
}

fn write_map(fields: &[(String, Node)], indent: usize, inline_first: bool, out: &mut String) {
    for (index, (key, node)) in fields.iter().enumerate() {
        if index > 0 || !inline_first {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&scalar(key, false));
        out.push(':');
        match &node.value {
            Value::Map(inner) if !inner.is_empty() => {
                out.push('\n');
                write_map(inner, indent + 2, false, out);
            }
            Value::List(list) if !list.is_empty() => {
                out.push('\n');
                write_list(list, indent, out);
            }
            _ => {
                out.push(' ');
                out.push_str(&inline(node));
                out.push('\n');
            }
        }
    }
}

fn write_list(list: &[Node], indent: usize, out: &mut String) {
    for node in list {
        out.push_str(&" ".repeat(indent));
        out.push_str("- ");
        match &node.value {
            Value::Map(inner) if !inner.is_empty() => write_map(inner, indent + 2, true, out),
            Value::List(inner) if !inner.is_empty() => {
                out.push('\n');
                write_list(inner, indent + 2, out);
            }
            _ => {
                out.push_str(&inline(node));
                out.push('\n');
            }
        }
    }
}

fn inline(node: &Node) -> String {
    match &node.value {
        Value::Map(_) => "{}".to_owned(),
        Value::List(_) => "[]".to_owned(),
        Value::Scalar { text, plain } => scalar(text, *plain),
    }
}

/// A scalar on one line: as it is when it means itself, double-quoted otherwise.
fn scalar(text: &str, plain: bool) -> String {
    // What was plain on one line may be so again; it was read so in the place where it goes.
    if (plain && !text.contains('\n')) || means_itself(text) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether a string needs no quotes in any YAML, old or new. Versions such as `0.36.0` need none either.
fn means_itself(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let version = text.matches('.').count() >= 2
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let word = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-@:+=".contains(&byte))
        && !text.ends_with(':');
    version || (word && !WORDS.contains(&text.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_keep_their_spelling_and_order_stays() {
        let text = "b: 1.10\na: \"8080\"\nz:\n- x: 0x10\n  w: yes\n- plain\nempty: {}\nnone: ~\nwhen: 2022-05-25T22:44:47+09:00\n";
        assert_eq!(write(&parse(text).unwrap()), text);
    }

    #[test]
    fn strings_that_would_mean_something_else_are_quoted() {
        for (text, expected) in [
            ("plain", "plain"),
            ("0.36.0", "0.36.0"),
            ("1.5", "\"1.5\""),
            ("true", "\"true\""),
            ("No", "\"No\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
            ("{{ env:A }}", "\"{{ env:A }}\""),
            ("two\nlines", "\"two\\nlines\""),
            ("127.0.0.1:5000/x", "\"127.0.0.1:5000/x\""),
            ("ghcr.io/a/b:latest", "ghcr.io/a/b:latest"),
        ] {
            assert_eq!(scalar(text, false), expected);
            let back = parse(&format!("k: {}", scalar(text, false))).unwrap();
            let Value::Scalar { text: read, .. } = &back.get("k").unwrap().value else { panic!("{text}") };
            assert_eq!(read, text);
        }
    }

    #[test]
    fn hostile_documents_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let inner = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().contains("nodes"));
        assert!(parse(&"[".repeat(200)).is_err());
        assert!(parse("a: 1\na: 2\n").unwrap_err().contains("already set"));
        assert!(parse("? [a]\n: 1\n").unwrap_err().contains("key"));
        assert!(parse("a: [1\n").is_err());
        assert!(parse(&"x".repeat(FILE_MAX + 1)).is_err());
    }
}
