//! Listening: HTTP/1.1 and HTTP/2 with prior knowledge on one port.

use std::convert::Infallible;
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

impl Gateway {
    /// Accepts connections until the shutdown of `tasks`, then lets open ones finish their requests. Returns at once;
    /// `tasks` owns the work.
    pub fn serve(&self, listener: TcpListener, visibility: Visibility, tasks: &Tasks) {
        let shared = self.0.clone();
        let owner = tasks.clone();
        tasks.spawn("gateway-listener", async move {
            let builder = Arc::new(builder(&shared, &owner));
            loop {
                let accepted = tokio::select! {
                    () = owner.shutdown().wait() => return,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, peer)) => {
                        let origin =
                            Arc::new(Origin { peer: Peer::new(peer.ip()), visibility, secure: false });
                        let connection =
                            connection(shared.clone(), builder.clone(), stream, origin, owner.clone());
                        owner.spawn_connection("gateway-connection", connection);
                    }
                    Err(error) => {
                        // Out of file descriptors, or a client that left: neither ends the listener.
                        tracing::warn!(%error, "cannot accept a connection");
                        clock::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
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

async fn connection(
    shared: Arc<Shared>,
    builder: Arc<auto::Builder<TaskExecutor>>,
    stream: TcpStream,
    origin: Arc<Origin>,
    tasks: Tasks,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    shared.metrics.connections.inc();
    let service = {
        let shared = shared.clone();
        service_fn(move |request| {
            let shared = shared.clone();
            let origin = origin.clone();
            async move { Ok::<_, Infallible>(proxy::handle(&shared, &origin, request).await) }
        })
    };
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let result = tokio::select! {
        biased;
        result = serving.as_mut() => result,
        () = tasks.shutdown().wait() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    shared.metrics.connections.dec();
    if let Err(error) = result {
        tracing::debug!(%error, "client connection ended");
    }
}
