//! Label and field selectors.

use dormouse_api::kind::KindInfo;
use serde_json::Value;

/// Requirements on labels; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Missing,
    In(Vec<String>),
    /// Also holds for objects without the label.
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

/// Requirements on a few fields of each kind; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    field: Field,
    value: String,
    equal: bool,
}

/// A selectable field: its label in selectors, where its value may stand, and what its absence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    label: &'static str,
    pointers: &'static [&'static str],
    absent: &'static str,
}

// === impl LabelSelector ===

impl LabelSelector {
    /// Reads the form that `kubectl -l` takes. Empty text selects everything.
    ///
    /// # Errors
    /// A sentence that tells where the text goes wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokenize(text);
        let mut parser = Parser { tokens: &tokens };
        let mut requirements = Vec::new();
        if tokens.is_empty() {
            return Ok(Self { requirements });
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.next() {
                None => return Ok(Self { requirements }),
                Some(Token::Symbol(",")) => {}
                Some(other) => return Err(format!("found '{}', expected: ',' or end of text", other.text())),
            }
        }
    }

    /// Whether an object's labels fulfil every requirement.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.requirements.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key)).and_then(Value::as_str);
            match &requirement.test {
                Test::Exists => value.is_some(),
                Test::Missing => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.iter().any(|each| each == value)),
                Test::NotIn(values) => !value.is_some_and(|value| values.iter().any(|each| each == value)),
                Test::Greater(bound) => parsed(value).is_some_and(|value| value > *bound),
                Test::Less(bound) => parsed(value).is_some_and(|value| value < *bound),
            }
        })
    }

    /// Whether every object matches.
    pub(crate) fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

fn parsed(value: Option<&str>) -> Option<i64> {
    value?.parse().ok()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Symbol(&'static str),
    Word(String),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Symbol(symbol) => symbol,
            Self::Word(word) => word,
        }
    }
}

fn tokenize(text: &str) -> Vec<Token> {
    const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", "<", ">"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = rest.strip_prefix(symbol).unwrap_or_default().trim_start();
        } else {
            let end = rest
                .find(|each: char| each.is_whitespace() || "=!,()<>".contains(each))
                .unwrap_or(rest.len());
            let (word, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
            tokens.push(Token::Word(word.to_owned()));
            rest = tail.trim_start();
        }
    }
    tokens
}

struct Parser<'a> {
    tokens: &'a [Token],
}

impl Parser<'_> {
    fn next(&mut self) -> Option<&Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.first()
    }

    fn key(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Word(word)) => {
                check_key(word)?;
                Ok(word.clone())
            }
            Some(other) => Err(format!("found '{}', expected: identifier", other.text())),
            None => Err("found '', expected: identifier".to_owned()),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.peek() == Some(&Token::Symbol("!")) {
            self.next();
            return Ok(Requirement { key: self.key()?, test: Test::Missing });
        }
        let key = self.key()?;
        if matches!(self.peek(), None | Some(Token::Symbol(","))) {
            return Ok(Requirement { key, test: Test::Exists });
        }
        let operator = self.next().cloned().ok_or("found '', expected: operator")?;
        let test = match operator.text() {
            "=" | "==" => Test::In(vec![self.value()?]),
            "!=" => Test::NotIn(vec![self.value()?]),
            "in" => Test::In(self.values()?),
            "notin" => Test::NotIn(self.values()?),
            ">" => Test::Greater(self.bound(&key)?),
            "<" => Test::Less(self.bound(&key)?),
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        Ok(Requirement { key, test })
    }

    fn value(&mut self) -> Result<String, String> {
        let value = match self.peek() {
            Some(Token::Word(word)) => word.clone(),
            // An empty value is allowed: `a=` and `a=,b`.
            None | Some(Token::Symbol("," | ")")) => return Ok(String::new()),
            Some(other) => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        self.next();
        check_value(&value)?;
        Ok(value)
    }

    fn bound(&mut self, key: &str) -> Result<i64, String> {
        let value = self.value()?;
        value.parse().map_err(|_| {
            format!("values: Invalid value: \"{value}\": for '{key}', the value must be an integer")
        })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if self.next() != Some(&Token::Symbol("(")) {
            return Err("found no '(' after in or notin".to_owned());
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            match self.next() {
                Some(Token::Symbol(")")) => return Ok(values),
                Some(Token::Symbol(",")) => {}
                Some(other) => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                None => return Err("found '', expected: ',' or ')'".to_owned()),
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    let inner = |each: char| each.is_ascii_alphanumeric() || "-_.".contains(each);
    let edge = |each: Option<char>| each.is_some_and(|each| each.is_ascii_alphanumeric());
    text.len() <= 63 && text.chars().all(inner) && edge(text.chars().next()) && edge(text.chars().last())
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_is_good = prefix
        .is_none_or(|prefix| !prefix.is_empty() && prefix.len() <= 253 && prefix.split('.').all(is_name));
    if is_name(name) && prefix_is_good {
        return Ok(());
    }
    Err(format!(
        "key: Invalid value: \"{key}\": a label key is a name of at most 63 letters, digits, '-', '_' or '.', with an \
         optional DNS prefix and '/'"
    ))
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!(
        "values: Invalid value: \"{value}\": a label value is empty or at most 63 letters, digits, '-', '_' or '.'"
    ))
}

// === impl FieldSelector ===

impl FieldSelector {
    /// Reads the form that `kubectl --field-selector` takes.
    ///
    /// # Errors
    /// When the text cannot be read or the kind does not offer the field.
    pub(crate) fn parse(text: &str, kind: &KindInfo) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in split_escaped(text).into_iter().filter(|term| !term.is_empty()) {
            let (label, value, equal) = split_term(&term)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            let field = field(kind, label).ok_or_else(|| format!("field label not supported: {label}"))?;
            requirements.push(FieldRequirement { field, value: unescape(value), equal });
        }
        Ok(Self { requirements })
    }

    /// Whether an object's fields fulfil every requirement.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.field.is(object, &requirement.value) == requirement.equal)
    }

    /// The one name that can match, when the selector says so.
    pub(crate) fn exact_name(&self) -> Option<&str> {
        self.requirements
            .iter()
            .find(|requirement| requirement.equal && requirement.field.label == "metadata.name")
            .map(|requirement| requirement.value.as_str())
    }

    /// Adds the requirement that an object has this name.
    pub(crate) fn and_name(mut self, name: &str) -> Self {
        self.requirements.push(FieldRequirement { field: NAME, value: name.to_owned(), equal: true });
        self
    }

    /// Whether every object matches.
    pub(crate) fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

/// Splits at commas that no backslash precedes; the escapes stay.
fn split_escaped(text: &str) -> Vec<String> {
    let (mut terms, mut term, mut escaped) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            ',' if !escaped => terms.push(std::mem::take(&mut term)),
            _ => term.push(character),
        }
        escaped = character == '\\' && !escaped;
    }
    terms.push(term);
    terms
}

fn split_term(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find(['=', '!'])?;
    let (label, rest) = term.split_at_checked(at)?;
    let (value, equal) = if let Some(value) = rest.strip_prefix("!=") {
        (value, false)
    } else {
        (rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?, true)
    };
    Some((label.trim(), value, equal))
}

fn unescape(value: &str) -> String {
    let mut out = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        out.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    out
}

// === impl Field ===

const NAME: Field = at("metadata.name", &["/metadata/name"]);
const NAMESPACE: Field = at("metadata.namespace", &["/metadata/namespace"]);

const fn at(label: &'static str, pointers: &'static [&'static str]) -> Field {
    Field { label, pointers, absent: "" }
}

const fn or(label: &'static str, pointers: &'static [&'static str], absent: &'static str) -> Field {
    Field { label, pointers, absent }
}

const POD: &[Field] = &[
    at("spec.nodeName", &["/spec/nodeName"]),
    at("spec.restartPolicy", &["/spec/restartPolicy"]),
    at("spec.schedulerName", &["/spec/schedulerName"]),
    at("spec.serviceAccountName", &["/spec/serviceAccountName"]),
    or("spec.hostNetwork", &["/spec/hostNetwork"], "false"),
    at("status.phase", &["/status/phase"]),
    at("status.podIP", &["/status/podIP"]),
    at("status.nominatedNodeName", &["/status/nominatedNodeName"]),
];
/// Events of both groups are one stored object, so each field may stand in either form.
const EVENT: &[Field] = &[
    at("involvedObject.kind", &["/involvedObject/kind", "/regarding/kind"]),
    at("involvedObject.namespace", &["/involvedObject/namespace", "/regarding/namespace"]),
    at("involvedObject.name", &["/involvedObject/name", "/regarding/name"]),
    at("involvedObject.uid", &["/involvedObject/uid", "/regarding/uid"]),
    at("involvedObject.apiVersion", &["/involvedObject/apiVersion", "/regarding/apiVersion"]),
    at("involvedObject.resourceVersion", &["/involvedObject/resourceVersion", "/regarding/resourceVersion"]),
    at("involvedObject.fieldPath", &["/involvedObject/fieldPath", "/regarding/fieldPath"]),
    at("regarding.kind", &["/regarding/kind", "/involvedObject/kind"]),
    at("regarding.namespace", &["/regarding/namespace", "/involvedObject/namespace"]),
    at("regarding.name", &["/regarding/name", "/involvedObject/name"]),
    at("regarding.uid", &["/regarding/uid", "/involvedObject/uid"]),
    at("regarding.apiVersion", &["/regarding/apiVersion", "/involvedObject/apiVersion"]),
    at("regarding.resourceVersion", &["/regarding/resourceVersion", "/involvedObject/resourceVersion"]),
    at("regarding.fieldPath", &["/regarding/fieldPath", "/involvedObject/fieldPath"]),
    at("reason", &["/reason"]),
    at("reportingComponent", &["/reportingComponent", "/reportingController"]),
    at("reportingController", &["/reportingController", "/reportingComponent"]),
    at(
        "source",
        &["/source/component", "/deprecatedSource/component", "/reportingComponent", "/reportingController"],
    ),
    at("type", &["/type"]),
];
const SERVICE: &[Field] = &[at("spec.clusterIP", &["/spec/clusterIP"]), at("spec.type", &["/spec/type"])];

fn field(kind: &KindInfo, label: &str) -> Option<Field> {
    let own: &[Field] = match (kind.group, kind.kind) {
        ("", "Pod") => POD,
        ("" | "events.k8s.io", "Event") => EVENT,
        ("", "Secret") => &[at("type", &["/type"])],
        ("", "Namespace") => &[at("status.phase", &["/status/phase"])],
        ("", "Node") => &[or("spec.unschedulable", &["/spec/unschedulable"], "false")],
        ("", "Service") => SERVICE,
        ("apps", "ReplicaSet") => &[or("status.replicas", &["/status/replicas"], "0")],
        _ => &[],
    };
    [NAME, NAMESPACE].iter().chain(own).find(|field| field.label == label).copied()
}

impl Field {
    fn is(self, object: &Value, expect: &str) -> bool {
        let mut found = self.pointers.iter().filter_map(|pointer| object.pointer(pointer));
        match found.find(|value| !value.is_null() && value.as_str() != Some("")) {
            Some(found) => super::prints_as(found, expect),
            None => expect == self.absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_api::kind::by_kind;
    use proptest::prelude::*;
    use serde_json::json;

    #[track_caller]
    fn labels(selector: &str, expect: bool) {
        let object = json!({"metadata": {"labels": {"a": "b", "app.dev/n": "7"}}});
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(&object), expect, "{selector}");
    }

    #[test]
    fn label_requirements_hold_as_kubectl_reads_them() {
        for (selector, expect) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            ("a = b", true),
            ("a!=b", false),
            ("a!=c", true),
            ("z!=c", true),
            ("a", true),
            ("z", false),
            ("!z", true),
            ("!a", false),
            ("a in (x, b)", true),
            ("a in (x)", false),
            ("a notin (x)", true),
            ("z notin (x)", true),
            ("a=b,app.dev/n", true),
            ("a=b,!app.dev/n", false),
            ("app.dev/n>6", true),
            ("app.dev/n<6", false),
            ("a=", false),
        ] {
            labels(selector, expect);
        }
    }

    #[test]
    fn broken_label_selectors_are_refused() {
        for selector in ["a=b,", "=b", "a in x", "a in (x", "a b", "a=b c", ",", "-a=b", "a=b/c", "a>x"] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
    }

    #[track_caller]
    fn fields(group: &str, kind: &str, selector: &str, object: Value, expect: bool) {
        let selector = FieldSelector::parse(selector, by_kind(group, kind).unwrap()).unwrap();
        assert_eq!(selector.matches(&object), expect, "{selector:?}");
    }

    #[test]
    fn field_requirements_read_the_kinds_fields() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Running"}});
        fields("", "Pod", "status.phase!=Pending", pod.clone(), true);
        fields("", "Pod", "metadata.name=p,status.phase==Running", pod.clone(), true);
        fields("", "Pod", "metadata.name=p,status.phase=Pending", pod.clone(), false);
        fields("", "Pod", "spec.hostNetwork=false,spec.nodeName=", pod, true);
        let event = json!({"involvedObject": {"name": "x"}, "source": {"component": "c"}});
        fields("", "Event", "involvedObject.name=x,source=c", event.clone(), true);
        fields("events.k8s.io", "Event", "regarding.name=x", event, true);
    }

    #[test]
    fn unknown_field_and_broken_term_are_refused() {
        let pod = by_kind("", "Pod").unwrap();
        assert_eq!(
            FieldSelector::parse("spec.x=1", pod),
            Err("field label not supported: spec.x".to_owned())
        );
        assert!(FieldSelector::parse("metadata.name", pod).is_err());
    }

    #[test]
    fn exact_name_is_known_only_for_equality() {
        let pod = by_kind("", "Pod").unwrap();
        assert_eq!(FieldSelector::parse("metadata.name=x", pod).unwrap().exact_name(), Some("x"));
        assert_eq!(FieldSelector::parse("metadata.name!=x", pod).unwrap().exact_name(), None);
        assert_eq!(FieldSelector::default().and_name("y").exact_name(), Some("y"));
    }

    #[test]
    fn escaped_separators_belong_to_the_value() {
        let object = json!({"metadata": {"name": "a,b=c"}});
        fields("", "Pod", r"metadata.name=a\,b\=c", object, true);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text, by_kind("", "Pod").unwrap());
        }

        #[test]
        fn equality_and_its_negation_part_all_objects(key in "[a-z]{1,3}", value in "[a-z]{0,3}", other in "[a-z]{0,3}") {
            let object = json!({"metadata": {"labels": {&key: other}}});
            let equal = LabelSelector::parse(&format!("{key}={value}")).unwrap().matches(&object);
            let unequal = LabelSelector::parse(&format!("{key}!={value}")).unwrap().matches(&object);
            prop_assert_ne!(equal, unequal);
        }
    }
}
