//! Tells Configurations and Revisions which Routes point at them: old Revisions keep their capacity until the Route has
//! really moved on.

use std::collections::BTreeSet;

use dormouse_api::serving::configuration::Configuration;
use dormouse_api::serving::revision::Revision;
use dormouse_api::serving::route::Route;
use dormouse_api::vocabulary::{
    ACTIVE, RESERVE, ROUTES, ROUTING_STATE, ROUTING_STATE_MODIFIED, SERVICE_LABEL,
};
use dormouse_base::clock;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::context::{Context, identity};
use super::error::Error;
use super::route::plan::Known;

/// Held while labels of this Route exist.
const FINALIZER: &str = "routes.serving.knative.dev";

/// Puts the finalizer on; answers whether it had to.
///
/// A Route of a Service needs none, which saves a write for each Service: what it labels belongs to the same Service
/// and goes with it, and a Route that is deleted alone comes back.
pub(crate) async fn guard(ctx: &Context, route: &Route) -> Result<bool, Error> {
    let of_service = route.owner_references().iter().any(|owner| owner.kind == "Service");
    if of_service || route.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(false);
    }
    let mut changed = route.clone();
    changed.finalizers_mut().push(FINALIZER.to_owned());
    let (namespace, _) = identity(&route.metadata)?;
    ctx.replace(namespace, &changed).await?;
    Ok(true)
}

/// Marks what the Route names; lets go of what it named before once it is Ready or Failed.
pub(crate) async fn label(ctx: &Context, route: &Route, known: &Known) -> Result<(), Error> {
    let (namespace, name) = identity(&route.metadata)?;
    let mut named: BTreeSet<String> = BTreeSet::new();
    for target in
        route.spec.traffic.iter().chain(route.status.iter().flat_map(|status| status.traffic.iter()))
    {
        named.extend(target.revision_name.clone());
    }
    for revision in known.revisions.values().filter(|revision| named.contains(&revision.name_any())) {
        mark(ctx, namespace, revision, name, true).await?;
    }
    for configuration in known.configurations.values() {
        annotate(ctx, namespace, configuration, name, true).await?;
    }
    if !(route.is_ready() || route.is_failed()) {
        return Ok(());
    }
    for revision in candidates(ctx, route, namespace).await? {
        if !named.contains(&revision.name_any()) {
            mark(ctx, namespace, &revision, name, false).await?;
        }
    }
    Ok(())
}

/// Takes every label back and releases the Route.
pub(crate) async fn clear(ctx: &Context, route: &Route) -> Result<(), Error> {
    if !route.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(());
    }
    let (namespace, name) = identity(&route.metadata)?;
    for revision in candidates(ctx, route, namespace).await? {
        mark(ctx, namespace, &revision, name, false).await?;
    }
    for target in &route.spec.traffic {
        if let Some(wanted) = &target.configuration_name
            && let Some(configuration) = ctx.get::<Configuration>(namespace, wanted).await?
        {
            annotate(ctx, namespace, &configuration, name, false).await?;
        }
    }
    let mut changed = route.clone();
    changed.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
    match ctx.replace(namespace, &changed).await {
        Err(Error::Api { source: kube::Error::Api(status), .. }) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Revisions that may carry this Route's name: those of its Service and of the Configurations it follows.
async fn candidates(ctx: &Context, route: &Route, namespace: &str) -> Result<Vec<Revision>, Error> {
    let mut configurations = BTreeSet::new();
    configurations.extend(route.labels().get(SERVICE_LABEL).cloned());
    for target in &route.spec.traffic {
        configurations.extend(target.configuration_name.clone());
    }
    if configurations.is_empty() {
        // A Route over plain Revisions: only those of the namespace can be meant.
        let what = format!("list Revisions in {namespace}");
        let listed = ctx.api::<Revision>(namespace).list(&ListParams::default()).await;
        return Ok(listed.map_err(Error::api(what))?.items);
    }
    let mut found: Vec<Revision> = Vec::new();
    for configuration in configurations {
        found.extend(ctx.revisions(namespace, &configuration, None).await?);
    }
    Ok(found)
}

/// The comma list with `route` added or taken out; `None` when nothing changes.
fn routes(meta: &ObjectMeta, route: &str, present: bool) -> Option<BTreeSet<String>> {
    let text = meta.annotations.as_ref().and_then(|map| map.get(ROUTES)).cloned().unwrap_or_default();
    let mut routes: BTreeSet<String> =
        text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let changed = if present { routes.insert(route.to_owned()) } else { routes.remove(route) };
    changed.then_some(routes)
}

fn annotation(routes: &BTreeSet<String>) -> Value {
    if routes.is_empty() { Value::Null } else { routes.iter().cloned().collect::<Vec<_>>().join(",").into() }
}

async fn annotate(
    ctx: &Context,
    namespace: &str,
    configuration: &Configuration,
    route: &str,
    present: bool,
) -> Result<(), Error> {
    let Some(routes) = routes(&configuration.metadata, route, present) else { return Ok(()) };
    let change = json!({"metadata": {"annotations": {ROUTES: annotation(&routes)}}});
    patch::<Configuration>(ctx, namespace, &configuration.name_any(), change).await
}

async fn mark(
    ctx: &Context,
    namespace: &str,
    revision: &Revision,
    route: &str,
    present: bool,
) -> Result<(), Error> {
    let changed = routes(&revision.metadata, route, present);
    let state = revision.labels().get(ROUTING_STATE).map(String::as_str);
    let wanted = if present {
        ACTIVE
    } else if changed.as_ref().is_some_and(BTreeSet::is_empty) {
        RESERVE
    } else {
        return match changed {
            None => Ok(()),
            Some(routes) => {
                let change = json!({"metadata": {"annotations": {ROUTES: annotation(&routes)}}});
                patch::<Revision>(ctx, namespace, &revision.name_any(), change).await
            }
        };
    };
    if changed.is_none() && state == Some(wanted) {
        return Ok(());
    }
    let mut annotations = serde_json::Map::new();
    if let Some(routes) = &changed {
        annotations.insert(ROUTES.to_owned(), annotation(routes));
    }
    if state != Some(wanted) {
        annotations.insert(ROUTING_STATE_MODIFIED.to_owned(), clock::timestamp().to_string().into());
    }
    let change = json!({"metadata": {"labels": {ROUTING_STATE: wanted}, "annotations": annotations}});
    patch::<Revision>(ctx, namespace, &revision.name_any(), change).await
}

async fn patch<K>(ctx: &Context, namespace: &str, name: &str, change: Value) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let outcome = ctx.api::<K>(namespace).patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Error::api(format!("label {} {namespace}/{name}", K::kind(&())))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_routes_changes_only_when_it_must() {
        let meta = ObjectMeta {
            annotations: Some([(ROUTES.to_owned(), "a,b".to_owned())].into()),
            ..ObjectMeta::default()
        };
        assert_eq!(routes(&meta, "a", true), None);
        assert_eq!(routes(&meta, "c", false), None);
        assert_eq!(annotation(&routes(&meta, "c", true).unwrap()), "a,b,c");
        assert_eq!(annotation(&routes(&meta, "a", false).unwrap()), "b");
        assert!(annotation(&routes(&ObjectMeta::default(), "a", true).unwrap()) == "a");
    }
}
