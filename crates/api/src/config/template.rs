//! The part of Go's templates that names of hosts and containers use: text, fields, and keys of labels or annotations.

use std::collections::BTreeMap;

use super::Data;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    Domain,
    Tag,
    Label(String),
    Annotation(String),
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// What a template is filled with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    /// `{{.Name}}`
    pub name: &'a str,
    /// `{{.Namespace}}`
    pub namespace: &'a str,
    /// `{{.Domain}}`
    pub domain: &'a str,
    /// `{{.Tag}}`
    pub tag: &'a str,
    /// `{{index .Labels "key"}}`
    pub labels: Option<&'a Data>,
    /// `{{index .Annotations "key"}}`
    pub annotations: Option<&'a Data>,
}

// === impl Template ===

impl Template {
    /// A template without fields.
    pub fn text(text: &str) -> Self {
        Self(vec![Part::Text(text.to_owned())])
    }

    /// Parses it.
    ///
    /// # Errors
    /// A sentence that shows what is not understood.
    pub fn parse(source: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, tail) =
                after.split_once("}}").ok_or_else(|| format!("{source:?}: an action is not closed"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let action = action.trim_matches('-').trim();
            parts.push(Part::Field(
                field(action).ok_or_else(|| format!("{source:?}: {action:?} is not understood"))?,
            ));
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// Fills it in; a key that is not there is empty.
    pub fn fill(&self, values: &Values<'_>) -> String {
        let get = |map: Option<&BTreeMap<String, String>>, key: &str| {
            map.and_then(|map| map.get(key)).cloned().unwrap_or_default()
        };
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Field(Field::Name) => values.name.to_owned(),
            Part::Field(Field::Namespace) => values.namespace.to_owned(),
            Part::Field(Field::Domain) => values.domain.to_owned(),
            Part::Field(Field::Tag) => values.tag.to_owned(),
            Part::Field(Field::Label(key)) => get(values.labels, key),
            Part::Field(Field::Annotation(key)) => get(values.annotations, key),
        });
        parts.collect()
    }
}

fn field(action: &str) -> Option<Field> {
    match action {
        ".Name" => return Some(Field::Name),
        ".Namespace" => return Some(Field::Namespace),
        ".Domain" => return Some(Field::Domain),
        ".Tag" => return Some(Field::Tag),
        _ => {}
    }
    let (map, key) = match action.strip_prefix("index ") {
        Some(rest) => {
            let (map, key) = rest.trim().split_once(char::is_whitespace)?;
            (map, key.trim().strip_prefix('"')?.strip_suffix('"')?)
        }
        None => action.strip_prefix('.').and_then(|rest| rest.split_once('.'))?,
    };
    match map.trim_start_matches('.') {
        "Labels" => Some(Field::Label(key.to_owned())),
        "Annotations" => Some(Field::Annotation(key.to_owned())),
        _ => None,
    }
}
