use std::sync::Arc;
use std::time::Duration;

use dormouse_base::clock;
use dormouse_node::LogQuery;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::world::{DEPLOYMENT, PODS, World, deployment, get, possible, remove, revision, until};

async fn log(world: &World, pod: &str, query: LogQuery) -> String {
    let mut stream = world.node.logs("default", pod, query).await.unwrap();
    let mut text = Vec::new();
    while let Some(bytes) = stream.next().await {
        text.extend_from_slice(&bytes);
    }
    String::from_utf8(text).unwrap()
}

fn condition(deployment: &Value, kind: &str) -> Value {
    let conditions = deployment["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_starts_answers_tells_and_stops() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    world.api.put(DEPLOYMENT, deployment(1, json!([])));
    let endpoints = world.ready(1).await;
    assert_eq!(get(endpoints[0].address, "/").unwrap(), "hello\n");
    let pod = until("the pod is ready", || {
        world.api.list(PODS).into_iter().find(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
    })
    .await;
    assert_eq!(pod["metadata"]["name"], endpoints[0].id);
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "Deployment");
    until("the deployment is available", || {
        let deployment = world.api.get(DEPLOYMENT)?;
        (condition(&deployment, "Progressing")["reason"] == "NewReplicaSetAvailable"
            && deployment["status"]["readyReplicas"] == 1)
            .then_some(())
    })
    .await;
    let followed = {
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let name = endpoints[0].id.clone();
        let (world, name) = (&world, name);
        async move { log(world, &name, query).await }
    };
    let stop = async {
        clock::sleep(Duration::from_millis(200)).await;
        world.node.scale(&revision(), 0);
    };
    let (text, ()) = tokio::join!(followed, stop);
    assert_eq!(text, "listening\nbye\n");
    world.ready(0).await;
    until("the pod is gone", || world.api.list(PODS).is_empty().then_some(())).await;
    until("replicas are told", || (world.api.get(DEPLOYMENT)?["spec"]["replicas"] == 0).then_some(())).await;
    until("nothing runs", || (world.node.instances() == 0).then_some(())).await;

    // From zero, several at once, and the time it takes.
    let mut times = Vec::new();
    for _ in 0..10 {
        clock::sleep(Duration::from_millis(100)).await;
        let begun = clock::now();
        world.node.scale(&revision(), 1);
        while world.endpoints().is_empty() {
            world.recorder.changed.notified().await;
        }
        times.push(clock::now() - begun);
        world.node.scale(&revision(), 0);
        until("nothing runs", || (world.node.instances() == 0).then_some(())).await;
    }
    times.sort();
    eprintln!("scale() to endpoint: min {:?}, median {:?}, max {:?}", times[0], times[5], times[9]);
    world.node.scale(&revision(), 4);
    let four = world.ready(4).await;
    let addresses: std::collections::HashSet<_> = four.iter().map(|endpoint| endpoint.address).collect();
    assert_eq!(addresses.len(), 4);
    world.node.scale(&revision(), 2);
    world.ready(2).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_restarts_in_place_and_a_deleted_pod_is_replaced() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    world.api.put(DEPLOYMENT, deployment(1, json!([])));
    let first = world.ready(1).await.remove(0);
    let _ = get(first.address, "/crash");
    let pod = until("the crash is told", || {
        let pod = world.api.list(PODS).into_iter().next()?;
        let status = &pod["status"]["containerStatuses"][0];
        (status["restartCount"] == 1 && status["ready"] == true).then_some(pod)
    })
    .await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(7), &json!("Error")));
    assert_eq!(world.endpoints()[0].address, first.address, "the pod keeps its address");
    let previous = LogQuery { previous: true, ..LogQuery::default() };
    assert_eq!(log(&world, &first.id, previous).await, "listening\n");
    let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
    world.api.remove(&format!("{PODS}/{name}"));
    let next =
        until("another pod is ready", || world.endpoints().into_iter().find(|endpoint| endpoint.id != name))
            .await;
    assert_eq!(get(next.address, "/").unwrap(), "hello\n");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_becomes_ready_is_told_with_its_reason() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    world.api.put(DEPLOYMENT, deployment(1, json!([{"name": "MODE", "value": "exit"}])));
    let pod = until("the back-off", || {
        let pod = world.api.list(PODS).into_iter().next()?;
        (pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff")
            .then_some(pod)
    })
    .await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["message"]), (&json!(7), &json!("no reason to live")));
    until("the deadline", || {
        let deployment = world.api.get(DEPLOYMENT)?;
        (condition(&deployment, "Progressing")["reason"] == "ProgressDeadlineExceeded").then_some(())
    })
    .await;
    let mut other = deployment(1, json!([]));
    other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("dev.local/missing:v1");
    world.api.put(DEPLOYMENT, other);
    until("the image is missing", || {
        world.api.list(PODS).into_iter().find(|pod| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            matches!(waiting["reason"].as_str(), Some("ErrImagePull" | "ImagePullBackOff"))
        })
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_main_process_adopts_what_runs() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    world.api.put(DEPLOYMENT, deployment(1, json!([])));
    world.node.scale(&revision(), 2);
    let mut before = world.ready(2).await;
    let pids = world.node.processes();
    let (dir, api) = world.vanish().await;
    let world = World::start(dir, api, Arc::default()).await;
    let mut after = world.ready(2).await;
    before.sort_by(|one, two| one.id.cmp(&two.id));
    after.sort_by(|one, two| one.id.cmp(&two.id));
    assert_eq!(before, after);
    let mut adopted = world.node.processes();
    adopted.sort();
    let mut pids = pids;
    pids.sort();
    assert_eq!(adopted, pids, "the same processes");
    assert_eq!(get(after[0].address, "/").unwrap(), "hello\n");
    // Its Deployment goes: so do they.
    world.api.remove(DEPLOYMENT);
    world.ready(0).await;
    until("nothing runs", || (world.node.instances() == 0).then_some(())).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_keeper_is_replaced_and_instances_start_again() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    world.api.put(DEPLOYMENT, deployment(1, json!([])));
    let first = world.ready(1).await.remove(0);
    let old = world.node.keeper().pid();
    let pid = rustix::process::Pid::from_raw(i32::try_from(old).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("another keeper", || (world.node.keeper().pid() != old).then_some(())).await;
    until("it answers again", || get(first.address, "/").ok().filter(|text| text == "hello\n")).await;
    let (config, dir) = (world.config.clone(), world.dir.clone());
    // `down` after a crash of the main process: the keeper is still there.
    let _ = world.vanish().await;
    remove(&config, dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_to_come_see_a_changed_config_map() {
    if !possible() {
        return;
    }
    const MAP: &str = "/api/v1/namespaces/default/configmaps/settings";
    let map = |mode: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "default"},
            "data": {"mode": mode}})
    };
    let world = World::new().await;
    world.api.put(MAP, map("exit"));
    let from =
        json!([{"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode"}}}]);
    world.api.put(DEPLOYMENT, deployment(1, from));
    until("the first one crashes", || {
        let pod = world.api.list(PODS).into_iter().next()?;
        (pod["status"]["containerStatuses"][0]["restartCount"] == 1).then_some(())
    })
    .await;
    world.api.put(MAP, map("serve"));
    // A pod keeps trying with the newest values; a new one starts at once.
    world.node.scale(&revision(), 0);
    until("it is gone", || (world.node.instances() == 0).then_some(())).await;
    world.node.scale(&revision(), 1);
    world.ready(1).await;
    world.end().await;
}
