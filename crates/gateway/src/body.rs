//! Bodies: requests are counted against a limit, responses drive their upstream connection and hold their place.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dormouse_base::clock;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::call::Answer;
use crate::metrics::Track;
use crate::pool::{Http1, Http2};
use crate::revision::Permit;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side broke off.
    #[error("connection broken while a body was copied")]
    Broken(#[source] hyper::Error),
    /// An instance of this process failed after its response had begun.
    #[error("the instance failed while its response was copied")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The request is larger than the configured limit.
    #[error("request body is larger than the limit")]
    TooLarge,
    /// A limit of time passed after the response had begun.
    #[error("request timeout")]
    Timeout,
}

/// A client's request body on its way to an instance.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    /// Bytes that may still come and the flag to set when they are exceeded.
    limit: Option<(u64, Arc<AtomicBool>)>,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, limit: Option<(u64, Arc<AtomicBool>)>) -> Self {
        Self { incoming, limit }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = std::task::ready!(Pin::new(&mut this.incoming).poll_frame(context));
        if let (Some(Ok(frame)), Some((left, exceeded))) = (&frame, &mut this.limit)
            && let Some(data) = frame.data_ref()
        {
            match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => {
                    exceeded.store(true, Ordering::Release);
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// What a response that takes too long ends with.
const TIMEOUT_TEXT: &[u8] = b"request timeout";

/// What carries the exchange.
pub(crate) enum Carrier {
    Http1(Http1),
    Http2 {
        /// Keeps the stream counted.
        _stream: Http2,
    },
    /// Nothing: the instance is code of this process.
    Call,
}

/// Time limits of a response that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) total: Instant,
    pub(crate) idle: Option<Duration>,
}

/// An exchange with an instance that is not over yet.
struct Exchange {
    carrier: Option<Carrier>,
    permit: Option<Permit>,
    track: Option<Track>,
    limits: Limits,
    last: Instant,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Exchange {
    /// The response is complete: the connection may serve the next request.
    fn finish(&mut self) {
        if let (Some(Carrier::Http1(connection)), Some(endpoint)) =
            (self.carrier.take(), self.permit.as_ref().and_then(Permit::endpoint))
            && !endpoint.is_removed()
        {
            endpoint.pool.give(connection, clock::now());
        }
        // The connection is in the pool before the place is free: the next request finds it.
        self.permit = None;
        self.track = None;
    }

    fn poll_timeout(&mut self, context: &mut Context<'_>) -> bool {
        let deadline = match self.limits.idle {
            Some(idle) => self.limits.total.min(self.last + idle),
            None => self.limits.total,
        };
        let deadline = tokio::time::Instant::from_std(deadline);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(context).is_ready()
    }
}

enum Kind {
    Full(Option<Bytes>),
    Stream { incoming: Answer, exchange: Box<Exchange> },
    Done,
}

/// The body of every response of the gateway.
pub struct Body(Kind);

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.0 {
            Kind::Full(_) => "Body::Full",
            Kind::Stream { .. } => "Body::Stream",
            Kind::Done => "Body::Done",
        })
    }
}

impl Body {
    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self(Kind::Done)
    }

    /// A short text.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(if bytes.is_empty() { Kind::Done } else { Kind::Full(Some(bytes)) })
    }

    /// An instance's response.
    pub(crate) fn exchange(
        incoming: Answer,
        carrier: Carrier,
        permit: Permit,
        track: Track,
        limits: Limits,
    ) -> Self {
        let mut exchange = Exchange {
            carrier: Some(carrier),
            permit: Some(permit),
            track: Some(track),
            limits,
            last: clock::now(),
            timer: None,
        };
        if incoming.is_end_stream() {
            exchange.finish();
            return Self(Kind::Done);
        }
        Self(Kind::Stream { incoming, exchange: Box::new(exchange) })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (incoming, exchange) = match &mut self.0 {
            Kind::Done => return Poll::Ready(None),
            Kind::Full(bytes) => {
                let frame = bytes.take().map(|bytes| Ok(Frame::data(bytes)));
                self.0 = Kind::Done;
                return Poll::Ready(frame);
            }
            Kind::Stream { incoming, exchange } => (incoming, exchange),
        };
        let polled = match &mut exchange.carrier {
            Some(Carrier::Http1(connection)) => {
                // Only driving the connection brings frames, so nothing else needs to wake this task.
                let mut silent = Context::from_waker(Waker::noop());
                match incoming.poll(&mut silent) {
                    Poll::Pending => {
                        connection.drive(context);
                        match incoming.poll(&mut silent) {
                            // The connection has ended without a word: its last state decides, at the next poll.
                            Poll::Pending if connection.is_done() => incoming.poll(context),
                            other => other,
                        }
                    }
                    ready => ready,
                }
            }
            _ => incoming.poll(context),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if exchange.limits.idle.is_some() {
                    exchange.last = clock::now();
                }
                if incoming.is_end_stream() {
                    exchange.finish();
                    self.0 = Kind::Done;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                exchange.finish();
                self.0 = Kind::Done;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.0 = Kind::Done;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => {
                if exchange.poll_timeout(context) {
                    // As Knative does: what has begun ends with this text, unless its length was promised.
                    let appends = matches!(exchange.carrier, Some(Carrier::Http1(_)))
                        && incoming.size_hint().exact().is_none();
                    self.0 = Kind::Done;
                    let last = Frame::data(Bytes::from_static(TIMEOUT_TEXT));
                    return Poll::Ready(Some(if appends { Ok(last) } else { Err(BodyError::Timeout) }));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Done => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}
