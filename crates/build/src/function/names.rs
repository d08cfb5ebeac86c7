//! What names, labels, variables and quantities may look like, in the words of Kubernetes.

use dormouse_api::names::{label_1035_error, subdomain_error};

const KEY: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const VARIABLE: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')";
/// As Kubernetes tells it of labels; they are ASCII.
const TOO_LONG: &str = "must be no more than 63 bytes";

/// Why `name` cannot be a function's.
pub fn function_name(name: &str) -> Option<String> {
    label_1035_error(name)
        .map(|error| error.replacen("a DNS-1035 label", &format!("Function name '{name}'"), 1))
}

/// Why `namespace` cannot be one.
pub fn namespace(namespace: &str) -> Option<String> {
    label_1035_error(namespace)
        .map(|error| error.replacen("a DNS-1035 label", &format!("Namespace '{namespace}'"), 1))
}

/// Why `domain` cannot be one.
pub fn domain(domain: &str) -> Option<String> {
    let error = if domain.is_empty() { None } else { subdomain_error(domain) };
    error.map(|error| error.replacen("a lowercase RFC 1123 subdomain", &format!("Domain '{domain}'"), 1))
}

/// Why `name` cannot be a variable's.
pub(super) fn variable(name: &str) -> Option<String> {
    let mut errors = String::new();
    let first = name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if !first || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        errors.push_str(VARIABLE);
    }
    match name {
        "." | ".." => errors.push_str(&format!("must not be '{name}'")),
        name if name.starts_with("..") => errors.push_str("must not start with '..'"),
        _ => {}
    }
    Some(errors).filter(|errors| !errors.is_empty())
}

/// Why `key` cannot be a label's.
pub(super) fn label_key(key: &str) -> Option<String> {
    let mut errors = String::new();
    let name = match key.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        ["", name] => {
            errors.push_str("prefix part must be non-empty");
            *name
        }
        [prefix, name] => {
            errors.extend(subdomain_error(prefix).map(|error| format!("prefix part {error}")));
            *name
        }
        _ => {
            return Some(format!(
                "a valid label key {KEY} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
        }
    };
    if name.is_empty() {
        errors.push_str("name part must be non-empty");
    } else if name.len() > 63 {
        errors.push_str(&format!("name part {TOO_LONG}"));
    }
    if !is_qualified(name) {
        errors.push_str(&format!("name part {KEY}"));
    }
    Some(errors).filter(|errors| !errors.is_empty())
}

/// Why `value` cannot be a label's. What stands in braces is looked at when it is known.
pub(super) fn label_value(value: &str) -> Option<String> {
    if value.starts_with("{{") {
        return None;
    }
    let mut errors = String::new();
    if value.len() > 63 {
        errors.push_str(TOO_LONG);
    }
    if !value.is_empty() && !is_qualified(value) {
        errors.push_str(VALUE);
    }
    Some(errors).filter(|errors| !errors.is_empty())
}

fn is_qualified(name: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Why `text` is not a quantity such as `100m` or `1Gi`.
pub(super) fn quantity(text: &str) -> Option<&'static str> {
    const FORM: &str =
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    const SUFFIX: &str = "unable to parse quantity's suffix";
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    if number.matches('.').count() > 1 || !number.contains(|c: char| c.is_ascii_digit()) {
        return Some(FORM);
    }
    let letters = suffix.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = suffix.len() > letters.len();
    let letters = letters.strip_suffix(['+', '-']).unwrap_or(letters);
    if !letters.chars().all(|c| "eEinumkKMGTP".contains(c)) {
        return Some(FORM);
    }
    let known = match letters {
        "e" | "E" => digits || (letters == "E" && suffix == "E"),
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" => suffix == letters,
        "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei" => suffix == letters,
        _ => false,
    };
    if known { None } else { Some(SUFFIX) }
}

/// Why `url` is not a repository's: neither a URL of a transport of git, nor `user@host:path`.
pub(super) fn git_url(url: &str) -> Option<String> {
    const TRANSPORTS: [&str; 9] = ["ssh", "git", "git+ssh", "http", "https", "ftp", "ftps", "rsync", "file"];
    let transport = url.split_once("://").is_some_and(|(scheme, _)| TRANSPORTS.contains(&scheme));
    let short = url.split_once(':').is_some_and(|(host, path)| {
        let host = host.split_once('@').map_or(host, |(_, host)| host);
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let path = path.split('?').next().unwrap_or_default();
        !host.is_empty()
            && host.bytes().all(fits)
            && !path.is_empty()
            && path.bytes().all(|byte| fits(byte) || byte == b'/')
    });
    (!transport && !short).then(|| format!("no scp URL found in {url:?}"))
}
