//! Facts → objects. Pure but for what describes this machine.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::manager::cell::{Cell, Container, Ended, Part, serving};
use crate::manager::{Census, WorkKey};

/// The Pod object of an instance.
pub(super) fn pod(cell: &Cell, owner_uid: &str, node_name: &str, status: &Value) -> Value {
    let mut labels = cell.template.labels.clone();
    labels.insert("pod-template-hash".to_owned(), cell.template.hash.clone());
    let mut spec = serde_json::to_value(&cell.template.spec).unwrap_or_default();
    if let Value::Object(spec) = &mut spec {
        spec.insert("nodeName".to_owned(), json!(node_name));
        spec.entry("securityContext").or_insert_with(|| json!({}));
        spec.entry("restartPolicy").or_insert_with(|| json!("Always"));
        spec.entry("serviceAccountName").or_insert_with(|| json!("default"));
        spec.entry("dnsPolicy").or_insert_with(|| json!("ClusterFirst"));
        spec.entry("schedulerName").or_insert_with(|| json!("default-scheduler"));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": cell.pod, "namespace": cell.key.namespace, "uid": cell.uid,
            "generateName": format!("{}-{}-", cell.key.name, cell.template.hash),
            "labels": labels, "annotations": cell.template.annotations,
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "name": cell.key.name, "uid": owner_uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": spec,
        "status": status,
    })
}

/// The status of an instance's Pod.
pub(super) fn pod_status(cell: &Arc<Cell>, host_ip: &str) -> Value {
    let facts = cell.facts().clone();
    let is_waiting = |cell: &Arc<Cell>| {
        matches!(cell.facts().container, Container::Waiting { .. }) && cell.facts().last.is_none()
    };
    let (phase, ready) = if is_waiting(cell) { ("Pending", false) } else { ("Running", facts.ready) };
    let initialized = cell.before.iter().all(succeeded);
    // In the order of the template.
    let mut containers: Vec<(usize, Value)> = vec![(serving(&cell.template.spec), container_status(cell))];
    containers.extend(cell.beside.iter().map(|part| match part.part {
        Part::Beside(at) | Part::Before(at) => (at, container_status(part)),
        Part::Serving => (0, container_status(part)),
    }));
    containers.sort_by_key(|(at, _)| *at);
    let containers: Vec<Value> = containers.into_iter().map(|(_, status)| status).collect();
    let unready: Vec<&str> = std::iter::once(cell)
        .chain(&cell.beside)
        .filter(|part| !is_ready(part))
        .map(|part| part.container_name())
        .collect();
    let not_ready = format!("containers with unready status: [{}]", unready.join(" "));
    let condition = |kind: &str, good: bool, at: Timestamp| {
        let mut condition =
            json!({ "type": kind, "status": if good { "True" } else { "False" }, "lastTransitionTime": at });
        if !good {
            set(&mut condition, "reason", json!("ContainersNotReady"));
            set(&mut condition, "message", json!(not_ready));
        }
        condition
    };
    let ip = cell.ip().map(|ip| ip.to_string());
    let mut status = json!({
        "phase": phase,
        "conditions": [
            condition("PodReadyToStartContainers", true, facts.created),
            condition("Initialized", initialized, facts.created),
            condition("Ready", ready, facts.ready_changed),
            condition("ContainersReady", ready, facts.ready_changed),
            condition("PodScheduled", true, facts.created),
        ],
        "hostIP": host_ip, "hostIPs": [{ "ip": host_ip }],
        "podIP": ip, "podIPs": ip.as_ref().map(|ip| json!([{ "ip": ip }])),
        "startTime": facts.created,
        "qosClass": "Burstable",
        "containerStatuses": containers,
    });
    if !cell.before.is_empty() {
        let init: Vec<Value> = cell.before.iter().map(container_status).collect();
        set(&mut status, "initContainerStatuses", json!(init));
    }
    status
}

fn succeeded(cell: &Arc<Cell>) -> bool {
    matches!(&cell.facts().container, Container::Ended(ended) if ended.code == 0)
}

/// Whether a container is: of a pod with one container it is the pod's readiness, of an init container its success.
fn is_ready(cell: &Arc<Cell>) -> bool {
    match cell.part {
        Part::Before(_) => succeeded(cell),
        Part::Beside(_) => cell.facts().passed,
        Part::Serving if cell.has_several() => cell.facts().passed,
        Part::Serving => cell.facts().ready,
    }
}

fn container_status(cell: &Arc<Cell>) -> Value {
    let ready = is_ready(cell);
    let facts = cell.facts().clone();
    let container = cell.container();
    let name = container.map(|container| container.name.as_str()).unwrap_or_default();
    let image = container.and_then(|container| container.image.as_deref()).unwrap_or_default();
    let (state, running) = match &facts.container {
        Container::Waiting { reason, message } => {
            let mut waiting = json!({ "reason": reason });
            if !message.is_empty() {
                set(&mut waiting, "message", json!(message));
            }
            (json!({ "waiting": waiting }), false)
        }
        Container::Running { since } => (json!({ "running": { "startedAt": since } }), true),
        Container::Ended(ended) => (json!({ "terminated": terminated(ended) }), false),
    };
    let image_id = match (facts.digest.is_empty(), image.split('@').next()) {
        (false, Some(name)) => format!("{}@{}", untagged(name), facts.digest),
        _ => String::new(),
    };
    let sandbox = facts.sandbox.as_ref().or(facts.last.as_ref().map(|last| &last.sandbox));
    let mut status = json!({
        "name": name, "image": image, "imageID": image_id,
        "ready": ready, "started": running, "restartCount": facts.restarts, "state": state,
    });
    // Within a list a merge patch keeps nulls, so what is absent is left out.
    if let Some(last) = facts.last.as_ref().filter(|_| !matches!(facts.container, Container::Ended(_))) {
        set(&mut status, "lastState", json!({ "terminated": terminated(last) }));
    }
    if let Some(id) = sandbox {
        set(&mut status, "containerID", json!(format!("dormouse://{id}")));
    }
    status
}

/// Sets a field of an object.
fn set(object: &mut Value, field: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(field.to_owned(), value);
    }
}

fn terminated(ended: &Ended) -> Value {
    let mut value = json!({
        "exitCode": ended.code, "reason": ended.reason, "finishedAt": ended.finished,
        "containerID": format!("dormouse://{}", ended.sandbox),
    });
    if let Some(started) = ended.started {
        set(&mut value, "startedAt", json!(started));
    }
    if let Some(signal) = ended.signal {
        set(&mut value, "signal", json!(signal));
    }
    if !ended.message.is_empty() {
        set(&mut value, "message", json!(ended.message));
    }
    value
}

/// A reference without its tag; a port of the registry is not a tag.
fn untagged(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

/// The status of a Deployment. `before` is what was told last: transition times stay while a condition stays.
pub(super) fn deployment_status(
    key: &WorkKey,
    census: &Census,
    before: Option<&Value>,
    now: Timestamp,
) -> Value {
    let (desired, ready) = (census.desired, census.ready);
    // The rollout strategy's maxUnavailable of 25 %, rounded down.
    let enough = ready >= desired - desired / 4;
    let available = if enough {
        ("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        (
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".to_owned(),
        )
    };
    let set = format!("{}-{}", key.name, census.hash);
    let progressing = if census.rolled_out {
        (
            "Progressing",
            "True",
            "NewReplicaSetAvailable",
            format!("ReplicaSet \"{set}\" has successfully progressed."),
        )
    } else if census.deadline_exceeded {
        (
            "Progressing",
            "False",
            "ProgressDeadlineExceeded",
            format!("ReplicaSet \"{set}\" has timed out progressing."),
        )
    } else {
        ("Progressing", "True", "ReplicaSetUpdated", format!("ReplicaSet \"{set}\" is progressing."))
    };
    let conditions: Vec<Value> = [available, progressing]
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let old = before
                .and_then(|before| before.get("conditions")?.as_array())
                .and_then(|list| list.iter().find(|old| old.get("type").is_some_and(|have| have == kind)));
            let same = |field: &str, value: &str| {
                old.is_some_and(|old| old.get(field).is_some_and(|have| have == value))
            };
            let keep = |field: &str, stays: bool| {
                old.filter(|_| stays).and_then(|old| old.get(field)).cloned().unwrap_or_else(|| json!(now))
            };
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": keep("lastTransitionTime", same("status", status)),
                "lastUpdateTime": keep("lastUpdateTime", same("reason", reason) && same("status", status)),
            })
        })
        .collect();
    let some = |number: u32| (number > 0).then_some(number);
    json!({
        "observedGeneration": census.generation,
        "replicas": some(census.replicas), "updatedReplicas": some(census.updated),
        "readyReplicas": some(ready), "availableReplicas": some(ready),
        "unavailableReplicas": some(desired.saturating_sub(ready)),
        "conditions": conditions,
    })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The Node object and its status.
pub(super) fn node(name: &str, address: &str, version: &str, now: Timestamp) -> (Value, Value) {
    let uname = rustix::system::uname();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let os = read("/etc/os-release");
    let pretty =
        os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let memory = read("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).unwrap_or("0").to_owned();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let resources = json!({ "cpu": cpus.to_string(), "memory": format!("{memory}Ki"), "pods": "1000" });
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let labels = json!({
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture,
        "node-role.kubernetes.io/control-plane": "",
    });
    let status = json!({
        "addresses": [{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }],
        "capacity": resources, "allocatable": resources,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "dormouse is running instances"),
        ],
        "nodeInfo": {
            "architecture": architecture, "operatingSystem": "linux", "osImage": pretty,
            "kernelVersion": uname.release().to_string_lossy(),
            "containerRuntimeVersion": format!("dormouse://{version}"),
            "kubeletVersion": "v1.35.0", "kubeProxyVersion": "",
            "machineID": read("/etc/machine-id"), "systemUUID": read("/etc/machine-id"),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
        },
    });
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels },
        "spec": {}, "status": status,
    });
    (node, status)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use dormouse_base::clock;

    use super::*;
    use crate::manager::cell::Template;

    fn cell() -> Arc<Cell> {
        let spec = serde_json::from_value(
            json!({"containers": [{"name": "user-container", "image": "host:5000/a:v1"}]}),
        );
        let template = Template {
            hash: "abc".into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: spec.unwrap(),
        };
        let key = WorkKey { namespace: "default".into(), name: "hello".into() };
        Cell::new(key, "hello-abc-1".into(), "u".into(), Arc::new(template), clock::now(), clock::timestamp())
    }

    fn ended(code: i32) -> Ended {
        Ended {
            code,
            signal: None,
            reason: "Error".into(),
            message: "boom".into(),
            started: None,
            finished: clock::timestamp(),
            sandbox: "s".into(),
        }
    }

    #[test]
    fn a_pod_that_crashed_tells_its_exit_code_in_the_last_state() {
        let cell = cell();
        {
            let mut facts = cell.facts();
            facts.last = Some(ended(7));
            facts.restarts = 2;
            facts.digest = "sha256:1".into();
            facts.container = Container::Waiting { reason: "CrashLoopBackOff".into(), message: "m".into() };
        }
        let status = pod_status(&cell, "10.64.0.1");
        let container = &status["containerStatuses"][0];
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 7);
        assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(container["restartCount"], 2);
        assert_eq!(container["imageID"], "host:5000/a@sha256:1");
        assert_eq!(status["phase"], "Running");
        serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(pod(&cell, "o", "n", &status)).unwrap();
    }

    #[test]
    fn a_ready_pod_is_running_and_ready() {
        let cell = cell();
        {
            let mut facts = cell.facts();
            facts.container = Container::Running { since: clock::timestamp() };
            facts.address = Some("10.64.0.9:8080".parse().unwrap());
            facts.ready = true;
        }
        let status = pod_status(&cell, "10.64.0.1");
        // A pod that has never been told needs `last` only for crashes.
        assert_eq!(status["phase"], "Running");
        assert_eq!(status["podIP"], "10.64.0.9");
        assert!(
            status["conditions"].as_array().unwrap().iter().all(|condition| condition["status"] == "True")
        );
    }

    fn census() -> Census {
        Census {
            uid: "u".into(),
            generation: 3,
            is_revision: true,
            spec_replicas: 1,
            desired: 1,
            replicas: 1,
            updated: 1,
            ready: 0,
            hash: "abc".into(),
            rolled_out: false,
            deadline_exceeded: false,
        }
    }

    #[test]
    fn deployment_conditions_follow_the_rollout_and_keep_their_times() {
        let key = WorkKey { namespace: "default".into(), name: "hello".into() };
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = deployment_status(&key, &census(), None, at(10));
        assert_eq!(first["conditions"][0]["status"], "False");
        assert_eq!(first["conditions"][1]["reason"], "ReplicaSetUpdated");
        assert_eq!(first["unavailableReplicas"], 1);
        let done = Census { ready: 1, rolled_out: true, ..census() };
        let second = deployment_status(&key, &done, Some(&first), at(20));
        assert_eq!(second["conditions"][0]["reason"], "MinimumReplicasAvailable");
        assert_eq!(second["conditions"][0]["lastTransitionTime"], json!(at(20)));
        assert_eq!(second["conditions"][1]["reason"], "NewReplicaSetAvailable");
        assert_eq!(second["conditions"][1]["lastTransitionTime"], json!(at(10)));
        assert_eq!(second["conditions"][1]["lastUpdateTime"], json!(at(20)));
        assert_eq!(second["unavailableReplicas"], Value::Null);
        let late = Census { deadline_exceeded: true, ..census() };
        let third = deployment_status(&key, &late, Some(&first), at(30));
        assert_eq!(third["conditions"][1]["reason"], "ProgressDeadlineExceeded");
        assert_eq!(third["conditions"][1]["status"], "False");
    }

    #[test]
    fn the_node_object_is_one() {
        let (node, _) = node("n", "10.64.0.1", "0", Timestamp::UNIX_EPOCH);
        let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(node).unwrap();
        assert!(!node.status.unwrap().node_info.unwrap().kernel_version.is_empty());
    }
}
