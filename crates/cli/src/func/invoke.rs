//! `func invoke`: a request or an event to try a function with.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine as _;
use bytes::Bytes;
use http::Uri;

use super::args::Invoke;
use super::list::text;
use super::run::running_here;
use super::send::{Answer, Target, send};
use super::{deployed_in, open, say};
use crate::cluster;

pub(super) async fn run(args: &Invoke, data_dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let function = open(&args.place.path)?;
    let target = target(args, &function, data_dir).await?;
    let format = args.format.as_deref().unwrap_or(&function.spec.invoke);
    let event = matches!(format, "cloudevent" | "cloudevents");
    let data = match &args.file {
        Some(file) => {
            let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
            base64::engine::general_purpose::STANDARD.encode(bytes)
        }
        None => args.data.clone(),
    };
    let mut headers = vec![("content-type".to_owned(), args.content_type.clone())];
    if event {
        headers.extend(attributes(args)?);
    }
    if args.place.verbose {
        let kind = if event { "cloudevent" } else { "http" };
        say(&format!("Invoking '{kind}' function at {}", target.url));
        for (name, value) in &headers {
            say(&format!("  {name}: {value}"));
        }
        say(&format!("  {data}"));
    }
    let body = if event && args.request_type == "GET" { String::new() } else { data };
    let answer = send(&target, &args.request_type, &headers, Bytes::from(body)).await?;
    if answer.status > 299 {
        let why = String::from_utf8_lossy(&answer.body);
        bail!("failure invoking '{}' (HTTP {}): {}", target.url, answer.status, why.trim());
    }
    show(&answer, event, args.place.verbose, out)
}

/// Where to send: here if it runs here, else to the platform, unless told.
async fn target(
    args: &Invoke,
    function: &dormouse_build::function::Function,
    data_dir: &Path,
) -> anyhow::Result<Target> {
    let insecure = args.insecure;
    let told = args.target.as_deref().unwrap_or_default();
    let url = |text: &str| text.parse::<Uri>().with_context(|| format!("the URL {text}"));
    if !matches!(told, "" | "local" | "remote") {
        let told = if told.contains("://") { told.to_owned() } else { format!("http://{told}") };
        return Ok(Target { url: url(&told)?, address: None, insecure });
    }
    if !function.initialized() {
        bail!(
            "no function found in {}: name a URL with --target, or the function's directory with --path",
            function.root.display()
        );
    }
    if told != "remote" {
        if let Some(address) = running_here(function) {
            return Ok(Target { url: url(&format!("http://{address}/"))?, address: None, insecure });
        }
        if told == "local" {
            bail!("not running locally\n  → start it with `dormouse func run`");
        }
    }
    let state = cluster::running(data_dir).context("not running locally or in the remote")?;
    let services = cluster::services(cluster::client(&state).await?, &deployed_in(function));
    let name = &function.spec.name;
    let service = services.get_opt(name).await.with_context(|| format!("read Service {name}"))?;
    let Some(service) = service else {
        let place = if told == "remote" { "in the remote" } else { "locally or in the remote" };
        bail!("not running {place}\n  → deploy it with `dormouse func deploy`");
    };
    let route = text(&service.data, "/status/url");
    // The gateway is known: no name has to be resolved.
    Ok(Target { url: url(&route)?, address: Some(state.gateway), insecure })
}

/// The event's attributes as headers, in binary mode.
fn attributes(args: &Invoke) -> anyhow::Result<Vec<(String, String)>> {
    let id = args.id.clone().unwrap_or_else(new_id);
    let mut all = vec![
        ("ce-specversion".to_owned(), "1.0".to_owned()),
        ("ce-id".to_owned(), escape(&id)),
        ("ce-source".to_owned(), escape(&args.source)),
        ("ce-type".to_owned(), escape(&args.kind)),
    ];
    for extension in &args.extension {
        let (name, value) = extension
            .split_once('=')
            .with_context(|| format!("--extension {extension}: expected NAME=VALUE"))?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            bail!("--extension {extension}: names are lowercase letters and digits");
        }
        all.push((format!("ce-{name}"), escape(value)));
    }
    Ok(all)
}

/// An id that no other event has, as good as a clock and a process id make it.
fn new_id() -> String {
    let nanos = dormouse_base::clock::wall().duration_since(std::time::UNIX_EPOCH);
    format!("{:x}-{:x}", nanos.unwrap_or_default().as_nanos(), std::process::id())
}

/// What a header cannot carry is percent-encoded, as the HTTP binding of CloudEvents says.
fn escape(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' | 0..0x20 | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            byte => out.push(char::from(byte)),
        }
    }
    out
}

fn show(answer: &Answer, event: bool, verbose: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if verbose {
        say(&format!("HTTP {}", answer.status));
        for (name, value) in &answer.headers {
            say(&format!("  {name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
    }
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    if event && header("ce-specversion").is_some() {
        writeln!(out, "Context Attributes,")?;
        for name in ["specversion", "type", "source", "id", "subject", "time"] {
            if let Some(value) = header(&format!("ce-{name}")) {
                writeln!(out, "  {name}: {value}")?;
            }
        }
        if let Some(kind) = header("content-type") {
            writeln!(out, "  datacontenttype: {kind}")?;
        }
        if !answer.body.is_empty() {
            write!(out, "Data,\n  ")?;
        }
    }
    out.write_all(&answer.body)?;
    if !answer.body.is_empty() && !answer.body.ends_with(b"\n") {
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_carry_any_attribute() {
        assert_eq!(escape("plain/x"), "plain/x");
        assert_eq!(escape("a\"b%\nä"), "a%22b%25%0A%C3%A4");
    }
}
