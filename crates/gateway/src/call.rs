//! Instances that are code of this process: called on the thread of the request, not connected to.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

use crate::body::{BodyError, RequestBody};

/// The body of a called instance's response.
pub type CallBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Answers requests in this process. Failures are responses.
pub trait Call: Send + Sync {
    /// Gives one request to the instance. Dropping the future or the body ends its work.
    fn call(&self, request: Request<RequestBody>) -> BoxFuture<'static, Response<CallBody>>;
}

/// A ready instance, as [`crate::Gateway::set_endpoints`] takes it.
#[derive(Clone)]
pub struct Instance {
    /// Its name.
    pub id: String,
    /// Where it listens; it also tells instances apart.
    pub address: SocketAddr,
    /// How it is called, if it need not be connected to.
    pub call: Option<Arc<dyn Call>>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Instance")
            .field("id", &self.id)
            .field("address", &self.address)
            .field("call", &self.call.is_some())
            .finish()
    }
}

impl From<(String, SocketAddr)> for Instance {
    fn from((id, address): (String, SocketAddr)) -> Self {
        Self { id, address, call: None }
    }
}

/// What an instance answers with.
pub(crate) enum Answer {
    Connected(Incoming),
    Called(CallBody),
}

impl Answer {
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Connected(incoming) => Pin::new(incoming).poll_frame(context).map_err(BodyError::Broken),
            Self::Called(body) => Pin::new(body).poll_frame(context).map_err(BodyError::Failed),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Connected(incoming) => incoming.is_end_stream(),
            Self::Called(body) => body.is_end_stream(),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Connected(incoming) => incoming.size_hint(),
            Self::Called(body) => body.size_hint(),
        }
    }
}
