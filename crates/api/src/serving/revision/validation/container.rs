use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Probe, SecurityContext, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

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

/// What is wrong with the serving container.
pub(super) fn container(container: &Container, volumes: &[Volume]) -> FieldError {
    let mut errors = FieldError::none();
    for key in keys(container).iter().filter(|key| !ALLOWED.contains(&key.as_str())) {
        errors.add(FieldError::disallowed(&[key]));
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
    errors.add(env(container));
    let port = ports(container.ports.as_deref().unwrap_or_default(), &mut errors);
    errors.add(resources(container));
    if let Some(context) = &container.security_context {
        errors.add(security(context).via("securityContext"));
    }
    if let Some(probe) = &container.readiness_probe {
        errors.add(readiness(probe).also(self::probe(probe, port)).via("readinessProbe"));
    }
    if let Some(probe) = &container.liveness_probe {
        errors.add(self::probe(probe, port).via("livenessProbe"));
    }
    if let Some(probe) = &container.startup_probe {
        errors.add(self::probe(probe, port).via("startupProbe"));
    }
    errors.also(mounts(container.volume_mounts.as_deref().unwrap_or_default(), volumes))
}

fn env(container: &Container) -> FieldError {
    let mut errors = FieldError::none();
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let mut error = FieldError::none();
        if variable.name.is_empty() {
            error.add(FieldError::missing(&["name"]));
        } else if RESERVED_ENV.contains(&variable.name.as_str()) {
            error.add(FieldError::new(
                format!("{:?} is a reserved environment variable", variable.name),
                &["name"],
            ));
        }
        if let Some(source) = &variable.value_from {
            let mut from = FieldError::none();
            for key in
                keys(source).iter().filter(|key| !matches!(key.as_str(), "configMapKeyRef" | "secretKeyRef"))
            {
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

fn security(context: &SecurityContext) -> FieldError {
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
    if context.capabilities.as_ref().is_some_and(|capabilities| capabilities.add.is_some()) {
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

fn probe(probe: &Probe, user_port: i32) -> FieldError {
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
        ["grpc"] => errors.add(unsupported("a gRPC probe", "grpc")),
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
        let matches = match port {
            IntOrString::Int(number) => *number == 0 || *number == user_port,
            IntOrString::String(name) => name.is_empty() || name.parse() == Ok(user_port),
        };
        if !matches {
            let shown = match port {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name.clone(),
            };
            errors.add(FieldError::invalid_because(shown, path, "Probe port must match container port"));
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
