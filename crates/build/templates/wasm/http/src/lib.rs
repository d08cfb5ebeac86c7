//! Answers requests as a WebAssembly component: a function that is called, not a server that waits.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Function);

struct Function;

impl wasip2::exports::http::incoming_handler::Guest for Function {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let answer = answer(&request.path_with_query().unwrap_or_default());
        let headers = Fields::new();
        let _ = headers.set("content-type", &[b"text/plain".to_vec()]);
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("a response has one body");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("a body has one stream");
        // At most 4096 bytes at once; whoever asked may have gone.
        for part in answer.as_bytes().chunks(4096) {
            if stream.blocking_write_and_flush(part).is_err() {
                break;
            }
        }
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

/// What a request for `path` is answered.
fn answer(path: &str) -> String {
    // YOUR CODE HERE
    println!("asked for {path}");
    "OK\n".to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn answers() {
        assert_eq!(super::answer("/"), "OK\n");
    }
}
