//! Revisions that nobody needs any more (config-gc's defaults).

use std::collections::BTreeMap;
use std::time::Duration;

use dormouse_api::serving::configuration::Configuration;
use dormouse_api::serving::revision::Revision;
use dormouse_api::vocabulary::{NO_GC, RESERVE, ROUTING_STATE, ROUTING_STATE_MODIFIED, SYSTEM_NAMESPACE};
use dormouse_base::clock;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::DeleteParams;

use super::context::{Context, identity};
use super::error::Error;

/// When a Revision may go; `None` switches a clause off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    retain_since_create: Option<Duration>,
    retain_since_last_active: Option<Duration>,
    min_non_active: Option<usize>,
    max_non_active: Option<usize>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retain_since_create: Some(Duration::from_secs(48 * 3600)),
            retain_since_last_active: Some(Duration::from_secs(15 * 3600)),
            min_non_active: Some(20),
            max_non_active: Some(1000),
        }
    }
}

impl Policy {
    /// Reads config-gc's keys; what cannot be read keeps its default.
    pub(crate) fn parse(data: &BTreeMap<String, String>) -> Self {
        let mut policy = Self::default();
        let duration = |key: &str, value: &mut Option<Duration>| match data.get(key).map(String::as_str) {
            Some("disabled") => *value = None,
            Some(text) => {
                if let Some(parsed) = dormouse_api::autoscaling::parse_duration(text) {
                    *value = u64::try_from(parsed).ok().map(Duration::from_nanos);
                }
            }
            None => {}
        };
        duration("retain-since-create-time", &mut policy.retain_since_create);
        duration("retain-since-last-active-time", &mut policy.retain_since_last_active);
        let count = |key: &str, value: &mut Option<usize>| match data.get(key).map(String::as_str) {
            Some("disabled") => *value = None,
            Some(text) => {
                if let Ok(parsed) = text.parse() {
                    *value = Some(parsed);
                }
            }
            None => {}
        };
        count("min-non-active-revisions", &mut policy.min_non_active);
        count("max-non-active-revisions", &mut policy.max_non_active);
        policy
    }
}

/// Deletes what the policy lets go. Cheap when there are few Revisions, which is nearly always.
pub(crate) async fn collect(
    ctx: &Context,
    configuration: &Configuration,
    revisions: &[Revision],
) -> Result<(), Error> {
    if revisions.len() < 2 {
        return Ok(());
    }
    let (namespace, _) = identity(&configuration.metadata)?;
    let settings: Option<ConfigMap> = ctx.get(SYSTEM_NAMESPACE, "config-gc").await?;
    let policy = Policy::parse(&settings.and_then(|map| map.data).unwrap_or_default());
    let latest =
        configuration.status.as_ref().and_then(|status| status.latest_ready_revision_name.as_deref());
    for name in plan_victims(policy, latest, revisions, clock::timestamp()) {
        let deleted = ctx.api::<Revision>(namespace).delete(&name, &DeleteParams::default()).await;
        match deleted {
            Ok(_) => tracing::info!(namespace, revision = name, "garbage-collected a revision"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Error::api(format!("delete Revision {namespace}/{name}"))(error)),
        }
    }
    Ok(())
}

/// The names of Revisions to delete, oldest first. Pure.
fn plan_victims(
    policy: Policy,
    latest_ready: Option<&str>,
    revisions: &[Revision],
    now: Timestamp,
) -> Vec<String> {
    let minimum = policy.min_non_active.unwrap_or(0);
    let mut idle: Vec<&Revision> =
        revisions.iter().filter(|revision| !is_active(revision, latest_ready)).collect();
    if revisions.len() <= minimum || idle.len() <= minimum {
        return Vec::new();
    }
    idle.sort_by_key(|revision| last_active(revision));
    let mut left = idle.len();
    let mut victims = Vec::new();
    let mut kept = Vec::new();
    for revision in idle {
        if left > minimum && is_stale(policy, revision, now) {
            victims.extend(revision.metadata.name.clone());
            left -= 1;
        } else {
            kept.push(revision);
        }
    }
    if let Some(maximum) = policy.max_non_active {
        let surplus = kept.len().saturating_sub(maximum);
        victims.extend(kept.iter().take(surplus).filter_map(|revision| revision.metadata.name.clone()));
    }
    victims
}

fn is_active(revision: &Revision, latest_ready: Option<&str>) -> bool {
    let annotation = |key: &str| revision.metadata.annotations.as_ref().and_then(|map| map.get(key));
    let state = revision.metadata.labels.as_ref().and_then(|map| map.get(ROUTING_STATE));
    revision.metadata.name.as_deref() == latest_ready
        || annotation(NO_GC).is_some_and(|value| value == "true")
        || state.is_none_or(|state| state != RESERVE)
}

fn created(revision: &Revision) -> Option<Timestamp> {
    revision.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn last_active(revision: &Revision) -> Option<Timestamp> {
    let modified = revision.metadata.annotations.as_ref().and_then(|map| map.get(ROUTING_STATE_MODIFIED));
    modified.and_then(|text| text.parse().ok()).or_else(|| created(revision))
}

fn is_stale(policy: Policy, revision: &Revision, now: Timestamp) -> bool {
    if policy.retain_since_create.is_none() && policy.retain_since_last_active.is_none() {
        return false;
    }
    let older = |since: Option<Timestamp>, limit: Option<Duration>| match (since, limit) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(since), Some(limit)) => {
            now.duration_since(since).as_secs() >= i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)
        }
    };
    older(created(revision), policy.retain_since_create)
        && older(last_active(revision), policy.retain_since_last_active)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn revision(name: &str, state: &str, hours: i64) -> Revision {
        let at = Timestamp::from_second(1_000_000 - hours * 3600).unwrap();
        serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": at.to_string(),
            "labels": {"serving.knative.dev/routingState": state},
            "annotations": {"serving.knative.dev/routingStateModified": at.to_string()}}, "spec": {}}))
        .unwrap()
    }

    fn victims(policy: Policy, revisions: &[Revision]) -> Vec<String> {
        plan_victims(policy, Some("latest"), revisions, Timestamp::from_second(1_000_000).unwrap())
    }

    #[test]
    fn only_stale_idle_revisions_go_and_the_minimum_stays() {
        let policy = Policy { min_non_active: Some(1), ..Policy::default() };
        let revisions = [
            revision("latest", "reserve", 900),
            revision("routed", "active", 900),
            revision("old", "reserve", 500),
            revision("older", "reserve", 600),
            revision("young", "reserve", 10),
        ];
        assert_eq!(victims(policy, &revisions), ["older", "old"]);
        assert!(victims(Policy::default(), &revisions).is_empty());
    }

    #[test]
    fn the_maximum_takes_the_oldest_even_when_not_stale() {
        let policy = Policy { min_non_active: Some(0), max_non_active: Some(1), ..Policy::default() };
        let revisions =
            [revision("b", "reserve", 2), revision("c", "reserve", 1), revision("a", "reserve", 3)];
        assert_eq!(victims(policy, &revisions), ["a", "b"]);
    }

    #[test]
    fn clauses_can_be_switched_off() {
        let data = [
            ("retain-since-create-time".to_owned(), "disabled".to_owned()),
            ("retain-since-last-active-time".to_owned(), "disabled".to_owned()),
            ("min-non-active-revisions".to_owned(), "0".to_owned()),
        ];
        let policy = Policy::parse(&data.into());
        assert!(
            victims(policy, &[revision("a", "reserve", 9000), revision("b", "reserve", 9000)]).is_empty()
        );
    }
}
