//! Connections to one instance. HTTP/1 connections are driven by the task of the request that uses them: no task hop.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dormouse_base::task::Tasks;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::body::RequestBody;
use crate::worker;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_BOUND: usize = 1024;
const IDLE_TIME: Duration = Duration::from_secs(60);
/// Streams on one HTTP/2 connection before another is opened; below every common peer limit.
const STREAMS: usize = 90;

/// An HTTP/1 connection together with the future that drives it.
pub(crate) struct Http1 {
    pub(crate) sender: http1::SendRequest<RequestBody>,
    pub(crate) driver: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    pub(crate) done: bool,
}

impl Http1 {
    /// Reads and writes what is possible.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        if !self.done && self.driver.as_mut().poll(context).is_ready() {
            self.done = true;
        }
    }

    /// Whether the connection's future has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the connection can take the next request. Registers no waker.
    fn is_reusable(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.drive(&mut context);
        !self.done && matches!(self.sender.poll_ready(&mut context), Poll::Ready(Ok(())))
    }

    /// Drives the connection to its end: after a protocol switch that is where the tunnel begins.
    pub(crate) async fn run(self) -> hyper::Result<()> {
        if self.done { Ok(()) } else { self.driver.await }
    }
}

/// One stream's place on a shared HTTP/2 connection.
pub(crate) struct Http2 {
    pub(crate) sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
}

/// The connections of one worker to one instance. A connection belongs to the runtime that opened it, so each worker
/// has its own; the locks are there for the sweep, and free otherwise.
#[derive(Default)]
struct Shard {
    idle: Mutex<Vec<(Http1, Instant)>>,
    shared: Mutex<Vec<Shared>>,
}

/// Idle and shared connections of one instance.
#[derive(Default)]
pub(crate) struct Pool {
    shards: [OnceLock<Box<Shard>>; worker::MAX],
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Pool")
    }
}

impl Pool {
    /// The calling worker's part.
    fn shard(&self) -> Option<&Shard> {
        self.shards.get(worker::index()).map(|shard| &**shard.get_or_init(Box::default))
    }

    /// The most recently used idle connection that is still open.
    pub(crate) fn take(&self) -> Option<Http1> {
        let shard = self.shard()?;
        loop {
            let (mut connection, _) = lock(&shard.idle).pop()?;
            if connection.is_reusable() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose exchange is over, if it can be used again.
    pub(crate) fn give(&self, mut connection: Http1, now: Instant) {
        if let Some(shard) = self.shard()
            && connection.is_reusable()
        {
            let mut idle = lock(&shard.idle);
            if idle.len() < IDLE_BOUND {
                idle.push((connection, now));
            }
        }
    }

    /// Closes what is idle and, for shared connections, stops new streams.
    pub(crate) fn clear(&self) {
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            lock(&shard.idle).clear();
            lock(&shard.shared).clear();
        }
    }

    /// Closes connections that nobody used for a while or that the instance has closed.
    pub(crate) fn sweep(&self, now: Instant) {
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            lock(&shard.idle).retain_mut(|(connection, since)| {
                now.saturating_duration_since(*since) < IDLE_TIME && connection.is_reusable()
            });
            lock(&shard.shared).retain(|connection| !connection.sender.is_closed());
        }
    }

    /// A stream's place on an HTTP/2 connection, opening one if all are busy.
    pub(crate) async fn stream(&self, address: SocketAddr, tasks: &Tasks) -> std::io::Result<Http2> {
        if let Some(found) = self.shared_stream() {
            return Ok(found);
        }
        let stream = dial(address).await?;
        let (sender, connection) = http2::Builder::new(TaskExecutor(tasks.clone()))
            .timer(TokioTimer::new())
            .adaptive_window(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tasks.spawn_connection("upstream-h2", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, error = %dormouse_base::chain(&error), "HTTP/2 connection to an instance ended");
            }
        });
        let streams = Arc::new(AtomicUsize::new(1));
        if let Some(shard) = self.shard() {
            lock(&shard.shared).push(Shared { sender: sender.clone(), streams: streams.clone() });
        }
        Ok(Http2 { sender, streams })
    }

    fn shared_stream(&self) -> Option<Http2> {
        let mut shared = lock(&self.shard()?.shared);
        shared.retain(|connection| !connection.sender.is_closed());
        let free = shared.iter().find(|connection| connection.streams.load(Ordering::Acquire) < STREAMS)?;
        free.streams.fetch_add(1, Ordering::AcqRel);
        Some(Http2 { sender: free.sender.clone(), streams: free.streams.clone() })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new HTTP/1 connection.
pub(crate) async fn connect(address: SocketAddr) -> std::io::Result<Http1> {
    let stream = dial(address).await?;
    let (sender, connection) =
        http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    Ok(Http1 { sender, driver: Box::pin(connection.with_upgrades()), done: false })
}

async fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// hyper's executor over owned tasks.
#[derive(Clone)]
pub(crate) struct TaskExecutor(pub(crate) Tasks);

impl<F> hyper::rt::Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn_connection("h2-stream", future);
    }
}
