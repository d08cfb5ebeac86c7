//! Revision: an immutable version of the code. Its image becomes a digest, its Deployment and PodAutoscaler exist, and its
//! conditions say whether it can serve.

mod children;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use dormouse_api::autoscaling::PodAutoscaler;
use dormouse_api::serving::revision::{ContainerStatus, Revision};
use dormouse_api::vocabulary::{REVISION_LABEL, SYSTEM_NAMESPACE};
use dormouse_base::clock;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::ListParams;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use super::context::{Context, Severity, controlled_by, drive, identity};
use super::error::Error;
use super::resolve::ResolveError;
use plan::Observed;

/// After this long without an answer the status says that digests are being resolved.
const PATIENCE: Duration = Duration::from_millis(50);
/// config-deployment's digest-resolution-timeout.
const RESOLUTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a missing image is looked for again: somebody may just be pushing it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub(crate) async fn run(ctx: Arc<Context>) {
    let client = ctx.client.clone();
    let all = watcher::Config::default;
    let controller = Controller::new(Api::<Revision>::all(client.clone()), all())
        .owns(Api::<Deployment>::all(client.clone()), all())
        .owns(Api::<PodAutoscaler>::all(client.clone()), all())
        .watches(Api::<Pod>::all(client), all().labels(REVISION_LABEL), |pod: Pod| {
            // Healthy Pods say nothing that the Deployment does not say as well.
            plan::in_trouble(&pod).then(|| {
                let revision = pod.labels().get(REVISION_LABEL)?;
                Some(ObjectRef::new(revision).within(&pod.namespace()?))
            })?
        });
    drive(controller, ctx, reconcile).await;
}

async fn reconcile(revision: Arc<Revision>, ctx: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = identity(&revision.metadata)?;
    if revision.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let mut revision = Revision::clone(&revision);
    let now = clock::timestamp();
    plan::begin(&mut revision, now);
    if !plan::has_digests(&revision) {
        match resolve_all(&ctx, namespace, &mut revision).await? {
            Ok(()) => {}
            Err(failure) => {
                let before = ctx.get::<Revision>(namespace, name).await?;
                plan::container_missing(&mut revision, &failure, clock::timestamp());
                write(&ctx, namespace, &mut revision, before).await?;
                return Ok(Action::requeue(LOOK_AGAIN));
            }
        }
    }
    let deployment = apply_deployment(&ctx, namespace, &revision).await?;
    let autoscaler = match &deployment {
        Some(deployment) => apply_autoscaler(&ctx, namespace, &revision, deployment).await?,
        None => None,
    };
    let pod = match &deployment {
        Some(deployment) if plan::wants_a_look_at_a_pod(deployment) => {
            first_pod(&ctx, namespace, name).await?
        }
        _ => None,
    };
    let was_ready = revision.is_ready();
    let observed =
        Observed { deployment: deployment.as_ref(), autoscaler: autoscaler.as_ref(), pod: pod.as_ref() };
    plan::status(&mut revision, &observed, clock::timestamp());
    let before = ctx.get::<Revision>(namespace, name).await?;
    write(&ctx, namespace, &mut revision, before).await?;
    if !was_ready && revision.is_ready() {
        let note = "Revision becomes ready upon all resources being ready".to_owned();
        ctx.record(&revision, Severity::Normal, "RevisionReady", note);
    }
    ctx.succeeded(&revision);
    Ok(Action::await_change())
}

/// Writes the status onto the object as it is now: labels may have changed meanwhile, and only this writes statuses.
async fn write(
    ctx: &Context,
    namespace: &str,
    revision: &mut Revision,
    current: Option<Revision>,
) -> Result<(), Error> {
    let Some(current) = current else { return Ok(()) };
    if current.status == revision.status || current.metadata.uid != revision.metadata.uid {
        return Ok(());
    }
    revision.metadata = current.metadata;
    ctx.replace_status(namespace, revision).await?;
    Ok(())
}

/// Fills `containerStatuses`. The outer error is the API's, the inner one the registry's.
async fn resolve_all(
    ctx: &Context,
    namespace: &str,
    revision: &mut Revision,
) -> Result<Result<(), (String, ResolveError)>, Error> {
    let secrets = pull_secrets(ctx, namespace, revision).await?;
    let mut statuses = Vec::new();
    let pod = revision.spec.pod.clone();
    let inits = pod.init_containers.unwrap_or_default();
    let init_count = inits.len();
    for container in inits.into_iter().chain(pod.containers) {
        let image = container.image.clone().unwrap_or_default();
        let mut answer = ctx.resolve.resolve(image.clone(), secrets.clone());
        let first = tokio::time::timeout(PATIENCE, &mut answer).await;
        let resolved = match first {
            Ok(resolved) => resolved,
            Err(_) => {
                let before = ctx.get::<Revision>(namespace, &revision.name_any()).await?;
                plan::resolving(revision, clock::timestamp());
                write(ctx, namespace, revision, before).await?;
                let timeout = ResolveError {
                    message: format!("no answer within {} s", RESOLUTION_TIMEOUT.as_secs()),
                    transient: true,
                };
                tokio::time::timeout(RESOLUTION_TIMEOUT, answer).await.unwrap_or(Err(timeout))
            }
        };
        match resolved {
            Ok(digest) => statuses.push(ContainerStatus {
                name: container.name.clone(),
                image_digest: digest.unwrap_or_default(),
            }),
            Err(error) => return Ok(Err((image, error))),
        }
    }
    let status = revision.status.get_or_insert_default();
    status.container_statuses = statuses.split_off(init_count);
    status.init_container_statuses = statuses;
    Ok(Ok(()))
}

async fn pull_secrets(ctx: &Context, namespace: &str, revision: &Revision) -> Result<Vec<Vec<u8>>, Error> {
    let mut found = Vec::new();
    for reference in revision.spec.pod.image_pull_secrets.iter().flatten() {
        let secret: Option<Secret> = ctx.get(namespace, &reference.name).await?;
        let data =
            secret.and_then(|secret| secret.data).and_then(|mut data| data.remove(".dockerconfigjson"));
        found.extend(data.map(|bytes| bytes.0));
    }
    Ok(found)
}

/// The Deployment, or `None` when its name belongs to somebody else.
async fn apply_deployment(
    ctx: &Context,
    namespace: &str,
    revision: &Revision,
) -> Result<Option<Deployment>, Error> {
    let name = children::deployment_name(revision);
    let Some(existing) = ctx.get::<Deployment>(namespace, &name).await? else {
        let settings: Option<ConfigMap> = ctx.get(SYSTEM_NAMESPACE, "config-autoscaler").await?;
        let initial = children::default_initial_scale(settings.and_then(|map| map.data).as_ref());
        let wanted = children::deployment(revision, initial);
        return Ok(Some(ctx.create(namespace, &wanted).await?));
    };
    if !controlled_by(&existing.metadata, revision.metadata.uid.as_deref()) {
        return Ok(None);
    }
    match children::repair(&existing, revision) {
        Some(repaired) => Ok(Some(ctx.replace(namespace, &repaired).await?)),
        None => Ok(Some(existing)),
    }
}

async fn apply_autoscaler(
    ctx: &Context,
    namespace: &str,
    revision: &Revision,
    deployment: &Deployment,
) -> Result<Option<PodAutoscaler>, Error> {
    let reachability = plan::reachability(revision, deployment);
    let wanted = children::autoscaler(revision, reachability);
    let name = wanted.name_any();
    let Some(existing) = ctx.get::<PodAutoscaler>(namespace, &name).await? else {
        return Ok(Some(ctx.create(namespace, &wanted).await?));
    };
    if !controlled_by(&existing.metadata, revision.metadata.uid.as_deref()) {
        return Ok(None);
    }
    if existing.spec == wanted.spec && existing.metadata.annotations == wanted.metadata.annotations {
        return Ok(Some(existing));
    }
    let mut changed = existing;
    changed.spec = wanted.spec;
    changed.metadata.annotations = wanted.metadata.annotations;
    Ok(Some(ctx.replace(namespace, &changed).await?))
}

async fn first_pod(ctx: &Context, namespace: &str, revision: &str) -> Result<Option<Pod>, Error> {
    let one = ListParams::default().labels(&format!("{REVISION_LABEL}={revision}"));
    let listed = ctx.api::<Pod>(namespace).list(&one).await;
    let pods = listed.map_err(Error::api(format!("list the Pods of {namespace}/{revision}")))?.items;
    // A Pod that already failed explains more than one that has just been tried again.
    Ok(pods
        .into_iter()
        .max_by_key(|pod| (plan::failure(pod).is_some(), pod.metadata.creation_timestamp.clone())))
}
