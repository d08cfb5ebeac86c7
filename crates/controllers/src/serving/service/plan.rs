//! What a Service's status says about its children. Pure.

use dormouse_api::serving::configuration::{self, Configuration};
use dormouse_api::serving::route::{self, Route, TrafficTarget};
use dormouse_api::serving::service::{CONFIGURATIONS_READY, ROUTES_READY, Service, ServiceStatus};
use jiff::Timestamp;

/// A child as it was found or made.
#[derive(Debug)]
pub(crate) enum Child<K> {
    /// Ours, in its current state.
    Owned(K),
    /// Somebody else's object has the name.
    NotOwned,
    /// Not looked at because an earlier step is not done.
    Waiting,
}

/// What was seen in this round.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) configuration: &'a Child<Configuration>,
    pub(crate) route: &'a Child<Route>,
    pub(crate) revision_name_taken: Option<String>,
}

/// With a Revision name of the user's own, the Route must not be touched before the Configuration has seen its
/// generation: it would route to an older Revision of that name.
pub(crate) fn must_wait_for_configuration(service: &Service, configuration: &Child<Configuration>) -> bool {
    let named = service.spec.template.metadata.as_ref().is_some_and(|meta| meta.name.is_some());
    match configuration {
        Child::Owned(configuration) => named && !is_observed(configuration),
        Child::NotOwned | Child::Waiting => true,
    }
}

fn is_observed(configuration: &Configuration) -> bool {
    configuration.status.as_ref().and_then(|status| status.observed_generation)
        == configuration.metadata.generation
}

/// Writes the next status.
pub(crate) fn status(service: &Service, observed: &Observed<'_>, status: &mut ServiceStatus, now: Timestamp) {
    if status.observed_generation != service.metadata.generation {
        let mut conditions = status.manage(now);
        conditions.initialize();
        conditions.mark_unknown("Ready", "", "");
    }
    status.observed_generation = service.metadata.generation;
    status.manage(now).initialize();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    from_configuration(name, observed, status, now);
    from_route(name, observed, status, now);
}

fn from_configuration(name: &str, observed: &Observed<'_>, status: &mut ServiceStatus, now: Timestamp) {
    let configuration = match observed.configuration {
        Child::Owned(configuration) => configuration,
        Child::NotOwned => {
            let message = format!("There is an existing Configuration \"{name}\" that we do not own.");
            return status.manage(now).mark_false(CONFIGURATIONS_READY, "NotOwned", &message);
        }
        Child::Waiting => return,
    };
    if !is_observed(configuration) {
        return status.manage(now).mark_unknown(
            CONFIGURATIONS_READY,
            "OutOfDate",
            "The Configuration is still working to reflect the latest desired specification.",
        );
    }
    let Some(seen) = &configuration.status else { return };
    status.latest_created_revision_name = seen.latest_created_revision_name.clone();
    status.latest_ready_revision_name = seen.latest_ready_revision_name.clone();
    if let Some(ready) = seen.condition(configuration::READY) {
        status.manage(now).mark(CONFIGURATIONS_READY, &ready.status, ready.reason(), ready.message());
    }
}

fn from_route(name: &str, observed: &Observed<'_>, status: &mut ServiceStatus, now: Timestamp) {
    if let Some(taken) = &observed.revision_name_taken {
        let message = format!(
            "The revision name \"{taken}\" is taken by a conflicting Revision, so traffic will not be migrated"
        );
        return status.manage(now).mark_false(ROUTES_READY, "RevisionNameTaken", &message);
    }
    let out_of_date = "The Route is still working to reflect the latest desired specification.";
    let route = match observed.route {
        Child::Owned(route) => route,
        Child::NotOwned => {
            let message = format!("There is an existing Route \"{name}\" that we do not own.");
            return status.manage(now).mark_false(ROUTES_READY, "NotOwned", &message);
        }
        Child::Waiting => return status.manage(now).mark_unknown(ROUTES_READY, "OutOfDate", out_of_date),
    };
    let seen = route.status.clone().unwrap_or_default();
    if seen.observed_generation != route.metadata.generation {
        return status.manage(now).mark_unknown(ROUTES_READY, "OutOfDate", out_of_date);
    }
    status.url = seen.url.clone();
    status.address = seen.address.clone();
    status.traffic = seen.traffic.clone();
    let Some(ready) = seen.condition(route::READY) else { return };
    if ready.is_true() && !traffic_has_arrived(observed.configuration, route) {
        return status.manage(now).mark_unknown(
            ROUTES_READY,
            "TrafficNotMigrated",
            "Traffic is not yet migrated to the latest revision.",
        );
    }
    status.manage(now).mark(ROUTES_READY, &ready.status, ready.reason(), ready.message());
}

/// Whether the Route serves what its spec asks for, with the Configuration's latest ready Revision filled in.
fn traffic_has_arrived(configuration: &Child<Configuration>, route: &Route) -> bool {
    let Child::Owned(configuration) = configuration else { return false };
    let latest = configuration.status.as_ref().and_then(|status| status.latest_ready_revision_name.clone());
    let plain = |target: &TrafficTarget| (target.tag.clone(), target.revision_name.clone(), target.percent);
    let wanted = route.spec.traffic.iter().map(|target| {
        let mut target = target.clone();
        if target.configuration_name == configuration.metadata.name {
            target.revision_name = latest.clone();
        }
        plain(&target)
    });
    let served = route.status.iter().flat_map(|status| status.traffic.iter()).map(plain);
    wanted.eq(served)
}
