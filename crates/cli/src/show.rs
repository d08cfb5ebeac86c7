//! How a build is shown: one living line on a terminal, plain lines elsewhere, nothing when a machine reads.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use dormouse_build::{Error, Event, Progress};

/// As much of a tool's line as a terminal shows.
const WIDTH: usize = 72;

/// Shows a build on stderr.
pub struct Display {
    silent: bool,
    terminal: bool,
    canceled: AtomicBool,
}

// === impl Display ===

impl Display {
    /// A display; a silent one shows nothing.
    pub fn new(silent: bool) -> Self {
        Self { silent, terminal: std::io::stderr().is_terminal(), canceled: AtomicBool::new(false) }
    }

    /// Makes the build end.
    pub fn cancel(&self) {
        self.canceled.store(true, Ordering::Relaxed);
    }

    /// Shows that a phase begins which the builder does not know.
    pub fn phase(&self, name: &str) {
        self.event(Event::Started(name));
    }

    /// Removes the living line.
    pub fn end(&self) {
        if self.terminal && !self.silent {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        // Without a stderr there is nobody to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn line(&self, text: &str) {
        self.write(&if self.terminal { format!("\r\x1b[K{text}\n") } else { format!("{text}\n") });
    }

    fn living(&self, text: &str) {
        if self.terminal {
            let text: String = text.chars().filter(|c| !c.is_control()).take(WIDTH).collect();
            self.write(&format!("\r\x1b[K\x1b[2m{text}\x1b[0m"));
        }
    }
}

impl Progress for Display {
    fn event(&self, event: Event<'_>) {
        if self.silent {
            return;
        }
        match event {
            Event::Detected { language, evidence, files, bytes } => {
                let evidence = evidence.join(", ");
                self.line(&format!("detected      {language} ({evidence}), {files} files, {}", size(bytes)));
            }
            Event::Started(name) => self.living(&format!("{name} …")),
            Event::Finished(phase) => {
                let how = match phase.reused {
                    true => "as before".to_owned(),
                    false => format!("{:.2} s", phase.took.as_secs_f64()),
                };
                self.line(&format!("{:<13} {how}", phase.name));
            }
            Event::Output(text) if self.terminal => self.living(&format!("  {text}")),
            Event::Output(text) => self.line(&format!("  | {text}")),
        }
    }

    fn canceled(&self) -> bool {
        self.canceled.load(Ordering::Relaxed)
    }
}

/// The whole of a failed build as it is told: what, the tool's own words, what to do.
pub fn failure(error: Error) -> anyhow::Error {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    if !error.output.is_empty() {
        text.push_str(&format!("\n\n{}\n", error.output));
    }
    text.push_str(&format!("\n  → {}", error.remedy));
    anyhow::Error::msg(text)
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use dormouse_build::Reason;

    use super::*;

    #[test]
    fn a_failure_tells_what_the_tool_said_and_what_to_do() {
        let error =
            Error::new(Reason::CompileFailed, "compile: go build failed").with_output("main.go:3: oops");
        let text = failure(error).to_string();
        assert!(text.starts_with("CompileFailed: compile"), "{text}");
        assert!(text.contains("main.go:3: oops") && text.contains("→ correct the source"), "{text}");
    }

    #[test]
    fn sizes_are_rounded() {
        assert_eq!(
            (size(12), size(2048), size(3 << 20)),
            ("12 B".into(), "2.0 KiB".into(), "3.0 MiB".into())
        );
    }
}
