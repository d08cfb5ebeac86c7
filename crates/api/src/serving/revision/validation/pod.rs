use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodSpec, Volume};

use super::container;
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

/// What is wrong with the pod of a Revision.
pub(super) fn pod(pod: &PodSpec) -> FieldError {
    let mut errors = FieldError::none();
    for key in keys(pod).iter().filter(|key| !ALLOWED.contains(&key.as_str())) {
        errors.add(FieldError::disallowed(&[key]));
    }
    if let Some(count) = pod.init_containers.as_ref().map(Vec::len).filter(|count| *count > 0) {
        errors.add(FieldError::new(
            format!("pod spec support for init-containers is off, but found {count} init containers"),
            &["initContainers"],
        ));
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
    errors.add(self::volumes(volumes));
    match pod.containers.as_slice() {
        [] => errors.add(FieldError::missing(&["containers"])),
        [single] => {
            errors.add(container::container(single, volumes).via_index(0).via("containers"));
            let mounted: BTreeSet<&str> =
                single.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
            for (index, volume) in volumes.iter().enumerate() {
                if !mounted.contains(volume.name.as_str()) {
                    errors.add(
                        FieldError::new(format!("volume with name {:?} not mounted", volume.name), &["name"])
                            .via_field_index("volumes", index),
                    );
                }
            }
        }
        several => errors.add(FieldError::new(
            format!(
                "multi-container is not supported by this version of Dormouse, but found {} containers",
                several.len()
            ),
            &["containers"],
        )),
    }
    errors
}

fn volumes(volumes: &[Volume]) -> FieldError {
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
            error.add(source(volume, kind));
        }
        errors.add(error.via_field_index("volumes", index));
    }
    errors
}

fn source(volume: &Volume, kind: &str) -> FieldError {
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
        "secret" | "configMap" | "emptyDir" => FieldError::none(),
        "projected" => {
            let mut errors = FieldError::none();
            let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            for (index, source) in sources.enumerate() {
                for key in keys(source).iter().filter(|key| !matches!(key.as_str(), "secret" | "configMap")) {
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
