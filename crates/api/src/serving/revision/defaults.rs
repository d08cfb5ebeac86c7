use k8s_openapi::api::core::v1::{Container, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{RevisionSpec, RevisionTemplateSpec};
use crate::vocabulary::{DEFAULT_TIMEOUT_SECONDS, USER_CONTAINER};

/// Fills in what a template leaves open, unless an update keeps a named Revision as it is.
pub(crate) fn template(template: &mut RevisionTemplateSpec, old: Option<&RevisionTemplateSpec>) {
    let name = |template: &RevisionTemplateSpec| {
        template.metadata.as_ref().and_then(|metadata| metadata.name.clone()).filter(|name| !name.is_empty())
    };
    let kept = old.is_some_and(|old| name(old).is_some() && old == template);
    if !kept {
        spec(&mut template.spec, old.is_none());
    }
}

/// Fills in what a Revision's spec leaves open.
pub(crate) fn spec(spec: &mut RevisionSpec, create: bool) {
    if spec.timeout_seconds.unwrap_or(0) == 0 {
        spec.timeout_seconds = Some(DEFAULT_TIMEOUT_SECONDS);
    }
    spec.container_concurrency.get_or_insert(0);
    if create {
        spec.pod.enable_service_links.get_or_insert(false);
    }
    let single = spec.pod.containers.len() == 1;
    for (index, container) in spec.pod.containers.iter_mut().enumerate() {
        if container.name.is_empty() {
            container.name =
                if single { USER_CONTAINER.to_owned() } else { format!("{USER_CONTAINER}-{index}") };
        }
        let serving = single || container.ports.as_ref().is_some_and(|ports| !ports.is_empty());
        probes(container, serving);
        container.resources.get_or_insert_default();
    }
    let read_only: Vec<String> = spec
        .pod
        .volumes
        .iter()
        .flatten()
        .filter(|volume| volume.secret.is_some() || volume.config_map.is_some() || volume.projected.is_some())
        .map(|volume| volume.name.clone())
        .collect();
    let mounts = spec.pod.containers.iter_mut().filter_map(|container| container.volume_mounts.as_mut());
    for mount in mounts.flatten().filter(|mount| read_only.contains(&mount.name)) {
        mount.read_only.get_or_insert(true);
    }
}

fn probes(container: &mut Container, serving: bool) {
    if serving {
        let probe = container.readiness_probe.get_or_insert_default();
        handler(probe);
        if probe.success_threshold.unwrap_or(0) == 0 {
            probe.success_threshold = Some(1);
        }
        if probe.period_seconds.unwrap_or(0) != 0 {
            if probe.failure_threshold.unwrap_or(0) == 0 {
                probe.failure_threshold = Some(3);
            }
            if probe.timeout_seconds.unwrap_or(0) == 0 {
                probe.timeout_seconds = Some(1);
            }
        }
    }
    for probe in [&mut container.liveness_probe, &mut container.startup_probe].into_iter().flatten() {
        handler(probe);
    }
}

fn handler(probe: &mut Probe) {
    if probe.tcp_socket.is_none() && probe.http_get.is_none() && probe.exec.is_none() && probe.grpc.is_none()
    {
        probe.tcp_socket = Some(TCPSocketAction { host: None, port: IntOrString::Int(0) });
    }
}
