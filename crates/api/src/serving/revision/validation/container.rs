use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Probe, SecurityContext, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::config::{Features, Flag, SecurePods};
use crate::fielderror::FieldError;
use crate::names;
use crate::serving::meta::{is_image_reference, is_quantity, keys, unsupported};
use crate::vocabulary::DEFAULT_USER_PORT;

/// Container fields that a Revision may set.
const ALLOWED: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeMounts",
    "workingDir",
];
/// Ports that Knative keeps for itself.
const RESERVED_PORTS: &[i32] = &[8008, 8012, 8013, 8022, 9090, 9091];
/// Variables that the platform sets.
const RESERVED_ENV: &[&str] = &["PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"];
/// Paths that cannot be mounted over.
const RESERVED_PATHS: &[&str] = &["/", "/dev", "/dev/log"];

const MATCH: &str = "Probe port must match container port";
const SPECIFY: &str = "Probe port must be specified";

/// What a container is judged by beside itself.
pub(super) struct Around<'a> {
    pub(super) volumes: &'a [Volume],
    pub(super) features: &'a Features,
}

/// Which container of a pod is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Serving,
    Beside,
    Init,
}

/// What is wrong with the serving container.
pub(super) fn serving(container: &Container, around: &Around<'_>) -> FieldError {
    let mut errors = common(container, around, Role::Serving);
    let port = ports(container.ports.as_deref().unwrap_or_default(), &mut errors);
    errors.also(probes(container, Some(port)))
}

/// What is wrong with a container that runs beside the serving one.
pub(super) fn beside(container: &Container, around: &Around<'_>) -> FieldError {
    let errors = common(container, around, Role::Beside);
    if around.features.multi_container_probing == Flag::Enabled {
        return errors.also(probes(container, None));
    }
    let mut errors = errors;
    for (field, probe) in given_probes(container) {
        let set = keys(probe);
        let fields: Vec<&str> = set.iter().map(String::as_str).collect();
        errors.add(FieldError::disallowed(&fields).via(field));
    }
    errors
}

/// What is wrong with an init container.
pub(super) fn init(container: &Container, around: &Around<'_>) -> FieldError {
    let mut errors = common(container, around, Role::Init);
    for (field, _) in given_probes(container) {
        errors.add(FieldError::new("field not allowed in an init container", &[field]));
    }
    errors
}

fn given_probes(container: &Container) -> impl Iterator<Item = (&'static str, &Probe)> {
    [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ]
    .into_iter()
    .filter_map(|(field, probe)| Some((field, probe.as_ref()?)))
}

fn probes(container: &Container, port: Option<i32>) -> FieldError {
    let mut errors = FieldError::none();
    for (field, given) in given_probes(container) {
        let mut error = probe(given, port);
        if field == "readinessProbe" {
            error = readiness(given).also(error);
        }
        errors.add(error.via(field));
    }
    errors
}

fn common(container: &Container, around: &Around<'_>, role: Role) -> FieldError {
    let mut errors = FieldError::none();
    for key in keys(container).iter().filter(|key| !ALLOWED.contains(&key.as_str())) {
        errors.add(if role == Role::Init && key == "lifecycle" {
            FieldError::new("field not allowed in an init container", &[key])
        } else {
            FieldError::disallowed(&[key])
        });
    }
    if container.name == "queue-proxy" {
        errors.add(FieldError::new(format!("{:?} is a reserved container name", container.name), &["name"]));
    } else if let Some(text) = names::label_error(&container.name).filter(|_| !container.name.is_empty()) {
        errors.add(FieldError::invalid_because(&container.name, "name", text));
    }
    match container.image.as_deref().unwrap_or_default() {
        "" => errors.add(FieldError::missing(&["image"])),
        image if !is_image_reference(image) => errors.add(FieldError::detailed(
            "Failed to parse image reference",
            &["image"],
            format!("image: {image:?}, error: could not parse reference: {image}"),
        )),
        _ => {}
    }
    if role == Role::Init && container.ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
        errors.add(FieldError::new("field not allowed in an init container", &["ports"]));
    }
    errors.add(env(container, around.features, role));
    errors.add(resources(container));
    if let Some(context) = &container.security_context {
        errors.add(security(context, around.features).via("securityContext"));
    }
    errors.also(mounts(container.volume_mounts.as_deref().unwrap_or_default(), around.volumes))
}

fn env(container: &Container, features: &Features, role: Role) -> FieldError {
    let mut errors = FieldError::none();
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let mut error = FieldError::none();
        if variable.name.is_empty() {
            error.add(FieldError::missing(&["name"]));
        } else if RESERVED_ENV.contains(&variable.name.as_str())
            && (role == Role::Serving || variable.name != "PORT")
        {
            error.add(FieldError::new(
                format!("{:?} is a reserved environment variable", variable.name),
                &["name"],
            ));
        }
        if let Some(source) = &variable.value_from {
            let mut from = FieldError::none();
            let may = |key: &str| match key {
                "configMapKeyRef" | "secretKeyRef" => true,
                "fieldRef" | "resourceFieldRef" => features.field_ref.is_on(),
                _ => false,
            };
            for key in keys(source).iter().filter(|key| !may(key)) {
                from.add(FieldError::disallowed(&[key]));
            }
            for (path, name, key) in [
                source.config_map_key_ref.as_ref().map(|from| ("configMapKeyRef", &from.name, &from.key)),
                source.secret_key_ref.as_ref().map(|from| ("secretKeyRef", &from.name, &from.key)),
            ]
            .into_iter()
            .flatten()
            {
                for (field, value) in [("name", name), ("key", key)] {
                    if value.is_empty() {
                        from.add(FieldError::missing(&[field]).via(path));
                    }
                }
            }
            error.add(from.via("valueFrom"));
        }
        errors.add(error.via_field_index("env", index));
    }
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let error = match (&source.config_map_ref, &source.secret_ref) {
            (None, None) => FieldError::neither(&["configMapRef", "secretRef"]),
            (Some(_), Some(_)) => FieldError::both(&["configMapRef", "secretRef"]),
            _ => FieldError::none(),
        };
        errors.add(error.via_field_index("envFrom", index));
    }
    errors
}

fn ports(ports: &[ContainerPort], errors: &mut FieldError) -> i32 {
    let port = match ports {
        [] => return DEFAULT_USER_PORT,
        [port] => port,
        _ => {
            errors.add(FieldError::detailed(
                "more than one container port is set",
                &["ports"],
                "Only a single port is allowed across all containers",
            ));
            return DEFAULT_USER_PORT;
        }
    };
    let mut error = FieldError::none();
    for key in keys(port).iter().filter(|key| matches!(key.as_str(), "hostPort" | "hostIP")) {
        error.add(FieldError::disallowed(&[key]));
    }
    let number = port.container_port;
    if RESERVED_PORTS.contains(&number) {
        error.add(FieldError::invalid_because(
            format!("{number} is a reserved port"),
            "containerPort",
            format!("{number} is a reserved port, please use a different value"),
        ));
    } else if !(0..=65535).contains(&number) {
        error.add(FieldError::bounds(number, 0, 65535, "containerPort"));
    }
    if let Some(protocol) = port.protocol.as_deref().filter(|protocol| !matches!(*protocol, "" | "TCP")) {
        error.add(FieldError::invalid(protocol, "protocol"));
    }
    errors.add(error.via("ports"));
    if let Some(name) = port.name.as_deref().filter(|name| !matches!(*name, "" | "h2c" | "http1")) {
        errors.add(FieldError::detailed(
            format!("Port name {name} is not allowed"),
            &["ports"],
            "Name must be empty, or one of: 'h2c', 'http1'",
        ));
    }
    if number == 0 { DEFAULT_USER_PORT } else { number }
}

fn resources(container: &Container) -> FieldError {
    let mut errors = FieldError::none();
    let Some(resources) = &container.resources else { return errors };
    if resources.claims.is_some() {
        errors.add(FieldError::disallowed(&["claims"]));
    }
    for (field, map) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, quantity) in map.iter().flatten() {
            let path = format!("{field}.{name}");
            if !is_quantity(&quantity.0) {
                errors.add(FieldError::invalid(&quantity.0, &path));
            } else if !matches!(
                (field, name.as_str()),
                (_, "cpu" | "memory") | ("requests", "ephemeral-storage")
            ) {
                errors.add(unsupported(&format!("resource {name:?}"), &path));
            }
        }
    }
    errors.via("resources")
}

fn security(context: &SecurityContext, features: &Features) -> FieldError {
    let mut errors = FieldError::none();
    for key in keys(context) {
        match key.as_str() {
            "runAsUser"
            | "runAsGroup"
            | "runAsNonRoot"
            | "readOnlyRootFilesystem"
            | "capabilities"
            | "allowPrivilegeEscalation"
            | "seccompProfile" => {}
            "privileged" if context.privileged == Some(false) => {}
            other => errors.add(FieldError::disallowed(&[other])),
        }
    }
    for (field, value) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        if let Some(id) = value.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            errors.add(FieldError::bounds(id, 0, i32::MAX, field));
        }
    }
    let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_deref());
    let may_add = |add: &[String]| {
        // What the secure defaults add by themselves may be kept.
        features.add_capabilities.is_on()
            || (features.secure_pods != SecurePods::Disabled
                && add.iter().all(|one| one == "NET_BIND_SERVICE"))
    };
    if added.is_some_and(|add| !may_add(add)) {
        errors.add(FieldError::disallowed(&["capabilities.add"]));
    }
    if let Some(profile) = &context.seccomp_profile
        && !matches!(profile.type_.as_str(), "RuntimeDefault" | "Unconfined")
    {
        errors.add(unsupported(&format!("seccomp profile {:?}", profile.type_), "seccompProfile.type"));
    }
    errors
}

fn readiness(probe: &Probe) -> FieldError {
    let mut errors = FieldError::none();
    let value = |number: Option<i32>| number.unwrap_or(0);
    if value(probe.period_seconds) == 0 {
        if value(probe.failure_threshold) != 0 {
            errors.add(FieldError::disallowed_because(
                "failureThreshold is disallowed when periodSeconds is zero",
                "failureThreshold",
            ));
        }
        if value(probe.timeout_seconds) != 0 {
            errors.add(FieldError::disallowed_because(
                "timeoutSeconds is disallowed when periodSeconds is zero",
                "timeoutSeconds",
            ));
        }
    } else {
        for (name, number) in [
            ("timeoutSeconds", probe.timeout_seconds),
            ("failureThreshold", probe.failure_threshold),
            ("periodSeconds", probe.period_seconds),
        ] {
            if value(number) < 1 {
                errors.add(FieldError::bounds(value(number), 1, i32::MAX, name));
            }
        }
    }
    if value(probe.success_threshold) < 1 {
        errors.add(FieldError::bounds(value(probe.success_threshold), 1, i32::MAX, "successThreshold"));
    }
    errors
}

fn probe(probe: &Probe, user_port: Option<i32>) -> FieldError {
    let mut errors = FieldError::none();
    let mut handlers: Vec<&str> = Vec::new();
    for key in keys(probe) {
        match key.as_str() {
            "exec" => handlers.push("exec"),
            "grpc" => handlers.push("grpc"),
            "httpGet" => handlers.push("httpGet"),
            "tcpSocket" => handlers.push("tcpSocket"),
            "failureThreshold"
            | "initialDelaySeconds"
            | "periodSeconds"
            | "successThreshold"
            | "timeoutSeconds" => {}
            other => errors.add(FieldError::disallowed(&[other])),
        }
    }
    match handlers.as_slice() {
        [] => errors.add(FieldError::neither(&["exec", "grpc", "httpGet", "tcpSocket"])),
        [_] => {}
        several => errors.add(FieldError::both(several)),
    }
    if let Some(get) = &probe.http_get
        && get.scheme.as_deref().is_some_and(|scheme| !matches!(scheme, "" | "HTTP"))
    {
        errors.add(unsupported("an HTTPS probe", "httpGet.scheme"));
    }
    for (name, number) in
        [("initialDelaySeconds", probe.initial_delay_seconds), ("periodSeconds", probe.period_seconds)]
    {
        if let Some(number) = number.filter(|number| *number < 0) {
            errors.add(FieldError::bounds(number, 0, i32::MAX, name));
        }
    }
    let port = probe
        .http_get
        .as_ref()
        .map(|get| ("httpGet.port", &get.port))
        .or_else(|| probe.tcp_socket.as_ref().map(|tcp| ("tcpSocket.port", &tcp.port)));
    if let Some((path, port)) = port {
        let (good, why) = match (user_port, port) {
            (Some(user), IntOrString::Int(number)) => (*number == 0 || *number == user, MATCH),
            (Some(user), IntOrString::String(name)) => (name.is_empty() || name.parse() == Ok(user), MATCH),
            (None, IntOrString::Int(number)) => (*number != 0, SPECIFY),
            (None, IntOrString::String(name)) => (!name.is_empty(), SPECIFY),
        };
        if !good {
            let shown = match port {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name.clone(),
            };
            errors.add(FieldError::invalid_because(shown, path, why));
        }
    }
    errors
}

fn mounts(mounts: &[VolumeMount], volumes: &[Volume]) -> FieldError {
    let mut errors = FieldError::none();
    let mut seen = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let mut error = FieldError::none();
        for key in keys(mount) {
            match key.as_str() {
                "name" | "mountPath" | "readOnly" | "subPath" => {}
                "mountPropagation" => error.add(FieldError::new(
                    format!(
                        "Volume Mount Propagation support is disabled, but found volume mount {}",
                        mount.name
                    ),
                    &["mountPropagation"],
                )),
                other => error.add(FieldError::disallowed(&[other])),
            }
        }
        let path = mount.mount_path.as_str();
        let clean = path.trim_end_matches('/');
        if path.is_empty() {
            error.add(FieldError::missing(&["mountPath"]));
        } else if RESERVED_PATHS.contains(&if clean.is_empty() { "/" } else { clean }) {
            error.add(FieldError::new(format!("mountPath {path:?} is a reserved path"), &["mountPath"]));
        } else if !path.starts_with('/') {
            error.add(FieldError::invalid(path, "mountPath"));
        } else if !seen.insert(clean) {
            error.add(FieldError::invalid(format!("{path:?} must be unique"), "mountPath"));
        }
        match volumes.iter().find(|volume| volume.name == mount.name) {
            None => error.add(FieldError::new("volumeMount has no matching volume", &["name"])),
            Some(volume) if volume.empty_dir.is_none() && mount.read_only != Some(true) => error.add(
                FieldError::new("volume mount should be readOnly for this type of volume", &["readOnly"]),
            ),
            Some(_) => {}
        }
        errors.add(error.via_field_index("volumeMounts", index));
    }
    errors
}
