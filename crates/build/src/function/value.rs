//! Values that name something else: `{{ env:NAME }}`, `{{ secret:name:key }}`, `{{ configMap:name }}`…

/// What a value means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// Itself.
    Text(&'a str),
    /// A variable of whoever builds or deploys.
    Local(&'a str),
    /// A key of a Secret.
    SecretKey(&'a str, &'a str),
    /// A key of a ConfigMap.
    ConfigMapKey(&'a str, &'a str),
    /// All of a Secret.
    Secret(&'a str),
    /// All of a ConfigMap.
    ConfigMap(&'a str),
    /// Braces around something that means nothing.
    Unknown,
}

/// Reads a value.
pub fn meaning(value: &str) -> Meaning<'_> {
    if !value.starts_with("{{") {
        return Meaning::Text(value);
    }
    read(value).unwrap_or(Meaning::Unknown)
}

fn read(value: &str) -> Option<Meaning<'_>> {
    let inner = value.strip_prefix("{{")?.strip_suffix("}}")?.trim();
    let mut parts = inner.split(':');
    let found = match (parts.next()?, parts.next()?, parts.next()) {
        ("env", name, None) => Meaning::Local(valid(name, is_word)?),
        ("secret", name, None) => Meaning::Secret(valid(name, is_name)?),
        ("secret", name, Some(key)) => Meaning::SecretKey(valid(name, is_name)?, valid(key, is_key)?),
        ("configMap", name, None) => Meaning::ConfigMap(valid(name, is_name)?),
        ("configMap", name, Some(key)) => Meaning::ConfigMapKey(valid(name, is_name)?, valid(key, is_key)?),
        _ => return None,
    };
    parts.next().is_none().then_some(found)
}

fn valid(text: &str, fits: impl Fn(&str) -> bool) -> Option<&str> {
    fits(text).then_some(text)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_word_byte)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Words joined by single hyphens (or apostrophes, as upstream has it).
fn is_name(text: &str) -> bool {
    text.split(['-', '\'']).all(is_word)
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_nothing_else() {
        for (value, expected) in [
            ("plain", Meaning::Text("plain")),
            ("a {{ env:X }}", Meaning::Text("a {{ env:X }}")),
            ("{{ env:MY_1 }}", Meaning::Local("MY_1")),
            ("{{env:X}}", Meaning::Local("X")),
            ("{{ env:A-B }}", Meaning::Unknown),
            ("{{ secret:my-secret }}", Meaning::Secret("my-secret")),
            ("{{ secret:my-secret:a.b-c }}", Meaning::SecretKey("my-secret", "a.b-c")),
            ("{{ configMap:m }}", Meaning::ConfigMap("m")),
            ("{{ configMap:m:k }}", Meaning::ConfigMapKey("m", "k")),
            ("{{ secret:a:b:c }}", Meaning::Unknown),
            ("{{ secret: }}", Meaning::Unknown),
            ("{{ other:a }}", Meaning::Unknown),
            ("{{", Meaning::Unknown),
        ] {
            assert_eq!(meaning(value), expected, "{value}");
        }
    }
}
