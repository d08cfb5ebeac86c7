use dormouse_api::serving::configuration::{Configuration, ConfigurationStatus};
use dormouse_api::serving::revision::{Revision, RevisionStatus};
use jiff::Timestamp;
use serde_json::json;

use super::plan::{self, Latest};

fn configuration(generation: i64) -> Configuration {
    serde_json::from_value(json!({
        "metadata": {"name": "hello", "namespace": "default", "uid": "c1", "generation": generation,
            "labels": {"serving.knative.dev/service": "hello", "serving.knative.dev/serviceUID": "s1"},
            "annotations": {"serving.knative.dev/lastModifier": "me"}},
        "spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}
    }))
    .unwrap()
}

fn revision(generation: i64, ready: &str) -> Revision {
    let mut revision = plan::revision(&configuration(generation), Timestamp::UNIX_EPOCH);
    revision.metadata.generation = Some(1);
    let mut status = RevisionStatus { observed_generation: Some(1), ..RevisionStatus::default() };
    let mut conditions = status.manage(Timestamp::UNIX_EPOCH);
    conditions.initialize();
    for dependent in ["ResourcesAvailable", "ContainerHealthy"] {
        conditions.mark(dependent, ready, "Broken", "it broke");
    }
    revision.status = Some(status);
    revision
}

fn status_of(generation: i64, revisions: &[Revision], before: Option<&str>) -> ConfigurationStatus {
    let mut status = ConfigurationStatus {
        latest_ready_revision_name: before.map(str::to_owned),
        ..ConfigurationStatus::default()
    };
    let configuration = configuration(generation);
    let latest = plan::find_generation(&configuration, revisions).unwrap().clone();
    plan::status(
        &configuration,
        &Latest::Created(Box::new(latest)),
        revisions,
        &mut status,
        Timestamp::UNIX_EPOCH,
    );
    status
}

#[test]
fn a_revision_is_named_by_generation_and_labelled_by_its_origin() {
    let revision = plan::revision(&configuration(3), Timestamp::UNIX_EPOCH);
    assert_eq!(revision.metadata.name.as_deref(), Some("hello-00003"));
    let labels = revision.metadata.labels.unwrap();
    assert_eq!(labels["serving.knative.dev/configuration"], "hello");
    assert_eq!(labels["serving.knative.dev/configurationGeneration"], "3");
    assert_eq!(labels["serving.knative.dev/configurationUID"], "c1");
    assert_eq!(labels["serving.knative.dev/serviceUID"], "s1");
    assert_eq!(labels["serving.knative.dev/routingState"], "pending");
    assert_eq!(revision.metadata.annotations.unwrap()["serving.knative.dev/creator"], "me");
}

#[test]
fn a_name_of_the_users_own_is_kept() {
    let mut named = configuration(1);
    named.spec.template.metadata.get_or_insert_default().name = Some("hello-blue".into());
    assert_eq!(plan::revision(&named, Timestamp::UNIX_EPOCH).metadata.name.as_deref(), Some("hello-blue"));
}

#[test]
fn ready_follows_the_newest_ready_revision() {
    let status = status_of(2, &[revision(1, "True"), revision(2, "True")], Some("hello-00001"));
    assert_eq!(status.latest_ready_revision_name.as_deref(), Some("hello-00002"));
    assert!(status.condition("Ready").unwrap().is_true());
}

#[test]
fn a_failed_newest_revision_keeps_the_last_ready_one() {
    let status = status_of(2, &[revision(1, "True"), revision(2, "False")], Some("hello-00001"));
    assert_eq!(status.latest_ready_revision_name.as_deref(), Some("hello-00001"));
    assert_eq!(status.latest_created_revision_name.as_deref(), Some("hello-00002"));
    let ready = status.condition("Ready").unwrap();
    assert_eq!(
        (ready.reason(), ready.message()),
        ("RevisionFailed", "Revision \"hello-00002\" failed with message: it broke.")
    );
}

#[test]
fn latest_ready_never_moves_back() {
    let status = status_of(2, &[revision(1, "True"), revision(2, "Unknown")], Some("hello-00002"));
    assert_eq!(status.latest_ready_revision_name.as_deref(), Some("hello-00002"));
}

#[test]
fn a_creation_that_fails_is_told() {
    let mut status = ConfigurationStatus::default();
    let failed = Latest::Failed("no".into());
    plan::status(&configuration(1), &failed, &[], &mut status, Timestamp::UNIX_EPOCH);
    assert_eq!(status.condition("Ready").unwrap().message(), "Revision creation failed with message: no.");
}
