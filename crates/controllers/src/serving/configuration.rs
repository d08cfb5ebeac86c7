//! Configuration: one Revision per generation, and which of them is the latest ready one.

pub(crate) mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use dormouse_api::serving::configuration::Configuration;
use dormouse_api::serving::revision::Revision;
use dormouse_base::clock;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use super::context::{Context, Severity, controlled_by, drive, identity};
use super::error::Error;
use super::gc;
use plan::Latest;

pub(crate) async fn run(ctx: Arc<Context>) {
    let client = ctx.client.clone();
    let learner = ctx.clone();
    let controller = Controller::new(Api::<Configuration>::all(client.clone()), watcher::Config::default())
        .watches(Api::<Revision>::all(client), watcher::Config::default(), move |revision: Revision| {
            let configuration = learner.family.learn(&revision)?;
            Some(ObjectRef::new(&configuration).within(&revision.namespace()?))
        });
    drive(controller, ctx, reconcile).await;
}

async fn reconcile(configuration: Arc<Configuration>, ctx: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = identity(&configuration.metadata)?;
    if configuration.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let named = configuration.status.iter().flat_map(|status| {
        [&status.latest_created_revision_name, &status.latest_ready_revision_name]
            .into_iter()
            .flatten()
            .cloned()
    });
    let mut revisions = ctx.revisions(namespace, name, named).await?;
    let latest = latest(&configuration, &ctx, namespace, &revisions).await?;
    if let Latest::Created(revision) = &latest
        && !revisions.iter().any(|existing| existing.name_any() == revision.name_any())
    {
        revisions.push(Revision::clone(revision));
    }

    let mut status = configuration.status.clone().unwrap_or_default();
    let ready_before = status.latest_ready_revision_name.clone();
    plan::status(&configuration, &latest, &revisions, &mut status, clock::timestamp());
    if configuration.status.as_ref() != Some(&status) {
        let ready_now = status.latest_ready_revision_name.clone();
        let mut changed = Configuration::clone(&configuration);
        changed.status = Some(status);
        ctx.replace_status(namespace, &changed).await?;
        if let Some(ready) = ready_now.filter(|_| ready_before != changed.latest_ready()) {
            tell(&ctx, &configuration, &ready, ready_before.is_none());
        }
    }
    gc::collect(&ctx, &configuration, &revisions).await?;
    ctx.succeeded(&*configuration);
    Ok(Action::await_change())
}

fn tell(ctx: &Context, configuration: &Configuration, ready: &str, first: bool) {
    if first {
        let note = "Configuration becomes ready".to_owned();
        ctx.record(configuration, Severity::Normal, "ConfigurationReady", note);
    }
    let note = format!("LatestReadyRevisionName updated to \"{ready}\"");
    ctx.record(configuration, Severity::Normal, "LatestReadyUpdate", note);
}

trait LatestReady {
    fn latest_ready(&self) -> Option<String>;
}

impl LatestReady for Configuration {
    fn latest_ready(&self) -> Option<String> {
        self.status.as_ref().and_then(|status| status.latest_ready_revision_name.clone())
    }
}

/// The Revision of the current generation: found, adopted or made.
async fn latest(
    configuration: &Configuration,
    ctx: &Context,
    namespace: &str,
    revisions: &[Revision],
) -> Result<Latest, Error> {
    let wanted = plan::revision(configuration, clock::timestamp());
    let name = wanted.name_any();
    let own_name = configuration.spec.template.metadata.as_ref().is_some_and(|meta| meta.name.is_some());
    if let Some(found) = plan::find_generation(configuration, revisions).filter(|_| !own_name) {
        return Ok(Latest::Created(Box::new(found.clone())));
    }
    if let Some(existing) = ctx.get::<Revision>(namespace, &name).await? {
        let ours = controlled_by(&existing.metadata, configuration.metadata.uid.as_deref())
            && plan::accepts(configuration, &existing);
        return Ok(if ours {
            Latest::Created(Box::new(existing))
        } else {
            Latest::Failed(format!("revisions.serving.knative.dev \"{name}\" already exists"))
        });
    }
    match ctx.create(namespace, &wanted).await {
        Ok(created) => {
            let note = format!("Created Revision \"{name}\"");
            ctx.record(configuration, Severity::Normal, "Created", note);
            Ok(Latest::Created(Box::new(created)))
        }
        Err(Error::Api { source: kube::Error::Api(status), .. })
            if (400..500).contains(&status.code) && status.code != 409 =>
        {
            let note = format!("Failed to create Revision: {}", status.message);
            ctx.record(configuration, Severity::Warning, "CreationFailed", note);
            Ok(Latest::Failed(status.message.clone()))
        }
        Err(error) => Err(error),
    }
}
