//! `serve DIRECTORY`: a static file server in one file, put into the images of static sites.
//!
//! HTTP/1.1 with keep-alive, GET and HEAD, `index.html`, `404.html`, conditional and range requests. It listens on
//! `$PORT` (8080) and ends on SIGTERM.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest request head.
const HEAD_MAX: u64 = 16 << 10;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(75);
/// The most connections at once; further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 1024;

fn main() {
    let root = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let root: Arc<Path> = match std::fs::canonicalize(&root) {
        Ok(root) => root.into(),
        Err(error) => fail(&format!("{root}: {error}")),
    };
    terminate_on_signal();
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080_u16);
    let listener = match TcpListener::bind(("0.0.0.0", port)) {
        Ok(listener) => listener,
        Err(error) => fail(&format!("cannot listen on port {port}: {error}")),
    };
    let slots = Arc::new(());
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if Arc::strong_count(&slots) > CONNECTIONS_MAX {
            // Closing tells the client to come again; every other answer would need a thread.
            continue;
        }
        let (root, slot) = (Arc::clone(&root), Arc::clone(&slots));
        let serve = move || {
            let _slot = slot;
            let _ = converse(&stream, &root);
        };
        let _ = std::thread::Builder::new().stack_size(128 << 10).spawn(serve);
    }
}

fn fail(text: &str) -> ! {
    eprintln!("serve: {text}");
    std::process::exit(1)
}

/// The first process of a namespace is not ended by signals that it does not handle.
fn terminate_on_signal() {
    unsafe extern "C" {
        fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
        fn _exit(code: i32) -> !;
    }
    extern "C" fn end(_: i32) {
        // SAFETY: ends the process; allowed in a signal handler.
        unsafe { _exit(0) }
    }
    // SAFETY: the handler only makes an async-signal-safe call.
    unsafe {
        signal(15, end);
        signal(2, end);
    }
}

struct Request {
    method: String,
    target: String,
    keep_alive: bool,
    none_match: Option<String>,
    range: Option<String>,
}

fn converse(stream: &TcpStream, root: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let request = match read_request(&mut reader)? {
            Some(Ok(request)) => request,
            Some(Err(status)) => return respond_text(&mut writer, status, false, false),
            None => return Ok(()),
        };
        answer(&mut writer, root, &request)?;
        if !request.keep_alive {
            return Ok(());
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Result<Request, &'static str>>> {
    let mut head = reader.take(HEAD_MAX);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Ok(Some(Err("400 Bad Request")));
    };
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        keep_alive: version == "HTTP/1.1",
        none_match: None,
        range: None,
    };
    let mut length = 0_u64;
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(Some(Err("431 Request Header Fields Too Large")));
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { return Ok(Some(Err("400 Bad Request"))) };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "connection" => request.keep_alive = !value.eq_ignore_ascii_case("close") && request.keep_alive,
            "if-none-match" => request.none_match = Some(value),
            "range" => request.range = Some(value),
            "content-length" => length = value.parse().unwrap_or(u64::MAX),
            "transfer-encoding" => return Ok(Some(Err("501 Not Implemented"))),
            _ => {}
        }
    }
    if length > 0 {
        // A body means nothing here, and what follows must not be taken for a request.
        if length > HEAD_MAX {
            return Ok(Some(Err("413 Content Too Large")));
        }
        std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    }
    Ok(Some(Ok(request)))
}

fn answer(out: &mut impl Write, root: &Path, request: &Request) -> std::io::Result<()> {
    let head_only = request.method == "HEAD";
    if request.method != "GET" && !head_only {
        return respond_text(out, "405 Method Not Allowed", request.keep_alive, head_only);
    }
    let path = request.target.split(['?', '#']).next().unwrap_or("/");
    if matches!(path, "/health/liveness" | "/health/readiness") {
        return respond_text(out, "200 OK", request.keep_alive, head_only);
    }
    let Some(relative) = decode(path).and_then(|path| safe(&path)) else {
        return respond_text(out, "400 Bad Request", request.keep_alive, head_only);
    };
    let mut file = root.join(relative);
    if file.is_dir() {
        if !path.ends_with('/') {
            let location = format!("Location: {path}/\r\n");
            return respond(out, "301 Moved Permanently", &location, b"", request.keep_alive, head_only);
        }
        file.push("index.html");
    } else if !file.is_file() && file.extension().is_none() {
        // `/about` for `about.html`, as most site generators link.
        file.set_extension("html");
    }
    // Links of the site stay in the site.
    let file = std::fs::canonicalize(&file).ok().filter(|file| file.starts_with(root) && file.is_file());
    let Some(file) = file else {
        let page = std::fs::read(root.join("404.html")).unwrap_or_else(|_| b"404 Not Found\n".to_vec());
        let kind = if page.starts_with(b"404") { "text/plain" } else { "text/html" };
        let kind = format!("Content-Type: {kind}; charset=utf-8\r\n");
        return respond(out, "404 Not Found", &kind, &page, request.keep_alive, head_only);
    };
    send_file(out, &file, request, head_only)
}

fn send_file(out: &mut impl Write, path: &Path, request: &Request, head_only: bool) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // Files in images have no times, so only the content tells versions apart.
    let tag = format!("\"{length:x}-{:016x}\"", content_tag(path, &mut file)?);
    let matched = request.none_match.as_deref().is_some_and(|tags| tags.split(',').any(|t| t.trim() == tag || t.trim() == "*"));
    let connection = if request.keep_alive { "" } else { "Connection: close\r\n" };
    if matched {
        return out.write_all(format!("HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\n{connection}\r\n").as_bytes());
    }
    let kind = content_type(path);
    let range = request.range.as_deref().and_then(|range| parse_range(range, length));
    let (status, from, count, extra) = match range {
        None => ("200 OK", 0, length, String::new()),
        Some(Some((from, to))) => {
            ("206 Partial Content", from, to - from + 1, format!("Content-Range: bytes {from}-{to}/{length}\r\n"))
        }
        Some(None) => {
            let extra = format!("Content-Range: bytes */{length}\r\n");
            return respond(out, "416 Range Not Satisfiable", &extra, b"", request.keep_alive, head_only);
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {count}\r\nETag: {tag}\r\nAccept-Ranges: bytes\r\nCache-Control: no-cache\r\n{extra}{connection}\r\n"
    );
    file.seek(SeekFrom::Start(from))?;
    if count <= 64 << 10 {
        // Head and content in one packet.
        let mut whole = head.into_bytes();
        if !head_only {
            file.take(count).read_to_end(&mut whole)?;
        }
        return out.write_all(&whole);
    }
    out.write_all(head.as_bytes())?;
    if !head_only {
        std::io::copy(&mut file.take(count), out)?;
    }
    Ok(())
}

/// FNV-1a over the content, computed once a file: nobody changes an image's files.
fn content_tag(path: &Path, file: &mut File) -> std::io::Result<u64> {
    static KNOWN: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(tag) = known().get(path) {
        return Ok(*tag);
    }
    let tag = hash(file)?;
    known().insert(path.to_path_buf(), tag);
    Ok(tag)
}

fn hash(file: &mut File) -> std::io::Result<u64> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut buffer = [0; 32 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hash);
        }
        for byte in &buffer[..count] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// One range; several are answered whole, as the standard allows. `None` means no range that we understand,
/// `Some(None)` one that cannot be satisfied.
fn parse_range(text: &str, length: u64) -> Option<Option<(u64, u64)>> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let last = length.checked_sub(1);
    match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) if from <= to => Some(last.filter(|last| from <= *last).map(|last| (from, to.min(last)))),
        (Ok(from), Err(_)) if to.is_empty() => Some(last.filter(|last| from <= *last).map(|last| (from, last))),
        (Err(_), Ok(count)) if from.is_empty() => {
            Some(last.filter(|_| count > 0).map(|last| (length.saturating_sub(count), last)))
        }
        _ => None,
    }
}

fn respond_text(out: &mut impl Write, status: &str, keep_alive: bool, head_only: bool) -> std::io::Result<()> {
    let body = format!("{status}\n");
    respond(out, status, "Content-Type: text/plain; charset=utf-8\r\n", body.as_bytes(), keep_alive, head_only)
}

fn respond(
    out: &mut impl Write,
    status: &str,
    headers: &str,
    body: &[u8],
    keep_alive: bool,
    head_only: bool,
) -> std::io::Result<()> {
    let connection = if keep_alive { "" } else { "Connection: close\r\n" };
    let mut whole =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}{connection}\r\n", body.len()).into_bytes();
    if !head_only {
        whole.extend_from_slice(body);
    }
    out.write_all(&whole)
}

fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

/// The path below the root; `None` when it would leave it or names something hidden.
fn safe(path: &str) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for part in Path::new(path.trim_start_matches('/')).components() {
        match part {
            Component::Normal(name) if name.to_string_lossy().starts_with('.') && name != ".well-known" => return None,
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(relative)
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "txt" | "md" => "text/plain; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "webmanifest" => "application/manifest+json",
        _ => "application/octet-stream",
    }
}
