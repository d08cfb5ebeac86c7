//! Watches as client-go, kube-rs and kn use them.

use std::time::Duration;

use dormouse_apiserver::UserInfo;
use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Empty};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use crate::harness::{MAPS, World, config_map, version};

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

#[tokio::test]
async fn a_watch_from_a_revision_replays_exactly_what_came_after() {
    let world = World::new().await;
    let path = format!("{MAPS}/a");
    let made = world.post(MAPS, &config_map("a")).await.expect(201);
    for n in 0..3 {
        world.merge(&path, &json!({"metadata": {"labels": {"n": n.to_string()}}})).await.expect(200);
    }
    world.delete(&path, &json!({})).await.expect(200);
    let events = world.watch(&format!("{MAPS}?resourceVersion={}", version(&made))).await;
    assert_eq!(types(&events), ["MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]);
    assert!(events.windows(2).all(|pair| version(&pair[0]["object"]) < version(&pair[1]["object"])));
    assert_eq!(events[3]["object"]["metadata"]["labels"]["n"], "2");
    world.close().await;
}

#[tokio::test]
async fn initial_events_end_with_an_annotated_bookmark() {
    let world = World::new().await;
    world.post(MAPS, &config_map("a")).await.expect(201);
    let path =
        format!("{MAPS}?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let events = world.watch(&path).await;
    let end = events.iter().position(|event| event["type"] == "BOOKMARK").unwrap();
    assert_eq!(events[end]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(events[end]["object"]["kind"], "ConfigMap");
    assert!(events[..end].iter().all(|event| event["type"] == "ADDED"));
    assert!(events[..end].iter().any(|event| event["object"]["metadata"]["name"] == "a"));
    world.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.refused(422, "Invalid");
    let plain = world.watch(&format!("{MAPS}?resourceVersion=0")).await;
    assert!(plain.iter().all(|event| event["type"] == "ADDED"));
    world.close().await;
}

#[tokio::test]
async fn old_and_future_revisions_are_told_in_the_stream() {
    let world = World::new().await;
    world.post(MAPS, &config_map("a")).await.expect(201);
    world.store.compact();
    let events = world.watch(&format!("{MAPS}?resourceVersion=1")).await;
    assert_eq!(types(&events), ["ERROR"]);
    assert_eq!(events[0]["object"]["code"], 410);
    assert_eq!(events[0]["object"]["reason"], "Expired");
    let events = world.watch(&format!("{MAPS}?resourceVersion=99999999")).await;
    assert_eq!(events[0]["object"]["code"], 504);
    world.get(&format!("{MAPS}?watch=1&resourceVersion=x")).await.refused(400, "BadRequest");
    world.close().await;
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let world = World::new().await;
    let path = format!("{MAPS}/a");
    let made = world.post(MAPS, &config_map("a")).await.expect(201);
    for label in [json!("b"), json!("b"), json!("c"), json!(null)] {
        let patch = json!({"metadata": {"labels": {"a": label}}, "data": {"x": fastrand_text()}});
        world.merge(&path, &patch).await.expect(200);
    }
    let from = version(&made);
    let events = world.watch(&format!("{MAPS}?labelSelector=a%3Db&resourceVersion={from}")).await;
    assert_eq!(types(&events), ["ADDED", "MODIFIED", "DELETED"]);
    world.post(MAPS, &config_map("other")).await.expect(201);
    let events = world.watch(&format!("{MAPS}?fieldSelector=metadata.name%3Da&resourceVersion={from}")).await;
    assert_eq!(types(&events), ["MODIFIED"; 4]);
    let events = world.watch(&format!("{path}?resourceVersion={from}")).await;
    assert_eq!(types(&events), ["MODIFIED"; 4]);
    world.close().await;
}

fn fastrand_text() -> String {
    format!("{:?}", dormouse_base::clock::now())
}

#[tokio::test]
async fn the_head_of_an_idle_watch_comes_at_once_and_shutdown_ends_it() {
    let world = World::new().await;
    let revision = world.store.revision();
    let request = http::Request::builder().uri(format!("{MAPS}?watch=1&resourceVersion={revision}"));
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = world.server.handle(UserInfo::master("tester"), request);
    let response = tokio::time::timeout(Duration::from_secs(1), answer).await.unwrap();
    assert_eq!(response.status(), 200);
    world.tasks.shutdown().trigger();
    let rest = tokio::time::timeout(Duration::from_secs(5), response.into_body().collect()).await.unwrap();
    assert!(rest.unwrap().to_bytes().is_empty());
    world.close().await;
}

#[tokio::test]
async fn kube_watchers_list_then_follow_in_both_styles() {
    let world = World::new().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.server.client("tester"));
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut stream = watcher(maps.clone(), config).default_backoff().applied_objects().boxed();
        let mut seen = Vec::new();
        let fresh = format!("m{}", world.store.revision());
        world.post(MAPS, &config_map(&fresh)).await.expect(201);
        let late = format!("{fresh}-late");
        let mut posted = false;
        while !seen.contains(&late) {
            let next = tokio::time::timeout(Duration::from_secs(10), stream.try_next()).await;
            seen.push(next.unwrap().unwrap().unwrap().metadata.name.unwrap());
            if seen.contains(&fresh) && !posted {
                posted = true;
                world.post(MAPS, &config_map(&late)).await.expect(201);
            }
        }
    }
    world.close().await;
}

#[tokio::test]
async fn a_kube_watcher_lists_again_after_its_revision_expired() {
    let world = World::new().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(world.server.client("tester"));
    let config = watcher::Config { timeout: Some(1), ..Default::default() };
    let mut stream = watcher(maps, config).default_backoff().boxed();
    let mut lists = 0;
    while lists < 2 {
        let event = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.unwrap().unwrap();
        match event {
            Ok(watcher::Event::InitDone) => {
                lists += 1;
                world
                    .post("/api/v1/namespaces/kube-system/configmaps", &config_map(&format!("x{lists}")))
                    .await
                    .expect(201);
                world.store.compact();
            }
            Ok(_) => {}
            Err(error) => {
                assert!(error.to_string().contains("410") || error.to_string().contains("too old"), "{error}")
            }
        }
    }
    world.close().await;
}

#[tokio::test]
async fn hundreds_of_watches_all_see_a_change_and_an_unread_one_stalls_nobody() {
    let world = World::new().await;
    let open = || async {
        let request = http::Request::builder()
            .uri(format!("{MAPS}?watch=1&resourceVersion={}", world.store.revision()));
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        world.server.handle(UserInfo::master("tester"), request).await.into_body()
    };
    let _unread = open().await;
    let mut bodies = Vec::new();
    for _ in 0..300 {
        bodies.push(open().await);
    }
    world.post(MAPS, &config_map("a")).await.expect(201);
    for body in &mut bodies {
        let frame =
            tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap().unwrap().unwrap();
        assert!(frame.into_data().unwrap().starts_with(b"{\"type\":\"ADDED\""));
    }
    drop(bodies);
    for n in 0..200 {
        world.merge(&format!("{MAPS}/a"), &json!({"data": {"n": n.to_string()}})).await.expect(200);
    }
    world.close().await;
}
