//! Pod template + prepared image + referenced Secrets and ConfigMaps → a [`Skeleton`]: everything of a sandbox plan that
//! can be known before the first request. Pure but for the lookup of user names in the image's `/etc/passwd`.

mod component;
mod expand;
mod user;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dormouse_sandbox::cgroup::{CgroupPlan, Limits};
use dormouse_sandbox::{Capabilities, LogPlan, Mount, MountSource, Plan, SeccompProfile, User};
use k8s_openapi::api::core::v1 as core;

use crate::manager::cell::{Part, serving};
use crate::probe::Probe;

pub(crate) use component::Component;
#[cfg(test)]
pub(crate) use volumes::VolumeFile;
pub(crate) use volumes::Volumes;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_PORT: u16 = 8080;
/// The life of a token that names none, in seconds.
const TOKEN_SECONDS: i64 = 3600;
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Processes and threads of one instance: a fork bomb must not take the machine.
pub(crate) const PIDS_MAX: u64 = 32_768;

/// What the node needs to know of a prepared image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) working_dir: String,
    /// Unpacked layers, top first.
    pub(crate) layers: Vec<PathBuf>,
    /// `sha256:…`.
    pub(crate) digest: String,
    /// It is a WebAssembly component: its content's digest, and where that is. Everything else but `digest` is empty.
    pub(crate) component: Option<(String, PathBuf)>,
}

/// The objects that a pod refers to; `None` for one that does not exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Referenced {
    pub(crate) secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub(crate) config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub(crate) tokens: BTreeMap<TokenWanted, Vec<u8>>,
}

/// Names of the Secrets and ConfigMaps that a pod needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) tokens: BTreeSet<TokenWanted>,
}

/// A token of the pod's service account: for whom, and for how many seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenWanted {
    pub(crate) audience: String,
    pub(crate) seconds: i64,
}

impl TokenWanted {
    pub(crate) fn of(projection: &core::ServiceAccountTokenProjection) -> Self {
        let seconds = projection.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        Self { audience: projection.audience.clone().unwrap_or_default(), seconds }
    }
}

/// A value of the environment: known ahead, or only when the instance starts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    PodName,
    PodUid,
    PodIp,
    HostIp,
}

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file or directory of the host.
    Path(PathBuf),
    /// A directory made for each instance.
    Scratch(String),
    /// Memory.
    Memory(Option<u64>),
}

/// One mount of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeMount {
    pub(crate) source: Source,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// What is the same for all pods of a template.
pub(crate) struct Surroundings<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) node_name: &'a str,
    pub(crate) nameservers: &'a [String],
    /// Where the files of this template's volumes are.
    pub(crate) volume_dir: &'a Path,
}

/// All that can be computed ahead of the first request.
#[derive(Clone, Debug)]
pub(crate) struct Skeleton {
    pub(crate) digest: String,
    /// The port that requests go to.
    pub(crate) port: u16,
    pub(crate) readiness: Probe,
    pub(crate) liveness: Option<Probe>,
    pub(crate) startup: Option<Probe>,
    pub(crate) grace: Duration,
    pub(crate) limits: Limits,
    /// Whether a container that exits is started again (`Always`), only after a failure, or never.
    pub(crate) restart: Restart,
    /// What only a WebAssembly component has; what only a container has is then empty.
    pub(crate) component: Option<Component>,
    lowers: Vec<PathBuf>,
    image_env: Vec<(String, String)>,
    env: Vec<(String, Value)>,
    program: Vec<String>,
    /// Of `program`, how many arguments come from the pod and are expanded: all, or those after the entrypoint.
    expand_from: usize,
    expand_to: usize,
    cwd: PathBuf,
    user: User,
    home: String,
    capabilities: Capabilities,
    no_new_privileges: bool,
    seccomp: SeccompProfile,
    read_only_root: bool,
    mounts: Vec<VolumeMount>,
    resolv_conf: String,
    hosts: String,
    hostname: Option<String>,
    /// The further containers, each with its place.
    further: Vec<(Part, Skeleton)>,
}

/// The pod's restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// What is different for each instance.
pub(crate) struct Identity<'a> {
    /// The sandbox's id.
    pub(crate) id: String,
    pub(crate) label: String,
    pub(crate) pod: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) address: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) netns: PathBuf,
    pub(crate) cgroup: CgroupPlan,
    pub(crate) work_dir: PathBuf,
    /// Where scratch volumes are.
    pub(crate) scratch: PathBuf,
    pub(crate) log: PathBuf,
}

/// All containers: those of `containers`, then the init containers.
pub(crate) fn containers(pod: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    pod.containers.iter().chain(pod.init_containers.iter().flatten())
}

/// Names of everything that must be read before [`skeleton`].
pub(crate) fn references(pod: &core::PodSpec) -> References {
    let mut found = References::default();
    for container in containers(pod) {
        for from in container.env_from.iter().flatten() {
            found.secrets.extend(from.secret_ref.iter().map(|secret| secret.name.clone()));
            found.config_maps.extend(from.config_map_ref.iter().map(|map| map.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            found.secrets.extend(from.secret_key_ref.iter().map(|key| key.name.clone()));
            found.config_maps.extend(from.config_map_key_ref.iter().map(|key| key.name.clone()));
        }
    }
    for volume in pod.volumes.iter().flatten() {
        found.secrets.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()));
        found.config_maps.extend(volume.config_map.iter().map(|map| map.name.clone()));
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in sources {
            found.tokens.extend(source.service_account_token.iter().map(TokenWanted::of));
            found.secrets.extend(source.secret.iter().map(|secret| secret.name.clone()));
            found.config_maps.extend(source.config_map.iter().map(|map| map.name.clone()));
        }
    }
    found
}

/// The port that requests go to.
pub(crate) fn user_port(container: &core::Container) -> u16 {
    let ports = container.ports.iter().flatten();
    let named = |port: &&core::ContainerPort| {
        matches!(port.name.as_deref(), Some("user-port" | "http1" | "h2c" | "http"))
    };
    let port = ports.clone().find(named).or_else(|| ports.clone().next()).map(|port| port.container_port);
    let from_env = || {
        let env = container.env.iter().flatten().find(|env| env.name == "PORT")?;
        env.value.as_deref()?.parse().ok()
    };
    port.and_then(|port| u16::try_from(port).ok()).or_else(from_env).unwrap_or(DEFAULT_PORT)
}

/// Computes everything that can be known before an instance starts; `images` are in the order of [`containers`].
///
/// # Errors
/// A sentence for `CreateContainerConfigError`: something is missing, contradictory or not supported yet.
pub(crate) fn skeleton(
    pod: &core::PodSpec,
    meta: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    images: &[ImageFacts],
    referenced: &Referenced,
    around: &Surroundings<'_>,
) -> Result<(Skeleton, Volumes), String> {
    let main = serving(pod);
    let mut found = None;
    let mut further = Vec::new();
    for (at, (container, image)) in containers(pod).zip(images).enumerate() {
        let part = match at.checked_sub(pod.containers.len()) {
            Some(init) => Part::Before(init),
            None if at == main => Part::Serving,
            None => Part::Beside(at),
        };
        let made = one(part, container, pod, meta, annotations, image, referenced, around)?;
        match part {
            Part::Serving => found = Some(made),
            Part::Beside(_) | Part::Before(_) => further.push((part, made.0)),
        }
    }
    let (mut skeleton, volumes) = found.ok_or("the pod has no container")?;
    let is_component = |skeleton: &Skeleton| skeleton.component.is_some();
    if !further.is_empty()
        && (is_component(&skeleton) || further.iter().any(|(_, other)| is_component(other)))
    {
        return Err(
            "a WebAssembly component runs alone: it cannot share a pod with other containers".to_owned()
        );
    }
    skeleton.further = further;
    Ok((skeleton, volumes))
}

#[expect(clippy::too_many_arguments, reason = "everything that a container is made of")]
fn one(
    part: Part,
    container: &core::Container,
    pod: &core::PodSpec,
    meta: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    image: &ImageFacts,
    referenced: &Referenced,
    around: &Surroundings<'_>,
) -> Result<(Skeleton, Volumes), String> {
    let port = user_port(container);
    let ports = container.ports.as_deref().unwrap_or_default();
    let read = |probe: &Option<core::Probe>, what: &str| {
        let read =
            |probe: &core::Probe| Probe::read(probe, port, ports).map_err(|why| format!("{what}: {why}"));
        probe.as_ref().map(read).transpose()
    };
    // A container that requests do not go to is ready when it runs, unless it says otherwise.
    let unasked = || if part == Part::Serving { Probe::tcp(port) } else { Probe::passed() };
    let env = environment(container, pod, meta, annotations, referenced, around)?;
    let context = container.security_context.clone().unwrap_or_default();
    let pod_context = pod.security_context.clone().unwrap_or_default();
    let user = user::resolve(&image.user, &image.layers, &context, &pod_context)?;
    let home = user::home(user.uid, &image.layers);
    let component = component::read(container, annotations, image)?;
    let (program, expand_from, expand_to) = match component {
        Some(_) => component::program(container),
        None => program(container, image)?,
    };
    let volumes = volumes::plan(pod, container, meta, annotations, referenced, around)?;
    let seccomp = context.seccomp_profile.as_ref().or(pod_context.seccomp_profile.as_ref());
    let unconfined = seccomp.is_some_and(|profile| profile.type_ == "Unconfined");
    let working_dir = container.working_dir.clone().filter(|dir| !dir.is_empty());
    let cwd = working_dir.unwrap_or_else(|| image.working_dir.clone());
    let skeleton = Skeleton {
        digest: image.digest.clone(),
        port,
        readiness: read(&container.readiness_probe, "readinessProbe")?.unwrap_or_else(unasked),
        liveness: read(&container.liveness_probe, "livenessProbe")?,
        startup: read(&container.startup_probe, "startupProbe")?,
        grace: pod
            .termination_grace_period_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DEFAULT_GRACE, Duration::from_secs),
        limits: limits(container.resources.as_ref())?,
        restart: match pod.restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        },
        component,
        lowers: image.layers.clone(),
        image_env: image
            .env
            .iter()
            .map(|line| line.split_once('=').unwrap_or((line, "")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        env,
        program,
        expand_from,
        expand_to,
        cwd: PathBuf::from(if cwd.is_empty() { "/" } else { &cwd }),
        user,
        home,
        capabilities: capabilities(&context)?,
        // Rather than Kubernetes' default of true: nobody hardens a default later.
        no_new_privileges: context.allow_privilege_escalation != Some(true)
            && context.privileged != Some(true),
        seccomp: if unconfined { SeccompProfile::Unconfined } else { SeccompProfile::Default },
        read_only_root: context.read_only_root_filesystem == Some(true),
        mounts: volumes.mounts.clone(),
        resolv_conf: around.nameservers.iter().map(|server| format!("nameserver {server}\n")).collect(),
        hosts: hosts(pod),
        hostname: pod.hostname.clone().filter(|name| !name.is_empty()),
        further: Vec::new(),
    };
    Ok((skeleton, volumes))
}

// === impl Skeleton ===

impl Skeleton {
    /// The skeleton of one container of the pod.
    pub(crate) fn part(&self, part: Part) -> Option<&Self> {
        match part {
            Part::Serving => Some(self),
            other => self.further.iter().find(|(have, _)| *have == other).map(|(_, skeleton)| skeleton),
        }
    }

    /// The plan of one instance. Cheap: it runs while a request waits.
    pub(crate) fn plan(&self, identity: Identity<'_>) -> Plan {
        let hostname = self.hostname(identity.pod);
        let own = self.own_env(identity.pod, identity.uid, identity.address, identity.gateway);
        let mut env: BTreeMap<&str, &str> = BTreeMap::new();
        env.insert("PATH", DEFAULT_PATH);
        env.insert("HOME", &self.home);
        env.insert("HOSTNAME", &hostname);
        env.extend(self.image_env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        env.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
        let args = self.arguments(&own);
        let env = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let scratch = &identity.scratch;
        let mounts = self.mounts.iter().map(|mount| Mount {
            source: match &mount.source {
                Source::Path(path) => MountSource::Bind(path.clone()),
                Source::Scratch(name) => MountSource::Bind(scratch.join(name)),
                Source::Memory(size) => MountSource::Tmpfs { size: *size },
            },
            target: mount.target.clone(),
            read_only: mount.read_only,
        });
        let mounts = mounts.collect();
        let hosts = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{hostname}\n{}",
            identity.address, self.hosts
        );
        let files = vec![
            (PathBuf::from("/etc/hosts"), hosts),
            (PathBuf::from("/etc/hostname"), format!("{hostname}\n")),
            (PathBuf::from("/etc/resolv.conf"), self.resolv_conf.clone()),
        ];
        let mut plan =
            Plan::new(&identity.id, self.lowers.clone(), identity.work_dir, args, LogPlan::new(identity.log));
        plan.label = identity.label;
        plan.netns = Some(identity.netns);
        plan.cgroup = identity.cgroup;
        plan.env = env;
        plan.cwd = self.cwd.clone();
        plan.user = self.user.clone();
        plan.hostname = hostname;
        plan.capabilities = self.capabilities;
        plan.no_new_privileges = self.no_new_privileges;
        plan.seccomp = self.seccomp;
        plan.read_only_root = self.read_only_root;
        plan.mounts = mounts;
        plan.files = files;
        plan
    }

    fn hostname(&self, pod: &str) -> String {
        self.hostname.as_deref().unwrap_or(pod).chars().take(63).collect()
    }

    /// The environment that the pod template gives, later values over earlier ones.
    fn own_env(&self, pod: &str, uid: &str, address: Ipv4Addr, gateway: Ipv4Addr) -> Vec<(&str, String)> {
        let mut own: Vec<(&str, String)> = Vec::with_capacity(self.env.len());
        for (name, value) in &self.env {
            let value = match value {
                Value::Text(text) => expand::expand(text, &own),
                Value::PodName => pod.to_owned(),
                Value::PodUid => uid.to_owned(),
                Value::PodIp => address.to_string(),
                Value::HostIp => gateway.to_string(),
            };
            own.retain(|(have, _)| have != name);
            own.push((name, value));
        }
        own
    }

    fn arguments(&self, own: &[(&str, String)]) -> Vec<String> {
        let argument = |(at, argument): (usize, &String)| {
            let ours = at >= self.expand_from && at < self.expand_to;
            if ours { expand::expand(argument, own) } else { argument.clone() }
        };
        self.program.iter().enumerate().map(argument).collect()
    }

    /// Directories to make in an instance's work directory, below `volumes`, before it starts.
    pub(crate) fn scratch(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter_map(|mount| match &mount.source {
            Source::Scratch(name) => Some(name.as_str()),
            Source::Path(_) | Source::Memory(_) => None,
        })
    }
}

/// Program and arguments, and which of them are expanded: `command` replaces the entrypoint and, unless there are
/// `args`, the image's arguments too.
fn program(container: &core::Container, image: &ImageFacts) -> Result<(Vec<String>, usize, usize), String> {
    let command = container.command.clone().unwrap_or_default();
    let args = container.args.clone().unwrap_or_default();
    let (program, from, to) = match (command.is_empty(), args.is_empty()) {
        (false, _) => {
            let all = [command, args].concat();
            let to = all.len();
            (all, 0, to)
        }
        (true, false) => {
            let from = image.entrypoint.len();
            let all = [image.entrypoint.clone(), args].concat();
            let to = all.len();
            (all, from, to)
        }
        (true, true) => ([image.entrypoint.clone(), image.cmd.clone()].concat(), 0, 0),
    };
    if program.is_empty() {
        return Err("no command specified: neither the container nor its image has one".to_owned());
    }
    Ok((program, from, to))
}

fn environment(
    container: &core::Container,
    pod: &core::PodSpec,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    referenced: &Referenced,
    around: &Surroundings<'_>,
) -> Result<Vec<(String, Value)>, String> {
    let mut env = Vec::new();
    let text = |bytes: &[u8]| Value::Text(String::from_utf8_lossy(bytes).into_owned());
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional, found) = if let Some(secret) = &from.secret_ref {
            ("secret", &secret.name, secret.optional, referenced.secrets.get(&secret.name))
        } else if let Some(map) = &from.config_map_ref {
            ("configmap", &map.name, map.optional, referenced.config_maps.get(&map.name))
        } else {
            continue;
        };
        match found {
            Some(data) => env.extend(data.iter().map(|(key, value)| (format!("{prefix}{key}"), text(value)))),
            None if optional == Some(true) => {}
            None => return Err(format!("{kind} {name:?} not found")),
        }
    }
    for variable in container.env.iter().flatten() {
        let Some(from) = &variable.value_from else {
            env.push((variable.name.clone(), Value::Text(variable.value.clone().unwrap_or_default())));
            continue;
        };
        let key = if let Some(key) = &from.secret_key_ref {
            Some(("secret", "Secret", &key.name, &key.key, key.optional, referenced.secrets.get(&key.name)))
        } else {
            from.config_map_key_ref.as_ref().map(|key| {
                let found = referenced.config_maps.get(&key.name);
                ("configmap", "ConfigMap", &key.name, &key.key, key.optional, found)
            })
        };
        if let Some((kind, word, name, key, optional, found)) = key {
            match (found, found.and_then(|data| data.get(key))) {
                (_, Some(value)) => env.push((variable.name.clone(), text(value))),
                _ if optional == Some(true) => {}
                (None, _) => return Err(format!("{kind} {name:?} not found")),
                (Some(_), None) => {
                    return Err(format!("couldn't find key {key} in {word} {}/{name}", around.namespace));
                }
            }
        } else if let Some(field) = &from.field_ref {
            let value = field_value(&field.field_path, pod, labels, annotations, around)?;
            env.push((variable.name.clone(), value));
        } else if let Some(resource) = &from.resource_field_ref {
            env.push((variable.name.clone(), Value::Text(resource_value(container, resource)?)));
        } else {
            return Err(format!("env {}: this valueFrom is not supported yet", variable.name));
        }
    }
    Ok(env)
}

fn field_value(
    path: &str,
    pod: &core::PodSpec,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    around: &Surroundings<'_>,
) -> Result<Value, String> {
    let text = |text: &str| Ok(Value::Text(text.to_owned()));
    let entry = |map: &BTreeMap<String, String>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(Value::Text(map.get(key).cloned().unwrap_or_default()))
    };
    match path {
        "metadata.name" => Ok(Value::PodName),
        "metadata.uid" => Ok(Value::PodUid),
        "status.podIP" | "status.podIPs" => Ok(Value::PodIp),
        "status.hostIP" | "status.hostIPs" => Ok(Value::HostIp),
        "metadata.namespace" => text(around.namespace),
        "spec.nodeName" => text(around.node_name),
        "spec.serviceAccountName" => text(pod.service_account_name.as_deref().unwrap_or("default")),
        _ => entry(labels, "metadata.labels")
            .or_else(|| entry(annotations, "metadata.annotations"))
            .ok_or_else(|| format!("fieldPath {path:?} is not supported")),
    }
}

fn resource_value(
    container: &core::Container,
    field: &core::ResourceFieldSelector,
) -> Result<String, String> {
    let resources = container.resources.clone().unwrap_or_default();
    let list = match field.resource.split_once('.') {
        Some(("limits", name)) => {
            resources.limits.and_then(|mut list| list.remove(name)).map(|value| (name, value))
        }
        Some(("requests", name)) => {
            resources.requests.and_then(|mut list| list.remove(name)).map(|value| (name, value))
        }
        _ => return Err(format!("resource {:?} is not supported", field.resource)),
    };
    let Some((name, quantity)) = list else { return Ok("0".to_owned()) };
    let milli = milli(&quantity.0)?;
    let divisor = match field.divisor.as_ref().map(|divisor| divisor.0.as_str()) {
        None | Some("" | "0") => 1000,
        Some(text) => self::milli(text)?.max(1),
    };
    let _ = name;
    Ok(milli.div_ceil(divisor).to_string())
}

/// A quantity in thousandths: `250m` → 250, `1` → 1000, `64Mi` → 64 × 2²⁰ × 1000.
pub(crate) fn milli(text: &str) -> Result<u64, String> {
    let bad = || format!("quantity {text:?} is invalid");
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(at);
    let (number, exponent) = match suffix.strip_prefix(['e', 'E']) {
        Some(exponent) if exponent.parse::<i32>().is_ok() => {
            (number, exponent.parse::<i32>().map_err(|_| bad())?)
        }
        _ => (number, 0),
    };
    let factor = match suffix {
        _ if exponent != 0 => 10f64.powi(exponent + 3),
        "" => 1e3,
        "m" => 1.0,
        "u" => 1e-3,
        "n" => 1e-6,
        "k" => 1e6,
        "M" => 1e9,
        "G" => 1e12,
        "T" => 1e15,
        "P" => 1e18,
        "Ki" => 1e3 * 1024.0,
        "Mi" => 1e3 * 1024f64.powi(2),
        "Gi" => 1e3 * 1024f64.powi(3),
        "Ti" => 1e3 * 1024f64.powi(4),
        "Pi" => 1e3 * 1024f64.powi(5),
        _ => return Err(bad()),
    };
    let value = number.parse::<f64>().map_err(|_| bad())? * factor;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range; `as` saturates"
    )]
    if value.is_finite() && value >= 0.0 { Ok(value.ceil() as u64) } else { Err(bad()) }
}

fn limits(resources: Option<&core::ResourceRequirements>) -> Result<Limits, String> {
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let quantity =
        |list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
         name: &str| {
            list.and_then(|list| list.get(name)).map(|quantity| milli(&quantity.0)).transpose()
        };
    let cpu_millis = quantity(limits, "cpu")?.filter(|millis| *millis > 0);
    Ok(Limits {
        cpu_millis,
        // A limit without a request is the request, as in Kubernetes.
        cpu_request_millis: quantity(requests, "cpu")?.or(cpu_millis),
        memory_bytes: quantity(limits, "memory")?
            .map(|milli| milli.div_ceil(1000))
            .filter(|bytes| *bytes > 0),
        pids: Some(PIDS_MAX),
    })
}

fn capabilities(context: &core::SecurityContext) -> Result<Capabilities, String> {
    if context.privileged == Some(true) {
        return Err("privileged containers are not supported".to_owned());
    }
    let Some(given) = &context.capabilities else { return Ok(Capabilities::DEFAULT) };
    let mut set = Capabilities::DEFAULT;
    let unknown = |name: &String| format!("capability {name:?} does not exist");
    for name in given.drop.iter().flatten() {
        set = set.without(name).ok_or_else(|| unknown(name))?;
    }
    for name in given.add.iter().flatten() {
        if name.eq_ignore_ascii_case("ALL") {
            return Err("adding all capabilities is not supported".to_owned());
        }
        set = set.with(name).ok_or_else(|| unknown(name))?;
    }
    Ok(set)
}

fn hosts(pod: &core::PodSpec) -> String {
    let lines = pod.host_aliases.iter().flatten();
    lines
        .map(|alias| {
            format!(
                "{}\t{}\n",
                alias.ip,
                alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join(" ")
            )
        })
        .collect()
}

/// The host's name servers that an instance can reach: stubs on the host's loopback are left out. `texts` are the
/// contents of files in the form of resolv.conf, best first; the first that has any is taken.
pub(crate) fn nameservers(texts: &[String]) -> Vec<String> {
    let usable = |text: &String| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver"))
            .map(|server| server.trim().to_owned())
            .filter(|server| {
                server
                    .parse::<Ipv4Addr>()
                    .is_ok_and(|address| !address.is_loopback() && !address.is_unspecified())
            })
            .take(3)
            .collect()
    };
    texts.iter().map(usable).find(|found| !found.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
