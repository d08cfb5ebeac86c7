//! DomainMapping: a host of one's own becomes a KIngress that leads where the target's Route leads.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use dormouse_api::kind;
use dormouse_api::networking::Ingress;
use dormouse_api::serving::domainmapping::DomainMapping;
use dormouse_api::vocabulary::{NETWORKING_GROUP, ROUTE_LABEL};
use dormouse_base::clock;
use k8s_openapi::api::core::v1::Service as CoreService;
use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::context::{Context, controlled_by, drive, identity};
use super::error::Error;
use super::tracker::Tracker;
use plan::Resolved;

/// Held while a claim may exist.
const FINALIZER: &str = "domainmappings.serving.knative.dev";
/// How soon a domain that belongs to somebody else, or a target that is missing, is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// config-network's `autocreate-cluster-domain-claims` is off, or another namespace was first.
const CLAIMED: &str = "The domain name is already in use by another DomainMapping";

pub(crate) async fn run(ctx: Arc<Context>) {
    let client = ctx.client.clone();
    let all = watcher::Config::default;
    let tracker = Arc::new(Tracker::default());
    let referrers = tracker.clone();
    let controller = Controller::new(Api::<DomainMapping>::all(client.clone()), all())
        .owns(Api::<Ingress>::all(client.clone()), all())
        .watches(Api::<Ingress>::all(client), all(), move |ingress: Ingress| {
            let namespace = ingress.namespace().unwrap_or_default();
            let names = referrers.referrers(&namespace, &ingress.name_any());
            names.into_iter().map(move |name| ObjectRef::new(&name).within(&namespace)).collect::<Vec<_>>()
        });
    drive(controller, ctx, move |mapping, ctx| reconcile(mapping, ctx, tracker.clone())).await;
}

async fn reconcile(
    mapping: Arc<DomainMapping>,
    ctx: Arc<Context>,
    tracker: Arc<Tracker>,
) -> Result<Action, Error> {
    let (namespace, name) = identity(&mapping.metadata)?;
    if mapping.metadata.deletion_timestamp.is_some() {
        tracker.set(namespace, name, Vec::new());
        return finish(&ctx, &mapping, namespace, name).await;
    }
    if !mapping.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        let mut changed = DomainMapping::clone(&mapping);
        changed.finalizers_mut().push(FINALIZER.to_owned());
        ctx.replace(namespace, &changed).await?;
        // The write brings the object back with the next event.
        return Ok(Action::await_change());
    }
    let (naming, now) = (ctx.naming(), clock::timestamp());
    let mut status = mapping.status.clone().unwrap_or_default();
    plan::begin(&mapping, &naming.public_url(name), &mut status, now);
    let mut next = Action::await_change();
    if claim(&ctx, namespace, name, naming.network.autocreate_claims).await? {
        plan::claimed(&mut status, now);
        match resolve(&ctx, &mapping, namespace, &tracker).await? {
            Ok(resolved) => {
                plan::resolved(&mut status, now);
                let ingress = apply_ingress(&ctx, &mapping, namespace, &resolved).await?;
                plan::ingress(ingress.as_ref(), &mut status, now);
            }
            Err(why) => {
                plan::unresolved(&why, &mut status, now);
                next = Action::requeue(LOOK_AGAIN);
            }
        }
    } else {
        plan::not_claimed(CLAIMED, &mut status, now);
        next = Action::requeue(LOOK_AGAIN);
    }
    if mapping.status.as_ref() != Some(&status) {
        let mut changed = DomainMapping::clone(&mapping);
        changed.status = Some(status);
        ctx.replace_status(namespace, &changed).await?;
    }
    ctx.succeeded(&*mapping);
    Ok(next)
}

/// Claims are of no namespace, so they are handled without a type of their own.
fn claims(ctx: &Context) -> Option<Api<DynamicObject>> {
    let info = kind::by_kind(NETWORKING_GROUP, "ClusterDomainClaim")?;
    let resource = ApiResource {
        group: info.group.to_owned(),
        version: info.version.to_owned(),
        api_version: info.api_version(),
        kind: info.kind.to_owned(),
        plural: info.plural.to_owned(),
    };
    Some(Api::all_with(ctx.client.clone(), &resource))
}

fn holder(claim: &DynamicObject) -> Option<&str> {
    claim.data.pointer("/spec/namespace").and_then(|namespace| namespace.as_str())
}

/// Whether the domain belongs to the namespace, claiming it if that is allowed.
async fn claim(ctx: &Context, namespace: &str, name: &str, autocreate: bool) -> Result<bool, Error> {
    let Some(claims) = claims(ctx) else { return Ok(false) };
    let what = || format!("claim domain {name}");
    if let Some(found) = claims.get_opt(name).await.map_err(Error::api(what()))? {
        return Ok(holder(&found) == Some(namespace));
    }
    if !autocreate {
        return Ok(false);
    }
    let claim = json!({
        "apiVersion": format!("{NETWORKING_GROUP}/v1alpha1"), "kind": "ClusterDomainClaim",
        "metadata": { "name": name }, "spec": { "namespace": namespace },
    });
    let claim: Result<DynamicObject, _> = serde_json::from_value(claim);
    let Ok(claim) = claim else { return Ok(false) };
    claims.create(&PostParams::default(), &claim).await.map_err(Error::api(what()))?;
    Ok(true)
}

/// Gives the domain back.
async fn finish(
    ctx: &Context,
    mapping: &DomainMapping,
    namespace: &str,
    name: &str,
) -> Result<Action, Error> {
    if !mapping.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Action::await_change());
    }
    if ctx.naming().network.autocreate_claims
        && let Some(claims) = claims(ctx)
    {
        let what = || format!("give domain {name} back");
        let found = claims.get_opt(name).await.map_err(Error::api(what()))?;
        if found.is_some_and(|claim| holder(&claim) == Some(namespace)) {
            match claims.delete(name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(Error::api(what())(error)),
                Ok(_) => {}
            }
        }
    }
    let mut changed = mapping.clone();
    changed.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
    ctx.replace(namespace, &changed).await?;
    Ok(Action::await_change())
}

/// Where the target leads; `Err` is a sentence for the condition.
async fn resolve(
    ctx: &Context,
    mapping: &DomainMapping,
    namespace: &str,
    tracker: &Tracker,
) -> Result<Result<Resolved, String>, Error> {
    let target = &mapping.spec.target;
    let (kind, name) = (target.kind.as_str(), target.name.as_str());
    let route = match (target.api_version.as_str(), kind) {
        ("serving.knative.dev/v1", "Service" | "Route") => Some(name.to_owned()),
        // The placeholder of a Route or of one of its tags.
        ("v1", "Service") => {
            let found = ctx.get::<CoreService>(namespace, name).await?;
            found.and_then(|service| service.metadata.labels?.remove(ROUTE_LABEL))
        }
        _ => None,
    };
    let Some(route) = route else {
        return Ok(Err(format!("{kind} {name:?} has no address in the cluster")));
    };
    tracker.set(namespace, &mapping.name_any(), vec![route.clone()]);
    let ingress = ctx.get::<Ingress>(namespace, &route).await?;
    Ok(ingress
        .and_then(|ingress| plan::resolve(&ingress, namespace, name))
        .ok_or_else(|| format!("{kind} {name:?} not found, or not routed yet")))
}

/// Makes the KIngress true; `Err` is the name of one that is somebody else's.
async fn apply_ingress(
    ctx: &Context,
    mapping: &DomainMapping,
    namespace: &str,
    resolved: &Resolved,
) -> Result<Result<Ingress, String>, Error> {
    let wanted = plan::wanted(mapping, resolved);
    let name = wanted.name_any();
    let Some(existing) = ctx.get::<Ingress>(namespace, &name).await? else {
        return Ok(Ok(ctx.create(namespace, &wanted).await?));
    };
    if !controlled_by(&existing.metadata, mapping.metadata.uid.as_deref()) {
        return Ok(Err(name));
    }
    if existing.spec == wanted.spec && existing.metadata.annotations == wanted.metadata.annotations {
        return Ok(Ok(existing));
    }
    let mut changed = existing;
    changed.spec = wanted.spec;
    changed.metadata.annotations = wanted.metadata.annotations;
    Ok(Ok(ctx.replace(namespace, &changed).await?))
}
