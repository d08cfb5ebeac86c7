use dormouse_api::kind::{by_kind, kinds};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn row(group: &str, kind: &str, mut object: Value) -> Vec<Value> {
    let metadata = object.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
    let metadata = metadata.as_object_mut().unwrap();
    metadata.entry("name").or_insert(json!("x"));
    metadata.insert("creationTimestamp".into(), json!("2026-01-01T00:55:00Z"));
    let table =
        table(by_kind(group, kind).unwrap(), &[Arc::new(object)], json!({}), IncludeObject::None, now());
    table["rows"][0]["cells"].as_array().unwrap().clone()
}

#[track_caller]
fn check(group: &str, kind: &str, object: Value, expect: Value) {
    assert_eq!(Value::Array(row(group, kind, object)), expect);
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for kind in kinds() {
        let table = table(kind, &[Arc::new(json!({}))], json!({}), IncludeObject::Metadata, now());
        let columns = table["columnDefinitions"].as_array().unwrap();
        assert_eq!(columns.len(), table["rows"][0]["cells"].as_array().unwrap().len(), "{}", kind.kind);
        if kind.kind != "Event" {
            assert_eq!((&columns[0]["name"], &columns[0]["format"]), (&json!("Name"), &json!("name")));
        }
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }
}

#[test]
fn knative_service_shows_its_url_and_no_age() {
    check(
        "serving.knative.dev",
        "Service",
        json!({"status": {"url": "http://x", "latestCreatedRevisionName": "x-00001",
               "conditions": [{"type": "Ready", "status": "Unknown", "reason": "RevisionMissing"}]}}),
        json!(["x", "http://x", "x-00001", "", "Unknown", "RevisionMissing"]),
    );
}

#[test]
fn revision_reads_its_labels() {
    let labels =
        json!({"serving.knative.dev/configuration": "x", "serving.knative.dev/configurationGeneration": "1"});
    check(
        "serving.knative.dev",
        "Revision",
        json!({"metadata": {"labels": labels}, "status": {"actualReplicas": 0}}),
        json!(["x", "x", "1", "", "", 0, ""]),
    );
}

fn pod(status: Value) -> Vec<Value> {
    row("", "Pod", json!({"spec": {"containers": [{}, {}], "initContainers": [{}]}, "status": status}))
}

#[test]
fn pod_status_names_the_reason() {
    let shown = |status: Value| pod(status)[2].as_str().unwrap().to_owned();
    let container = |state: Value| json!({"phase": "Running", "containerStatuses": [{"state": state}]});
    assert_eq!(shown(json!({"phase": "Pending"})), "Pending");
    assert_eq!(shown(container(json!({"waiting": {"reason": "CrashLoopBackOff"}}))), "CrashLoopBackOff");
    assert_eq!(shown(container(json!({"terminated": {"exitCode": 3}}))), "ExitCode:3");
    assert_eq!(shown(container(json!({"terminated": {"exitCode": 137, "signal": 9}}))), "Signal:9");
    assert_eq!(shown(container(json!({"terminated": {"reason": "OOMKilled"}}))), "OOMKilled");
    let init = |state: Value| json!({"phase": "Pending", "initContainerStatuses": [{"state": state}]});
    assert_eq!(shown(init(json!({"running": {}}))), "Init:0/1");
    assert_eq!(shown(init(json!({"waiting": {"reason": "ErrImagePull"}}))), "Init:ErrImagePull");
}

#[test]
fn deleted_pod_is_terminating() {
    let cells = row("", "Pod", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:59:00Z"}}));
    assert_eq!(cells[2], "Terminating");
}

#[test]
fn pod_counts_ready_containers_and_restarts() {
    let cells = pod(json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [
        {"ready": true, "state": {"running": {}}, "restartCount": 2,
         "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:00Z"}}},
        {"ready": false, "state": {"running": {}}},
    ]}));
    assert_eq!(
        Value::Array(cells),
        json!(["x", "1/2", "Running", "2 (60s ago)", "5m", "10.0.0.1", "<none>", "<none>", "<none>"])
    );
}

#[test]
fn built_in_kinds_show_their_columns() {
    check(
        "apps",
        "Deployment",
        json!({"spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
               "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        json!(["x", "0/0", 0, 0, "5m", "c", "i", "a=b"]),
    );
    check(
        "",
        "Service",
        json!({"spec": {"clusterIP": "10.1.1.1", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}}),
        json!(["x", "ClusterIP", "10.1.1.1", "<none>", "80/TCP,53/UDP", "5m", "<none>"]),
    );
    check("", "Secret", json!({"type": "Opaque", "data": {"a": ""}}), json!(["x", "Opaque", 1, "5m"]));
    check("", "Namespace", json!({"status": {"phase": "Active"}}), json!(["x", "Active", "5m"]));
    check(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "1"}, {"ip": "2"}], "ports": [{"port": 1}, {"port": 2}]}]}),
        json!(["x", "1:1,1:2,2:1 + 1 more...", "5m"]),
    );
    check(
        "",
        "Node",
        json!({"status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"}}}),
        json!([
            "x",
            "Ready",
            "<none>",
            "5m",
            "v1",
            "<none>",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]),
    );
}

#[test]
fn events_of_both_groups_read_alike() {
    let core = json!({"involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "R", "message": "m ",
                      "lastTimestamp": "2026-01-01T00:59:30Z", "source": {"component": "c"}, "count": 3});
    let expect = json!(["30s", "Normal", "R", "pod/p", "", "c", "m", "<unknown>", 3, "x"]);
    check("", "Event", core.clone(), expect.clone());
    check("events.k8s.io", "Event", crate::pure::event::from_core(&core), expect);
}
