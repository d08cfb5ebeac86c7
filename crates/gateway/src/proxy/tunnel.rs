//! After a protocol switch (WebSocket): bytes both ways until one side closes.
//!
//! The revision's total time limit ended with the switch; its idle limit counts traffic in both directions.

use std::time::Duration;

use dormouse_base::clock;
use http::{Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::body::{Body, Carrier};
use crate::gateway::Shared;
use crate::metrics::Track;
use crate::revision::{Permit, RevisionPolicy};

/// Answers the switch to the client and tunnels in a task that keeps the place in the instance.
pub(super) fn start(
    shared: &Shared,
    mut response: Response<Incoming>,
    carrier: Carrier,
    permit: Permit,
    track: Track,
    downstream: Option<hyper::upgrade::OnUpgrade>,
    policy: &RevisionPolicy,
) -> Response<Body> {
    let (Some(downstream), Carrier::Http1(connection)) = (downstream, carrier) else {
        return super::text(StatusCode::BAD_GATEWAY, "instance switched protocols without being asked\n");
    };
    let upstream = hyper::upgrade::on(&mut response);
    let idle = (!policy.idle_timeout.is_zero()).then_some(policy.idle_timeout);
    let shutdown = shared.tasks.shutdown().clone();
    shared.tasks.spawn_connection("gateway-tunnel", async move {
        let held = (permit, track);
        let (driven, upstream) = tokio::join!(connection.run(), upstream);
        let ended = match (driven, upstream) {
            (Ok(()), Ok(upstream)) => match downstream.await {
                Ok(client) => tokio::select! {
                    result = tunnel(TokioIo::new(client), TokioIo::new(upstream), idle) => result,
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
    idle: Option<Duration>,
) -> std::io::Result<()> {
    let (mut client, mut instance) = (client, instance);
    let Some(idle) = idle else {
        return tokio::io::copy_bidirectional(&mut client, &mut instance).await.map(|_| ());
    };
    let mut up = vec![0u8; 8192];
    let mut down = vec![0u8; 8192];
    let (mut up_open, mut down_open) = (true, true);
    while up_open || down_open {
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
                count => client.write_all(down.get(..count).unwrap_or_default()).await?,
            },
            () = clock::sleep(idle) => return Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(())
}
