//! What a Revision's conditions say about its Deployment, PodAutoscaler and Pods. Pure.

use dormouse_api::autoscaling::{self, PodAutoscaler, Reachability};
use dormouse_api::serving::revision::{
    ACTIVE, CONTAINER_HEALTHY, RESOURCES_AVAILABLE, Revision, RevisionStatus,
};
use dormouse_api::vocabulary::{
    ACTIVE as STATE_ACTIVE, RESERVE, ROUTING_STATE, WASM_IMPORT_NOT_GRANTED, WASM_INVALID_COMPONENT,
    WASM_INVALID_GRANT,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};

use super::children;
use crate::serving::resolve::ResolveError;

/// What a WebAssembly component waits for in vain.
const COMPONENT_REFUSED: [&str; 3] = [WASM_IMPORT_NOT_GRANTED, WASM_INVALID_COMPONENT, WASM_INVALID_GRANT];

/// What was seen in this round; a child that is `None` is somebody else's.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) deployment: Option<&'a Deployment>,
    pub(crate) autoscaler: Option<&'a PodAutoscaler>,
    pub(crate) pod: Option<&'a Pod>,
}

/// Starts a round: conditions exist and belong to the current generation.
pub(crate) fn begin(revision: &mut Revision, now: Timestamp) {
    let generation = revision.metadata.generation;
    let status = revision.status.get_or_insert_default();
    status.observed_generation = generation;
    status.manage(now).initialize();
}

/// Whether every container has been looked up.
pub(crate) fn has_digests(revision: &Revision) -> bool {
    let status = revision.status.as_ref();
    let known = status.map_or(0, |status| status.container_statuses.len());
    let known_init = status.map_or(0, |status| status.init_container_statuses.len());
    let pod = &revision.spec.pod;
    known > 0
        && known == pod.containers.len()
        && known_init == pod.init_containers.as_ref().map_or(0, Vec::len)
}

/// The registry has not answered yet.
pub(crate) fn resolving(revision: &mut Revision, now: Timestamp) {
    let mut conditions = manage(revision, now);
    conditions.mark_unknown(CONTAINER_HEALTHY, "ResolvingDigests", "");
    conditions.mark_unknown(RESOURCES_AVAILABLE, "ResolvingDigests", "");
}

/// The registry has no such image, or cannot be asked.
pub(crate) fn container_missing(revision: &mut Revision, failure: &(String, ResolveError), now: Timestamp) {
    let (image, error) = failure;
    let message = format!("Unable to fetch image \"{image}\": failed to resolve image to digest: {error}");
    let mut conditions = manage(revision, now);
    conditions.mark_unknown(RESOURCES_AVAILABLE, "", "");
    conditions.mark_false(CONTAINER_HEALTHY, "ContainerMissing", &message);
}

fn manage(revision: &mut Revision, now: Timestamp) -> dormouse_api::condition::Manager<'_> {
    revision.status.get_or_insert_default().manage(now)
}

/// Whether a Pod has to explain why nothing is available.
pub(crate) fn wants_a_look_at_a_pod(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    wanted > 0 && available(deployment) == 0
}

fn available(deployment: &Deployment) -> i32 {
    deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn ready(deployment: &Deployment) -> i32 {
    deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn condition<'a>(deployment: &'a Deployment, type_: &str) -> Option<&'a DeploymentCondition> {
    deployment.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// Writes the next status.
pub(crate) fn status(revision: &mut Revision, observed: &Observed<'_>, now: Timestamp) {
    let name = revision.metadata.name.clone().unwrap_or_default();
    let deployment_name = children::deployment_name(revision);
    let status = revision.status.get_or_insert_default();
    let Some(deployment) = observed.deployment else {
        return not_owned(status, "Deployment", &deployment_name, now);
    };
    let Some(autoscaler) = observed.autoscaler else {
        return not_owned(status, "PodAutoscaler", &name, now);
    };
    from_deployment(status, deployment, observed.pod, now);
    from_autoscaler(status, autoscaler, deployment, now);
}

fn not_owned(status: &mut RevisionStatus, kind: &str, name: &str, now: Timestamp) {
    let message = format!("There is an existing {kind} \"{name}\" that we do not own.");
    status.manage(now).mark_false(RESOURCES_AVAILABLE, "NotOwned", &message);
}

fn from_deployment(status: &mut RevisionStatus, deployment: &Deployment, pod: Option<&Pod>, now: Timestamp) {
    let mut conditions = status.manage(now);
    let progressing = condition(deployment, "Progressing");
    let late = progressing.filter(|condition| condition.status == "False");
    if ready(deployment) > 0 {
        conditions.mark_true(CONTAINER_HEALTHY);
        conditions.mark_true(RESOURCES_AVAILABLE);
        return;
    }
    if let Some(refused) =
        condition(deployment, "ReplicaFailure").filter(|condition| condition.status == "True")
    {
        let reason = refused.reason.as_deref().unwrap_or("FailedCreate");
        conditions.mark_false(RESOURCES_AVAILABLE, reason, refused.message.as_deref().unwrap_or_default());
        return;
    }
    if let Some((reason, message)) = pod.and_then(unscheduled) {
        conditions.mark_false(RESOURCES_AVAILABLE, &reason, &message);
    }
    if let Some((reason, message)) = pod.and_then(failure) {
        conditions.mark_false(CONTAINER_HEALTHY, &reason, &message);
    }
    // A component is judged before it runs: waiting does not change it.
    let refused = |(reason, _): &(String, String)| COMPONENT_REFUSED.contains(&reason.as_str());
    if let Some((reason, message)) = pod.and_then(waiting).filter(refused) {
        conditions.mark_false(CONTAINER_HEALTHY, &reason, &message);
    }
    if let Some(late) = late {
        match pod.and_then(waiting) {
            Some((reason, message)) => conditions.mark_false(RESOURCES_AVAILABLE, &reason, &message),
            None => {
                let message = late.message.as_deref().unwrap_or("Initial scale was never achieved");
                // A container that ended has told why; of one that runs only its silence is known.
                let ended = conditions.get(CONTAINER_HEALTHY).is_some_and(|condition| condition.is_false());
                let message = match expected_port(deployment).filter(|_| !ended) {
                    Some(port) => {
                        format!("{message} Nothing answered the container's readiness probe on port {port}.")
                    }
                    None => message.to_owned(),
                };
                conditions.mark_false(RESOURCES_AVAILABLE, "ProgressDeadlineExceeded", &message);
            }
        }
    }
    let undecided: Vec<&str> = [CONTAINER_HEALTHY, RESOURCES_AVAILABLE]
        .into_iter()
        .filter(|type_| conditions.get(type_).is_some_and(|condition| condition.is_unknown()))
        .collect();
    for type_ in undecided {
        conditions.mark_unknown(type_, "Deploying", "");
    }
}

/// The port that a container was expected to listen on.
fn expected_port(deployment: &Deployment) -> Option<i32> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    let container = containers.get(children::serving_index(containers))?;
    Some(container.ports.as_ref()?.first()?.container_port)
}

fn from_autoscaler(
    status: &mut RevisionStatus,
    autoscaler: &PodAutoscaler,
    deployment: &Deployment,
    now: Timestamp,
) {
    let Some(seen) = &autoscaler.status else {
        return status.manage(now).mark_unknown(ACTIVE, "Deploying", "");
    };
    status.actual_replicas = Some(seen.actual_scale.unwrap_or_else(|| ready(deployment)));
    status.desired_replicas = seen.desired_scale.filter(|desired| *desired >= 0);
    let initialized = seen
        .condition(autoscaling::SCALE_TARGET_INITIALIZED)
        .is_some_and(dormouse_api::condition::Condition::is_true);
    let active = seen.condition(autoscaling::ACTIVE).cloned();
    let mut conditions = status.manage(now);
    match active {
        Some(active) => conditions.mark(ACTIVE, &active.status, active.reason(), active.message()),
        None => conditions.mark_unknown(ACTIVE, "Deploying", ""),
    }
    let failing = [RESOURCES_AVAILABLE, CONTAINER_HEALTHY]
        .into_iter()
        .any(|type_| conditions.get(type_).is_some_and(dormouse_api::condition::Condition::is_false));
    if initialized && !failing {
        conditions.mark_true(RESOURCES_AVAILABLE);
        conditions.mark_true(CONTAINER_HEALTHY);
    }
}

/// Whether a Pod has something to tell about a Revision that cannot start.
pub(crate) fn in_trouble(pod: &Pod) -> bool {
    unscheduled(pod).is_some() || failure(pod).is_some() || waiting(pod).is_some()
}

/// A container that ended: `ExitCode<N>` and what it last said.
pub(crate) fn failure(pod: &Pod) -> Option<(String, String)> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ended: &ContainerStateTerminated = statuses.iter().find_map(|status| {
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        last.or_else(|| status.state.as_ref().and_then(|state| state.terminated.as_ref()))
    })?;
    let message = match ended.message.as_deref().filter(|message| !message.is_empty()) {
        Some(message) => format!("Container failed with: {message}"),
        None if ended.exit_code == 0 => "container exited with no error".to_owned(),
        None => match ended.reason.as_deref() {
            Some(reason) => format!("Container failed with: {reason} (exit code {})", ended.exit_code),
            None => format!("Container failed with: exit code {}", ended.exit_code),
        },
    };
    Some((format!("ExitCode{}", ended.exit_code), message))
}

fn waiting(pod: &Pod) -> Option<(String, String)> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let waiting = statuses.iter().find_map(|status| status.state.as_ref()?.waiting.as_ref())?;
    let reason = waiting.reason.clone().filter(|reason| reason != "ContainerCreating")?;
    Some((reason, waiting.message.clone().unwrap_or_default()))
}

fn unscheduled(pod: &Pod) -> Option<(String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    (scheduled.status == "False").then(|| {
        (scheduled.reason.clone().unwrap_or_default(), scheduled.message.clone().unwrap_or_default())
    })
}

/// Whether anything can reach the Revision: what the autoscaler may let go at once.
pub(crate) fn reachability(revision: &Revision, deployment: &Deployment) -> Reachability {
    let state = revision.metadata.labels.as_ref().and_then(|labels| labels.get(ROUTING_STATE));
    let broken = revision.status.as_ref().is_some_and(|status| {
        [RESOURCES_AVAILABLE, CONTAINER_HEALTHY]
            .into_iter()
            .any(|type_| status.condition(type_).is_some_and(dormouse_api::condition::Condition::is_false))
    });
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    match state.map(String::as_str) {
        Some(RESERVE) => Reachability::Unreachable,
        _ if broken && wanted > 0 && ready(deployment) == 0 => Reachability::Unreachable,
        Some(STATE_ACTIVE) => Reachability::Reachable,
        _ => Reachability::Unknown,
    }
}
