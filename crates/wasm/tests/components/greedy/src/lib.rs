//! Answers HTTP, but wants an interface that nobody grants.

use wasip2::http::types::{ErrorCode, IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    inline: "
        package acme:secrets@0.1.0;
        interface vault { open: func(name: string) -> string; }
        world greedy { import vault; }
    ",
});

wasip2::http::proxy::export!(Greedy);

struct Greedy;

impl wasip2::exports::http::incoming_handler::Guest for Greedy {
    fn handle(_: IncomingRequest, out: ResponseOutparam) {
        let secret = acme::secrets::vault::open("everything");
        ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some(secret))));
    }
}
