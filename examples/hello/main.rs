//! The smallest function: an HTTP server on the standard library alone, so that one `rustc` call makes a
//! static binary of it (see README.md) and nothing but its own start-up is measured by a cold start.
//!
//! | path | answer |
//! |---|---|
//! | `/` (and any other) | `Hello from <K_REVISION>!`, or `$TARGET` instead of the revision's name |
//! | `/sleep?ms=N` | the same after N milliseconds |
//! | `/fail-if-concurrent?ms=N` | as `/sleep`, but 500 when another request is inside at the same time |
//! | `/env` | the environment, one `KEY=value` a line |
//! | `/instance` | an identity that no other instance has |
//! | `/log?TEXT` | writes TEXT to stdout |
//! | `/exit?code=N` | no answer: the process ends with that code |
//! | `/allocate?mib=N` | touches N MiB and keeps them: for memory limits |
//! | `/status?code=N` | an empty answer with that status |
//! | `/bytes?n=N` | N bytes of body |
//! | `POST /count` | how many bytes of body arrived |
//!
//! `START_DELAY_MS`, `EXIT_CODE`, `LISTEN_PORT`, `NEVER_LISTEN` and `IGNORE_SIGTERM` in the environment make it
//! misbehave at its start on purpose; the fault tests use them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

static INSIDE: AtomicUsize = AtomicUsize::new(0);
static HELD: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn main() {
    if number_from_environment("IGNORE_SIGTERM").is_some() {
        ignore_sigterm();
    }
    if let Some(delay) = number_from_environment("START_DELAY_MS") {
        std::thread::sleep(Duration::from_millis(delay));
    }
    if let Some(code) = number_from_environment("EXIT_CODE") {
        eprintln!("hello: leaving at once with code {code}, as told");
        std::process::exit(i32::try_from(code).unwrap_or(1));
    }
    if std::env::var_os("NEVER_LISTEN").is_some() {
        loop {
            std::thread::park();
        }
    }
    let port = std::env::var("LISTEN_PORT").or_else(|_| std::env::var("PORT")).unwrap_or_else(|_| "8080".into());
    let listener = match TcpListener::bind(format!("0.0.0.0:{port}")) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("hello: cannot listen on port {port}: {error}");
            std::process::exit(1);
        }
    };
    println!("hello: listening on port {port}");
    let identity = identity();
    let name = std::env::var("TARGET").or_else(|_| std::env::var("K_REVISION")).unwrap_or_else(|_| "nobody".into());
    for stream in listener.incoming().flatten() {
        let (name, identity) = (name.clone(), identity.clone());
        // A small stack: many idle connections must stay cheap.
        let spawned = std::thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || drop(serve(stream, &name, &identity)));
        if let Err(error) = spawned {
            eprintln!("hello: no thread for a connection: {error}");
        }
    }
}

/// One connection: requests one after another until the peer leaves.
fn serve(stream: TcpStream, name: &str, identity: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(8 * 1024, stream);
    while let Some(request) = read_request(&mut reader)? {
        let (status, body) = answer(&request, name, identity);
        let reason = if status == 200 { "OK" } else { "Other" };
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut message = head.into_bytes();
        message.extend_from_slice(&body);
        writer.write_all(&message)?;
        if request.close {
            break;
        }
    }
    Ok(())
}

struct Request {
    path: String,
    query: String,
    body: u64,
    close: bool,
}

impl Request {
    fn number(&self, key: &str) -> Option<u64> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request { path: path.to_owned(), query: query.to_owned(), body: 0, close: false };
    let (mut length, mut chunked, mut expects) = (0_u64, false, false);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim_end().is_empty() {
            break;
        }
        let Some((key, value)) = header.split_once(':') else { continue };
        let value = value.trim();
        match key.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => request.close = value.eq_ignore_ascii_case("close"),
            "expect" => expects = true,
            _ => {}
        }
    }
    if expects {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).unwrap_or(0);
            request.body += std::io::copy(&mut reader.by_ref().take(size), &mut std::io::sink())?;
            let mut end = String::new();
            reader.read_line(&mut end)?;
            if size == 0 {
                break;
            }
        }
    } else {
        request.body = std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
    }
    Ok(Some(request))
}

fn answer(request: &Request, name: &str, identity: &str) -> (u16, Vec<u8>) {
    let hello = || format!("Hello from {name}!\n").into_bytes();
    let pause = || std::thread::sleep(Duration::from_millis(request.number("ms").unwrap_or(0)));
    match request.path.as_str() {
        "/sleep" => {
            pause();
            (200, hello())
        }
        "/fail-if-concurrent" => {
            let before = INSIDE.fetch_add(1, Ordering::SeqCst);
            pause();
            let after = INSIDE.fetch_sub(1, Ordering::SeqCst);
            if before > 0 || after > 1 { (500, b"two requests at once\n".to_vec()) } else { (200, hello()) }
        }
        "/env" => {
            let mut lines: Vec<String> = std::env::vars().map(|(key, value)| format!("{key}={value}\n")).collect();
            lines.sort();
            (200, lines.concat().into_bytes())
        }
        "/instance" => (200, format!("{identity}\n").into_bytes()),
        "/exit" => std::process::exit(i32::try_from(request.number("code").unwrap_or(0)).unwrap_or(1)),
        "/allocate" => {
            let bytes = usize::try_from(request.number("mib").unwrap_or(1)).unwrap_or(1) * 1024 * 1024;
            let block = vec![1_u8; bytes];
            HELD.lock().expect("never poisoned: nothing panics while holding it").push(block);
            (200, b"held\n".to_vec())
        }
        "/status" => (u16::try_from(request.number("code").unwrap_or(200)).unwrap_or(500), Vec::new()),
        "/bytes" => (200, vec![b'.'; usize::try_from(request.number("n").unwrap_or(0)).unwrap_or(0)]),
        "/count" => (200, format!("{}\n", request.body).into_bytes()),
        "/log" => {
            println!("hello: logged {}", request.query);
            (200, hello())
        }
        _ => (200, hello()),
    }
}

fn number_from_environment(key: &str) -> Option<u64> {
    std::env::var(key).ok()?.parse().ok()
}

/// What tells two instances of one revision apart.
fn identity() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:x}", std::process::id(), since.as_nanos())
}

fn ignore_sigterm() {
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
    }
    const SIGTERM: i32 = 15;
    const SIG_IGN: usize = 1;
    // SAFETY: `signal` with SIG_IGN installs no code of ours; it is called before any thread exists.
    unsafe { signal(SIGTERM, SIG_IGN) };
}
