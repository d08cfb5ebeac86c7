use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe, Volume};
use serde_json::Value;

use super::Causes;
use crate::names;
use crate::serving::meta::is_quantity;

/// Defaults and judges a Pod.
pub(super) fn pod(new: &mut Pod, _: Option<&Pod>, causes: &mut Causes) {
    spec(new.spec.get_or_insert_default(), "spec", causes);
    new.status.get_or_insert_default().phase.get_or_insert_with(|| "Pending".to_owned());
}

/// Defaults and judges the spec of a Pod or of a template at `path`.
pub(super) fn spec(pod: &mut PodSpec, path: &str, causes: &mut Causes) {
    let text = |slot: &mut Option<String>, value: &str| {
        slot.get_or_insert_with(|| value.to_owned());
    };
    text(&mut pod.restart_policy, "Always");
    text(&mut pod.dns_policy, "ClusterFirst");
    text(&mut pod.scheduler_name, "default-scheduler");
    pod.termination_grace_period_seconds.get_or_insert(30);
    pod.security_context.get_or_insert_default();
    if let Some(policy) = pod.restart_policy.as_deref()
        && !matches!(policy, "Always" | "OnFailure" | "Never")
    {
        causes.unsupported(&format!("{path}.restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
    }
    volumes(pod.volumes.as_deref().unwrap_or_default(), path, causes);
    for volume in pod.volumes.iter_mut().flatten() {
        defaults(volume);
    }
    if pod.containers.is_empty() {
        causes.required(&format!("{path}.containers"), "");
    }
    let known: BTreeSet<String> = pod.volumes.iter().flatten().map(|volume| volume.name.clone()).collect();
    let mut seen = BTreeSet::new();
    let init = pod.init_containers.iter_mut().flatten().enumerate();
    let init = init.map(|(index, container)| (format!("{path}.initContainers[{index}]"), container));
    let main = pod.containers.iter_mut().enumerate();
    let main = main.map(|(index, container)| (format!("{path}.containers[{index}]"), container));
    for (path, container) in init.chain(main) {
        self::container(container, &path, &known, causes);
        if !container.name.is_empty() && !seen.insert(container.name.clone()) {
            causes.duplicate(&format!("{path}.name"), &container.name);
        }
    }
}

fn volumes(volumes: &[Volume], path: &str, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let field = format!("{path}.volumes[{index}].name");
        if volume.name.is_empty() {
            causes.required(&field, "");
        } else if let Some(why) = names::label_error(&volume.name) {
            causes.invalid(&field, &Value::from(volume.name.as_str()), &why);
        } else if !seen.insert(volume.name.as_str()) {
            causes.duplicate(&field, &volume.name);
        }
    }
}

fn defaults(volume: &mut Volume) {
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(0o644);
    } else if let Some(map) = &mut volume.config_map {
        map.default_mode.get_or_insert(0o644);
    } else if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(0o644);
    }
}

fn container(container: &mut Container, path: &str, volumes: &BTreeSet<String>, causes: &mut Causes) {
    let image = container.image.clone().unwrap_or_default();
    if container.name.is_empty() {
        causes.required(&format!("{path}.name"), "");
    } else if let Some(why) = names::label_error(&container.name) {
        causes.invalid(&format!("{path}.name"), &Value::from(container.name.as_str()), &why);
    }
    if image.is_empty() {
        causes.required(&format!("{path}.image"), "");
    }
    let policy = container.image_pull_policy.get_or_insert_with(|| pull_policy(&image).to_owned());
    if !matches!(policy.as_str(), "Always" | "IfNotPresent" | "Never") {
        causes.unsupported(&format!("{path}.imagePullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
    }
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
    container.termination_message_policy.get_or_insert_with(|| "File".to_owned());
    container.resources.get_or_insert_default();
    for (index, port) in container.ports.iter_mut().flatten().enumerate() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        if !(1..=65535).contains(&port.container_port) {
            let field = format!("{path}.ports[{index}].containerPort");
            causes.invalid(
                &field,
                &Value::from(port.container_port),
                "must be between 1 and 65535, inclusive",
            );
        }
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        if variable.name.is_empty() {
            causes.required(&format!("{path}.env[{index}].name"), "");
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let field = format!("{path}.volumeMounts[{index}]");
        if !volumes.contains(&mount.name) {
            causes.add(
                "FieldValueNotFound",
                &format!("{field}.name"),
                format!("Not found: {:?}", mount.name),
            );
        }
        if mount.mount_path.is_empty() {
            causes.required(&format!("{field}.mountPath"), "");
        }
    }
    if let Some(resources) = &container.resources {
        for (kind, map) in [("limits", &resources.limits), ("requests", &resources.requests)] {
            for (name, quantity) in map.iter().flatten().filter(|(_, quantity)| !is_quantity(&quantity.0)) {
                let why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
                causes.invalid(
                    &format!("{path}.resources.{kind}[{name}]"),
                    &Value::from(quantity.0.as_str()),
                    why,
                );
            }
        }
    }
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
    {
        probe.iter_mut().for_each(probe_defaults);
    }
}

fn probe_defaults(probe: &mut Probe) {
    for (slot, value) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if slot.unwrap_or(0) == 0 {
            *slot = Some(value);
        }
    }
    if let Some(get) = &mut probe.http_get {
        get.scheme.get_or_insert_with(|| "HTTP".to_owned());
        get.path.get_or_insert_with(|| "/".to_owned());
    }
}

/// `Always` for a moving tag, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        _ if last.contains('@') => "IfNotPresent",
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}
