//! The objects that run a function: what upstream's deployer makes of a func.yaml.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::spec::{Env, Label, Resources, Spec, Volume};
use super::value::{Meaning, meaning};
use super::{Lookup, interpolate, validate};
use crate::error::{Error, Reason, Result};

/// The label that every function carries; `list` goes by it.
pub(super) const FUNCTION: &str = "boson.dev/function";
/// The annotation that names the deployer.
const DEPLOYER: &str = "function.knative.dev/deployer";

pub(super) fn service(spec: &Spec, image: &str, namespace: &str, env: Lookup<'_>) -> Result<Value> {
    let labels = labels(spec, env)?;
    let mut annotations: BTreeMap<&str, String> = BTreeMap::from([(DEPLOYER, "knative".to_owned())]);
    annotations.extend(spec.deploy.annotations.iter().map(|(key, value)| (key.as_str(), value.clone())));
    let mut of_revision = annotations.clone();
    of_revision.extend(scale(spec));
    let mut container = json!({
        "image": image,
        "securityContext": {
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "livenessProbe": {"httpGet": {"path": or(&spec.deploy.health.liveness, "/health/liveness")}},
        "readinessProbe": {"httpGet": {"path": or(&spec.deploy.health.readiness, "/health/readiness")}},
    });
    let mut pod = json!({});
    if let Some(fields) = container.as_object_mut() {
        if matches!(spec.runtime.as_str(), "static" | "wasm") {
            // Neither a file server nor a component is a process with health paths of its own.
            fields.remove("livenessProbe");
            fields.remove("readinessProbe");
        }
        if spec.runtime == "wasm" {
            fields.remove("securityContext");
        }
        let (env, from) = variables(&spec.run.envs, env)?;
        put_list(fields, "env", env);
        put_list(fields, "envFrom", from);
        let (volumes, mounts) = volumes(&spec.run.volumes);
        put_list(fields, "volumeMounts", mounts);
        if let Some(pod) = pod.as_object_mut() {
            put_list(pod, "volumes", volumes);
        }
        let (resources, concurrency) = resources(spec.deploy.options.resources.as_ref());
        if resources.as_object().is_some_and(|resources| !resources.is_empty()) {
            fields.insert("resources".to_owned(), resources);
        }
        if let (Some(pod), Some(concurrency)) = (pod.as_object_mut(), concurrency) {
            pod.insert("containerConcurrency".to_owned(), json!(concurrency));
        }
    }
    if let Some(pod) = pod.as_object_mut() {
        pod.insert("containers".to_owned(), json!([container]));
        if !spec.deploy.service_account.is_empty() {
            pod.insert("serviceAccountName".to_owned(), json!(spec.deploy.service_account));
        }
        if !spec.deploy.image_pull_secret.is_empty() {
            pod.insert("imagePullSecrets".to_owned(), json!([{"name": spec.deploy.image_pull_secret}]));
        }
    }
    Ok(json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {
            "name": spec.name, "namespace": namespace, "labels": labels, "annotations": annotations,
        },
        "spec": {"template": {"metadata": {"labels": labels, "annotations": of_revision}, "spec": pod}},
    }))
}

/// One Trigger per subscription, named as upstream names them.
pub(super) fn triggers(spec: &Spec, namespace: &str, uid: &str) -> Vec<Value> {
    let name = &spec.name;
    let subscriber = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": name});
    let owner = json!([{
        "apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": name, "uid": uid,
    }]);
    let trigger = |(index, subscription): (usize, &super::Subscription)| {
        json!({
            "apiVersion": "eventing.knative.dev/v1",
            "kind": "Trigger",
            "metadata": {
                "name": format!("{name}-function-trigger-{index}"),
                "namespace": namespace,
                "ownerReferences": owner,
            },
            "spec": {
                "broker": subscription.source,
                "filter": {"attributes": subscription.filters},
                "subscriber": {"ref": subscriber},
            },
        })
    };
    spec.deploy.subscriptions.iter().enumerate().map(trigger).collect()
}

fn labels(spec: &Spec, env: Lookup<'_>) -> Result<BTreeMap<String, String>> {
    let errors = validate::labels(&spec.deploy.labels, env);
    if !errors.is_empty() {
        return Err(Error::new(Reason::ProjectInvalid, errors.join(" ")).with_remedy("correct func.yaml"));
    }
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for Label { key, value, .. } in &spec.deploy.labels {
        let Some(key) = key else { continue };
        let value = value.as_deref().unwrap_or_default();
        let value = match meaning(value) {
            Meaning::Local(name) => env(name).unwrap_or_default(),
            _ => value.to_owned(),
        };
        all.insert(key.clone(), value);
    }
    all.insert(FUNCTION.to_owned(), "true".to_owned());
    all.insert("function.knative.dev/name".to_owned(), spec.name.clone());
    all.insert("function.knative.dev/runtime".to_owned(), spec.runtime.clone());
    if !spec.domain.is_empty() {
        all.insert("func.domain".to_owned(), spec.domain.clone());
    }
    Ok(all)
}

fn scale(spec: &Spec) -> BTreeMap<&'static str, String> {
    let mut all = BTreeMap::new();
    let Some(scale) = &spec.deploy.options.scale else { return all };
    let mut put = |key: &'static str, value: Option<String>| all.extend(value.map(|value| (key, value)));
    put("autoscaling.knative.dev/min-scale", scale.min.map(|value| value.to_string()));
    put("autoscaling.knative.dev/max-scale", scale.max.map(|value| value.to_string()));
    put("autoscaling.knative.dev/metric", scale.metric.clone());
    put("autoscaling.knative.dev/target", scale.target.map(|value| format!("{value:.6}")));
    put(
        "autoscaling.knative.dev/target-utilization-percentage",
        scale.utilization.map(|value| format!("{value:.6}")),
    );
    all
}

fn variables(envs: &[Env], env: Lookup<'_>) -> Result<(Vec<Value>, Vec<Value>)> {
    let (mut list, mut from) = (Vec::new(), Vec::new());
    let own = interpolate(envs, env)?;
    for entry in envs {
        let value = entry.value.as_deref().unwrap_or_default();
        match (&entry.name, meaning(value)) {
            (None, Meaning::Secret(name)) => from.push(json!({"secretRef": {"name": name}})),
            (None, Meaning::ConfigMap(name)) => from.push(json!({"configMapRef": {"name": name}})),
            (None, _) => {}
            (Some(name), Meaning::SecretKey(secret, key)) => {
                list.push(json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}))
            }
            (Some(name), Meaning::ConfigMapKey(map, key)) => {
                list.push(json!({"name": name, "valueFrom": {"configMapKeyRef": {"name": map, "key": key}}}))
            }
            (Some(name), _) => list.push(json!({"name": name, "value": own.get(name)})),
        }
    }
    Ok((list, from))
}

/// Volumes and their mounts; a source that is mounted twice is one volume.
fn volumes(volumes: &[Volume]) -> (Vec<Value>, Vec<Value>) {
    let (mut list, mut mounts) = (Vec::<Value>::new(), Vec::new());
    for (index, volume) in volumes.iter().enumerate() {
        let (name, source) = if let Some(secret) = &volume.secret {
            (format!("secret-{secret}"), json!({"secret": {"secretName": secret}}))
        } else if let Some(map) = &volume.config_map {
            (format!("config-map-{map}"), json!({"configMap": {"name": map}}))
        } else if let Some(claim) = &volume.claim {
            let name = claim.name.clone().unwrap_or_default();
            let source = json!({"claimName": name, "readOnly": claim.read_only});
            (format!("pvc-{name}"), json!({"persistentVolumeClaim": source}))
        } else if let Some(dir) = &volume.empty_dir {
            let mut source = Map::new();
            if !dir.medium.is_empty() {
                source.insert("medium".to_owned(), json!(dir.medium));
            }
            source.extend(dir.size_limit.as_ref().map(|limit| ("sizeLimit".to_owned(), json!(limit))));
            (format!("empty-dir-{index}"), json!({"emptyDir": source}))
        } else {
            continue;
        };
        let mut entry = source;
        if let Some(fields) = entry.as_object_mut() {
            fields.insert("name".to_owned(), json!(name));
        }
        if !list.contains(&entry) {
            list.push(entry);
        }
        mounts.push(json!({"name": name, "mountPath": volume.path}));
    }
    (list, mounts)
}

/// The container's resources and the requests at once.
fn resources(resources: Option<&Resources>) -> (Value, Option<i64>) {
    let mut all = Map::new();
    let mut concurrency = None;
    let quantities = |cpu: &Option<String>, memory: &Option<String>| {
        let both = [("cpu", cpu), ("memory", memory)];
        let set = both.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value.as_ref()?))));
        set.collect::<Map<_, _>>()
    };
    if let Some(requests) = resources.and_then(|resources| resources.requests.as_ref()) {
        all.insert("requests".to_owned(), quantities(&requests.cpu, &requests.memory).into());
    }
    if let Some(limits) = resources.and_then(|resources| resources.limits.as_ref()) {
        all.insert("limits".to_owned(), quantities(&limits.cpu, &limits.memory).into());
        concurrency = limits.concurrency;
    }
    (all.into(), concurrency)
}

fn put_list(fields: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        fields.insert(key.to_owned(), list.into());
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}
