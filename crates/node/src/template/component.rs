//! What is different when the image is a WebAssembly component: there is no file system, no user and no process, and
//! everything that it may touch is listed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use dormouse_api::vocabulary::{WASM_ALLOWED_HOSTS, WASM_REQUESTS_PER_INSTANCE};
use k8s_openapi::api::core::v1 as core;

use super::{ImageFacts, Skeleton, Source};
use crate::component::{ComponentDirectory, ComponentLog, ComponentPlan, ComponentSource};

/// What the template says of its component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Component {
    pub(crate) source: ComponentSource,
    requests_per_instance: NonZeroU32,
}

/// Reads the annotations; `None` for a container image.
pub(super) fn read(
    container: &core::Container,
    annotations: &BTreeMap<String, String>,
    image: &ImageFacts,
) -> Result<Option<Component>, String> {
    let Some((digest, path)) = image.component.clone() else { return Ok(None) };
    let hosts = annotations.get(WASM_ALLOWED_HOSTS).map(String::as_str).unwrap_or_default();
    let hosts = hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
    let requests = annotations.get(WASM_REQUESTS_PER_INSTANCE).map(String::as_str).unwrap_or("1");
    let requests_per_instance = requests.parse().map_err(|_| {
        format!("annotation {WASM_REQUESTS_PER_INSTANCE}: {requests:?} is not a positive number")
    })?;
    let probes = [&container.readiness_probe, &container.liveness_probe, &container.startup_probe];
    if probes.into_iter().flatten().any(|probe| probe.exec.is_some()) {
        return Err("a WebAssembly component has no commands to run: use an httpGet probe".to_owned());
    }
    let source = ComponentSource { digest, path, allowed_hosts: hosts.map(str::to_owned).collect() };
    Ok(Some(Component { source, requests_per_instance }))
}

/// Its arguments with the program's name first, and which of them are expanded.
pub(super) fn program(container: &core::Container) -> (Vec<String>, usize, usize) {
    let mut all = container.command.clone().unwrap_or_default();
    if all.is_empty() {
        all.push(container.name.clone());
    }
    all.extend(container.args.iter().flatten().cloned());
    let count = all.len();
    (all, 0, count)
}

// === impl Skeleton ===

impl Skeleton {
    /// The plan of one instance of a component; `scratch` holds its own directories. `None` for a container.
    pub(crate) fn component_plan(
        &self,
        pod: &str,
        uid: &str,
        scratch: &Path,
        log: PathBuf,
    ) -> Option<ComponentPlan> {
        let component = self.component.as_ref()?;
        let own = self.own_env(pod, uid, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        let arguments = self.arguments(&own);
        let mut environment: Vec<_> = own.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        if !environment.iter().any(|(name, _)| name == "HOSTNAME") {
            environment.push(("HOSTNAME".to_owned(), self.hostname(pod)));
        }
        let directory = |mount: &super::VolumeMount| {
            let host = match &mount.source {
                Source::Path(path) => path.clone(),
                Source::Scratch(name) => scratch.join(name),
                Source::Memory(_) => return None,
            };
            let guest = mount.target.display().to_string();
            Some(ComponentDirectory { host, guest, writable: !mount.read_only })
        };
        Some(ComponentPlan {
            source: component.source.clone(),
            arguments,
            environment,
            directories: self.mounts.iter().filter_map(directory).collect(),
            memory_bytes: self.limits.memory_bytes,
            request_timeout: self.grace,
            requests_per_instance: component.requests_per_instance,
            log: ComponentLog::new(log),
        })
    }

    /// Whether a component can be given all that is mounted. Blocking; the volumes' files must have been written.
    ///
    /// # Errors
    /// A sentence for `CreateContainerConfigError`.
    pub(crate) fn check_directories(&self) -> Result<(), String> {
        if self.component.is_none() {
            return Ok(());
        }
        for mount in &self.mounts {
            let target = mount.target.display();
            match &mount.source {
                Source::Path(path) if !path.is_dir() => {
                    return Err(format!(
                        "a WebAssembly component sees directories only, and {target} is none"
                    ));
                }
                Source::Memory(_) => {
                    return Err(format!(
                        "a WebAssembly component has no memory volumes: leave the medium of {target}'s emptyDir out"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
