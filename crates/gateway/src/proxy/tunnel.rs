//! After a protocol switch (WebSocket): bytes both ways until one side closes.
//!
//! The limits of a request hold until the instance has said something after the switch; from then on only the idle one
//! does, which counts traffic in both directions. (Knative's own limits do not see these bytes and cut tunnels that live.)

use std::time::{Duration, Instant};

use dormouse_base::clock;
use http::{Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::body::{Body, Carrier};
use crate::call::Answer;
use crate::gateway::Shared;
use crate::metrics::Track;
use crate::revision::{Permit, RevisionPolicy};

/// When a tunnel is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// By when the instance must have said something.
    first_byte: Instant,
    idle: Option<Duration>,
}

impl Limits {
    pub(super) fn new(policy: &RevisionPolicy, arrival: Instant, total: Instant) -> Self {
        let set = |limit: Duration| (!limit.is_zero()).then_some(limit);
        let start = set(policy.response_start_timeout).map_or(total, |limit| arrival + limit);
        Self { first_byte: start.min(total), idle: set(policy.idle_timeout) }
    }
}

/// Answers the switch to the client and tunnels in a task that keeps the place in the instance.
pub(super) fn start(
    shared: &Shared,
    mut response: Response<Answer>,
    carrier: Carrier,
    permit: Permit,
    track: Track,
    downstream: Option<hyper::upgrade::OnUpgrade>,
    limits: Limits,
) -> Response<Body> {
    let (Some(downstream), Carrier::Http1(connection)) = (downstream, carrier) else {
        return super::text(StatusCode::BAD_GATEWAY, "instance switched protocols without being asked\n");
    };
    let upstream = hyper::upgrade::on(&mut response);
    let shutdown = shared.tasks.shutdown().clone();
    shared.tasks.spawn_connection("gateway-tunnel", async move {
        let held = (permit, track);
        let (driven, upstream) = tokio::join!(connection.run(), upstream);
        let ended = match (driven, upstream) {
            (Ok(()), Ok(upstream)) => match downstream.await {
                Ok(client) => tokio::select! {
                    result = tunnel(TokioIo::new(client), TokioIo::new(upstream), limits) => result,
                    () = shutdown.wait() => Ok(()),
                },
                Err(error) => Err(std::io::Error::other(error)),
            },
            (Err(error), _) | (_, Err(error)) => Err(std::io::Error::other(error)),
        };
        if let Err(error) = ended {
            tracing::debug!(error = %dormouse_base::chain(&error), "tunnel ended");
        }
        drop(held);
    });
    let (parts, _) = response.into_parts();
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = parts.headers;
    answer.headers_mut().remove(header::TRANSFER_ENCODING);
    answer
}

async fn tunnel(
    client: impl AsyncRead + AsyncWrite + Unpin,
    instance: impl AsyncRead + AsyncWrite + Unpin,
    limits: Limits,
) -> std::io::Result<()> {
    let (mut client, mut instance) = (client, instance);
    let mut first_byte = Some(limits.first_byte);
    let mut up = vec![0u8; 8192];
    let mut down = vec![0u8; 8192];
    let (mut up_open, mut down_open) = (true, true);
    while up_open || down_open {
        let quiet = limits.idle.map(|idle| clock::now() + idle);
        let Some(cut) = quiet.into_iter().chain(first_byte).min() else {
            return tokio::io::copy_bidirectional(&mut client, &mut instance).await.map(|_| ());
        };
        tokio::select! {
            read = client.read(&mut up), if up_open => match read? {
                0 => {
                    up_open = false;
                    instance.shutdown().await?;
                }
                count => instance.write_all(up.get(..count).unwrap_or_default()).await?,
            },
            read = instance.read(&mut down), if down_open => match read? {
                0 => {
                    down_open = false;
                    client.shutdown().await?;
                }
                count => {
                    first_byte = None;
                    client.write_all(down.get(..count).unwrap_or_default()).await?;
                }
            },
            () = clock::sleep_until(cut) => return Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(())
}
