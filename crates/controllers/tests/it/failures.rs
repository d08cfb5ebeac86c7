use dormouse_api::serving::configuration::Configuration;
use dormouse_api::serving::revision::Revision;
use dormouse_api::serving::route::Route;
use dormouse_api::serving::service::Service;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::world::{Node, World, hello};

fn revision_failed(service: Option<&Service>) -> bool {
    let condition = service.and_then(|service| service.status.as_ref()?.condition("ConfigurationsReady"));
    condition.is_some_and(|condition| condition.is_false() && condition.reason() == "RevisionFailed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_image_fails_everything_above_it_with_its_text() {
    let world = World::start(Node::Works).await;
    world.create::<Service>(hello("hello", "example.com/missing:1")).await;
    let service = world
        .until::<Service>("hello", "failed", |service| service.is_some_and(Service::is_failed))
        .await
        .unwrap();
    let cause = "Unable to fetch image \"example.com/missing:1\": failed to resolve image to digest: example.com/missing:1: MANIFEST_UNKNOWN: manifest unknown";
    let revision = world.api::<Revision>().get("hello-00001").await.unwrap();
    let ready = revision.status.as_ref().unwrap().condition("Ready").unwrap().clone();
    assert_eq!(
        (ready.status.as_str(), ready.reason(), ready.message()),
        ("False", "ContainerMissing", cause)
    );
    let configuration = world.api::<Configuration>().get("hello").await.unwrap();
    let ready = configuration.status.as_ref().unwrap().condition("Ready").unwrap().clone();
    let text = format!("Revision \"hello-00001\" failed with message: {cause}.");
    assert_eq!(
        (ready.status.as_str(), ready.reason(), ready.message()),
        ("False", "RevisionFailed", text.as_str())
    );
    let failed = |route: Option<&Route>| route.is_some_and(Route::is_failed);
    let route = world.until::<Route>("hello", "failed", failed).await.unwrap();
    let ready = route.status.as_ref().unwrap().condition("Ready").unwrap().clone();
    assert_eq!(
        (ready.reason(), ready.message()),
        ("RevisionMissing", "Configuration \"hello\" does not have any ready Revision.")
    );
    assert!(service.status.unwrap().url.is_some() || route.status.unwrap().url.is_some());
    let both = |service: Option<&Service>| {
        service.and_then(|service| service.status.as_ref()).is_some_and(|status| {
            ["ConfigurationsReady", "RoutesReady", "Ready"]
                .iter()
                .all(|kind| status.condition(kind).is_some_and(|condition| condition.is_false()))
        })
    };
    world.until::<Service>("hello", "failed in all conditions", both).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_revision_keeps_serving_when_the_next_one_fails() {
    let world = World::start(Node::Works).await;
    world.create::<Service>(hello("hello", "example.com/app:1")).await;
    world.ready("hello").await;
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"image": "example.com/missing:2"}]}}}});
    world.merge::<Service>("hello", patch).await;
    let service = world
        .until::<Service>("hello", "failed", |service| service.is_some_and(Service::is_failed))
        .await
        .unwrap();
    let status = service.status.unwrap();
    assert_eq!(status.latest_ready_revision_name.as_deref(), Some("hello-00001"));
    assert_eq!(status.latest_created_revision_name.as_deref(), Some("hello-00002"));
    assert!(status.condition("RoutesReady").unwrap().is_true());
    assert_eq!(status.traffic[0].revision_name.as_deref(), Some("hello-00001"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_exits_is_reported_with_its_code() {
    let world = World::start(Node::Silent).await;
    world.create::<Service>(hello("hello", "example.com/app:1")).await;
    let revision =
        world.until::<Revision>("hello-00001", "there", |revision| revision.is_some()).await.unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "hello-00001-deployment-x", "labels": {
            "serving.knative.dev/revision": "hello-00001",
            "serving.knative.dev/revisionUID": revision.uid().unwrap(),
        }},
        "spec": {"containers": [{"name": "user-container", "image": "example.com/app:1"}]},
    });
    world.create::<Pod>(pod).await;
    let terminated = json!({"exitCode": 5, "reason": "Error", "message": "boom"});
    let status = json!({"status": {"phase": "Running", "containerStatuses": [{
        "name": "user-container", "image": "example.com/app:1", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": terminated},
    }]}});
    let pods = world.api::<Pod>();
    pods.patch_status("hello-00001-deployment-x", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    world.until::<Service>("hello", "failed by its Revision", revision_failed).await;
    let revision = world.api::<Revision>().get("hello-00001").await.unwrap();
    let ready = revision.status.unwrap().condition("Ready").unwrap().clone();
    assert_eq!((ready.reason(), ready.message()), ("ExitCode5", "Container failed with: boom"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_revision_name_stops_the_route() {
    let world = World::start(Node::Works).await;
    let mut first = hello("a", "example.com/app:1");
    first["spec"]["template"]["metadata"] = json!({"name": "a-b-one"});
    world.create::<Service>(first).await;
    world.ready("a").await;
    let mut second = hello("a-b", "example.com/app:1");
    second["spec"]["template"]["metadata"] = json!({"name": "a-b-one"});
    world.create::<Service>(second).await;
    let service = world.until::<Service>("a-b", "failed by its Revision", revision_failed).await.unwrap();
    let status = service.status.unwrap();
    let configurations = status.condition("ConfigurationsReady").unwrap();
    assert_eq!(configurations.reason(), "RevisionFailed");
    assert!(configurations.message().contains("a-b-one"));
    world.stop().await;
}
