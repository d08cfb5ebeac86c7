use dormouse_api::kind::by_kind;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn kind(group: &str, kind: &str) -> &'static KindInfo {
    by_kind(group, kind).unwrap()
}

#[track_caller]
fn pod_spec(current: Value, patch: Value, expect: Value) {
    let wrap = |spec: Value| json!({"spec": spec});
    let body = wrap(patch).to_string();
    let result = apply(PatchKind::Strategic, kind("", "Pod"), &wrap(current), body.as_bytes()).unwrap();
    assert_eq!(result, wrap(expect));
}

fn strategic_error(current: Value, patch: Value) -> u16 {
    apply(PatchKind::Strategic, kind("", "Pod"), &current, patch.to_string().as_bytes()).unwrap_err().code()
}

#[test]
fn containers_merge_by_name_and_keep_their_fields() {
    pod_spec(
        json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c", "image": "3"}]}),
        json!({"containers": [
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "1"},
            {"name": "c", "image": "3"},
        ]}),
    );
}

#[test]
fn delete_directive_removes_an_item() {
    pod_spec(
        json!({"containers": [{"name": "a"}, {"name": "x"}]}),
        json!({"containers": [{"name": "x", "$patch": "delete"}]}),
        json!({"containers": [{"name": "a"}]}),
    );
}

#[test]
fn replace_directive_in_a_list_replaces_it() {
    pod_spec(
        json!({"containers": [{"name": "a"}, {"name": "x"}]}),
        json!({"containers": [{"name": "y"}, {"$patch": "replace"}]}),
        json!({"containers": [{"name": "y"}]}),
    );
}

#[test]
fn directives_in_objects_replace_or_empty_them() {
    pod_spec(
        json!({"securityContext": {"runAsUser": 1}, "dnsConfig": {"a": 1}}),
        json!({"securityContext": {"$patch": "replace", "runAsGroup": 2}, "dnsConfig": {"$patch": "delete"}}),
        json!({"securityContext": {"runAsGroup": 2}, "dnsConfig": {}}),
    );
}

#[test]
fn lists_without_a_key_are_replaced() {
    pod_spec(
        json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["1", "2"]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]}),
    );
}

#[test]
fn null_removes_a_field_and_is_dropped_where_nothing_is() {
    pod_spec(
        json!({"nodeName": "n", "containers": [{"name": "a", "image": "1"}]}),
        json!({"nodeName": null, "hostname": null, "securityContext": {"runAsUser": null},
               "containers": [{"name": "a", "image": null}]}),
        json!({"securityContext": {}, "containers": [{"name": "a"}]}),
    );
}

#[test]
fn element_order_moves_known_items_and_keeps_others_in_place() {
    pod_spec(
        json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
               "containers": [{"name": "new"}]}),
        // `server` stood before `b`, the first of the known ones.
        json!({"containers": [{"name": "server"}, {"name": "b"}, {"name": "new"}, {"name": "a"}]}),
    );
}

#[test]
fn kubectl_set_env_touches_one_variable() {
    pod_spec(
        json!({"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]}),
        json!({"$setElementOrder/containers": [{"name": "c"}],
               "containers": [{"$setElementOrder/env": [{"name": "A"}, {"name": "B"}],
                               "env": [{"name": "B", "value": "3"}], "name": "c"}]}),
        json!({"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}]}]}),
    );
}

#[test]
fn scalars_of_a_set_are_united_deleted_and_ordered() {
    let current = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch = |patch: Value| {
        let body = json!({"metadata": patch}).to_string();
        apply(PatchKind::Strategic, kind("", "ConfigMap"), &current, body.as_bytes()).unwrap()
    };
    assert_eq!(
        patch(json!({"finalizers": ["b", "c"]})),
        json!({"metadata": {"finalizers": ["a", "b", "c"]}})
    );
    assert_eq!(
        patch(json!({"$deleteFromPrimitiveList/finalizers": ["a"]})),
        json!({"metadata": {"finalizers": ["b"]}})
    );
    assert_eq!(
        patch(json!({"$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]})),
        json!({"metadata": {"finalizers": ["c", "a", "b"]}})
    );
}

#[test]
fn retained_keys_drop_the_rest_of_a_strategy() {
    let current = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let body = br#"{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#;
    let result = apply(PatchKind::Strategic, kind("apps", "Deployment"), &current, body).unwrap();
    assert_eq!(result, json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn volume_source_is_exchanged_with_retained_keys() {
    pod_spec(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
        json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
    );
}

#[test]
fn wrong_directives_and_missing_keys_are_refused() {
    let containers = json!({"spec": {"containers": [{"name": "a"}]}});
    assert_eq!(strategic_error(containers.clone(), json!({"spec": {"containers": [{"image": "i"}]}})), 422);
    assert_eq!(strategic_error(containers.clone(), json!({"spec": {"$patch": "explode"}})), 400);
    assert_eq!(strategic_error(containers.clone(), json!({"spec": {"$retainKeys": "x"}})), 400);
    assert_eq!(strategic_error(containers, json!([])), 400);
}

#[test]
fn strategic_patch_of_a_custom_kind_is_an_unsupported_media_type() {
    let status =
        apply(PatchKind::Strategic, kind("serving.knative.dev", "Service"), &json!({}), b"{}").unwrap_err();
    assert_eq!(status.code(), 415);
    assert!(!status.message().contains("strategic"));
}

#[test]
fn json_patch_failures_are_unprocessable() {
    let service = kind("serving.knative.dev", "Service");
    let current = json!({"metadata": {"finalizers": ["a"]}});
    let run = |patch: Value| apply(PatchKind::Json, service, &current, patch.to_string().as_bytes());
    let failed = run(json!([{"op": "test", "path": "/metadata/finalizers/0", "value": "b"}])).unwrap_err();
    assert_eq!(failed.code(), 422);
    assert_eq!(run(json!([{"op": "remove", "path": "/metadata/nope"}])).unwrap_err().code(), 422);
    assert_eq!(run(json!([{"op": "add", "path": "/a/b", "value": 1}])).unwrap_err().code(), 422);
    assert_eq!(run(json!({"op": "add"})).unwrap_err().code(), 400);
    assert_eq!(
        run(json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "b"}])).unwrap(),
        json!({"metadata": {"finalizers": ["a", "b"]}})
    );
}

#[test]
fn a_patch_that_leaves_no_object_is_refused() {
    let service = kind("serving.knative.dev", "Service");
    let body = br#"[{"op":"replace","path":"","value":3}]"#;
    assert_eq!(apply(PatchKind::Json, service, &json!({}), body).unwrap_err().code(), 422);
    assert_eq!(apply(PatchKind::Merge, service, &json!({}), b"3").unwrap_err().code(), 400);
}

#[test]
fn merge_patch_deletes_with_null() {
    let result = apply(
        PatchKind::Merge,
        kind("serving.knative.dev", "Service"),
        &json!({"a": {"b": 1, "c": [1]}, "d": 1}),
        br#"{"a":{"b":null,"c":[2]}}"#,
    )
    .unwrap();
    assert_eq!(result, json!({"a": {"c": [2]}, "d": 1}));
}

fn containers() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-D]", "[a-z]{0,2}", 0..4).prop_map(|map| {
        Value::from(
            map.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>(),
        )
    });
    prop::collection::btree_map("[a-d]", ("[x-z]", env), 0..4).prop_map(|map| {
        let list: Vec<Value> = map
            .into_iter()
            .map(|(name, (image, env))| json!({"name": name, "image": image, "env": env}))
            .collect();
        json!({"metadata": {}, "spec": {"containers": list}})
    })
}

proptest! {
    #[test]
    fn an_empty_strategic_patch_changes_nothing(object in containers()) {
        let result = apply(PatchKind::Strategic, kind("", "Pod"), &object, b"{}").unwrap();
        prop_assert_eq!(result, object);
    }

    #[test]
    fn a_strategic_patch_is_idempotent(object in containers(), patch in containers()) {
        let body = patch.to_string();
        let once = apply(PatchKind::Strategic, kind("", "Pod"), &object, body.as_bytes()).unwrap();
        let twice = apply(PatchKind::Strategic, kind("", "Pod"), &once, body.as_bytes()).unwrap();
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn every_item_of_the_patch_is_in_the_result(object in containers(), patch in containers()) {
        let body = patch.to_string();
        let result = apply(PatchKind::Strategic, kind("", "Pod"), &object, body.as_bytes()).unwrap();
        let names = |value: &Value| -> Vec<String> {
            value.pointer("/spec/containers").and_then(Value::as_array).unwrap().iter()
                .map(|item| item["name"].as_str().unwrap().to_owned()).collect()
        };
        let found = names(&result);
        for name in names(&patch).into_iter().chain(names(&object)) {
            prop_assert_eq!(found.iter().filter(|each| **each == name).count(), 1);
        }
    }
}
