//! Answers `Hello from <revision>!`, as a WebAssembly component: a function that is called, not a server that waits.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Hello);

struct Hello;

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        println!("asked for {}", request.path_with_query().unwrap_or_default());
        let revision = std::env::var("K_REVISION").unwrap_or_else(|_| "nowhere".to_owned());
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("a response has one body");
        ResponseOutparam::set(out, Ok(response));
        let text = format!("Hello from {revision}!\n");
        let stream = body.write().expect("a body has one stream");
        // Whoever asked may have gone.
        let _ = stream.blocking_write_and_flush(text.as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}
