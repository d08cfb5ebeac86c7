//! Service: one Configuration, one Route, and their health summed up.

pub(crate) mod children;
pub(crate) mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use dormouse_api::serving::configuration::Configuration;
use dormouse_api::serving::revision::Revision;
use dormouse_api::serving::route::Route;
use dormouse_api::serving::service::Service;
use dormouse_base::clock;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Resource};

use super::context::{Context, Severity, controlled_by, drive, identity};
use super::error::Error;
use plan::{Child, Observed};

pub(crate) async fn run(ctx: Arc<Context>) {
    let client = ctx.client.clone();
    let controller = Controller::new(Api::<Service>::all(client.clone()), watcher::Config::default())
        .owns(Api::<Configuration>::all(client.clone()), watcher::Config::default())
        .owns(Api::<Route>::all(client), watcher::Config::default());
    drive(controller, ctx, reconcile).await;
}

async fn reconcile(service: Arc<Service>, ctx: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = identity(&service.metadata)?;
    if service.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let configuration = apply_configuration(&service, &ctx, namespace, name).await?;
    let taken = match service.spec.template.metadata.as_ref().and_then(|meta| meta.name.clone()) {
        Some(wanted) => revision_name_taken(&ctx, namespace, &wanted, &configuration).await?,
        None => None,
    };
    let route = if plan::must_wait_for_configuration(&service, &configuration) || taken.is_some() {
        Child::Waiting
    } else {
        apply_route(&service, &ctx, namespace, name).await?
    };

    let mut status = service.status.clone().unwrap_or_default();
    let observed = Observed { configuration: &configuration, route: &route, revision_name_taken: taken };
    plan::status(&service, &observed, &mut status, clock::timestamp());
    if service.status.as_ref() != Some(&status) {
        let mut changed = Service::clone(&service);
        changed.status = Some(status);
        ctx.replace_status(namespace, &changed).await?;
    }
    ctx.succeeded(&*service);
    Ok(Action::await_change())
}

async fn apply_configuration(
    service: &Service,
    ctx: &Context,
    namespace: &str,
    name: &str,
) -> Result<Child<Configuration>, Error> {
    let existing: Option<Configuration> = ctx.get(namespace, name).await?;
    let wanted = children::configuration(service, existing.as_ref());
    apply_child(service, ctx, namespace, existing, wanted, |existing, wanted| existing.spec == wanted.spec)
        .await
}

async fn apply_route(
    service: &Service,
    ctx: &Context,
    namespace: &str,
    name: &str,
) -> Result<Child<Route>, Error> {
    let existing: Option<Route> = ctx.get(namespace, name).await?;
    let wanted = children::route(service, existing.as_ref());
    apply_child(service, ctx, namespace, existing, wanted, |existing, wanted| existing.spec == wanted.spec)
        .await
}

/// Creates, adopts or updates a child that carries the Service's name.
async fn apply_child<K>(
    service: &Service,
    ctx: &Context,
    namespace: &str,
    existing: Option<K>,
    wanted: K,
    same_spec: fn(&K, &K) -> bool,
) -> Result<Child<K>, Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let kind = K::kind(&()).into_owned();
    let name = wanted.meta().name.clone().unwrap_or_default();
    let Some(existing) = existing else {
        let created = ctx.create(namespace, &wanted).await?;
        let note = format!("Created {kind} \"{name}\"");
        ctx.record(service, Severity::Normal, "Created", note);
        return Ok(Child::Owned(created));
    };
    if !controlled_by(existing.meta(), service.metadata.uid.as_deref()) {
        return Ok(Child::NotOwned);
    }
    let same = same_spec(&existing, &wanted)
        && existing.meta().labels == wanted.meta().labels
        && existing.meta().annotations == wanted.meta().annotations;
    if same {
        return Ok(Child::Owned(existing));
    }
    ctx.replace(namespace, &wanted).await.map(Child::Owned)
}

/// The name given to the next Revision, if something else already has it.
async fn revision_name_taken(
    ctx: &Context,
    namespace: &str,
    wanted: &str,
    configuration: &Child<Configuration>,
) -> Result<Option<String>, Error> {
    let Child::Owned(configuration) = configuration else { return Ok(None) };
    let Some(revision): Option<Revision> = ctx.get(namespace, wanted).await? else { return Ok(None) };
    let ours = controlled_by(&revision.metadata, configuration.metadata.uid.as_deref());
    Ok((!ours).then(|| wanted.to_owned()))
}
