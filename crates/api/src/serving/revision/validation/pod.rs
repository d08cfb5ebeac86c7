use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

use super::container::{self, Around};
use crate::config::{Features, Flag};
use crate::fielderror::FieldError;
use crate::names;
use crate::serving::meta::{keys, unsupported};

/// Pod fields that a Revision may set.
const ALLOWED: &[&str] = &[
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "imagePullSecrets",
    "initContainers",
    "serviceAccountName",
    "volumes",
];

/// What may be projected into a volume.
const PROJECTED: &[&str] = &["configMap", "downwardAPI", "secret", "serviceAccountToken"];

/// What is wrong with the pod of a Revision.
pub(super) fn pod(pod: &PodSpec, features: &Features) -> FieldError {
    let mut errors = FieldError::none();
    let gated = [("securityContext", features.security_context), ("hostAliases", features.host_aliases)];
    for key in keys(pod).iter().filter(|key| !ALLOWED.contains(&key.as_str())) {
        if !gated.iter().any(|(field, flag)| field == key && flag.is_on()) {
            errors.add(FieldError::disallowed(&[key]));
        }
    }
    if pod.automount_service_account_token == Some(true) {
        errors.add(FieldError::disallowed(&["automountServiceAccountToken"]));
    }
    if let Some(name) = pod.service_account_name.as_deref().filter(|name| !name.is_empty())
        && let Some(error) = names::subdomain_error(name)
    {
        errors.add(FieldError::invalid_because(name, "serviceAccountName", error));
    }
    let volumes = pod.volumes.as_deref().unwrap_or_default();
    errors.add(self::volumes(volumes, features));
    let inits = pod.init_containers.as_deref().unwrap_or_default();
    errors.add(init_containers(inits, volumes, features));
    errors.add(containers(&pod.containers, volumes, features));
    errors.add(repeated_names(pod));
    let all = || pod.containers.iter().chain(inits);
    let mounted: BTreeSet<&str> =
        all().flat_map(|one| one.volume_mounts.iter().flatten()).map(|mount| mount.name.as_str()).collect();
    for (index, volume) in volumes.iter().enumerate() {
        if !mounted.contains(volume.name.as_str()) {
            errors.add(
                FieldError::new(format!("volume with name {:?} not mounted", volume.name), &["name"])
                    .via_field_index("volumes", index),
            );
        }
    }
    errors
}

fn containers(containers: &[Container], volumes: &[Volume], features: &Features) -> FieldError {
    let around = Around { volumes, features };
    match containers {
        [] => FieldError::missing(&["containers"]),
        [single] => container::serving(single, &around).via_index(0).via("containers"),
        several if features.multi_container != Flag::Enabled => {
            FieldError::new(format!("multi-container is off, but found {} containers", several.len()), &[])
        }
        several => {
            let ports: usize = several.iter().map(|one| one.ports.as_ref().map_or(0, Vec::len)).sum();
            let mut errors = match ports {
                0 => FieldError::missing(&["ports"]).via("containers[*]"),
                1 => FieldError::none(),
                _ => FieldError::detailed(
                    "more than one container port is set",
                    &["ports"],
                    "Only a single port is allowed across all containers",
                )
                .via("containers[*]"),
            };
            for (index, one) in several.iter().enumerate() {
                let is_serving = one.ports.as_ref().is_some_and(|ports| !ports.is_empty());
                let error = if is_serving {
                    container::serving(one, &around)
                } else {
                    container::beside(one, &around)
                };
                errors.add(error.via_field_index("containers", index));
            }
            errors
        }
    }
}

fn init_containers(inits: &[Container], volumes: &[Volume], features: &Features) -> FieldError {
    let mut errors = FieldError::none();
    if inits.is_empty() {
        return errors;
    }
    if !features.init_containers.is_on() {
        return FieldError::new(
            format!("pod spec support for init-containers is off, but found {} init containers", inits.len()),
            &[],
        );
    }
    for (index, one) in inits.iter().enumerate() {
        errors.add(
            container::init(one, &Around { volumes, features }).via_field_index("initContainers", index),
        );
    }
    errors
}

fn repeated_names(pod: &PodSpec) -> FieldError {
    let mut errors = FieldError::none();
    let mut seen = BTreeSet::new();
    let lists = [
        ("initContainers", pod.init_containers.as_deref().unwrap_or_default()),
        ("containers", &pod.containers),
    ];
    for (field, list) in lists {
        for (index, one) in list.iter().enumerate().filter(|(_, one)| !one.name.is_empty()) {
            if !seen.insert(one.name.as_str()) {
                let text = format!("duplicate container name {:?}", one.name);
                errors.add(FieldError::new(text, &["name"]).via_field_index(field, index));
            }
        }
    }
    errors
}

fn volumes(volumes: &[Volume], features: &Features) -> FieldError {
    let mut errors = FieldError::none();
    let mut seen = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let mut error = FieldError::none();
        if let Some(text) = names::label_error(&volume.name) {
            error.add(FieldError::invalid_because(&volume.name, "name", text));
        }
        if !seen.insert(volume.name.as_str()) {
            error.add(FieldError::new(format!("duplicate volume name {:?}", volume.name), &["name"]));
        }
        let kinds: Vec<String> = keys(volume).into_iter().filter(|key| key != "name").collect();
        if kinds.is_empty() {
            error.add(FieldError::neither(&["configMap", "emptyDir", "projected", "secret"]));
        } else if kinds.len() > 1 {
            let paths: Vec<&str> = kinds.iter().map(String::as_str).collect();
            error.add(FieldError::both(&paths));
        }
        for kind in &kinds {
            error.add(source(volume, kind, features));
        }
        errors.add(error.via_field_index("volumes", index));
    }
    errors
}

fn source(volume: &Volume, kind: &str, features: &Features) -> FieldError {
    let disabled = |what: &str, noun: &str| {
        FieldError::new(format!("{what} support is disabled, but found {noun} {}", volume.name), &[])
    };
    match kind {
        "secret" if volume.secret.as_ref().is_some_and(|secret| secret.secret_name.is_none()) => {
            FieldError::missing(&["secretName"])
        }
        "configMap" if volume.config_map.as_ref().is_some_and(|map| map.name.is_empty()) => {
            FieldError::missing(&["name"])
        }
        "emptyDir" if !features.empty_dir.is_on() => disabled("EmptyDir volume", "EmptyDir volume"),
        "secret" | "configMap" | "emptyDir" => FieldError::none(),
        "projected" => {
            let mut errors = FieldError::none();
            let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            for (index, source) in sources.enumerate() {
                for key in keys(source).iter().filter(|key| !PROJECTED.contains(&key.as_str())) {
                    errors.add(
                        unsupported("this projected volume source", key).via_field_index("sources", index),
                    );
                }
            }
            errors.via("projected")
        }
        "persistentVolumeClaim" => disabled("Persistent volume claim", "persistent volume claim"),
        "hostPath" => disabled("HostPath volume", "HostPath volume"),
        "csi" => disabled("CSI volume", "CSI volume"),
        "ephemeral" => disabled("Ephemeral volume", "Ephemeral volume"),
        "image" => disabled("Image volume", "Image volume"),
        other => FieldError::disallowed(&[other]),
    }
}
