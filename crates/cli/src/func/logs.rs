//! `func logs`: what a function's instances print, also those that start while it is watched.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use dormouse_build::function::duration;
use futures::stream::{SelectAll, StreamExt};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, LogParams};
use kube::runtime::{WatchStreamExt, watcher};

use super::args::Logs;
use super::{identity, say};
use crate::cluster;

/// The container of the function in its pod.
const CONTAINER: &str = "user-container";

type Lines = futures::stream::BoxStream<'static, std::io::Result<String>>;

pub(super) async fn run(args: &Logs, data_dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let (name, namespace) =
        identity(args.name.as_deref(), args.namespace.as_deref(), &args.place.path, "logs")?;
    let since = duration(&args.since)
        .with_context(|| format!("--since {}: expected a duration such as 5s, 2m or 3h", args.since))?;
    let since = i64::try_from(since.as_secs().max(1)).unwrap_or(i64::MAX);
    let client = cluster::client(&cluster::running(data_dir)?).await?;
    let services = cluster::services(client.clone(), &namespace);
    if services.get_opt(&name).await.with_context(|| format!("read Service {name}"))?.is_none() {
        bail!("function not found: {name} in namespace {namespace}");
    }
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let selector = format!("serving.knative.dev/service={name}");
    if args.no_follow {
        for pod in pods.list(&ListParams::default().labels(&selector)).await.context("list pods")?.items {
            let pod = pod.metadata.name.unwrap_or_default();
            if let Some(mut lines) = lines(&pods, &pod, since, false).await? {
                while let Some(line) = lines.try_next().await.context("read the log")? {
                    writeln!(out, "{line}")?;
                }
            }
        }
        return Ok(());
    }
    let mut changes =
        watcher(pods.clone(), watcher::Config::default().labels(&selector)).applied_objects().boxed();
    let (mut seen, mut all) = (BTreeSet::new(), SelectAll::<Lines>::new());
    let mut told = false;
    loop {
        tokio::select! {
            // Lines first, so that a busy function is shown whole; both branches lose nothing when dropped.
            biased;
            line = all.next(), if !all.is_empty() => match line {
                Some(Ok(line)) => {
                    writeln!(out, "{line}")?;
                    out.flush()?;
                }
                Some(Err(error)) => say(&format!("a log ended: {error}")),
                None => {}
            },
            change = changes.try_next() => {
                let Some(pod) = change.context("watch pods")? else { return Ok(()) };
                let pod = pod.metadata.name.unwrap_or_default();
                // A container that has not started has no log yet; its next change comes.
                if !seen.contains(&pod) && let Some(lines) = lines(&pods, &pod, since, true).await? {
                    all.push(lines);
                    seen.insert(pod);
                }
            }
            interrupted = tokio::signal::ctrl_c() => return interrupted.context("wait for Ctrl-C"),
        }
        if !told && seen.is_empty() {
            told = true;
            say("no instance runs yet; waiting");
        }
    }
}

/// The lines of a pod's log; `None` when it has none yet, or none any more.
async fn lines(pods: &Api<Pod>, pod: &str, since: i64, follow: bool) -> anyhow::Result<Option<Lines>> {
    let params = LogParams {
        container: Some(CONTAINER.to_owned()),
        follow,
        since_seconds: Some(since),
        ..LogParams::default()
    };
    match pods.log_stream(pod, &params).await {
        Ok(stream) => Ok(Some(stream.lines().boxed())),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read the log of {pod}")),
    }
}
