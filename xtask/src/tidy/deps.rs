//! `deps.toml`: tables of `key = ["value", …]` or `key = "text"`, and comments. Read here rather than with a
//! TOML library, which would be the largest dependency of this tool.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The machine form of design.md's rooms.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Deps {
    /// Crate → our crates that it may use; `*` is all.
    pub(crate) crates: BTreeMap<String, Vec<String>>,
    /// Crate → our crates that its tests may use besides.
    pub(crate) tests: BTreeMap<String, Vec<String>>,
    /// Library → the crates that may name it.
    pub(crate) libraries: BTreeMap<String, Vec<String>>,
    /// File over the limit → the reason.
    pub(crate) long_files: BTreeMap<String, String>,
}

impl Deps {
    pub(crate) fn read(path: &Path) -> Result<Deps> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Deps::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Deps> {
        let mut deps = Deps::default();
        let mut table = String::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.clone_into(&mut table);
                continue;
            }
            let (key, value) = line.split_once('=').with_context(|| format!("line {number}: no `=`"))?;
            let (key, value) = (key.trim().trim_matches('"').to_owned(), value.trim());
            match table.as_str() {
                "crates" => drop(deps.crates.insert(key, list(value, number)?)),
                "tests" => drop(deps.tests.insert(key, list(value, number)?)),
                "libraries" => drop(deps.libraries.insert(key, list(value, number)?)),
                "long-files" => drop(deps.long_files.insert(key, value.trim_matches('"').to_owned())),
                other => bail!("line {number}: no table [{other}]"),
            }
        }
        Ok(deps)
    }
}

fn list(value: &str, number: i32) -> Result<Vec<String>> {
    let inner = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let inner = inner.with_context(|| format!("line {number}: a list on one line is expected"))?;
    let items = inner.split(',').map(|item| item.trim().trim_matches('"').to_owned());
    Ok(items.filter(|item| !item.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let deps = Deps::parse(
            "# why\n[crates]\na = []\nb = [\"a\", \"c\"]\n[long-files]\n\"x.rs\" = \"one table\"",
        )
        .unwrap();
        assert_eq!(deps.crates["b"], ["a", "c"]);
        assert!(deps.crates["a"].is_empty());
        assert_eq!(deps.long_files["x.rs"], "one table");
    }

    #[test]
    fn a_line_that_is_no_entry_is_refused_with_its_number() {
        let error = Deps::parse("[crates]\nnonsense").unwrap_err();
        assert_eq!(error.to_string(), "line 2: no `=`");
    }
}
