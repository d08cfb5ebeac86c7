//! `test`: the README's second command. Installs by name what the tests need and is missing, then runs all of them.

use anyhow::Result;

use crate::{shell, tools};

/// Runs every test; further arguments go to `cargo test`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    tools::install(tools::FOR_TESTS)?;
    tools::kubectl()?;
    shell::run(shell::cargo().args(["test", "--workspace"]).args(arguments))
}
