//! One function that behaves as its path says, well or badly.

use std::cell::RefCell;
use std::io::Write as _;

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

wasip2::http::proxy::export!(Function);

struct Function;

thread_local! {
    /// What would be seen by the next request if an instance were used again.
    static VISITORS: RefCell<u32> = const { RefCell::new(0) };
}

impl wasip2::exports::http::incoming_handler::Guest for Function {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/hello" => answer(out, 200, b"hello from wasm\n"),
            "/visitors" => {
                let count = VISITORS.with_borrow_mut(|count| {
                    *count += 1;
                    *count
                });
                answer(out, 200, count.to_string().as_bytes());
            }
            "/environment" => answer(out, 200, std::env::var(query).unwrap_or_default().as_bytes()),
            "/headers" => {
                let mut names: Vec<String> = request.headers().entries().into_iter().map(|(name, _)| name).collect();
                names.sort();
                let authority = request.authority().unwrap_or_default();
                answer(out, 200, format!("{authority} {}", names.join(",")).as_bytes());
            }
            "/log" => {
                println!("to stdout: {query}");
                eprintln!("to stderr: {query}");
                answer(out, 200, b"logged");
            }
            "/read" => match std::fs::read(query) {
                Ok(bytes) => answer(out, 200, &bytes),
                Err(error) => answer(out, 404, error.to_string().as_bytes()),
            },
            "/write" => match std::fs::write(query, b"written by a component") {
                Ok(()) => answer(out, 200, b""),
                Err(error) => answer(out, 403, error.to_string().as_bytes()),
            },
            "/dial" => match std::net::TcpStream::connect(query) {
                Ok(_) => answer(out, 200, b"connected"),
                Err(error) => answer(out, 403, error.to_string().as_bytes()),
            },
            "/fetch" => fetch(out, query),
            "/echo" => echo(request, out),
            "/huge" => huge(out, query.parse().unwrap()),
            "/ignore-body" => answer(out, 200, b"did not read it"),
            "/loop" => {
                let mut number = 0_u64;
                loop {
                    number = std::hint::black_box(number.wrapping_add(1));
                }
            }
            "/spin" => {
                let until = std::time::Instant::now() + std::time::Duration::from_millis(query.parse().unwrap());
                while std::time::Instant::now() < until {}
                answer(out, 200, b"spun");
            }
            "/sleep" => {
                std::thread::sleep(std::time::Duration::from_millis(query.parse().unwrap()));
                answer(out, 200, b"slept");
            }
            "/memory" => {
                let mut all: Vec<Vec<u8>> = Vec::new();
                loop {
                    all.push(vec![1; 1 << 20]);
                }
            }
            "/trap" => std::process::abort(),
            "/panic" => panic!("the function panics on purpose"),
            "/exit" => std::process::exit(3),
            "/recurse" => answer(out, 200, &[recurse(1) as u8]),
            "/silent" => drop(out),
            "/refuse" => ResponseOutparam::set(out, Err(ErrorCode::HttpRequestDenied)),
            "/trap-late" => {
                let (body, mut stream) = begin(out, 200);
                stream.write_all(&[b'x'; 100_000]).unwrap();
                stream.flush().unwrap();
                drop((body, stream));
                std::process::abort();
            }
            "/trap-early" => {
                // The head is set, but the failure comes at once: nobody has seen the head yet.
                let (_body, mut stream) = begin(out, 200);
                stream.write_all(b"x").unwrap();
                std::process::abort();
            }
            "/after" => {
                answer(out, 200, b"answered");
                std::thread::sleep(std::time::Duration::from_millis(50));
                println!("after the answer");
            }
            _ => answer(out, 404, b"no such behaviour"),
        }
    }
}

type Stream = wasip2::io::streams::OutputStream;

fn begin(out: ResponseOutparam, status: u16) -> (OutgoingBody, Stream) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).unwrap();
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().unwrap();
    (body, stream)
}

fn answer(out: ResponseOutparam, status: u16, bytes: &[u8]) {
    let (body, mut stream) = begin(out, status);
    stream.write_all(bytes).unwrap();
    drop(stream);
    OutgoingBody::finish(body, None).unwrap();
}

/// Copies the request's body chunk by chunk, trailers included.
fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().unwrap();
    let input = incoming.stream().unwrap();
    let (body, mut stream) = begin(out, 200);
    loop {
        match input.blocking_read(64 << 10) {
            Ok(chunk) => {
                stream.write_all(&chunk).unwrap();
                stream.flush().unwrap();
            }
            Err(StreamError::Closed) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    drop((input, stream));
    OutgoingBody::finish(body, None).unwrap();
}

fn huge(out: ResponseOutparam, mut bytes: u64) {
    let (body, mut stream) = begin(out, 200);
    let chunk = [b'h'; 32 << 10];
    while bytes > 0 {
        let length = bytes.min(chunk.len() as u64);
        if stream.write_all(&chunk[..length as usize]).is_err() {
            return;
        }
        bytes -= length;
    }
    drop(stream);
    OutgoingBody::finish(body, None).unwrap();
}

/// Calls `http://<authority>/<path>` and copies status and body.
fn fetch(out: ResponseOutparam, url: &str) {
    match get(url) {
        Ok(response) => {
            let (body, mut stream) = begin(out, response.status());
            let incoming = response.consume().unwrap();
            let input = incoming.stream().unwrap();
            while let Ok(chunk) = input.blocking_read(64 << 10) {
                stream.write_all(&chunk).unwrap();
            }
            drop(stream);
            OutgoingBody::finish(body, None).unwrap();
        }
        Err(code) => answer(out, 502, format!("{code:?}").as_bytes()),
    }
}

fn get(url: &str) -> Result<IncomingResponse, ErrorCode> {
    let (authority, path) = url.trim_start_matches("http://").split_once('/').unwrap_or((url, ""));
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).unwrap();
    request.set_authority(Some(authority)).unwrap();
    request.set_path_with_query(Some(&format!("/{path}"))).unwrap();
    let pending = outgoing_handler::handle(request, None)?;
    pending.subscribe().block();
    pending.get().unwrap().unwrap()
}

#[expect(unconditional_recursion, reason = "the stack is to overflow")]
fn recurse(depth: u64) -> u64 {
    let block = std::hint::black_box([depth; 64]);
    std::hint::black_box(recurse(depth + 1) + block[3])
}
