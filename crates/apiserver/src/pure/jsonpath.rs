//! The subset of JSONPath that printer columns use: `.a.b`, `['x\.y']`, `[?(@.type=='Ready')].status`, `[*]`, `[0]`.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    /// Items whose field at the path equals the text.
    Where(Vec<String>, String),
}

/// Every value that the path selects; none when it cannot be read.
pub(crate) fn select<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    let Some(steps) = parse(path) else { return Vec::new() };
    let mut found = vec![value];
    for step in &steps {
        found = found.into_iter().flat_map(|value| advance(value, step)).collect();
    }
    found
}

fn advance<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => value.get(index).into_iter().collect(),
        Step::All => match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Where(path, text) => {
            let matches = |item: &&Value| {
                let found = path.iter().try_fold(*item, |at, name| at.get(name));
                found.is_some_and(|found| super::prints_as(found, text))
            };
            value.as_array().into_iter().flatten().filter(matches).collect()
        }
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let trimmed = path.trim();
    let inner = trimmed.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(trimmed);
    let mut rest = inner.strip_prefix('$').unwrap_or(inner);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = bracket_end(after)?;
            let (inside, tail) = after.split_at_checked(end)?;
            steps.push(bracket(inside)?);
            rest = tail.strip_prefix(']')?;
        } else {
            let after = rest.strip_prefix('.')?;
            let (name, tail) = dotted(after);
            if !name.is_empty() {
                steps.push(Step::Field(name));
            }
            rest = tail;
        }
    }
    Some(steps)
}

/// Position of the closing bracket, passing over quoted text and nested brackets.
fn bracket_end(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0usize);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Option<Step> {
    let inside = inside.trim();
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(inside) {
        return Some(Step::Field(name.replace("\\.", ".")));
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (path, text) = filter.split_once("==")?;
        let mut names = Vec::new();
        let mut rest = path.trim().strip_prefix('@')?;
        while let Some(after) = rest.strip_prefix('.') {
            let (name, tail) = dotted(after);
            names.push(name);
            rest = tail;
        }
        let text = text.trim();
        return Some(Step::Where(names, unquote(text).unwrap_or(text).to_owned()));
    }
    inside.parse().ok().map(Step::Index)
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

/// A field name up to the next dot or bracket; a backslash keeps the next character.
fn dotted(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => name.extend(characters.next().map(|(_, kept)| kept)),
            '.' | '[' => return (name, text.get(at..).unwrap_or_default()),
            _ => name.push(character),
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(path: &str, expect: &[Value]) {
        let object = json!({
            "metadata": {"labels": {"serving.knative.dev/x": "y"}},
            "spec": {"list": [{"a": 1}, {"a": 2}]},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        let found: Vec<Value> = select(&object, path).into_iter().cloned().collect();
        assert_eq!(found, expect, "{path}");
    }

    #[test]
    fn every_form_of_the_subset_selects() {
        check(".spec.list[1].a", &[json!(2)]);
        check(".spec.list[*].a", &[json!(1), json!(2)]);
        check("{.spec.list[0].a}", &[json!(1)]);
        check(r".metadata.labels['serving\.knative\.dev/x']", &[json!("y")]);
        check(r".metadata.labels.serving\.knative\.dev/x", &[json!("y")]);
        check(".status.conditions[?(@.type=='Ready')].status", &[json!("True")]);
        check(".status.conditions[?(@.type == \"Ready\")].status", &[json!("True")]);
    }

    #[test]
    fn what_is_not_there_selects_nothing() {
        check(".status.url", &[]);
        check(".status.conditions[?(@.type=='Gone')].status", &[]);
        check(".spec.list[7]", &[]);
        check(".spec[", &[]);
    }
}
