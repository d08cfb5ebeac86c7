//! The Revision of a generation, and what a Configuration's status says about its Revisions. Pure.

use std::collections::BTreeMap;

use dormouse_api::names::child_name;
use dormouse_api::serving::configuration::{Configuration, ConfigurationStatus, READY};
use dormouse_api::serving::revision::{self, Revision};
use dormouse_api::vocabulary::{
    CONFIGURATION_GENERATION_LABEL, CONFIGURATION_LABEL, CONFIGURATION_UID_LABEL, CREATOR, LAST_MODIFIER,
    PENDING, ROUTES, ROUTING_STATE, ROUTING_STATE_MODIFIED, SERVICE_LABEL, SERVICE_UID_LABEL,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::serving::context::owner;

/// The Revision of the Configuration's current generation.
#[derive(Debug)]
pub(crate) enum Latest {
    /// It exists.
    Created(Box<Revision>),
    /// It cannot be made; why.
    Failed(String),
}

/// The Revision that the current generation wants.
pub(crate) fn revision(configuration: &Configuration, now: Timestamp) -> Revision {
    let template = &configuration.spec.template;
    let given = template.metadata.clone().unwrap_or_default();
    let parent = configuration.metadata.name.clone().unwrap_or_default();
    let generation = configuration.metadata.generation.unwrap_or(1);
    let name = given.name.unwrap_or_else(|| child_name(&parent, &format!("-{generation:05}")));

    let mut labels = given.labels.unwrap_or_default();
    let mut put = |key: &str, value: String| labels.insert(key.to_owned(), value);
    put(CONFIGURATION_LABEL, parent);
    put(CONFIGURATION_UID_LABEL, configuration.metadata.uid.clone().unwrap_or_default());
    put(CONFIGURATION_GENERATION_LABEL, generation.to_string());
    put(ROUTING_STATE, PENDING.to_owned());
    for key in [SERVICE_LABEL, SERVICE_UID_LABEL] {
        if let Some(value) = get(&configuration.metadata.labels, key) {
            put(key, value);
        }
    }
    let mut annotations = given.annotations.unwrap_or_default();
    if let Some(creator) = get(&configuration.metadata.annotations, LAST_MODIFIER)
        .or_else(|| get(&configuration.metadata.annotations, CREATOR))
    {
        annotations.insert(CREATOR.to_owned(), creator);
    }
    if let Some(routes) = get(&configuration.metadata.annotations, ROUTES) {
        annotations.insert(ROUTES.to_owned(), routes);
    }
    annotations.insert(ROUTING_STATE_MODIFIED.to_owned(), now.to_string());
    Revision {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: configuration.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(owner(configuration)),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

fn get(map: &Option<BTreeMap<String, String>>, key: &str) -> Option<String> {
    map.as_ref().and_then(|map| map.get(key)).cloned()
}

/// The generation that a Revision was made from.
pub(crate) fn generation(revision: &Revision) -> i64 {
    get(&revision.metadata.labels, CONFIGURATION_GENERATION_LABEL)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The Revision made from the current generation.
pub(crate) fn find_generation<'a>(
    configuration: &Configuration,
    revisions: &'a [Revision],
) -> Option<&'a Revision> {
    let wanted = configuration.metadata.generation?;
    revisions.iter().find(|revision| generation(revision) == wanted)
}

/// Whether an existing Revision of the user's own name is the one that the current generation means.
pub(crate) fn accepts(configuration: &Configuration, existing: &Revision) -> bool {
    Some(generation(existing)) == configuration.metadata.generation
        || existing.spec == configuration.spec.template.spec
}

/// Writes the next status.
pub(crate) fn status(
    configuration: &Configuration,
    latest: &Latest,
    revisions: &[Revision],
    status: &mut ConfigurationStatus,
    now: Timestamp,
) {
    if status.observed_generation != configuration.metadata.generation {
        status.manage(now).mark_unknown(READY, "", "");
    }
    status.observed_generation = configuration.metadata.generation;
    let latest = match latest {
        Latest::Created(latest) => latest,
        Latest::Failed(why) => {
            let message = format!("Revision creation failed with message: {why}.");
            status.manage(now).mark_false(READY, "RevisionFailed", &message);
            return;
        }
    };
    let name = latest.metadata.name.clone();
    status.latest_created_revision_name.clone_from(&name);
    advance_ready(revisions, status, now);
    let seen = latest.status.as_ref().and_then(|status| status.condition(revision::READY));
    match seen {
        _ if latest.is_ready() => {
            if status.latest_ready_revision_name == name {
                status.manage(now).mark_true(READY);
            }
        }
        Some(condition) if latest.is_failed() => {
            let message = format!(
                "Revision \"{}\" failed with message: {}.",
                name.unwrap_or_default(),
                condition.message()
            );
            status.manage(now).mark_false(READY, "RevisionFailed", &message);
        }
        _ => status.manage(now).mark_unknown(READY, "", ""),
    }
}

/// Moves latestReady to the newest ready Revision; never back to an older generation.
fn advance_ready(revisions: &[Revision], status: &mut ConfigurationStatus, now: Timestamp) {
    let current = status.latest_ready_revision_name.clone();
    let found = current
        .as_ref()
        .and_then(|name| revisions.iter().find(|revision| revision.metadata.name.as_ref() == Some(name)));
    if let (Some(name), None) = (&current, found) {
        let message = format!("Revision \"{name}\" was deleted.");
        status.latest_ready_revision_name = None;
        status.manage(now).mark_false(READY, "RevisionDeleted", &message);
    }
    let floor = found.map_or(0, generation);
    let newest = revisions
        .iter()
        .filter(|revision| revision.is_ready() && generation(revision) >= floor)
        .max_by_key(|revision| generation(revision));
    if let Some(newest) = newest {
        status.latest_ready_revision_name.clone_from(&newest.metadata.name);
    }
}
