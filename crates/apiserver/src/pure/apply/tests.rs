use dormouse_api::kind::by_kind;
use proptest::prelude::*;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: None, now: now() }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data})
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": spec})
}

fn pod(spec: Value) -> Value {
    json!({"spec": {"template": {"spec": spec}}})
}

fn run(live: Option<&Value>, body: &Value, manager: &str, force: bool) -> Result<Value, Status> {
    let kind = by_kind(
        text(body, "/apiVersion").split_once('/').map_or("", |(group, _)| group),
        text(body, "/kind"),
    );
    apply(kind.unwrap(), live, body, &writer(manager), force)
}

fn owners(object: &Value, manager: &str) -> Value {
    let list = object["metadata"]["managedFields"].as_array().unwrap();
    list.iter()
        .find(|entry| entry["manager"] == manager)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn the_first_apply_creates_and_owns_what_it_says() {
    let created = run(None, &config_map(json!({"a": "1"})), "m", false).unwrap();
    assert_eq!(created["data"], json!({"a": "1"}));
    assert_eq!(owners(&created, "m"), json!({"f:data": {"f:a": {}}}));
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!((&entry["operation"], &entry["fieldsType"]), (&json!("Apply"), &json!("FieldsV1")));
    assert_eq!(entry["time"], "2026-01-01T00:00:00Z");
}

#[test]
fn applying_the_same_again_answers_the_live_object() {
    let body = deployment(json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}}));
    let created = run(None, &body, "m", false).unwrap();
    let later = Writer { now: "2027-01-01T00:00:00Z".parse().unwrap(), ..writer("m") };
    let kind = by_kind("apps", "Deployment").unwrap();
    assert_eq!(apply(kind, Some(&created), &body, &later, false).unwrap(), created);
}

#[test]
fn another_managers_field_is_a_conflict_unless_forced_or_equal() {
    let live = run(None, &config_map(json!({"a": "1", "b": "2"})), "m", false).unwrap();
    let error = run(Some(&live), &config_map(json!({"a": "9"})), "n", false).unwrap_err();
    assert_eq!(error.code(), 409);
    assert_eq!(error.message(), "Apply failed with 1 conflict: conflict with \"m\": .data.a");
    assert_eq!(error.json()["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let both = run(Some(&live), &config_map(json!({"a": "9", "b": "9"})), "n", false).unwrap_err();
    assert_eq!(both.message(), "Apply failed with 2 conflicts: conflicts with \"m\":\n- .data.a\n- .data.b");

    let forced = run(Some(&live), &config_map(json!({"a": "9"})), "n", true).unwrap();
    assert_eq!(forced["data"], json!({"a": "9", "b": "2"}));
    assert_eq!(owners(&forced, "m"), json!({"f:data": {"f:b": {}}}));

    let shared = run(Some(&live), &config_map(json!({"a": "1"})), "n", false).unwrap();
    assert_eq!(owners(&shared, "m"), json!({"f:data": {"f:a": {}, "f:b": {}}}));
    assert_eq!(owners(&shared, "n"), json!({"f:data": {"f:a": {}}}));
}

#[test]
fn what_is_left_out_goes_unless_another_owns_it() {
    let live = run(None, &config_map(json!({"a": "1", "b": "2"})), "m", false).unwrap();
    let live = run(Some(&live), &config_map(json!({"b": "2", "c": "3"})), "n", false).unwrap();
    let pruned = run(Some(&live), &config_map(json!({})), "m", false).unwrap();
    assert_eq!(pruned["data"], json!({"b": "2", "c": "3"}));
}

#[test]
fn emptied_containers_vanish() {
    let mut body = config_map(json!({"a": "1"}));
    body["metadata"]["annotations"] = json!({"x": "y"});
    let live = run(None, &body, "m", false).unwrap();
    let pruned = run(Some(&live), &config_map(json!({"a": "1"})), "m", false).unwrap();
    assert!(pruned["metadata"].get("annotations").is_none());
    assert_eq!(pruned["data"], json!({"a": "1"}));
}

#[test]
fn list_items_merge_by_key_and_go_with_their_last_owner() {
    let spec = |containers: Value| {
        let mut body = deployment(json!({}));
        body["spec"] = pod(json!({"containers": containers}))["spec"].clone();
        body
    };
    let live =
        run(None, &spec(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])), "m", false);
    let live = live.unwrap();
    let live =
        run(Some(&live), &spec(json!([{"name": "b", "tty": true}, {"name": "c"}])), "n", false).unwrap();
    let containers = |object: &Value| object["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(
        containers(&live),
        json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1", "tty": true}, {"name": "c"}])
    );
    // `m` drops both: `a` goes, `b` stays with what `n` owns.
    let pruned = run(Some(&live), &spec(json!([])), "m", false).unwrap();
    assert_eq!(containers(&pruned), json!([{"name": "b", "tty": true}, {"name": "c"}]));
}

#[test]
fn ports_are_keyed_with_their_default_protocol() {
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": ports}});
    let live = run(None, &service(json!([{"port": 80, "protocol": "TCP"}])), "m", false).unwrap();
    let live = run(Some(&live), &service(json!([{"port": 80, "name": "http"}])), "n", false).unwrap();
    assert_eq!(live["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "name": "http"}]));
    let owned = owners(&live, "n");
    assert!(owned["f:spec"]["f:ports"][r#"k:{"port":80,"protocol":"TCP"}"#].is_object(), "{owned}");
}

#[test]
fn atomic_parts_have_one_owner() {
    let body = |labels: Value| deployment(json!({"selector": {"matchLabels": labels}}));
    let live = run(None, &body(json!({"a": "1"})), "m", false).unwrap();
    assert_eq!(owners(&live, "m"), json!({"f:spec": {"f:selector": {}}}));
    let error = run(Some(&live), &body(json!({"a": "1", "b": "2"})), "n", false).unwrap_err();
    assert!(error.message().ends_with(": .spec.selector"));
}

#[test]
fn an_object_never_applied_belongs_to_one_entry_first() {
    let live = config_map(json!({"a": "1"}));
    let error = run(Some(&live), &config_map(json!({"a": "2"})), "m", false).unwrap_err();
    assert_eq!(
        error.message(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1 at 2026-01-01T00:00:00Z: .data.a"
    );
    let result = run(Some(&live), &config_map(json!({"b": "2"})), "m", false).unwrap();
    assert_eq!(result["data"], json!({"a": "1", "b": "2"}));
    assert_eq!(owners(&result, BEFORE), json!({"f:data": {"f:a": {}}}));
}

#[test]
fn kubectl_takes_over_what_its_client_side_apply_wrote() {
    let mut live = config_map(json!({"a": "1"}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: config_map(json!({"a": "1"})).to_string()});
    let result = run(Some(&live), &config_map(json!({"a": "2"})), "kubectl", false).unwrap();
    assert_eq!(result["data"]["a"], "2");
    assert_eq!(run(Some(&live), &config_map(json!({"a": "2"})), "other", false).unwrap_err().code(), 409);
}

#[test]
fn wrong_bodies_and_stale_preconditions_are_refused() {
    let live = run(None, &config_map(json!({})), "m", false).unwrap();
    let kind = by_kind("", "ConfigMap").unwrap();
    let code =
        |live: Option<&Value>, body: Value| apply(kind, live, &body, &writer("m"), false).unwrap_err().code();
    assert_eq!(code(None, json!({"kind": "ConfigMap"})), 400);
    let with = |name: &str, value: Value| {
        let mut body = config_map(json!({}));
        body["metadata"][name] = value;
        body
    };
    assert_eq!(code(None, with("managedFields", json!([]))), 400);
    assert_eq!(code(Some(&live), with("uid", json!("u"))), 409);
    assert_eq!(code(Some(&live), with("resourceVersion", json!("7"))), 409);
}

#[test]
fn a_main_apply_leaves_the_status_alone() {
    let mut body = deployment(json!({"replicas": 1}));
    body["status"] = json!({"replicas": 9});
    let created = run(None, &body, "m", false).unwrap();
    assert!(created.get("status").is_none());
}

#[test]
fn an_update_takes_over_what_it_changes() {
    let kind = by_kind("", "ConfigMap").unwrap();
    let live = run(None, &config_map(json!({"a": "1", "b": "2", "c": "3"})), "m", false).unwrap();
    let mut new = live.clone();
    new["data"] = json!({"a": "9", "b": "2", "d": "4"});
    let tracked = track_update(kind, &live, new, &writer("kubectl-edit"));
    assert_eq!(owners(&tracked, "m"), json!({"f:data": {"f:b": {}}}));
    assert_eq!(owners(&tracked, "kubectl-edit"), json!({"f:data": {"f:a": {}, "f:d": {}}}));
}

#[test]
fn an_update_without_change_keeps_the_entries() {
    let kind = by_kind("", "ConfigMap").unwrap();
    let live = run(None, &config_map(json!({"a": "1"})), "m", false).unwrap();
    assert_eq!(track_update(kind, &live, live.clone(), &writer("n")), live);
    let mut without = live.clone();
    without["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(track_update(kind, &live, without, &writer("n")), live);
}

#[test]
fn objects_never_applied_stay_untracked_and_empty_fields_end_tracking() {
    let kind = by_kind("", "ConfigMap").unwrap();
    let (old, new) = (config_map(json!({"a": "1"})), config_map(json!({"a": "2"})));
    assert_eq!(track_update(kind, &old, new.clone(), &writer("m")), new);
    let live = run(None, &old, "m", false).unwrap();
    let mut reset = new;
    reset["metadata"]["managedFields"] = json!([{}]);
    let result = track_update(kind, &live, reset, &writer("m"));
    assert!(result["metadata"].get("managedFields").is_none());
}

#[test]
fn many_updaters_are_folded() {
    let kind = by_kind("", "ConfigMap").unwrap();
    let mut live = run(None, &config_map(json!({"a": "1"})), "m", false).unwrap();
    for number in 0..20 {
        let mut new = live.clone();
        new["data"][format!("k{number}")] = json!("v");
        live = track_update(kind, &live, new, &writer(&format!("client-{number}")));
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), UPDATES_MAX + 1);
    assert!(entries.iter().any(|entry| entry["manager"] == ANCIENT));
}

fn data() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", "[xy]", 0..4).prop_map(|map| json!(map))
}

proptest! {
    #[test]
    fn forced_apply_is_idempotent_and_contains_the_body(first in data(), second in data(), third in data()) {
        let live = run(None, &config_map(first), "m", false).unwrap();
        let live = run(Some(&live), &config_map(second), "n", true).unwrap();
        let once = run(Some(&live), &config_map(third.clone()), "m", true).unwrap();
        prop_assert_eq!(&run(Some(&once), &config_map(third.clone()), "m", true).unwrap(), &once);
        for (key, value) in third.as_object().unwrap() {
            prop_assert_eq!(&once["data"][key], value);
        }
    }

    #[test]
    fn what_two_appliers_leave_is_what_one_of_them_says(first in data(), second in data()) {
        let live = run(None, &config_map(first.clone()), "m", false).unwrap();
        let live = run(Some(&live), &config_map(second.clone()), "n", true).unwrap();
        let rest = run(Some(&live), &config_map(json!({})), "m", true).unwrap();
        let empty = json!({});
        prop_assert_eq!(rest.get("data").unwrap_or(&empty), &second);
    }

    #[test]
    fn a_field_set_survives_its_encoding(value in data()) {
        let set = owned(&config_map(value), root(by_kind("", "ConfigMap").unwrap()));
        prop_assert_eq!(Set::decode(&set.encode()), set);
    }
}
