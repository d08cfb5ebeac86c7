//! `tidy`: is the house clean? Rules that a compiler cannot check, each as a function that returns its findings.
//!
//! It runs as a verb and as a test, so that `cargo test` fails where CI would.

mod deps;
mod edges;
mod files;

use std::path::Path;

use anyhow::{Result, bail};

use crate::shell;

/// One finding: where, and what to do.
pub(crate) type Finding = String;

/// Runs every rule.
pub(crate) fn run() -> Result<()> {
    let findings = check(&shell::root())?;
    for finding in &findings {
        shell::say(finding);
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} finding(s)", findings.len())
}

fn check(root: &Path) -> Result<Vec<Finding>> {
    let allowed = deps::Deps::read(&root.join("deps.toml"))?;
    let mut findings = edges::check(root, &allowed)?;
    findings.extend(files::check(root, &allowed)?);
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_clean() {
        let findings = check(&shell::root()).unwrap();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }
}
