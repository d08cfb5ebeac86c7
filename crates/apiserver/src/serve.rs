//! The TLS listener.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dormouse_base::clock;
use dormouse_base::task::Tasks;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::server::Server;
use crate::user::UserInfo;

/// Connections at the same time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Streams of one HTTP/2 connection: a client with hundreds of informers has as many watches.
const STREAMS_MAX: u32 = 1000;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const HEADERS_MAX: Duration = Duration::from_secs(30);
/// Pause after the machine refused a connection, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests may go on after the end was announced.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until the group's shutdown, then lets the requests in flight end; watches end at once.
pub async fn serve(server: Server, listener: TcpListener, tls: Arc<rustls::ServerConfig>, tasks: Tasks) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shutdown = tasks.shutdown().clone();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            biased; // the end first
            () = shutdown.wait() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    clock::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (server, acceptor, tasks_) = (server.clone(), acceptor.clone(), tasks.clone());
        tasks.spawn_connection("apiserver connection", async move {
            if let Err(error) = connection(server, stream, acceptor, tasks_).await {
                tracing::debug!(error = %error, "a connection to the API server failed");
            }
            drop(place);
        });
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    server: Server,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    tasks: Tasks,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await??;
    let (_, session) = stream.get_ref();
    let user = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map_or_else(UserInfo::anonymous, |certificate| user_of(certificate));
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, user) = (server.clone(), user.clone());
        async move { Ok::<_, Infallible>(server.handle(user, request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        biased; // a finished connection needs no farewell
        result = serving.as_mut() => return result,
        () = tasks.shutdown().wait() => serving.as_mut().graceful_shutdown(),
    }
    // What has not ended by then is cut with the process.
    let _ = tokio::time::timeout(DRAIN, serving).await;
    Ok(())
}

/// The identity in a verified client certificate: CN is the user, each O a group.
fn user_of(certificate: &[u8]) -> UserInfo {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return UserInfo::anonymous();
    };
    let subject = parsed.subject();
    let name = subject.iter_common_name().find_map(|name| name.as_str().ok()).map(str::to_owned);
    let groups =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    match name {
        Some(name) if !name.is_empty() => UserInfo::authenticated(name, groups),
        _ => UserInfo::anonymous(),
    }
}
