//! Names of children: readable while they fit, hashed when they do not.

use md5::{Digest, Md5};

/// The longest name that a label value or DNS label may have.
const LONGEST: usize = 63;
/// Length of an MD5 digest in hexadecimal.
const HASH: usize = 32;
/// What is left for text beside the hash.
const HEAD: usize = LONGEST - HASH;

/// `parent` + `suffix` when that fits 63 characters; otherwise a shortened parent, a hash and the suffix.
pub fn child_name(parent: &str, suffix: &str) -> String {
    if parent.len() + suffix.len() <= LONGEST {
        return format!("{parent}{suffix}");
    }
    if suffix.len() < HEAD {
        let head = cut(parent, HEAD - suffix.len());
        return format!("{head}{}{suffix}", hash(parent));
    }
    let head = cut(parent, HEAD);
    let name = format!("{head}{}", hash(&format!("{parent}{suffix}")));
    let rest = cut(suffix, LONGEST.saturating_sub(name.len()));
    format!("{name}{rest}").trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric()).to_owned()
}

fn cut(text: &str, length: usize) -> &str {
    let end = (0..=length.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

fn hash(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What Kubernetes says about a name that is not a DNS-1123 subdomain.
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// What Kubernetes says about a name that is not a DNS-1123 label.
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
/// What Kubernetes says about a name that is not a DNS-1035 label.
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

/// Why `name` is not a DNS-1123 subdomain, if it is not.
pub fn subdomain_error(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some("must be no more than 253 characters".to_owned());
    }
    (!name.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned())
}

/// Why `name` is not a DNS-1123 label, if it is not.
pub fn label_error(name: &str) -> Option<String> {
    if name.len() > LONGEST {
        return Some("must be no more than 63 characters".to_owned());
    }
    (!is_label(name)).then(|| LABEL.to_owned())
}

/// Why `name` is not a DNS-1035 label, if it is not.
pub fn label_1035_error(name: &str) -> Option<String> {
    if name.len() > LONGEST {
        return Some("must be no more than 63 characters".to_owned());
    }
    let good = is_label(name) && name.starts_with(|letter: char| letter.is_ascii_lowercase());
    (!good).then(|| LABEL_1035.to_owned())
}

/// Whether `key` may name a key of a ConfigMap or Secret.
pub fn is_config_key(key: &str) -> bool {
    let letters = key.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter));
    letters && !key.is_empty() && key.len() <= 253 && key != "." && key != ".."
}

fn is_label(text: &str) -> bool {
    let inner = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|letter| inner(*letter) || *letter == b'-')
        && bytes.first().is_some_and(|letter| inner(*letter))
        && bytes.last().is_some_and(|letter| inner(*letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_stay_and_long_names_are_hashed_as_upstream_does() {
        let long = "a23456789b23456789c23456789d23456789e23456789f23456789g23456789h234";
        let cases = [
            ("foo", "-00001", "foo-00001"),
            (
                "a23456789b23456789c23456789d23456789e23456789f23456789g2345678",
                "-deployment",
                "a23456789b23456789c2c2002095b4fdfd1fa5de5c547da5f76e-deployment",
            ),
            (long, "-00001", "a23456789b23456789c234567f6c43cdc0d1d97b4f18d2040d4710af6-00001"),
            ("asdf", long, "asdfc7bde53d591e030ab544ff5968418782a23456789b23456789c23456789"),
        ];
        for (parent, suffix, expected) in cases {
            assert_eq!(child_name(parent, suffix), expected);
        }
    }
}
