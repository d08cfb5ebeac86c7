//! The Deployment and the PodAutoscaler of a Revision. Pure.

use std::collections::BTreeMap;

use dormouse_api::autoscaling::{Knobs, PodAutoscaler, PodAutoscalerSpec, Reachability};
use dormouse_api::names::child_name;
use dormouse_api::serving::revision::{ContainerStatus, Revision};
use dormouse_api::vocabulary::{
    AUTOSCALING_PREFIX, CONFIGURATION_LABEL, DEFAULT_CONTAINER, DEFAULT_TIMEOUT_SECONDS, DEFAULT_USER_PORT,
    DEPLOYMENT_HASH_LABEL, LAST_PINNED, NO_GC, PROGRESS_DEADLINE, PROGRESS_DEADLINE_ALIAS, REVISION_LABEL,
    REVISION_UID_LABEL, ROUTE_LABEL, ROUTES, ROUTING_STATE, ROUTING_STATE_MODIFIED, SERVICE_LABEL,
    USER_PORT_NAME,
};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, ObjectReference, PodSpec, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::serving::context::owner;

/// config-deployment's progress-deadline.
const PROGRESS_DEADLINE_SECONDS: i64 = 600;
/// config-autoscaler's initial-scale.
const INITIAL_SCALE: i32 = 1;

/// The name of the Revision's Deployment.
pub(crate) fn deployment_name(revision: &Revision) -> String {
    child_name(revision.metadata.name.as_deref().unwrap_or_default(), "-deployment")
}

/// `initial-scale` of config-autoscaler, or its default.
pub(crate) fn default_initial_scale(settings: Option<&BTreeMap<String, String>>) -> i32 {
    settings
        .and_then(|settings| settings.get("initial-scale"))
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(INITIAL_SCALE)
}

/// The Deployment that runs `revision`.
pub(crate) fn deployment(revision: &Revision, default_initial: i32) -> Deployment {
    let annotations = revision.metadata.annotations.clone().unwrap_or_default();
    let initial = Knobs::read(&annotations).initial_scale.and_then(|scale| i32::try_from(scale).ok());
    let template = template(revision);
    let labels = labels(revision);
    let mut deployment_labels = labels.clone();
    deployment_labels.insert(DEPLOYMENT_HASH_LABEL.to_owned(), hash(&template));
    let name = deployment_name(revision);
    let uid = labels.get(REVISION_UID_LABEL).cloned().unwrap_or_default();
    Deployment {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: revision.metadata.namespace.clone(),
            labels: Some(deployment_labels),
            annotations: Some(pod_annotations(revision)),
            owner_references: Some(owner(revision)),
            ..ObjectMeta::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(initial.unwrap_or(default_initial)),
            selector: LabelSelector {
                match_labels: Some([(REVISION_UID_LABEL.to_owned(), uid)].into()),
                ..LabelSelector::default()
            },
            progress_deadline_seconds: Some(progress_deadline(&annotations)),
            revision_history_limit: Some(0),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::String("25%".to_owned())),
                }),
            }),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The existing Deployment with its template put right, or `None` when nothing drifted. Replicas are the autoscaler's.
pub(crate) fn repair(existing: &Deployment, revision: &Revision) -> Option<Deployment> {
    let wanted = deployment(revision, INITIAL_SCALE);
    let hash_of = |deployment: &Deployment| {
        deployment.metadata.labels.as_ref().and_then(|labels| labels.get(DEPLOYMENT_HASH_LABEL)).cloned()
    };
    if hash_of(existing) == hash_of(&wanted) {
        return None;
    }
    let mut repaired = existing.clone();
    let replicas = existing.spec.as_ref().and_then(|spec| spec.replicas);
    repaired.metadata.labels = wanted.metadata.labels;
    repaired.spec = wanted.spec.map(|spec| DeploymentSpec { replicas, ..spec });
    Some(repaired)
}

fn progress_deadline(annotations: &BTreeMap<String, String>) -> i32 {
    let text = annotations.get(PROGRESS_DEADLINE).or_else(|| annotations.get(PROGRESS_DEADLINE_ALIAS));
    let seconds = text
        .and_then(|text| dormouse_api::autoscaling::parse_duration(text))
        .map_or(PROGRESS_DEADLINE_SECONDS, |nanoseconds| nanoseconds / 1_000_000_000);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

fn labels(revision: &Revision) -> BTreeMap<String, String> {
    let name = revision.metadata.name.clone().unwrap_or_default();
    let mut labels = revision.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| ![ROUTE_LABEL, ROUTING_STATE].contains(&key.as_str()));
    labels.insert(REVISION_LABEL.to_owned(), name.clone());
    labels.insert(REVISION_UID_LABEL.to_owned(), revision.metadata.uid.clone().unwrap_or_default());
    labels.entry("app".to_owned()).or_insert(name);
    labels
}

fn pod_annotations(revision: &Revision) -> BTreeMap<String, String> {
    let mut annotations = revision.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| {
        !key.starts_with(AUTOSCALING_PREFIX)
            && ![LAST_PINNED, NO_GC, ROUTES, ROUTING_STATE_MODIFIED].contains(&key.as_str())
    });
    annotations
}

fn template(revision: &Revision) -> PodTemplateSpec {
    let mut annotations = pod_annotations(revision);
    let mut pod: PodSpec = revision.spec.pod.clone();
    let timeout = revision.spec.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
    pod.termination_grace_period_seconds = Some(timeout);
    let status = revision.status.as_ref();
    let digests = status.map(|status| status.container_statuses.as_slice()).unwrap_or_default();
    let init_digests = status.map(|status| status.init_container_statuses.as_slice()).unwrap_or_default();
    let serving = serving_index(&pod.containers);
    for (index, container) in pod.containers.iter_mut().enumerate() {
        pin(container, digests);
        if index == serving {
            serving_container(revision, container);
            annotations.insert(DEFAULT_CONTAINER.to_owned(), container.name.clone());
        } else {
            environment(revision, container);
        }
    }
    for container in pod.init_containers.iter_mut().flatten() {
        pin(container, init_digests);
        environment(revision, container);
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(revision)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(pod),
    }
}

/// The container that requests go to: the one with a port, else the only one.
pub(crate) fn serving_index(containers: &[Container]) -> usize {
    let has_port = |container: &Container| container.ports.as_ref().is_some_and(|ports| !ports.is_empty());
    containers.iter().position(has_port).unwrap_or(0)
}

/// The image as a digest, where it is known.
fn pin(container: &mut Container, digests: &[ContainerStatus]) {
    let digest = digests.iter().find(|status| status.name == container.name);
    if let Some(digest) = digest.filter(|status| !status.image_digest.is_empty()) {
        container.image = Some(digest.image_digest.clone());
    }
}

/// The port and the environment that the runtime contract promises.
fn serving_container(revision: &Revision, container: &mut Container) {
    let given = container.ports.as_ref().and_then(|ports| ports.first()).cloned();
    let port =
        given.as_ref().map(|port| port.container_port).filter(|port| *port != 0).unwrap_or(DEFAULT_USER_PORT);
    container.ports = Some(vec![ContainerPort {
        name: Some(USER_PORT_NAME.to_owned()),
        container_port: port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }]);
    container.env.get_or_insert_default().push(variable("PORT", port.to_string()));
    environment(revision, container);
}

fn variable(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), value_from: None }
}

/// What every container is told of where it belongs.
fn environment(revision: &Revision, container: &mut Container) {
    let label = |key: &str| revision.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let environment = container.env.get_or_insert_default();
    let promised = [
        ("K_REVISION", revision.metadata.name.clone()),
        ("K_CONFIGURATION", label(CONFIGURATION_LABEL)),
        ("K_SERVICE", label(SERVICE_LABEL)),
    ];
    for (name, value) in promised {
        environment.push(variable(name, value.unwrap_or_default()));
    }
    if container.termination_message_policy.is_none() {
        container.termination_message_policy = Some("FallbackToLogsOnError".to_owned());
    }
}

/// FNV-1a, 32 bit, of the template in JSON, in base 36: a label that changes when the template does.
fn hash(template: &PodTemplateSpec) -> String {
    let text = serde_json::to_vec(template).unwrap_or_default();
    let sum =
        text.iter().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let mut digits = Vec::new();
    let mut rest = sum;
    while rest > 0 {
        digits.push(char::from_digit(rest % 36, 36).unwrap_or('0'));
        rest /= 36;
    }
    digits.iter().rev().collect()
}

/// The PodAutoscaler of `revision`.
pub(crate) fn autoscaler(revision: &Revision, reachability: Reachability) -> PodAutoscaler {
    let annotations = revision.metadata.annotations.clone().unwrap_or_default();
    let annotations = annotations
        .into_iter()
        .filter(|(key, _)| ![ROUTES, ROUTING_STATE_MODIFIED, NO_GC, LAST_PINNED].contains(&key.as_str()))
        .collect();
    let h2c = revision
        .spec
        .pod
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .any(|port| port.name.as_deref() == Some("h2c"));
    PodAutoscaler {
        metadata: ObjectMeta {
            name: revision.metadata.name.clone(),
            namespace: revision.metadata.namespace.clone(),
            labels: Some(labels(revision)),
            annotations: Some(annotations),
            owner_references: Some(owner(revision)),
            ..ObjectMeta::default()
        },
        spec: PodAutoscalerSpec {
            container_concurrency: revision.spec.container_concurrency,
            scale_target_ref: ObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: Some("Deployment".to_owned()),
                name: Some(deployment_name(revision)),
                ..ObjectReference::default()
            },
            reachability: (reachability != Reachability::Unknown).then_some(reachability),
            protocol_type: if h2c { "h2c" } else { "http1" }.to_owned(),
        },
        status: None,
    }
}
