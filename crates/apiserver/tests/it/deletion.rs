//! Deletion, finalizers, owners, namespaces, logs.

use std::sync::Arc;

use dormouse_apiserver::{Hooks, LogError, LogQuery, LogStream, PodLogs};
use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use serde_json::{Value, json};

use crate::harness::{MAPS, World, config_map};

fn owned(name: &str, owner: &Value, blocks: bool) -> Value {
    let mut map = config_map(name);
    map["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap",
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocks}]);
    map
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let world = World::new().await;
    let path = format!("{MAPS}/a");
    let mut map = config_map("a");
    map["metadata"]["finalizers"] = json!(["example.com/x"]);
    world.post(MAPS, &map).await.expect(201);
    let marked = world.delete(&path, &json!({"propagationPolicy": "Background"})).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let again = world.delete(&path, &json!({})).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], marked["metadata"]["resourceVersion"]);
    let more = json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}});
    world.merge(&path, &more).await.refused(422, "Invalid");
    let text = world.post(MAPS, &config_map("a")).await.refused(409, "AlreadyExists");
    assert!(text.starts_with("object is being deleted: "), "{text}");
    world.merge(&path, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    world.get(&path).await.refused(404, "NotFound");
    world.close().await;
}

#[tokio::test]
async fn deletion_answers_with_the_uid_and_honours_preconditions() {
    let world = World::new().await;
    let path = format!("{MAPS}/a");
    let made = world.post(MAPS, &config_map("a")).await.expect(201);
    world.delete(&path, &json!({"preconditions": {"uid": "other"}})).await.refused(409, "Conflict");
    let gone = world.delete(&path, &json!({"kind": "DeleteOptions", "apiVersion": "v1"})).await.expect(200);
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"]["uid"], made["metadata"]["uid"]);
    for n in 0..3 {
        world.post(MAPS, &config_map(&format!("c{n}"))).await.expect(201);
    }
    let list =
        world.call("DELETE", &format!("{MAPS}?fieldSelector=metadata.name!%3Dc0"), "", "").await.expect(200);
    assert!(list["items"].as_array().unwrap().len() >= 2);
    world.get(&format!("{MAPS}/c0")).await.expect(200);
    world.get(&format!("{MAPS}/c1")).await.refused(404, "NotFound");
    world.close().await;
}

#[tokio::test]
async fn dependents_follow_their_owner() {
    let world = World::new().await;
    let owner = world.post(MAPS, &config_map("owner")).await.expect(201);
    let child = world.post(MAPS, &owned("child", &owner, false)).await.expect(201);
    world.post(MAPS, &owned("grandchild", &child, false)).await.expect(201);
    world.delete(&format!("{MAPS}/owner"), &json!({"propagationPolicy": "Background"})).await.expect(200);
    world.until(&format!("{MAPS}/child"), 404).await;
    world.until(&format!("{MAPS}/grandchild"), 404).await;
    // Made after its owner went: it goes too.
    world.post(MAPS, &owned("late", &owner, false)).await.expect(201);
    world.until(&format!("{MAPS}/late"), 404).await;
    world.close().await;
}

#[tokio::test]
async fn a_second_owner_keeps_a_dependent() {
    let world = World::new().await;
    let first = world.post(MAPS, &config_map("first")).await.expect(201);
    let second = world.post(MAPS, &config_map("second")).await.expect(201);
    let mut child = owned("child", &first, false);
    let other = owned("x", &second, false)["metadata"]["ownerReferences"][0].clone();
    child["metadata"]["ownerReferences"].as_array_mut().unwrap().push(other);
    world.post(MAPS, &child).await.expect(201);
    world.delete(&format!("{MAPS}/first"), &json!({})).await.expect(200);
    let path = format!("{MAPS}/child");
    let deadline = dormouse_base::clock::now() + std::time::Duration::from_secs(10);
    while world.get(&path).await.expect(200)["metadata"]["ownerReferences"].as_array().unwrap().len() > 1 {
        assert!(dormouse_base::clock::now() < deadline);
        tokio::task::yield_now().await;
    }
    world.delete(&format!("{MAPS}/second"), &json!({})).await.expect(200);
    world.until(&path, 404).await;
    world.close().await;
}

#[tokio::test]
async fn foreground_waits_for_blocking_dependents_and_orphaning_frees_them() {
    let world = World::new().await;
    let owner = world.post(MAPS, &config_map("owner")).await.expect(201);
    let mut held = owned("held", &owner, true);
    held["metadata"]["finalizers"] = json!(["example.com/x"]);
    world.post(MAPS, &held).await.expect(201);
    world.delete(&format!("{MAPS}/owner"), &json!({"propagationPolicy": "Foreground"})).await.expect(200);
    let deadline = dormouse_base::clock::now() + std::time::Duration::from_secs(10);
    while world.get(&format!("{MAPS}/held")).await.expect(200)["metadata"]["deletionTimestamp"].is_null() {
        assert!(dormouse_base::clock::now() < deadline);
        tokio::task::yield_now().await;
    }
    world.get(&format!("{MAPS}/owner")).await.expect(200);
    world.merge(&format!("{MAPS}/held"), &json!({"metadata": {"finalizers": null}})).await.expect(200);
    world.until(&format!("{MAPS}/held"), 404).await;
    world.until(&format!("{MAPS}/owner"), 404).await;

    let owner = world.post(MAPS, &config_map("parent")).await.expect(201);
    world.post(MAPS, &owned("kept", &owner, true)).await.expect(201);
    world.delete(&format!("{MAPS}/parent"), &json!({"propagationPolicy": "Orphan"})).await.expect(200);
    world.until(&format!("{MAPS}/parent"), 404).await;
    let kept = world.get(&format!("{MAPS}/kept")).await.expect(200);
    assert!(kept["metadata"].get("ownerReferences").is_none(), "{kept}");
    world.close().await;
}

#[tokio::test]
async fn a_namespace_is_furnished_and_emptied() {
    let world = World::new().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}});
    let made = world.post("/api/v1/namespaces", &namespace).await.expect(201);
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
    world.get("/api/v1/namespaces/x/serviceaccounts/default").await.expect(200);
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/x"]);
    world.post("/api/v1/namespaces/x/configmaps", &held).await.expect(201);
    let marked = world.delete("/api/v1/namespaces/x", &json!({})).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let late = world.post("/api/v1/namespaces/x/configmaps", &config_map("late")).await;
    assert_eq!(late.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    late.refused(403, "Forbidden");
    world.until("/api/v1/namespaces/x/serviceaccounts/default", 404).await;
    world.get("/api/v1/namespaces/x").await.expect(200);
    let free = json!({"metadata": {"finalizers": null}});
    world.merge("/api/v1/namespaces/x/configmaps/held", &free).await.expect(200);
    world.until("/api/v1/namespaces/x", 404).await;
    world.delete("/api/v1/namespaces/default", &json!({})).await.refused(403, "Forbidden");
    world.close().await;
}

#[tokio::test]
async fn a_running_pod_gets_its_grace_and_the_node_ends_it() {
    let world = World::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "here", "terminationGracePeriodSeconds": 7, "containers": [{"name": "c", "image": "i"}]}});
    let made = world.post(pods, &pod).await.expect(201);
    assert_eq!(made["status"]["phase"], "Pending");
    let marked = world.delete(&format!("{pods}/p"), &json!({})).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    let now = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": made["metadata"]["uid"]}});
    world.delete(&format!("{pods}/p"), &now).await.expect(200);
    world.get(&format!("{pods}/p")).await.refused(404, "NotFound");
    world.close().await;
}

struct Logs;

impl PodLogs for Logs {
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        query: LogQuery,
    ) -> BoxFuture<'static, Result<LogStream, LogError>> {
        let line = format!("{namespace}/{pod} {:?} {:?}\n", query.container, query.tail_lines);
        Box::pin(async move {
            if query.previous {
                return Err(LogError::BadRequest(
                    "previous terminated container \"c\" in pod \"p\" not found".into(),
                ));
            }
            Ok(futures::stream::iter([bytes::Bytes::from(line)]).boxed())
        })
    }
}

#[tokio::test]
async fn logs_come_from_the_node_and_name_their_container() {
    let world = World::with(Hooks { logs: Some(Arc::new(Logs)), ..Hooks::default() }).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers}});
    world.post(pods, &pod("p", json!([{"name": "c", "image": "i"}]))).await.expect(201);
    let two = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    world.post(pods, &pod("two", two)).await.expect(201);
    let api: Api<Pod> = Api::default_namespaced(world.server.client("tester"));
    let text = api.logs("p", &LogParams { tail_lines: Some(5), ..Default::default() }).await.unwrap();
    assert_eq!(text, "default/p Some(\"c\") Some(5)\n");
    let text = world.get(&format!("{pods}/two/log")).await.refused(400, "BadRequest");
    assert_eq!(text, "a container name must be specified for pod two, choose one of: [a b]");
    world.get(&format!("{pods}/p/log?previous=true")).await.refused(400, "BadRequest");
    world.get(&format!("{pods}/none/log")).await.refused(404, "NotFound");
    world.close().await;
}
