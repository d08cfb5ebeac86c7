//! Which Revision gets how much traffic, and what the Route's status says. Pure.

use std::collections::BTreeMap;

use dormouse_api::networking::{self, Ingress};
use dormouse_api::serving::Addressable;
use dormouse_api::serving::configuration::{self, Configuration};
use dormouse_api::serving::revision::Revision;
use dormouse_api::serving::route::{
    ALL_TRAFFIC_ASSIGNED, CERTIFICATE_PROVISIONED, INGRESS_READY, Route, RouteStatus, TrafficTarget,
};
use dormouse_api::vocabulary::SERVICE_LABEL;
use jiff::Timestamp;

use crate::serving::naming::Names;

/// What the Route refers to, as far as it exists.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) configurations: BTreeMap<String, Configuration>,
    pub(crate) revisions: BTreeMap<String, Revision>,
}

/// One resolved target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Empty for the Route's own host.
    pub(crate) tag: String,
    pub(crate) revision: String,
    pub(crate) percent: i64,
    /// Whether the Revision speaks HTTP/2 only.
    pub(crate) h2c: bool,
}

/// Whether every target has a Revision that can take traffic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of them: the gateway may be told.
    Assigned(Vec<Target>),
    /// Not yet or never: what the gateway serves stays as it is.
    Waiting,
}

enum Problem {
    Unknown(&'static str, String),
    Failed(&'static str, String),
}

/// Resolves the targets and writes everything of the status but the ingress' part.
pub(crate) fn traffic(
    route: &Route,
    known: &Known,
    names: &Names<'_>,
    status: &mut RouteStatus,
    now: Timestamp,
) -> Outcome {
    if status.observed_generation != route.metadata.generation {
        let mut conditions = status.manage(now);
        conditions.initialize();
        conditions.mark_unknown(ALL_TRAFFIC_ASSIGNED, "", "");
        conditions.mark_unknown(
            INGRESS_READY,
            "IngressNotConfigured",
            "Ingress has not yet been reconciled.",
        );
    }
    status.observed_generation = route.metadata.generation;
    let mut conditions = status.manage(now);
    conditions.initialize();
    let off = if names.is_private("") {
        "TLS is not enabled for cluster-local"
    } else {
        "external-domain-tls is not enabled"
    };
    conditions.mark_true_with(CERTIFICATE_PROVISIONED, "TLSNotEnabled", off);
    status.url = Some(names.url(""));
    status.address = Some(Addressable { url: Some(names.cluster_url("")) });

    let mut targets = Vec::new();
    let mut shown = Vec::new();
    let mut problems = Vec::new();
    for target in &route.spec.traffic {
        match resolve(route, target, known) {
            Ok(resolved) => {
                shown.push(show(target, &resolved, names));
                targets.push(resolved);
            }
            Err(problem) => problems.push(problem),
        }
    }
    let failed = problems.iter().find(|problem| matches!(problem, Problem::Failed(..)));
    match failed.or(problems.first()) {
        Some(Problem::Failed(reason, message)) => {
            status.manage(now).mark_false(ALL_TRAFFIC_ASSIGNED, reason, message);
            Outcome::Waiting
        }
        Some(Problem::Unknown(reason, message)) => {
            status.manage(now).mark_unknown(ALL_TRAFFIC_ASSIGNED, reason, message);
            Outcome::Waiting
        }
        None => {
            status.traffic = shown;
            status.manage(now).mark_true(ALL_TRAFFIC_ASSIGNED);
            Outcome::Assigned(targets)
        }
    }
}

fn resolve(route: &Route, target: &TrafficTarget, known: &Known) -> Result<Target, Problem> {
    const MISSING: &str = "RevisionMissing";
    let revision = if let Some(name) = target.configuration_name.as_ref().filter(|name| !name.is_empty()) {
        let configuration = known.configurations.get(name).ok_or_else(|| {
            let message = format!("Configuration \"{name}\" referenced in traffic not found.");
            Problem::Failed("ConfigurationMissing", message)
        })?;
        let latest =
            configuration.status.as_ref().and_then(|status| status.latest_ready_revision_name.clone());
        match latest {
            Some(latest) => latest,
            None if configuration.is_failed() && is_observed_failure(configuration) => {
                let message = format!("Configuration \"{name}\" does not have any ready Revision.");
                return Err(Problem::Failed(MISSING, message));
            }
            None => {
                let message = format!("Configuration \"{name}\" is waiting for a Revision to become ready.");
                return Err(Problem::Unknown(MISSING, message));
            }
        }
    } else {
        target.revision_name.clone().unwrap_or_default()
    };
    let found = known.revisions.get(&revision).ok_or_else(|| {
        Problem::Failed(MISSING, format!("Revision \"{revision}\" referenced in traffic not found."))
    })?;
    owned_by_same_service(route, &revision, found)?;
    if found.is_failed() && target.configuration_name.is_none() {
        return Err(Problem::Failed(MISSING, format!("Revision \"{revision}\" failed to become ready.")));
    }
    if !found.is_ready() && target.configuration_name.is_none() {
        return Err(Problem::Unknown(MISSING, format!("Revision \"{revision}\" is not yet ready.")));
    }
    Ok(Target {
        tag: target.tag.clone().unwrap_or_default(),
        percent: target.percent.unwrap_or(0),
        h2c: speaks_h2c(found),
        revision,
    })
}

fn is_observed_failure(configuration: &Configuration) -> bool {
    configuration
        .status
        .as_ref()
        .and_then(|status| status.condition(configuration::READY))
        .is_some_and(dormouse_api::condition::Condition::is_false)
}

/// A Service's Route may not send traffic to another Service's Revision.
fn owned_by_same_service(route: &Route, name: &str, revision: &Revision) -> Result<(), Problem> {
    let label = |labels: &Option<BTreeMap<String, String>>| {
        labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL)).cloned()
    };
    let Some(service) = label(&route.metadata.labels) else { return Ok(()) };
    match label(&revision.metadata.labels) {
        Some(other) if other == service => Ok(()),
        Some(other) => Err(Problem::Failed(
            "RevisionNotOwned",
            format!("Revision \"{name}\" belongs to Service \"{other}\", not Service \"{service}\"."),
        )),
        None => Err(Problem::Failed(
            "RevisionNotOwned",
            format!("Revision \"{name}\" does not belong to Service \"{service}\"."),
        )),
    }
}

fn speaks_h2c(revision: &Revision) -> bool {
    let ports = revision.spec.pod.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports.into_iter().any(|port| port.name.as_deref() == Some("h2c"))
}

fn show(target: &TrafficTarget, resolved: &Target, names: &Names<'_>) -> TrafficTarget {
    let url = target.tag.as_ref().filter(|tag| !tag.is_empty()).map(|tag| names.url(tag));
    TrafficTarget {
        tag: target.tag.clone(),
        revision_name: Some(resolved.revision.clone()),
        configuration_name: None,
        latest_revision: Some(target.configuration_name.is_some()),
        percent: target.percent,
        url,
    }
}

/// Copies the KIngress' readiness; `Err` names the placeholder or KIngress that is not ours.
pub(crate) fn ingress(ingress: Result<&Ingress, &String>, status: &mut RouteStatus, now: Timestamp) {
    let ingress = match ingress {
        Ok(ingress) => ingress,
        Err(name) => {
            let message =
                format!("There is an existing placeholder Service/Endpoint \"{name}\" that we do not own.");
            return status.manage(now).mark_false(INGRESS_READY, "NotOwned", &message);
        }
    };
    let seen = ingress
        .status
        .as_ref()
        .filter(|seen| seen.observed_generation == ingress.metadata.generation)
        .and_then(|seen| seen.condition(networking::READY));
    match seen {
        Some(ready) => status.manage(now).mark(INGRESS_READY, &ready.status, ready.reason(), ready.message()),
        None => status.manage(now).mark_unknown(
            INGRESS_READY,
            "IngressNotConfigured",
            "Ingress has not yet been reconciled.",
        ),
    }
}
