//! Where figures go: the terminal, a `RESULT` line for machines, and a section of docs/benchmarks.md.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use dormouse_e2e::tools;

/// A line for the person who waits.
#[expect(clippy::print_stderr, reason = "a command line tool speaks to its terminal")]
pub(crate) fn say(text: &str) {
    eprintln!("bench: {text}");
}

/// Prints and writes one benchmark's section, and its figures for machines.
#[expect(clippy::print_stdout, reason = "a command line tool speaks to its terminal")]
pub(crate) fn publish(section: &str, table: &str, result: &[(&str, f64)]) -> Result<()> {
    let text = format!("{}\n\n{}", table.trim_end(), machine());
    println!("{text}\n");
    let numbers: Vec<String> = result.iter().map(|(name, value)| format!("{name}={value:.2}")).collect();
    println!("RESULT {}", numbers.join(" "));
    let path = tools::root().join("docs/benchmarks.md");
    let old = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let new = replace(&old, section, &text).with_context(|| path.display().to_string())?;
    std::fs::write(&path, new).with_context(|| path.display().to_string())
}

/// The text between a section's two markers is its benchmark's to write.
fn replace(document: &str, section: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- bench {section} -->"), format!("<!-- end {section} -->"));
    let (head, rest) = document.split_once(&begin).with_context(|| format!("no {begin}"))?;
    let (_, tail) = rest.split_once(&end).with_context(|| format!("no {end}"))?;
    ensure!(!tail.contains(&begin), "{begin} stands twice");
    Ok(format!("{head}{begin}\n{text}\n{end}{tail}"))
}

/// On what and from which commit.
fn machine() -> String {
    let read = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(tools::root()).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{}, commit {}, Linux {}, {cores} cores.",
        read("date", &["-u", "+%F"]),
        read("git", &["rev-parse", "--short", "HEAD"]),
        read("uname", &["-rm"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_section_changes() {
        let document = "a\n<!-- bench x -->\nold\n<!-- end x -->\nb\n<!-- bench y -->\n<!-- end y -->\n";
        let new = replace(document, "x", "new").unwrap();
        assert_eq!(new, document.replace("old", "new"));
        assert!(replace(document, "z", "new").is_err());
    }
}
