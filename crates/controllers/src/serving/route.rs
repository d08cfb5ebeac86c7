//! Route: traffic targets become a KIngress, placeholder Services and URLs.

mod children;
pub(crate) mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dormouse_api::networking::Ingress;
use dormouse_api::serving::configuration::Configuration;
use dormouse_api::serving::revision::Revision;
use dormouse_api::serving::route::Route;
use dormouse_api::vocabulary::{CLUSTER_LOCAL, ROUTE_LABEL, VISIBILITY_LABEL};
use dormouse_base::clock;
use k8s_openapi::api::core::v1::Service as CoreService;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};

use super::context::{Context, Severity, controlled_by, drive, identity};
use super::error::Error;
use super::labeler;
use super::naming::{self, Names, Naming};
use plan::{Known, Outcome};

pub(crate) async fn run(ctx: Arc<Context>) {
    ctx.learn_revisions().await;
    let renamed = naming::follow(ctx.clone()).await;
    let client = ctx.client.clone();
    let all = watcher::Config::default;
    let (configurations, revisions) = (ctx.clone(), ctx.clone());
    let controller = Controller::new(Api::<Route>::all(client.clone()), all())
        .owns(Api::<Ingress>::all(client.clone()), all())
        .owns(Api::<CoreService>::all(client.clone()), all().labels(ROUTE_LABEL))
        .reconcile_all_on(renamed)
        .watches(Api::<Configuration>::all(client.clone()), all(), move |object: Configuration| {
            referrers(&configurations, "configuration", &object)
        })
        .watches(Api::<Revision>::all(client), all(), move |object: Revision| {
            referrers(&revisions, "revision", &object)
        });
    drive(controller, ctx, reconcile).await;
}

fn referrers<K: Resource>(ctx: &Context, kind: &str, object: &K) -> Vec<ObjectRef<Route>> {
    let namespace = object.namespace().unwrap_or_default();
    ctx.tracker
        .referrers(&namespace, &format!("{kind}/{}", object.name_any()))
        .into_iter()
        .map(|route| ObjectRef::new(&route).within(&namespace))
        .collect()
}

async fn reconcile(route: Arc<Route>, ctx: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = identity(&route.metadata)?;
    if route.metadata.deletion_timestamp.is_some() {
        labeler::clear(&ctx, &route).await?;
        ctx.tracker.set(namespace, name, Vec::new());
        return Ok(Action::await_change());
    }
    if labeler::guard(&ctx, &route).await? {
        // The finalizer's own write brings the object back with the next event.
        return Ok(Action::await_change());
    }
    let known = load(&ctx, namespace, name, &route).await?;
    let mut status = route.status.clone().unwrap_or_default();
    let now = clock::timestamp();
    let naming = ctx.naming();
    let private = private_tags(&ctx, &route, namespace, &naming).await?;
    let names = naming.of(&route, private);
    let outcome = plan::traffic(&route, &known, &names, &mut status, now);
    if let Outcome::Assigned(targets) = &outcome {
        let applied = apply_children(&ctx, &route, namespace, targets, &names).await?;
        plan::ingress(applied.as_ref(), &mut status, now);
    }
    if route.status.as_ref() != Some(&status) {
        let mut changed = Route::clone(&route);
        changed.status = Some(status.clone());
        ctx.replace_status(namespace, &changed).await?;
    }
    if matches!(outcome, Outcome::Assigned(_)) {
        let mut settled = Route::clone(&route);
        settled.status = Some(status);
        labeler::label(&ctx, &settled, &known).await?;
    }
    ctx.succeeded(&*route);
    Ok(Action::await_change())
}

/// Everything that the Route refers to, and registers the references first so that no change is missed.
async fn load(ctx: &Context, namespace: &str, name: &str, route: &Route) -> Result<Known, Error> {
    let mut references = Vec::new();
    for target in &route.spec.traffic {
        references.extend(target.configuration_name.iter().map(|name| format!("configuration/{name}")));
        references.extend(target.revision_name.iter().map(|name| format!("revision/{name}")));
    }
    ctx.tracker.set(namespace, name, references);
    let mut known = Known::default();
    for target in &route.spec.traffic {
        if let Some(wanted) = &target.configuration_name
            && !known.configurations.contains_key(wanted)
            && let Some(found) = ctx.get::<Configuration>(namespace, wanted).await?
        {
            let latest = found.status.as_ref().and_then(|status| status.latest_ready_revision_name.clone());
            known.configurations.insert(wanted.clone(), found);
            if let Some(latest) = latest {
                load_revision(ctx, namespace, &latest, &mut known.revisions).await?;
            }
        }
        if let Some(wanted) = &target.revision_name {
            load_revision(ctx, namespace, wanted, &mut known.revisions).await?;
        }
    }
    Ok(known)
}

async fn load_revision(
    ctx: &Context,
    namespace: &str,
    name: &str,
    revisions: &mut BTreeMap<String, Revision>,
) -> Result<(), Error> {
    if !revisions.contains_key(name)
        && let Some(found) = ctx.get::<Revision>(namespace, name).await?
    {
        revisions.insert(name.to_owned(), found);
    }
    Ok(())
}

/// The tags, and the empty one, whose placeholder Service somebody has labelled as private.
async fn private_tags(
    ctx: &Context,
    route: &Route,
    namespace: &str,
    naming: &Naming,
) -> Result<BTreeSet<String>, Error> {
    let names = naming.of(route, BTreeSet::new());
    let mut private = BTreeSet::new();
    let tags = route.spec.traffic.iter().filter_map(|target| target.tag.as_deref());
    for tag in tags.chain([""]).collect::<BTreeSet<_>>() {
        let found = ctx.get::<CoreService>(namespace, &names.label(tag)).await?;
        let labels = found.and_then(|service| service.metadata.labels).unwrap_or_default();
        if labels.get(VISIBILITY_LABEL).is_some_and(|value| value == CLUSTER_LOCAL) {
            private.insert(tag.to_owned());
        }
    }
    Ok(private)
}

/// Makes the KIngress and the placeholders true; answers the KIngress as it is now, or who is in the way.
async fn apply_children(
    ctx: &Context,
    route: &Route,
    namespace: &str,
    targets: &[plan::Target],
    names: &Names<'_>,
) -> Result<Result<Ingress, String>, Error> {
    let wanted = children::placeholders(route, targets, names);
    for placeholder in &wanted {
        let name = placeholder.name_any();
        match ctx.get::<CoreService>(namespace, &name).await? {
            None => {
                ctx.create(namespace, placeholder).await?;
            }
            Some(existing) if !controlled_by(&existing.metadata, route.metadata.uid.as_deref()) => {
                return Ok(Err(name));
            }
            Some(existing) => {
                if let Some(merged) = children::merge_placeholder(&existing, placeholder) {
                    ctx.replace(namespace, &merged).await?;
                }
            }
        }
    }
    remove_old_placeholders(ctx, route, namespace, &wanted).await?;

    let wanted = children::ingress(route, targets, names);
    let name = wanted.name_any();
    let Some(existing) = ctx.get::<Ingress>(namespace, &name).await? else {
        let created = ctx.create(namespace, &wanted).await?;
        ctx.record(route, Severity::Normal, "Created", format!("Created Ingress \"{name}\""));
        return Ok(Ok(created));
    };
    if !controlled_by(&existing.metadata, route.metadata.uid.as_deref()) {
        return Ok(Err(name));
    }
    match children::merge_ingress(&existing, &wanted) {
        Some(merged) => Ok(Ok(ctx.replace(namespace, &merged).await?)),
        None => Ok(Ok(existing)),
    }
}

/// Placeholders of tags that are gone.
async fn remove_old_placeholders(
    ctx: &Context,
    route: &Route,
    namespace: &str,
    wanted: &[CoreService],
) -> Result<(), Error> {
    let tags_before =
        route.status.iter().flat_map(|status| status.traffic.iter()).any(|old| old.tag.is_some());
    if !tags_before {
        return Ok(());
    }
    let name = route.name_any();
    let selector = ListParams::default().labels(&format!("{ROUTE_LABEL}={name}"));
    let services = ctx.api::<CoreService>(namespace);
    let what = format!("list the placeholder Services of {namespace}/{name}");
    for old in services.list(&selector).await.map_err(Error::api(what))?.items {
        let old_name = old.name_any();
        let ours = controlled_by(&old.metadata, route.metadata.uid.as_deref());
        if ours && !wanted.iter().any(|service| service.name_any() == old_name) {
            match services.delete(&old_name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    return Err(Error::api(format!("delete Service {namespace}/{old_name}"))(error));
                }
                Ok(_) => {}
            }
        }
    }
    Ok(())
}
