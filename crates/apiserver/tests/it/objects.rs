//! Create, get, list, update, patch, discovery, users.

use dormouse_apiserver::UserInfo;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::harness::{MAPS, SERVICES, World, config_map, service, version};

#[tokio::test]
async fn the_in_process_client_creates_reads_patches_and_deletes() {
    let world = World::new().await;
    let client = world.server.client("tester");
    assert!(client.apiserver_version().await.unwrap().git_version.starts_with("v1.35.0"));
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let map: ConfigMap = serde_json::from_value(config_map("a")).unwrap();
    let made = maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let duplicate = maps.create(&PostParams::default(), &map).await.unwrap_err();
    assert!(
        matches!(&duplicate, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
    );
    let patch = Patch::Merge(json!({"data": {"a": "c"}}));
    let patched = maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data.unwrap()["a"], "c");
    assert_eq!(maps.list(&ListParams::default().labels("x=y")).await.unwrap().items.len(), 0);
    maps.delete("a", &Default::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
    world.close().await;
}

#[tokio::test]
async fn what_everybody_expects_is_there_at_the_start() {
    let world = World::new().await;
    for path in [
        "/api/v1/namespaces/default",
        "/api/v1/namespaces/knative-serving/configmaps/config-autoscaler",
        "/api/v1/namespaces/default/serviceaccounts/default",
        "/api/v1/namespaces/default/configmaps/kube-root-ca.crt",
        "/api/v1/namespaces/default/services/kubernetes",
    ] {
        world.get(path).await.expect(200);
    }
    let gateway =
        world.get("/api/v1/namespaces/istio-system/services/istio-ingressgateway").await.expect(200);
    assert_eq!(gateway["status"]["loadBalancer"]["ingress"].as_array().unwrap().len(), 1);
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/services.serving.knative.dev";
    assert_eq!(
        world.get(crd).await.expect(200)["metadata"]["labels"]["duck.knative.dev/addressable"],
        "true"
    );
    world.close().await;
}

#[tokio::test]
async fn lists_have_a_revision_and_items_even_when_empty() {
    let world = World::new().await;
    let list =
        world.get(&format!("{MAPS}?labelSelector=nope&foo=bar&timeout=5m&limit=500")).await.expect(200);
    assert_eq!(list["items"], json!([]));
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["apiVersion"], "v1");
    assert!(version(&list) > 0);
    world.get(&format!("{MAPS}?labelSelector=a%20in")).await.refused(400, "BadRequest");
    let text = world.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).await.refused(400, "BadRequest");
    assert!(text.contains("field label not supported: spec.x"), "{text}");
    let far = world.get(&format!("{MAPS}?resourceVersion=999999999")).await;
    assert_eq!(far.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    far.refused(504, "Timeout");
    world.get(&format!("{MAPS}?sendInitialEvents=true")).await.refused(422, "Invalid");
    world.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await.refused(422, "Invalid");
    world.close().await;
}

#[tokio::test]
async fn large_lists_are_complete() {
    let world = World::new().await;
    let world = std::sync::Arc::new(world);
    let mut set = tokio::task::JoinSet::new();
    for n in 0..300 {
        let world = world.clone();
        set.spawn(async move {
            let mut map = config_map(&format!("big-{n:04}"));
            map["data"] = json!({"x": "y".repeat(8000)});
            world.post(MAPS, &map).await.expect(201);
        });
    }
    set.join_all().await;
    let list = world.get(&format!("{MAPS}?limit=100")).await.expect(200);
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    assert!(names.is_sorted());
    assert_eq!(names.iter().filter(|name| name.starts_with("big-")).count(), 300);
    std::sync::Arc::into_inner(world).unwrap().close().await;
}

#[tokio::test]
async fn writes_that_change_nothing_leave_the_revision() {
    let world = World::new().await;
    let path = format!("{MAPS}/a");
    let made = world.post(MAPS, &config_map("a")).await.expect(201);
    let labelled = world.merge(&path, &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    assert!(version(&labelled) > version(&made));
    let again = world.merge(&path, &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    assert_eq!(version(&again), version(&labelled));
    let empty = world.merge(&path, &json!({"metadata": {"annotations": {}}})).await.expect(200);
    assert_eq!(version(&empty), version(&labelled));
    let put = world.put(&path, &labelled).await.expect(200);
    assert_eq!(version(&put), version(&labelled));
    world.close().await;
}

#[tokio::test]
async fn generation_counts_desired_states() {
    let world = World::new().await;
    let path = format!("{SERVICES}/s");
    let made = world.post(SERVICES, &service("s")).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    assert!(made.get("status").is_none_or(|status| status == &json!({})), "{made}");
    let annotated = world.merge(&path, &json!({"metadata": {"annotations": {"x": "y"}}})).await.expect(200);
    assert_eq!(annotated["metadata"]["generation"], 1);
    let patch = json!({"spec": {"template": {"spec": {"timeoutSeconds": 10}}}});
    let changed = world.merge(&path, &patch).await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
    let status =
        json!({"status": {"observedGeneration": 2}, "spec": {"template": {"spec": {"timeoutSeconds": 20}}}});
    let told = world.merge(&format!("{path}/status"), &status).await.expect(200);
    assert_eq!(told["metadata"]["generation"], 2);
    assert_eq!(told["status"]["observedGeneration"], 2);
    assert_eq!(told["spec"], changed["spec"]);
    let ignored = world.merge(&path, &json!({"status": {"observedGeneration": 7}})).await.expect(200);
    assert_eq!(ignored["status"]["observedGeneration"], 2);
    assert_eq!(version(&ignored), version(&told));
    world.close().await;
}

#[tokio::test]
async fn stale_and_misnamed_writes_are_refused_in_kubernetes_words() {
    let world = World::new().await;
    let path = format!("{MAPS}/a");
    let mut old = world.post(MAPS, &config_map("a")).await.expect(201);
    world.merge(&path, &json!({"data": {"a": "1"}})).await.expect(200);
    old["data"]["a"] = json!("2");
    let text = world.put(&path, &old).await.refused(409, "Conflict");
    assert_eq!(
        text,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    world.put(&path, &config_map("b")).await.refused(400, "BadRequest");
    world.put(&path, &config_map("a")).await.expect(200);
    let mut versioned = config_map("v");
    versioned["metadata"]["resourceVersion"] = json!("5");
    let text = world.post(MAPS, &versioned).await.refused(400, "BadRequest");
    assert_eq!(text, "resourceVersion should not be set on objects to be created");
    world.post(SERVICES, &service("s")).await.expect(201);
    let text = world.put(&format!("{SERVICES}/s"), &service("s")).await.refused(422, "Invalid");
    assert!(
        text.contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{text}"
    );
    let text = world.get(&format!("{SERVICES}/nope")).await.refused(404, "NotFound");
    assert_eq!(text, "services.serving.knative.dev \"nope\" not found");
    let text =
        world.post("/api/v1/namespaces/nope/configmaps", &config_map("a")).await.refused(404, "NotFound");
    assert_eq!(text, "namespaces \"nope\" not found");
    world.post(MAPS, &config_map("A_b")).await.refused(422, "Invalid");
    world.call("POST", MAPS, "application/json", "{").await.refused(400, "BadRequest");
    world.call("POST", MAPS, "application/xml", "<a/>").await.refused(415, "UnsupportedMediaType");
    world
        .call("POST", MAPS, "application/json", "x".repeat(4 << 20))
        .await
        .refused(413, "RequestEntityTooLarge");
    world.close().await;
}

#[tokio::test]
async fn names_are_generated() {
    let world = World::new().await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}});
    let mut names = Vec::new();
    for _ in 0..2 {
        let made = world.post(MAPS, &object).await.expect(201);
        names.push(made["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert_ne!(names[0], names[1]);
    assert!(names.iter().all(|name| name.len() == 9));
    world.close().await;
}

#[tokio::test]
async fn dry_runs_leave_no_trace() {
    let world = World::new().await;
    let before = world.store.revision();
    let made = world.post(&format!("{MAPS}?dryRun=All"), &config_map("dry")).await.expect(201);
    assert!(made["metadata"]["uid"].is_string());
    world.get(&format!("{MAPS}/dry")).await.refused(404, "NotFound");
    assert_eq!(world.store.revision(), before);
    world.post(MAPS, &config_map("a")).await.expect(201);
    world.delete(&format!("{MAPS}/a"), &json!({"dryRun": ["All"]})).await.expect(200);
    world.get(&format!("{MAPS}/a")).await.expect(200);
    world.close().await;
}

#[tokio::test]
async fn each_patch_dialect_does_its_own() {
    let world = World::new().await;
    let path = format!("{MAPS}/a");
    world.post(MAPS, &config_map("a")).await.expect(201);
    let json_patch = json!([{"op": "test", "path": "/data/a", "value": "b"}, {"op": "add", "path": "/data/n", "value": "1"}]);
    let patched =
        world.call("PATCH", &path, "application/json-patch+json", json_patch.to_string()).await.expect(200);
    assert_eq!(patched["data"], json!({"a": "b", "n": "1"}));
    let wrong = json!([{"op": "test", "path": "/data/a", "value": "x"}]);
    world
        .call("PATCH", &path, "application/json-patch+json", wrong.to_string())
        .await
        .refused(422, "Invalid");
    let strategic = json!({"data": {"n": null, "s": "2"}});
    let patched = world
        .call("PATCH", &path, "application/strategic-merge-patch+json", strategic.to_string())
        .await
        .expect(200);
    assert_eq!(patched["data"], json!({"a": "b", "s": "2"}));
    world.post(SERVICES, &service("s")).await.expect(201);
    let text = world
        .call("PATCH", &format!("{SERVICES}/s"), "application/strategic-merge-patch+json", "{}")
        .await
        .refused(415, "UnsupportedMediaType");
    assert!(text.contains("application/merge-patch+json"), "{text}");
    world.merge(&format!("{MAPS}/nope"), &json!({})).await.refused(404, "NotFound");
    world.close().await;
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let world = std::sync::Arc::new(World::new().await);
    world.post(MAPS, &config_map("a")).await.expect(201);
    let mut set = tokio::task::JoinSet::new();
    for n in 0..20 {
        let world = world.clone();
        set.spawn(async move {
            world.merge(&format!("{MAPS}/a"), &json!({"data": {format!("k{n}"): "v"}})).await.expect(200);
        });
    }
    set.join_all().await;
    let map = world.get(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(map["data"].as_object().unwrap().len(), 21);
    std::sync::Arc::into_inner(world).unwrap().close().await;
}

#[tokio::test]
async fn scale_exists_where_it_should() {
    let world = World::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    world.post(deployments, &deployment).await.expect(201);
    let scaled =
        world.merge(&format!("{deployments}/d/scale"), &json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!(scaled["kind"], "Scale");
    assert_eq!(scaled["spec"]["replicas"], 3);
    assert_eq!(scaled["status"]["selector"], "a=b");
    let stored = world.get(&format!("{deployments}/d")).await.expect(200);
    assert_eq!(stored["spec"]["replicas"], 3);
    assert_eq!(stored["metadata"]["generation"], 2);
    world.post(SERVICES, &service("s")).await.expect(201);
    world
        .merge(&format!("{SERVICES}/s/scale"), &json!({"spec": {"replicas": 1}}))
        .await
        .refused(404, "NotFound");
    world.close().await;
}

#[tokio::test]
async fn events_are_the_same_objects_in_both_groups() {
    let world = World::new().await;
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "Made", "action": "Making", "note": "hello",
        "reportingController": "x", "reportingInstance": "x-1", "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let made = world.post(path, &event).await.expect(201);
    assert_eq!(made["note"], "hello");
    let core = world.get("/api/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!(core["message"], "hello");
    assert_eq!(core["involvedObject"]["name"], "p");
    let patched = world.merge(&format!("{path}/e"), &json!({"note": "again"})).await.expect(200);
    assert_eq!(patched["note"], "again");
    let list = world
        .get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp")
        .await
        .expect(200);
    assert_eq!(list["items"][0]["message"], "again");
    world.close().await;
}

#[tokio::test]
async fn users_may_what_they_may() {
    let world = World::new().await;
    let get = |path: &str| http::Request::builder().uri(path).body(bytes::Bytes::new()).unwrap();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(world.send_as(UserInfo::anonymous(), get(path)).await.code, 200);
    }
    world.send_as(UserInfo::anonymous(), get("/api")).await.refused(403, "Forbidden");
    world.send_as(UserInfo::anonymous(), get(MAPS)).await.refused(403, "Forbidden");
    let mut token = get(MAPS);
    token.headers_mut().insert("authorization", "Bearer x".parse().unwrap());
    world.send_as(UserInfo::anonymous(), token).await.refused(401, "Unauthorized");
    let mut bob = get("/api/v1/namespaces/default/pods");
    bob.headers_mut().insert("impersonate-user", "bob".parse().unwrap());
    let text = world.send(bob).await.refused(403, "Forbidden");
    assert_eq!(
        text,
        "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let bob = UserInfo::authenticated("bob", vec![]);
    assert_eq!(world.send_as(bob, get("/apis")).await.code, 200);
    let review =
        world.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.expect(201);
    assert_eq!(review["status"]["userInfo"]["username"], "tester");
    world.close().await;
}

#[tokio::test]
async fn unknown_paths_and_formats_are_told_in_status_objects() {
    let world = World::new().await;
    let text = world.get("/apis/nope/v1").await.refused(404, "NotFound");
    assert_eq!(text, "the server could not find the requested resource");
    world.get("/nope").await.refused(404, "NotFound");
    let request =
        http::Request::builder().uri(MAPS).header("accept", "text/html").body(bytes::Bytes::new()).unwrap();
    world.send(request).await.refused(406, "NotAcceptable");
    let request = http::Request::builder()
        .uri(MAPS)
        .header("accept", "application/vnd.kubernetes.protobuf,application/json");
    let answer = world.send(request.body(bytes::Bytes::new()).unwrap()).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let request =
        http::Request::builder().uri(MAPS).header("accept", accept).body(bytes::Bytes::new()).unwrap();
    let table = world.send(request).await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    world.call("DELETE", "/version", "", "").await.refused(405, "MethodNotAllowed");
    world.close().await;
}

#[tokio::test]
async fn objects_and_revisions_survive_a_restart() {
    let world = World::new().await;
    let made = world.post(MAPS, &config_map("a")).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = world.post(pods, &pod).await.expect(201);
    let world = world.restarted().await;
    assert_eq!(world.get(&format!("{MAPS}/a")).await.expect(200), made);
    world.get(&format!("{pods}/p")).await.refused(404, "NotFound");
    let events = world.watch(&format!("{MAPS}?resourceVersion={}", version(&made))).await;
    assert_eq!(events[0]["object"]["code"], 410);
    let next = world.post(MAPS, &config_map("b")).await.expect(201);
    assert!(version(&next) > version(&pod));
    world.close().await;
}

#[tokio::test]
async fn unknown_fields_are_warned_of_or_refused() {
    let world = World::new().await;
    let mut odd = service("s");
    odd["spec"]["template"]["spec"]["frob"] = json!(1);
    let text =
        world.post(&format!("{SERVICES}?fieldValidation=Strict"), &odd).await.refused(400, "BadRequest");
    assert!(text.contains("strict decoding error: unknown field \"spec.template.spec.frob\""), "{text}");
    let answer = world.post(SERVICES, &odd).await;
    let warning = answer.headers["warning"].to_str().unwrap().to_owned();
    assert!(warning.starts_with("299 - \"unknown field"), "{warning}");
    assert!(answer.expect(201)["spec"]["template"]["spec"].get("frob").is_none());
    world.close().await;
}

#[tokio::test]
async fn knative_defaults_and_denials_are_in_the_answer() {
    let world = World::new().await;
    let made = world.post(SERVICES, &service("s")).await.expect(201);
    assert_eq!(made["metadata"]["annotations"]["serving.knative.dev/creator"], "tester");
    assert_eq!(made["spec"]["traffic"][0]["percent"], 100);
    let mut empty = service("t");
    empty["spec"]["template"]["spec"]["containers"] = json!([]);
    let text = world.post(SERVICES, &empty).await.refused(400, "BadRequest");
    let start = "admission webhook \"validation.webhook.serving.knative.dev\" denied the request: validation failed: ";
    assert!(text.starts_with(start), "{text}");
    world.close().await;
}

#[tokio::test]
async fn appliers_own_their_fields() {
    let world = World::new().await;
    let path = format!("{MAPS}/a");
    let apply = |manager: &'static str, force: bool, data: serde_json::Value| {
        let mut map = config_map("a");
        map["data"] = data;
        let path = format!("{path}?fieldManager={manager}&force={force}");
        let world = &world;
        async move { world.call("PATCH", &path, "application/apply-patch+yaml", map.to_string()).await }
    };
    let made = apply("one", false, json!({"a": "1", "b": "1"})).await.expect(201);
    let again = apply("one", false, json!({"a": "1", "b": "1"})).await.expect(200);
    assert_eq!(version(&again), version(&made));
    let conflict = apply("two", false, json!({"a": "2"})).await;
    assert_eq!(conflict.json()["details"]["causes"][0]["reason"], "FieldManagerConflict");
    conflict.refused(409, "Conflict");
    apply("two", true, json!({"a": "2"})).await.expect(200);
    let pruned = apply("one", false, json!({})).await.expect(200);
    assert_eq!(pruned["data"], json!({"a": "2"}));
    let taken =
        world.merge(&format!("{path}?fieldManager=three"), &json!({"data": {"a": "3"}})).await.expect(200);
    assert!(taken["metadata"]["managedFields"].to_string().contains("three"), "{taken}");
    let untold =
        world.call("PATCH", &path, "application/apply-patch+yaml", config_map("a").to_string()).await;
    untold.refused(422, "Invalid");
    let service = service("s").to_string();
    let path = format!("{SERVICES}/s?fieldManager=one");
    let made = world.call("PATCH", &path, "application/apply-patch+yaml", service.clone()).await.expect(201);
    let again = world.call("PATCH", &path, "application/apply-patch+yaml", service).await.expect(200);
    assert_eq!(version(&again), version(&made));
    world.close().await;
}
