//! A function behind a socket: HTTP/1.1 with keep-alive, and HTTP/2 with prior knowledge.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dormouse_base::clock;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use http::{HeaderValue, Request, Response, header};
use http_body::Body as HttpBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::Body;
use crate::error::{Error, Result};
use crate::function::Function;

/// Before accepting again when the machine has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A socket to serve on.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// A function that answers on a socket. Dropping it stops accepting and lets requests in flight end.
#[derive(Debug)]
pub struct Instance {
    stop: Shutdown,
    connections: Tasks,
    address: Option<SocketAddr>,
}

impl From<std::net::TcpListener> for Listener {
    fn from(listener: std::net::TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<std::os::unix::net::UnixListener> for Listener {
    fn from(listener: std::os::unix::net::UnixListener) -> Self {
        Self::Unix(listener)
    }
}

// === impl Instance ===

impl Instance {
    /// Where it listens, if that is TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Stops accepting, waits at most `grace` for requests in flight, cuts the rest. Answers how many connections were cut.
    pub async fn stop(self, grace: Duration) -> usize {
        self.stop.trigger();
        let cut = self.connections.drain(grace).await;
        self.connections.shutdown().trigger();
        cut
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

// === impl Function ===

impl Function {
    /// [`Function::call`] for those who pass on whatever comes: failures are responses that tell no more than a client
    /// should know.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        self.call(request).await.unwrap_or_else(|error| respond(&error))
    }

    /// Serves requests on `listener` until the instance is stopped or `tasks` is. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Listen`] if the socket cannot be used.
    pub fn serve(&self, listener: impl Into<Listener>, tasks: &Tasks) -> Result<Instance> {
        let stop = tasks.shutdown().child();
        // Triggered at the end of a drain: what is left is cut.
        let connections = Tasks::new(Shutdown::new());
        let function = self.clone();
        let (stopped, own) = (stop.clone(), connections.clone());
        let address = match listener.into() {
            Listener::Tcp(listener) => {
                let address = listener.local_addr().map_err(Error::Listen)?;
                listener.set_nonblocking(true).map_err(Error::Listen)?;
                let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Listen)?;
                tasks.spawn("wasm-listener", async move {
                    let accept = |context: &mut Context<'_>| {
                        let accepted = std::task::ready!(listener.poll_accept(context));
                        Poll::Ready(
                            accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)),
                        )
                    };
                    accept_all(accept, &function, &stopped, &own).await;
                });
                Some(address)
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true).map_err(Error::Listen)?;
                let listener = tokio::net::UnixListener::from_std(listener).map_err(Error::Listen)?;
                tasks.spawn("wasm-listener", async move {
                    let accept = |context: &mut Context<'_>| {
                        listener.poll_accept(context).map_ok(|(stream, _)| stream)
                    };
                    accept_all(accept, &function, &stopped, &own).await;
                });
                None
            }
        };
        Ok(Instance { stop, connections, address })
    }
}

async fn accept_all<S>(
    accept: impl Fn(&mut Context<'_>) -> Poll<std::io::Result<S>>,
    function: &Function,
    stop: &Shutdown,
    connections: &Tasks,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    loop {
        // Cancel-safe: a connection that was not accepted stays in the backlog.
        let accepted = tokio::select! {
            biased; // A request to stop goes first.
            () = stop.wait() => return,
            accepted = poll_fn(&accept) => accepted,
        };
        match accepted {
            Ok(stream) => {
                let serving = connection(stream, function.clone(), stop.clone(), connections.clone());
                connections.spawn_connection("wasm-connection", serving);
            }
            Err(error) => {
                tracing::debug!(%error, "could not accept a connection to a component");
                clock::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<S>(stream: S, function: Function, stop: Shutdown, tasks: Tasks)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let function = function.clone();
        async move { Ok::<_, Infallible>(function.answer(request).await) }
    });
    let mut builder = auto::Builder::new(TaskExecutor(tasks.clone()));
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut told = false;
    loop {
        tokio::select! {
            biased; // The end of the connection goes first.
            result = served.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection to a component ended");
                }
                return;
            }
            () = stop.wait(), if !told => {
                told = true;
                served.as_mut().graceful_shutdown();
            }
            () = tasks.shutdown().wait() => return,
        }
    }
}

/// The one place where an error becomes a response.
fn respond(error: &Error) -> Response<Body> {
    let text = match error {
        // Causes and limits are told in the log, not to whoever asks.
        Error::Overloaded => "no free instance\n",
        Error::Deadline(_) => "request timeout\n",
        Error::Request(_) => "bad request\n",
        _ => "the function failed\n",
    };
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = error.status();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// hyper's executor over owned tasks.
#[derive(Clone)]
struct TaskExecutor(Tasks);

impl<F> hyper::rt::Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn_connection("wasm-stream", future);
    }
}
