//! A component with limits and grants: what requests are given to.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use dormouse_base::clock;
use http::{HeaderValue, Request, Response, header};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use crate::body::{self, Body};
use crate::config::{Grants, Limits};
use crate::error::{Error, Result};
use crate::guest::{Guest, Live};
use crate::host::Component;
use crate::log::Stream;

/// Instances of one function that are kept for later requests, if the limits allow any.
const IDLE_MAX: usize = 16;

/// A component that can be called. Clones share its idle instances.
#[derive(Clone)]
pub struct Function(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) component: Component,
    pub(crate) limits: Limits,
    pub(crate) grants: Grants,
    idle: Mutex<Vec<Live>>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Function");
        debug.field("limits", &self.0.limits).field("grants", &self.0.grants).finish_non_exhaustive()
    }
}

// === impl Function ===

impl Function {
    pub(crate) fn new(component: Component, limits: Limits, grants: Grants) -> Self {
        Self(Arc::new(Inner { component, limits, grants, idle: Mutex::default() }))
    }

    /// Gives one request to the component and returns when the response begins; both bodies are streamed. The component
    /// runs in the calling task. Dropping the future or the response's body before its end ends the component.
    ///
    /// # Errors
    /// [`Error::Trap`], [`Error::Exit`], [`Error::OutOfMemory`], [`Error::Deadline`], [`Error::NoResponse`],
    /// [`Error::Refused`], [`Error::BrokenOff`] when the component fails before its response begins; [`Error::Overloaded`],
    /// [`Error::Directory`], [`Error::Request`]. They are in the component's log already.
    pub async fn call<B>(&self, request: Request<B>) -> Result<Response<Body>>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let mut request = request.map(|body| {
            let told = |error: B::Error| wasmtime_wasi_http::Error::InternalError(Some(error.to_string()));
            body.map_err(told).boxed_unsync()
        });
        // A component may ask for the authority; HTTP/1.0 requests have none.
        if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        }
        let mut given = Given { function: self.0.clone(), begun: clock::now(), over: false };
        let (guest, head) = Guest::start(self.0.clone(), request);
        let (mut guest, mut head) = (Some(guest), Some(head));
        let answer = poll_fn(|context| {
            let Some(working) = &mut guest else { return Poll::Ready(Err(Error::NoResponse)) };
            let over = working.poll(context).is_ready();
            if let Some(waiting) = &mut head
                && let Poll::Ready(answer) = Pin::new(waiting).poll(context)
            {
                head = None;
                match answer {
                    Ok(Ok(response)) => {
                        return Poll::Ready(body::begin(response, guest.take(), context));
                    }
                    Ok(Err(code)) => {
                        let refused = Error::Refused(code.to_string());
                        self.0.report(&refused);
                        return Poll::Ready(Err(refused));
                    }
                    // It has gone without an answer; its result tells why.
                    Err(_) => {}
                }
            }
            if over {
                return Poll::Ready(Err(working.take_result().err().unwrap_or(Error::NoResponse)));
            }
            Poll::Pending
        })
        .await;
        given.over = true;
        answer
    }
}

/// A request on its way. Who drops it before its answer has given up; the component's log tells.
struct Given {
    function: Arc<Inner>,
    begun: Instant,
    over: bool,
}

impl Drop for Given {
    fn drop(&mut self) {
        if !self.over {
            let waited = clock::now().duration_since(self.begun).as_millis();
            self.function.tell(&format!("the request was given up after {waited} ms without an answer"));
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Tells a failure in the component's log.
    pub(crate) fn report(&self, error: &Error) {
        let text = dormouse_base::chain(error);
        tracing::debug!(error = text, "a component failed");
        self.tell(&text);
    }

    /// Writes a line of ours into the component's log.
    fn tell(&self, text: &str) {
        if let Some(log) = &self.grants.log {
            log.write(Stream::Stderr, format!("{text}\n").as_bytes());
        }
    }

    /// An instance that has served before and may serve again.
    pub(crate) fn take_idle(&self) -> Option<Live> {
        if self.limits.requests_per_instance.get() == 1 {
            return None;
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps an instance for the next request, if it may serve one and places are not scarce.
    pub(crate) fn give_back(&self, live: Live) {
        if live.served >= self.limits.requests_per_instance.get() || self.component.host.is_crowded() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(live);
        }
    }
}
