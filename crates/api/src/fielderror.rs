//! Knative's field errors: a message, the paths it concerns, and how several are merged and printed.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    message: String,
    paths: Vec<String>,
    details: String,
}

/// Zero or more errors; zero means valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldError(Vec<Entry>);

// === impl FieldError ===

impl FieldError {
    /// No error.
    pub fn none() -> Self {
        Self::default()
    }
    /// An error with any text.
    pub fn new(message: impl Into<String>, paths: &[&str]) -> Self {
        Self::detailed(message, paths, "")
    }
    /// An error with any text and a second line.
    pub fn detailed(message: impl Into<String>, paths: &[&str], details: impl Into<String>) -> Self {
        Self(vec![Entry {
            message: message.into(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            details: details.into(),
        }])
    }
    /// A required field is absent.
    pub fn missing(paths: &[&str]) -> Self {
        Self::new("missing field(s)", paths)
    }
    /// A field is present that may not be.
    pub fn disallowed(paths: &[&str]) -> Self {
        Self::new("must not set the field(s)", paths)
    }
    /// A field is present that another field forbids; `why` is the whole message.
    pub fn disallowed_because(why: &str, path: &str) -> Self {
        Self::new(why, &[path])
    }
    /// A value cannot be accepted.
    pub fn invalid(value: impl fmt::Display, path: &str) -> Self {
        Self::new(format!("invalid value: {value}"), &[path])
    }
    /// Like [`FieldError::invalid`] with a second line that says why.
    pub fn invalid_because(value: impl fmt::Display, path: &str, details: impl Into<String>) -> Self {
        Self::detailed(format!("invalid value: {value}"), &[path], details)
    }
    /// A number outside its range.
    pub fn bounds(
        value: impl fmt::Display,
        lower: impl fmt::Display,
        upper: impl fmt::Display,
        path: &str,
    ) -> Self {
        Self::new(format!("expected {lower} <= {value} <= {upper}"), &[path])
    }
    /// Two fields of which one is allowed.
    pub fn both(paths: &[&str]) -> Self {
        Self::new("expected exactly one, got both", paths)
    }
    /// Two fields of which one is needed.
    pub fn neither(paths: &[&str]) -> Self {
        Self::new("expected exactly one, got neither", paths)
    }
    /// A key of a map that may not be there.
    pub fn invalid_key(key: &str, path: &str, details: impl Into<String>) -> Self {
        Self::detailed(format!("invalid key name {key:?}"), &[path], details)
    }

    /// Whether there is no error.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// These errors and the others.
    #[must_use]
    pub fn also(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
    /// Adds the others.
    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }
    /// The same errors seen from one level up, under `field`.
    #[must_use]
    pub fn via(mut self, field: &str) -> Self {
        for path in self.0.iter_mut().flat_map(|entry| entry.paths.iter_mut()) {
            *path = join(field, path);
        }
        self
    }
    /// The same errors seen from one level up, under `[index]`.
    #[must_use]
    pub fn via_index(self, index: usize) -> Self {
        self.via(&format!("[{index}]"))
    }
    /// The same errors seen from two levels up, under `field[index]`.
    #[must_use]
    pub fn via_field_index(self, field: &str, index: usize) -> Self {
        self.via(&format!("{field}[{index}]"))
    }
    /// `Ok` when there is no error, else the rendered text.
    ///
    /// # Errors
    /// The text of all errors, merged and sorted.
    pub fn into_result(self) -> Result<(), String> {
        if self.is_empty() { Ok(()) } else { Err(self.to_string()) }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut merged: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for entry in &self.0 {
            let paths = merged.entry((&entry.message, &entry.details)).or_default();
            let several = !paths.is_empty();
            for path in &entry.paths {
                if !paths.contains(&path.as_str()) {
                    paths.push(path);
                }
            }
            if several {
                paths.sort_unstable();
            }
        }
        for (index, ((message, details), paths)) in merged.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{message}: {}", paths.join(", "))?;
            if !details.is_empty() {
                write!(formatter, "\n{details}")?;
            }
        }
        Ok(())
    }
}

fn join(parent: &str, child: &str) -> String {
    if child.is_empty() {
        parent.to_owned()
    } else if child.starts_with(['[', '.']) {
        format!("{parent}{child}")
    } else {
        format!("{parent}.{child}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_merged_and_errors_sorted() {
        let error = FieldError::missing(&["b"])
            .also(FieldError::missing(&["a"]))
            .also(FieldError::bounds(-1, 0, 1000, "c"))
            .via_field_index("x", 2)
            .via("spec");
        assert_eq!(
            error.to_string(),
            "expected 0 <= -1 <= 1000: spec.x[2].c\nmissing field(s): spec.x[2].a, spec.x[2].b"
        );
    }

    #[test]
    fn indexes_join_without_a_dot_and_details_follow_on_their_own_line() {
        let error = FieldError::invalid_because("p", "", "why").via_index(0).via("ports").via("spec");
        assert_eq!(error.to_string(), "invalid value: p: spec.ports[0]\nwhy");
    }
}
