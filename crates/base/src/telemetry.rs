//! One structured log on stderr: for people on a terminal, JSON otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Readable on a terminal, JSON when stderr is not one.
    Auto,
    /// Always readable.
    Text,
    /// Always JSON, one object a line.
    Json,
}

/// Installs the process-wide subscriber. `filter` is a `tracing` directive such as `info` or `dormouse_gateway=debug`.
///
/// # Errors
/// The text names the directive that cannot be parsed, or says that a subscriber is already installed.
pub fn install(filter: &str, format: Format) -> Result<(), String> {
    let directive =
        EnvFilter::builder().parse(filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    let terminal = std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(directive);
    let json = match format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !terminal,
    };
    let result = if json {
        registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(terminal)
                    .with_target(false)
                    .compact()
                    .with_writer(std::io::stderr),
            )
            .try_init()
    };
    result.map_err(|error| error.to_string())
}
