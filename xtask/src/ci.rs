//! `ci`: what CI checks, in CI's order (`.ci/run` is this plus the compiler's components).

use anyhow::Result;

use crate::shell;
use crate::{test, tidy};

/// Format, lints, tidy, tests.
pub(crate) fn run() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    shell::run(shell::cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    tidy::run()?;
    test::run(&[])
}
