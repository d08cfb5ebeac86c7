use dormouse_api::autoscaling::{PodAutoscaler, Reachability};
use dormouse_api::networking::{Ingress, Visibility};
use dormouse_api::serving::configuration::Configuration;
use dormouse_api::serving::revision::Revision;
use dormouse_api::serving::route::Route;
use dormouse_api::serving::service::Service;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service as CoreService;
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::world::{Node, World, hello};

/// Writes that making one Service may cost, everything and its events included: each durable one is a share of an fsync.
const WRITES_MAX: u64 = 40;

fn owner<K: Resource<DynamicType = ()>>(object: &K) -> String {
    object
        .owner_references()
        .iter()
        .filter(|owner| owner.controller == Some(true) && owner.block_owner_deletion == Some(true))
        .map(|owner| format!("{}/{}", owner.kind, owner.name))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_becomes_ready_and_looks_as_on_knative() {
    let world = World::start(Node::Works).await;
    let (start, before) = (dormouse_base::clock::now(), world.store.revision());
    world.create::<Service>(hello("hello", "example.com/app:1")).await;
    let service = world.ready("hello").await;
    println!("ready after {:?}", start.elapsed());

    let status = service.status.unwrap();
    assert_eq!(status.url.as_deref(), Some("http://hello.default.localhost:8080"));
    assert_eq!(status.address.unwrap().url.as_deref(), Some("http://hello.default.svc.cluster.local"));
    assert_eq!(status.latest_ready_revision_name.as_deref(), Some("hello-00001"));
    assert_eq!(status.latest_created_revision_name.as_deref(), Some("hello-00001"));
    let traffic = serde_json::to_value(&status.traffic).unwrap();
    assert_eq!(traffic, json!([{"latestRevision": true, "percent": 100, "revisionName": "hello-00001"}]));
    let kinds: Vec<&str> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(kinds, ["ConfigurationsReady", "Ready", "RoutesReady"]);

    let configuration = world.api::<Configuration>().get("hello").await.unwrap();
    assert_eq!(owner(&configuration), "Service/hello");
    assert_eq!(configuration.labels()["serving.knative.dev/service"], "hello");
    for annotations in
        [configuration.annotations(), world.api::<Route>().get("hello").await.unwrap().annotations()]
    {
        assert_eq!(annotations["serving.knative.dev/creator"], "kubernetes-admin");
        assert_eq!(annotations["serving.knative.dev/lastModifier"], "kubernetes-admin");
    }

    let active = |revision: Option<&Revision>| {
        revision.is_some_and(|revision| {
            revision.labels().get("serving.knative.dev/routingState").is_some_and(|state| state == "active")
        })
    };
    let revision = world.until::<Revision>("hello-00001", "active", active).await.unwrap();
    assert_eq!(owner(&revision), "Configuration/hello");
    assert_eq!(revision.labels()["serving.knative.dev/configuration"], "hello");
    assert_eq!(revision.labels()["serving.knative.dev/configurationGeneration"], "1");
    assert_eq!(revision.labels()["serving.knative.dev/serviceUID"], service.metadata.uid.clone().unwrap());
    assert_eq!(revision.annotations()["serving.knative.dev/routes"], "hello");
    assert_eq!(revision.annotations()["serving.knative.dev/creator"], "kubernetes-admin");
    let seen = revision.status.unwrap();
    assert_eq!(seen.container_statuses[0].image_digest, format!("example.com/app@sha256:{}", "a".repeat(64)));
    let kinds: Vec<&str> = seen.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(kinds, ["Active", "ContainerHealthy", "Ready", "ResourcesAvailable"]);

    let deployment = world.api::<Deployment>().get("hello-00001-deployment").await.unwrap();
    assert_eq!(owner(&deployment), "Revision/hello-00001");
    let pod = deployment.spec.unwrap().template.spec.unwrap();
    let env: Vec<(String, Option<String>)> =
        pod.containers[0].env.iter().flatten().map(|env| (env.name.clone(), env.value.clone())).collect();
    for (name, value) in [
        ("PORT", "8080"),
        ("K_SERVICE", "hello"),
        ("K_CONFIGURATION", "hello"),
        ("K_REVISION", "hello-00001"),
    ] {
        assert!(env.contains(&(name.to_owned(), Some(value.to_owned()))), "{name} in {env:?}");
    }
    let reachable = |autoscaler: Option<&PodAutoscaler>| {
        autoscaler.is_some_and(|autoscaler| autoscaler.spec.reachability == Some(Reachability::Reachable))
    };
    world.until::<PodAutoscaler>("hello-00001", "reachable", reachable).await.unwrap();

    let ingress = world.api::<Ingress>().get("hello").await.unwrap();
    assert_eq!(owner(&ingress), "Route/hello");
    let public: Vec<&String> = ingress
        .spec
        .rules
        .iter()
        .filter(|rule| rule.visibility == Visibility::ExternalIP)
        .flat_map(|rule| &rule.hosts)
        .collect();
    assert_eq!(public, ["hello.default.localhost"]);
    let split = &ingress.spec.rules[0].http.as_ref().unwrap().paths[0].splits[0];
    assert_eq!(
        (split.service_name.as_str(), split.percent, split.service_port),
        ("hello-00001", Some(100), 80)
    );
    assert_eq!(split.append_headers["Knative-Serving-Revision"], "hello-00001");
    let placeholder = world.api::<CoreService>().get("hello").await.unwrap();
    assert_eq!(owner(&placeholder), "Route/hello");

    assert!(world.quiet().await, "somebody keeps writing");
    let writes = world.store.revision() - before;
    println!("{writes} writes");
    assert!(writes <= WRITES_MAX, "{writes} writes for one Service");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_revision_takes_over_and_the_old_one_goes_to_reserve() {
    let world = World::start(Node::Works).await;
    world.create::<Service>(hello("hello", "example.com/app:1")).await;
    world.ready("hello").await;
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"image": "example.com/app:2"}]}}}});
    world.merge::<Service>("hello", patch).await;
    let service = world
        .until::<Service>("hello", "ready at generation 2", |service| {
            service.is_some_and(|service| service.metadata.generation == Some(2) && service.is_ready())
        })
        .await
        .unwrap();
    let status = service.status.unwrap();
    assert_eq!(status.latest_ready_revision_name.as_deref(), Some("hello-00002"));
    assert_eq!(status.traffic[0].revision_name.as_deref(), Some("hello-00002"));
    let reserve = |revision: Option<&Revision>| {
        revision.is_some_and(|revision| {
            revision.labels().get("serving.knative.dev/routingState").is_some_and(|state| state == "reserve")
        })
    };
    let old = world.until::<Revision>("hello-00001", "reserve", reserve).await.unwrap();
    assert!(!old.annotations().contains_key("serving.knative.dev/routes"));
    let unreachable = |autoscaler: Option<&PodAutoscaler>| {
        autoscaler.is_some_and(|autoscaler| autoscaler.spec.reachability == Some(Reachability::Unreachable))
    };
    world.until::<PodAutoscaler>("hello-00001", "unreachable", unreachable).await;
    assert!(world.quiet().await, "somebody keeps writing");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_is_split_by_percent_and_tags_have_their_own_urls() {
    let world = World::start(Node::Works).await;
    world.create::<Service>(hello("hello", "example.com/app:1")).await;
    world.ready("hello").await;
    let patch = json!({"spec": {
        "template": {"spec": {"containers": [{"image": "example.com/app:2"}]}},
        "traffic": [
            {"revisionName": "hello-00001", "percent": 90},
            {"latestRevision": true, "percent": 10, "tag": "green"},
        ],
    }});
    world.merge::<Service>("hello", patch).await;
    let service = world
        .until::<Service>("hello", "split", |service| {
            service.is_some_and(|service| {
                service.metadata.generation == Some(2)
                    && service.is_ready()
                    && service.status.as_ref().is_some_and(|status| status.traffic.len() == 2)
            })
        })
        .await
        .unwrap();
    let traffic = serde_json::to_value(&service.status.unwrap().traffic).unwrap();
    assert_eq!(
        traffic,
        json!([
            {"revisionName": "hello-00001", "latestRevision": false, "percent": 90},
            {"revisionName": "hello-00002", "latestRevision": true, "percent": 10, "tag": "green",
             "url": "http://green-hello.default.localhost:8080"},
        ])
    );
    world.api::<CoreService>().get("green-hello").await.unwrap();
    let ingress = world.api::<Ingress>().get("hello").await.unwrap();
    let splits = |host: &str| -> Vec<(String, Option<i64>)> {
        let rule =
            ingress.spec.rules.iter().find(|rule| rule.hosts.iter().any(|given| given == host)).unwrap();
        let splits = &rule.http.as_ref().unwrap().paths[0].splits;
        splits.iter().map(|split| (split.service_name.clone(), split.percent)).collect()
    };
    assert_eq!(
        splits("hello.default.localhost"),
        [("hello-00001".to_owned(), Some(90)), ("hello-00002".to_owned(), Some(10))]
    );
    assert_eq!(splits("green-hello.default.localhost"), [("hello-00002".to_owned(), Some(100))]);

    world
        .merge::<Service>("hello", json!({"spec": {"traffic": [{"latestRevision": true, "percent": 100}]}}))
        .await;
    world.until::<CoreService>("green-hello", "gone", |service| service.is_none()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_service_leaves_nothing() {
    let world = World::start(Node::Works).await;
    world.create::<Service>(hello("hello", "example.com/app:1")).await;
    world.ready("hello").await;
    world.api::<Service>().delete("hello", &DeleteParams::default()).await.unwrap();
    world.until::<Service>("hello", "gone", |object| object.is_none()).await;
    world.until::<Configuration>("hello", "gone", |object| object.is_none()).await;
    world.until::<Revision>("hello-00001", "gone", |object| object.is_none()).await;
    world.until::<Deployment>("hello-00001-deployment", "gone", |object| object.is_none()).await;
    world.until::<PodAutoscaler>("hello-00001", "gone", |object| object.is_none()).await;
    world.until::<Route>("hello", "gone", |object| object.is_none()).await;
    world.until::<Ingress>("hello", "gone", |object| object.is_none()).await;
    world.until::<CoreService>("hello", "gone", |object| object.is_none()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_services_become_ready_together() {
    let world = World::start(Node::Works).await;
    let start = dormouse_base::clock::now();
    for number in 0..200 {
        world.create::<Service>(hello(&format!("s{number}"), "example.com/app:1")).await;
    }
    let created = start.elapsed();
    for number in 0..200 {
        world.ready(&format!("s{number}")).await;
    }
    println!("200 services: created in {created:?}, all ready after {:?}", start.elapsed());
    assert!(world.quiet().await, "somebody keeps writing");
    world.stop().await;
}
