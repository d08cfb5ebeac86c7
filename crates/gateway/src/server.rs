//! Listening: HTTP/1.1 and HTTP/2 with prior knowledge on one port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dormouse_base::clock;
use dormouse_base::task::Tasks;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

use crate::gateway::{Gateway, Shared};
use crate::headers::Peer;
use crate::pool::TaskExecutor;
use crate::proxy::{self, Origin};
use crate::route::Visibility;
use crate::worker::Job;

impl Gateway {
    /// Accepts connections on every worker thread until the shutdown of `tasks`, then lets open ones finish their
    /// requests. Returns at once; `tasks` owns the work.
    ///
    /// # Errors
    /// The listener cannot be duplicated for each thread.
    pub fn serve(
        &self,
        listener: &std::net::TcpListener,
        visibility: Visibility,
        tasks: &Tasks,
    ) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        self.0.workers.listen(listener, visibility, tasks, &self.0)
    }
}

/// What is the same for all connections of one listener on one worker.
struct Front {
    shared: Arc<Shared>,
    builder: auto::Builder<TaskExecutor>,
    visibility: Visibility,
    tasks: Tasks,
}

impl Front {
    fn new(shared: Arc<Shared>, visibility: Visibility, tasks: Tasks) -> Self {
        Self { builder: builder(&shared, &tasks), shared, visibility, tasks }
    }

    /// Serves a connection on this thread.
    fn serve(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let counted = self.shared.workers.count();
        let front = self.clone();
        self.tasks.spawn_connection("gateway-connection", async move {
            connection(&front, stream, peer).await;
            drop(counted);
        });
    }
}

/// Accepts on this worker, for as long as `tasks` runs.
pub(crate) fn accept(
    listener: std::net::TcpListener,
    visibility: Visibility,
    tasks: Tasks,
    shared: Arc<Shared>,
) {
    let front = Arc::new(Front::new(shared, visibility, tasks.clone()));
    tasks.spawn_connection("gateway-listener", async move {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a gateway thread cannot watch its listener");
                front.tasks.shutdown().trigger();
                return;
            }
        };
        loop {
            let accepted = tokio::select! {
                biased; // A shutdown goes first: what has not been accepted stays in the backlog.
                () = front.tasks.shutdown().wait() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => place(&front, stream, peer),
                Err(error) => {
                    // Out of file descriptors, or a client that left: neither ends the listener.
                    tracing::warn!(%error, "cannot accept a connection");
                    clock::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    });
}

/// Serves a connection here, or on the worker that has the fewest.
fn place(front: &Arc<Front>, stream: TcpStream, peer: SocketAddr) {
    let Some(jobs) = front.shared.workers.better() else { return front.serve(stream, peer) };
    // Only a queue with room, so that the connection is never lost between two threads.
    let Ok(place) = jobs.try_reserve() else { return front.serve(stream, peer) };
    match stream.into_std() {
        Ok(stream) => place.send(Job::Connection {
            stream,
            peer,
            visibility: front.visibility,
            tasks: front.tasks.clone(),
            shared: front.shared.clone(),
        }),
        Err(error) => tracing::warn!(%error, "cannot hand a connection on"),
    }
}

/// Serves a connection that another worker accepted.
pub(crate) fn adopt(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    visibility: Visibility,
    tasks: Tasks,
    shared: Arc<Shared>,
) {
    match TcpStream::from_std(stream) {
        Ok(stream) => Arc::new(Front::new(shared, visibility, tasks)).serve(stream, peer),
        Err(error) => tracing::warn!(%error, "cannot take a connection over"),
    }
}

fn builder(shared: &Shared, tasks: &Tasks) -> auto::Builder<TaskExecutor> {
    let mut builder = auto::Builder::new(TaskExecutor(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.head_timeout)
        .max_buf_size(shared.config.max_head.max(8192))
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(shared.config.max_head).unwrap_or(u32::MAX))
        .max_concurrent_streams(1000)
        .adaptive_window(true);
    builder
}

async fn connection(front: &Front, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let shared = &front.shared;
    shared.metrics.connections.inc();
    let origin = Arc::new(Origin { peer: Peer::new(peer.ip()), visibility: front.visibility, secure: false });
    let service = {
        let shared = shared.clone();
        service_fn(move |request| {
            let shared = shared.clone();
            let origin = origin.clone();
            async move { Ok::<_, Infallible>(proxy::handle(&shared, &origin, request).await) }
        })
    };
    let serving = front.builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let result = tokio::select! {
        biased; // Requests go before the shutdown, which waits for them anyway.
        result = serving.as_mut() => result,
        () = front.tasks.shutdown().wait() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    shared.metrics.connections.dec();
    if let Err(error) = result {
        tracing::debug!(%error, "client connection ended");
    }
}
