use dormouse_api::serving::configuration::{Configuration, ConfigurationStatus};
use dormouse_api::serving::route::{Route, RouteStatus, TrafficTarget};
use dormouse_api::serving::service::{Service, ServiceStatus};
use jiff::Timestamp;
use serde_json::json;

use super::children;
use super::plan::{Child, Observed, must_wait_for_configuration, status};

fn service() -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "hello", "namespace": "default", "uid": "u1", "generation": 1,
            "labels": {"team": "a"},
            "annotations": {"serving.knative.dev/creator": "me", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "spec": {"template": {"spec": {"containers": [{"image": "x"}]}},
                 "traffic": [{"latestRevision": true, "percent": 100}]}
    }))
    .unwrap()
}

fn configuration(ready: &str) -> Configuration {
    let mut configuration = children::configuration(&service(), None);
    configuration.metadata.generation = Some(1);
    let mut status = ConfigurationStatus {
        observed_generation: Some(1),
        latest_created_revision_name: Some("hello-00001".into()),
        latest_ready_revision_name: (ready == "True").then(|| "hello-00001".into()),
        ..ConfigurationStatus::default()
    };
    status.manage(Timestamp::UNIX_EPOCH).mark("Ready", ready, "Reason", "message");
    configuration.status = Some(status);
    configuration
}

fn route(served: &str) -> Route {
    let mut route = children::route(&service(), None);
    route.metadata.generation = Some(1);
    let target = TrafficTarget {
        revision_name: Some(served.into()),
        latest_revision: Some(true),
        percent: Some(100),
        ..TrafficTarget::default()
    };
    let mut status = RouteStatus {
        observed_generation: Some(1),
        url: Some("http://hello.default.localhost".into()),
        traffic: vec![target],
        ..RouteStatus::default()
    };
    let mut conditions = status.manage(Timestamp::UNIX_EPOCH);
    conditions.initialize();
    for condition in ["AllTrafficAssigned", "IngressReady", "CertificateProvisioned"] {
        conditions.mark_true(condition);
    }
    route.status = Some(status);
    route
}

fn ready(configuration: Child<Configuration>, route: Child<Route>, taken: Option<&str>) -> [String; 3] {
    let mut next = ServiceStatus::default();
    let observed = Observed {
        configuration: &configuration,
        route: &route,
        revision_name_taken: taken.map(str::to_owned),
    };
    status(&service(), &observed, &mut next, Timestamp::UNIX_EPOCH);
    let ready = next.condition("Ready").unwrap();
    [ready.status.clone(), ready.reason().to_owned(), ready.message().to_owned()]
}

#[test]
fn ready_when_the_configuration_is_and_the_route_serves_its_latest() {
    assert_eq!(
        ready(Child::Owned(configuration("True")), Child::Owned(route("hello-00001")), None)[0],
        "True"
    );
}

#[test]
fn a_route_that_still_serves_another_revision_is_not_migrated() {
    let [status, reason, _] =
        ready(Child::Owned(configuration("True")), Child::Owned(route("hello-00000")), None);
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "TrafficNotMigrated"));
}

#[test]
fn a_failed_configuration_gives_its_reason_and_message() {
    let [status, reason, message] =
        ready(Child::Owned(configuration("False")), Child::Owned(route("hello-00001")), None);
    assert_eq!((status.as_str(), reason.as_str(), message.as_str()), ("False", "Reason", "message"));
}

#[test]
fn a_foreign_configuration_is_told() {
    let [status, reason, message] = ready(Child::NotOwned, Child::Waiting, None);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NotOwned"));
    assert_eq!(message, "There is an existing Configuration \"hello\" that we do not own.");
}

#[test]
fn a_taken_revision_name_stops_the_traffic() {
    let [status, reason, _] = ready(Child::Owned(configuration("True")), Child::Waiting, Some("hello-x"));
    assert_eq!((status.as_str(), reason.as_str()), ("False", "RevisionNameTaken"));
}

#[test]
fn children_carry_labels_owner_and_no_last_applied() {
    let configuration = children::configuration(&service(), None);
    let labels = configuration.metadata.labels.unwrap();
    assert_eq!(labels["serving.knative.dev/service"], "hello");
    assert_eq!(labels["serving.knative.dev/serviceUID"], "u1");
    assert_eq!(labels["team"], "a");
    let annotations = configuration.metadata.annotations.unwrap();
    assert_eq!(annotations.keys().collect::<Vec<_>>(), ["serving.knative.dev/creator"]);
    let owners = configuration.metadata.owner_references.unwrap();
    assert_eq!((owners[0].controller, owners[0].block_owner_deletion), (Some(true), Some(true)));
    let route = children::route(&service(), None);
    assert_eq!(route.spec.traffic[0].configuration_name.as_deref(), Some("hello"));
}

#[test]
fn a_named_revision_waits_until_the_configuration_saw_its_generation() {
    let mut named = service();
    named.spec.template.metadata.get_or_insert_default().name = Some("hello-blue".into());
    let mut fresh = configuration("Unknown");
    fresh.metadata.generation = Some(2);
    assert!(must_wait_for_configuration(&named, &Child::Owned(fresh)));
    assert!(!must_wait_for_configuration(&named, &Child::Owned(configuration("True"))));
    assert!(!must_wait_for_configuration(&service(), &Child::Owned(configuration("Unknown"))));
}
