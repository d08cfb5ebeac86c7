use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Capabilities, Container, PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile,
    TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{RevisionSpec, RevisionTemplateSpec};
use crate::config::{Data, Defaults, Flag, SecurePods, Settings, Values};
use crate::names::child_name;

/// Ports below this one need a capability.
const FIRST_FREE_PORT: i32 = 1024;

/// Fills in what a template leaves open, unless an update keeps a named Revision as it is.
pub(crate) fn template(
    template: &mut RevisionTemplateSpec,
    old: Option<&RevisionTemplateSpec>,
    settings: &Settings,
) {
    let name = |template: &RevisionTemplateSpec| {
        template.metadata.as_ref().and_then(|metadata| metadata.name.clone()).filter(|name| !name.is_empty())
    };
    let kept = old.is_some_and(|old| name(old).is_some() && old == template);
    if !kept {
        spec(&mut template.spec, old.is_none(), settings);
    }
}

/// Fills in what a Revision's spec leaves open.
pub(crate) fn spec(spec: &mut RevisionSpec, create: bool, settings: &Settings) {
    let defaults = &settings.defaults;
    if spec.timeout_seconds.unwrap_or(0) == 0 {
        spec.timeout_seconds = Some(defaults.timeout);
    }
    let timeout = spec.timeout_seconds.unwrap_or(defaults.timeout);
    for (field, default) in [
        (&mut spec.response_start_timeout_seconds, defaults.response_start_timeout),
        (&mut spec.idle_timeout_seconds, defaults.idle_timeout),
    ] {
        if field.is_none() && default != 0 && default < timeout {
            *field = Some(default);
        }
    }
    spec.container_concurrency.get_or_insert(defaults.concurrency);
    if create && spec.pod.enable_service_links.is_none() {
        spec.pod.enable_service_links = defaults.service_links;
    }
    names(&mut spec.pod, defaults);
    let single = spec.pod.containers.len() == 1;
    let probing = settings.features.multi_container_probing == Flag::Enabled;
    let pod_context = spec.pod.security_context.clone().unwrap_or_default();
    for container in &mut spec.pod.containers {
        let serving = single || container.ports.as_ref().is_some_and(|ports| !ports.is_empty());
        if serving || probing {
            probes(container, serving);
        }
    }
    for container in containers_mut(&mut spec.pod) {
        resources(container, defaults);
        secure(container, &pod_context, settings.features.secure_pods);
    }
    read_only_mounts(&mut spec.pod);
}

fn containers_mut(pod: &mut PodSpec) -> impl Iterator<Item = &mut Container> {
    pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten())
}

fn names(pod: &mut PodSpec, defaults: &Defaults) {
    let mut taken: BTreeSet<String> =
        containers_mut(pod).map(|one| one.name.clone()).filter(|name| !name.is_empty()).collect();
    let values = Values::default();
    let lists = [
        (pod.containers.as_mut_slice(), defaults.container_name.fill(&values)),
        (pod.init_containers.as_deref_mut().unwrap_or_default(), defaults.init_container_name.fill(&values)),
    ];
    for (list, default) in lists {
        let several = list.len() > 1;
        let mut suffix = 0;
        for container in list.iter_mut().filter(|container| container.name.is_empty()) {
            let mut name = default.clone();
            if several || taken.contains(&name) {
                loop {
                    name = child_name(&default, &format!("-{suffix}"));
                    suffix += 1;
                    if !taken.contains(&name) {
                        break;
                    }
                }
            }
            taken.insert(name.clone());
            container.name = name;
        }
    }
}

fn resources(container: &mut Container, defaults: &Defaults) {
    let resources: &mut ResourceRequirements = container.resources.get_or_insert_default();
    let fill = |map: &mut Option<BTreeMap<String, Quantity>>, from: &Data| {
        for (name, quantity) in from {
            let map = map.get_or_insert_default();
            map.entry(name.clone()).or_insert_with(|| Quantity(quantity.clone()));
        }
    };
    fill(&mut resources.requests, &defaults.requests);
    fill(&mut resources.limits, &defaults.limits);
}

/// The hardening of `secure-pod-defaults`.
fn secure(container: &mut Container, pod: &PodSecurityContext, how: SecurePods) {
    if how == SecurePods::Disabled {
        return;
    }
    let low_port =
        container.ports.iter().flatten().any(|port| (1..FIRST_FREE_PORT).contains(&port.container_port));
    let context = container.security_context.get_or_insert_default();
    context.allow_privilege_escalation.get_or_insert(false);
    if pod.seccomp_profile.as_ref().is_none_or(|profile| profile.type_.is_empty()) {
        let profile = context.seccomp_profile.get_or_insert_with(SeccompProfile::default);
        if profile.type_.is_empty() {
            profile.type_ = "RuntimeDefault".to_owned();
        }
    }
    context.capabilities.get_or_insert_with(|| Capabilities {
        drop: Some(vec!["ALL".to_owned()]),
        add: low_port.then(|| vec!["NET_BIND_SERVICE".to_owned()]),
    });
    if how == SecurePods::Enabled && pod.run_as_non_root.is_none() {
        context.run_as_non_root.get_or_insert(true);
    }
}

fn read_only_mounts(pod: &mut PodSpec) {
    let read_only: Vec<String> = pod
        .volumes
        .iter()
        .flatten()
        .filter(|volume| volume.secret.is_some() || volume.config_map.is_some() || volume.projected.is_some())
        .map(|volume| volume.name.clone())
        .collect();
    let mounts = containers_mut(pod).filter_map(|container| container.volume_mounts.as_mut());
    for mount in mounts.flatten().filter(|mount| read_only.contains(&mount.name)) {
        mount.read_only.get_or_insert(true);
    }
}

fn probes(container: &mut Container, serving: bool) {
    let readiness = match serving {
        true => Some(container.readiness_probe.get_or_insert_default()),
        false => container.readiness_probe.as_mut(),
    };
    if let Some(probe) = readiness {
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
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}
