//! Bodies of responses: whole if the component was done at once, streamed otherwise.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use wasmtime_wasi_http::WasiBody;

use crate::error::{Error, Result};
use crate::guest::Guest;

/// As much of a response is gathered before it is streamed. A response that is complete by then goes out with its length.
const GATHER_BYTES: usize = 64 << 10;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The component failed after its response had begun; its log tells why.
    #[error("the component failed after its response had begun")]
    Failed,
}

/// The body of a component's response. Dropping it before its end ends the component.
pub struct Body(Kind);

enum Kind {
    Done,
    Full(Bytes),
    Stream(Box<Streaming>),
}

struct Streaming {
    /// What had been gathered.
    first: VecDeque<Frame<Bytes>>,
    rest: WasiBody,
    guest: Option<Guest>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.0 {
            Kind::Done => "Body::Done",
            Kind::Full(_) => "Body::Full",
            Kind::Stream(_) => "Body::Stream",
        })
    }
}

/// Takes what the component has already written of its body. An error can still become a response of its own.
pub(crate) fn begin(
    response: Response<WasiBody>,
    guest: Option<Guest>,
    context: &mut Context<'_>,
) -> Result<Response<Body>> {
    let (parts, mut rest) = response.into_parts();
    let Some(mut guest) = guest else { return Err(Error::NoResponse) };
    let mut first = VecDeque::new();
    let mut bytes = 0;
    loop {
        let over = guest.poll(context).is_ready();
        match Pin::new(&mut rest).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                bytes += frame.data_ref().map_or(GATHER_BYTES, Bytes::len);
                first.push_back(frame);
                if bytes >= GATHER_BYTES {
                    break;
                }
            }
            Poll::Ready(None) if guest.signs.failed.load(Ordering::Acquire) => {
                return Err(failure(&mut guest));
            }
            Poll::Ready(None) => {
                guest.detach();
                return Ok(Response::from_parts(parts, Body::full(first, bytes)));
            }
            Poll::Ready(Some(Err(_))) => return Err(failure(&mut guest)),
            // Nobody is left who could write more.
            Poll::Pending if over => return Err(failure(&mut guest)),
            Poll::Pending => break,
        }
    }
    let guest = Some(guest.move_to_task());
    Ok(Response::from_parts(parts, Body(Kind::Stream(Box::new(Streaming { first, rest, guest })))))
}

fn failure(guest: &mut Guest) -> Error {
    guest.take_result().err().unwrap_or(Error::BrokenOff)
}

impl Body {
    fn full(frames: VecDeque<Frame<Bytes>>, bytes: usize) -> Self {
        let mut data = frames.into_iter().filter_map(|frame| frame.into_data().ok());
        let Some(first) = data.next() else { return Self(Kind::Done) };
        if first.len() == bytes {
            return Self::text(first);
        }
        let mut all = BytesMut::with_capacity(bytes);
        all.extend_from_slice(&first);
        data.for_each(|more| all.extend_from_slice(&more));
        Self::text(all.freeze())
    }

    /// A whole body.
    pub(crate) fn text(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(if bytes.is_empty() { Kind::Done } else { Kind::Full(bytes) })
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        loop {
            match Pin::new(&mut self.rest).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
                Poll::Ready(None) => {
                    let Some(guest) = self.guest.take() else { return Poll::Ready(None) };
                    if guest.signs.failed.load(Ordering::Acquire) {
                        return Poll::Ready(Some(Err(BodyError::Failed)));
                    }
                    guest.detach();
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(BodyError::Failed))),
                Poll::Pending => {
                    let Some(guest) = &mut self.guest else { return Poll::Ready(None) };
                    // Once it is over there is nothing to come but what has been written: looked at once more, then the end.
                    let was_over = guest.is_done();
                    match guest.poll(context) {
                        Poll::Ready(()) if was_over => return Poll::Ready(Some(Err(BodyError::Failed))),
                        Poll::Ready(()) => {}
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.0 {
            Kind::Done => return Poll::Ready(None),
            Kind::Full(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Kind::Stream(streaming) => match std::task::ready!(streaming.poll(context)) {
                Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
                end => end,
            },
        };
        self.0 = Kind::Done;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Done => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}
