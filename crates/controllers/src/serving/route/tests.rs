use dormouse_api::networking::Visibility;
use dormouse_api::serving::configuration::Configuration;
use dormouse_api::serving::revision::Revision;
use dormouse_api::serving::route::{Route, RouteStatus};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::children;
use super::plan::{self, Known, Outcome, Target};
use crate::serving::Domain;
use crate::serving::naming::Naming;

fn naming() -> Naming {
    Naming::new(Domain { suffix: "localhost".into(), port: Some(8080) })
}

fn route(traffic: Value) -> Route {
    serde_json::from_value(json!({
        "metadata": {"name": "hello", "namespace": "default", "uid": "t1", "generation": 1,
            "labels": {"serving.knative.dev/service": "hello"}},
        "spec": {"traffic": traffic}
    }))
    .unwrap()
}

fn revision(name: &str, service: &str, ready: &str) -> Revision {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "generation": 1,
            "labels": {"serving.knative.dev/service": service}},
        "spec": {"containers": [{"image": "x"}]},
        "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": ready}]}
    }))
    .unwrap()
}

fn configuration(latest: Option<&str>, ready: &str) -> Configuration {
    serde_json::from_value(json!({
        "metadata": {"name": "hello", "namespace": "default", "generation": 1},
        "spec": {},
        "status": {"observedGeneration": 1, "latestReadyRevisionName": latest,
            "conditions": [{"type": "Ready", "status": ready}]}
    }))
    .unwrap()
}

fn known() -> Known {
    let mut known = Known::default();
    known.configurations.insert("hello".into(), configuration(Some("hello-00002"), "True"));
    for name in ["hello-00001", "hello-00002"] {
        known.revisions.insert(name.into(), revision(name, "hello", "True"));
    }
    known
}

fn assign(traffic: Value, known: &Known) -> (Outcome, RouteStatus) {
    let mut status = RouteStatus::default();
    let (naming, route) = (naming(), route(traffic));
    let names = naming.of(&route, Default::default());
    let outcome = plan::traffic(&route, known, &names, &mut status, Timestamp::UNIX_EPOCH);
    (outcome, status)
}

fn check_problem(traffic: Value, known: &Known, expected: (&str, &str, &str)) {
    let (outcome, status) = assign(traffic, known);
    assert_eq!(outcome, Outcome::Waiting);
    let condition = status.condition("AllTrafficAssigned").unwrap();
    assert_eq!((condition.status.as_str(), condition.reason(), condition.message()), expected);
}

#[test]
fn latest_and_named_targets_resolve_and_tags_get_urls() {
    let traffic = json!([
        {"configurationName": "hello", "latestRevision": true, "percent": 80},
        {"revisionName": "hello-00001", "percent": 20, "tag": "old"}
    ]);
    let (outcome, status) = assign(traffic, &known());
    let Outcome::Assigned(targets) = outcome else { panic!("{status:?}") };
    let shares: Vec<(&str, i64)> =
        targets.iter().map(|target| (target.revision.as_str(), target.percent)).collect();
    assert_eq!(shares, [("hello-00002", 80), ("hello-00001", 20)]);
    assert_eq!(status.url.as_deref(), Some("http://hello.default.localhost:8080"));
    assert_eq!(status.traffic[0].latest_revision, Some(true));
    assert_eq!(status.traffic[1].url.as_deref(), Some("http://old-hello.default.localhost:8080"));
}

#[test]
fn problems_are_told_in_upstreams_words() {
    let latest = json!([{"configurationName": "hello", "percent": 100}]);
    let mut waiting = Known::default();
    check_problem(
        latest.clone(),
        &waiting,
        ("False", "ConfigurationMissing", "Configuration \"hello\" referenced in traffic not found."),
    );
    waiting.configurations.insert("hello".into(), configuration(None, "Unknown"));
    check_problem(
        latest.clone(),
        &waiting,
        ("Unknown", "RevisionMissing", "Configuration \"hello\" is waiting for a Revision to become ready."),
    );
    waiting.configurations.insert("hello".into(), configuration(None, "False"));
    check_problem(
        latest,
        &waiting,
        ("False", "RevisionMissing", "Configuration \"hello\" does not have any ready Revision."),
    );
    let named = json!([{"revisionName": "other-00001", "percent": 100}]);
    check_problem(
        named.clone(),
        &known(),
        ("False", "RevisionMissing", "Revision \"other-00001\" referenced in traffic not found."),
    );
    let mut foreign = known();
    foreign.revisions.insert("other-00001".into(), revision("other-00001", "other", "True"));
    check_problem(
        named,
        &foreign,
        (
            "False",
            "RevisionNotOwned",
            "Revision \"other-00001\" belongs to Service \"other\", not Service \"hello\".",
        ),
    );
}

fn target(tag: &str, revision: &str, percent: i64) -> Target {
    Target { tag: tag.into(), revision: revision.into(), percent, h2c: false }
}

#[test]
fn the_ingress_has_a_private_and_a_public_rule_for_each_host() {
    let targets = [target("", "hello-00002", 100), target("old", "hello-00001", 0)];
    let (naming, route) = (naming(), route(json!([])));
    let names = naming.of(&route, Default::default());
    let ingress = children::ingress(&route, &targets, &names);
    let rules: Vec<(Visibility, &str)> =
        ingress.spec.rules.iter().map(|rule| (rule.visibility, rule.hosts[0].as_str())).collect();
    assert_eq!(
        rules,
        [
            (Visibility::ClusterLocal, "hello.default"),
            (Visibility::ExternalIP, "hello.default.localhost"),
            (Visibility::ClusterLocal, "old-hello.default"),
            (Visibility::ExternalIP, "old-hello.default.localhost"),
        ]
    );
    let default = &ingress.spec.rules[1].http.as_ref().unwrap().paths[0].splits;
    assert_eq!(
        (default.len(), default[0].service_name.as_str(), default[0].percent),
        (1, "hello-00002", Some(100))
    );
    assert_eq!(default[0].append_headers["Knative-Serving-Revision"], "hello-00002");
    let tagged = &ingress.spec.rules[3].http.as_ref().unwrap().paths[0].splits;
    assert_eq!((tagged[0].service_name.as_str(), tagged[0].percent), ("hello-00001", Some(100)));
    let services: Vec<String> = children::placeholders(&route, &targets, &names)
        .into_iter()
        .filter_map(|service| service.metadata.name)
        .collect();
    assert_eq!(services, ["hello", "old-hello"]);
}

#[test]
fn a_private_route_has_no_public_rule_or_url() {
    let mut private = route(json!([{"revisionName": "hello-00001", "percent": 100}]));
    let labels = private.metadata.labels.as_mut().unwrap();
    labels.insert("networking.knative.dev/visibility".into(), "cluster-local".into());
    let mut status = RouteStatus::default();
    let naming = naming();
    let names = naming.of(&private, Default::default());
    plan::traffic(&private, &known(), &names, &mut status, Timestamp::UNIX_EPOCH);
    assert_eq!(status.url.as_deref(), Some("http://hello.default.svc.cluster.local"));
    let ingress = children::ingress(&private, &[], &names);
    assert!(ingress.spec.rules.iter().all(|rule| rule.visibility == Visibility::ClusterLocal));
}

#[test]
fn a_private_tag_has_no_public_rule_and_others_keep_theirs() {
    let (naming, route) = (naming(), route(json!([])));
    let names = naming.of(&route, ["old".to_owned()].into());
    let targets = [target("", "hello-00002", 100), target("old", "hello-00001", 0)];
    let ingress = children::ingress(&route, &targets, &names);
    let public: Vec<&str> = ingress
        .spec
        .rules
        .iter()
        .filter(|rule| rule.visibility == Visibility::ExternalIP)
        .map(|rule| rule.hosts[0].as_str())
        .collect();
    assert_eq!(public, ["hello.default.localhost"]);
    assert_eq!(names.url("old"), "http://old-hello.default.svc.cluster.local");
}
