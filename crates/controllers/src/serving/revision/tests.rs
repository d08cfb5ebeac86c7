use dormouse_api::autoscaling::{PodAutoscaler, PodAutoscalerStatus, Reachability};
use dormouse_api::serving::revision::Revision;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::children;
use super::plan::{self, Observed};
use crate::serving::resolve::ResolveError;

fn revision() -> Revision {
    serde_json::from_value(json!({
        "metadata": {"name": "hello-00001", "namespace": "default", "uid": "r1", "generation": 1,
            "labels": {"serving.knative.dev/configuration": "hello", "serving.knative.dev/service": "hello",
                       "serving.knative.dev/routingState": "active"},
            "annotations": {"autoscaling.knative.dev/initial-scale": "2", "serving.knative.dev/routes": "hello",
                            "team": "a"}},
        "spec": {"timeoutSeconds": 30, "containerConcurrency": 1, "containers": [{"name": "user-container", "image": "x:v1"}]},
        "status": {"containerStatuses": [{"name": "user-container", "imageDigest": "x@sha256:abc"}]}
    }))
    .unwrap()
}

fn deployment(status: Value) -> Deployment {
    let mut deployment = children::deployment(&revision(), 1);
    deployment.status = serde_json::from_value(status).unwrap();
    deployment
}

fn autoscaler(initialized: bool) -> PodAutoscaler {
    let mut autoscaler = children::autoscaler(&revision(), Reachability::Reachable);
    let mut status =
        PodAutoscalerStatus { desired_scale: Some(1), actual_scale: Some(0), ..Default::default() };
    let mut conditions = status.manage(Timestamp::UNIX_EPOCH);
    conditions.initialize();
    if initialized {
        conditions.mark_true("ScaleTargetInitialized");
    }
    conditions.mark_false("Active", "NoTraffic", "The target is not receiving traffic.");
    autoscaler.status = Some(status);
    autoscaler
}

fn judge(deployment: Value, initialized: bool, pod: Option<Value>) -> Revision {
    let mut revision = revision();
    plan::begin(&mut revision, Timestamp::UNIX_EPOCH);
    let deployment = self::deployment(deployment);
    let autoscaler = autoscaler(initialized);
    let pod: Option<Pod> = pod.map(|pod| serde_json::from_value(pod).unwrap());
    let observed =
        Observed { deployment: Some(&deployment), autoscaler: Some(&autoscaler), pod: pod.as_ref() };
    plan::status(&mut revision, &observed, Timestamp::UNIX_EPOCH);
    revision
}

fn told(revision: &Revision, type_: &str) -> (String, String, String) {
    let condition = revision.status.as_ref().unwrap().condition(type_).unwrap().clone();
    (condition.status.clone(), condition.reason().to_owned(), condition.message().to_owned())
}

#[test]
fn the_deployment_runs_the_digest_with_the_promised_environment() {
    let deployment = children::deployment(&revision(), 1);
    assert_eq!(deployment.metadata.name.as_deref(), Some("hello-00001-deployment"));
    let spec = deployment.spec.unwrap();
    assert_eq!((spec.replicas, spec.progress_deadline_seconds), (Some(2), Some(600)));
    let meta = spec.template.metadata.unwrap();
    let labels = meta.labels.unwrap();
    assert_eq!(labels["serving.knative.dev/revision"], "hello-00001");
    assert_eq!(labels["app"], "hello-00001");
    assert!(!labels.contains_key("serving.knative.dev/routingState"));
    let annotations = meta.annotations.unwrap();
    assert_eq!(annotations["team"], "a");
    assert_eq!(annotations["kubectl.kubernetes.io/default-container"], "user-container");
    assert!(!annotations.keys().any(|key| key.starts_with("autoscaling.") || key.ends_with("/routes")));
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.termination_grace_period_seconds, Some(30));
    let container = &pod.containers[0];
    assert_eq!(container.image.as_deref(), Some("x@sha256:abc"));
    let port = &container.ports.as_ref().unwrap()[0];
    assert_eq!((port.name.as_deref(), port.container_port), (Some("user-port"), 8080));
    let environment: Vec<(String, String)> = container
        .env
        .iter()
        .flatten()
        .map(|variable| (variable.name.clone(), variable.value.clone().unwrap()))
        .collect();
    for (name, value) in [
        ("PORT", "8080"),
        ("K_REVISION", "hello-00001"),
        ("K_CONFIGURATION", "hello"),
        ("K_SERVICE", "hello"),
    ] {
        assert!(environment.contains(&(name.to_owned(), value.to_owned())), "{environment:?}");
    }
}

#[test]
fn only_a_changed_template_is_repaired_and_replicas_stay() {
    let mut existing = children::deployment(&revision(), 1);
    existing.spec.as_mut().unwrap().replicas = Some(7);
    assert!(children::repair(&existing, &revision()).is_none());
    existing
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("serving.knative.dev/deployment-hash".into(), "old".into());
    let repaired = children::repair(&existing, &revision()).unwrap();
    assert_eq!(repaired.spec.unwrap().replicas, Some(7));
}

#[test]
fn a_ready_replica_makes_it_ready() {
    let revision = judge(json!({"readyReplicas": 1, "availableReplicas": 1}), true, None);
    assert!(revision.is_ready());
    assert_eq!(
        told(&revision, "Active"),
        ("False".into(), "NoTraffic".into(), "The target is not receiving traffic.".into())
    );
}

#[test]
fn ready_stays_true_at_zero_once_initialized() {
    assert!(judge(json!({}), true, None).is_ready());
    assert_eq!(told(&judge(json!({}), false, None), "Ready").1, "Deploying");
}

#[test]
fn an_exit_code_is_told_with_its_message() {
    let pod = json!({"status": {"containerStatuses": [{"name": "user-container", "image": "x", "imageID": "",
        "ready": false, "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 5, "message": "boom"}}}]}});
    let revision = judge(json!({}), false, Some(pod));
    assert!(revision.is_failed());
    assert_eq!(
        told(&revision, "ContainerHealthy"),
        ("False".into(), "ExitCode5".into(), "Container failed with: boom".into())
    );
}

#[test]
fn a_component_that_can_never_run_is_told_at_once() {
    let waiting = |reason: &str| {
        json!({"status": {"containerStatuses": [{"name": "c", "image": "x", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "it imports x"}}}]}})
    };
    let revision = judge(json!({}), false, Some(waiting("ImportNotGranted")));
    assert_eq!(
        told(&revision, "ContainerHealthy"),
        ("False".into(), "ImportNotGranted".into(), "it imports x".into())
    );
    assert!(revision.is_failed());
    assert!(!judge(json!({}), false, Some(waiting("ImagePullBackOff"))).is_failed(), "it may still come");
}

#[test]
fn a_missed_deadline_shows_what_the_container_waits_for() {
    let late = json!({"conditions": [{"type": "Progressing", "status": "False",
        "reason": "ProgressDeadlineExceeded", "message": "too slow"}]});
    let revision = judge(late.clone(), false, None);
    assert_eq!(
        told(&revision, "ResourcesAvailable"),
        (
            "False".into(),
            "ProgressDeadlineExceeded".into(),
            "too slow Nothing answered the container's readiness probe on port 8080.".into()
        )
    );
    let pod = json!({"status": {"containerStatuses": [{"name": "c", "image": "x", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}]}});
    assert_eq!(told(&judge(late, false, Some(pod)), "ResourcesAvailable").1, "ImagePullBackOff");
}

#[test]
fn a_missing_image_is_told_as_upstream_does() {
    let mut revision = revision();
    plan::begin(&mut revision, Timestamp::UNIX_EPOCH);
    let error = ResolveError { message: "not found".into(), transient: false };
    plan::container_missing(&mut revision, &("x:v1".into(), error), Timestamp::UNIX_EPOCH);
    assert_eq!(
        told(&revision, "Ready"),
        (
            "False".into(),
            "ContainerMissing".into(),
            "Unable to fetch image \"x:v1\": failed to resolve image to digest: not found".into()
        )
    );
}

#[test]
fn reachability_follows_the_routing_state() {
    let deployment = deployment(json!({"readyReplicas": 1}));
    let mut revision = revision();
    assert_eq!(plan::reachability(&revision, &deployment), Reachability::Reachable);
    let labels = revision.metadata.labels.as_mut().unwrap();
    labels.insert("serving.knative.dev/routingState".into(), "reserve".into());
    assert_eq!(plan::reachability(&revision, &deployment), Reachability::Unreachable);
    revision.metadata.labels.as_mut().unwrap().remove("serving.knative.dev/routingState");
    assert_eq!(plan::reachability(&revision, &deployment), Reachability::Unknown);
}
