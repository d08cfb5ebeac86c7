//! Volumes: Secrets, ConfigMaps and the downward API become files in a directory of the template, mounted read-only;
//! scratch space is made for each instance.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1 as core;

use super::{Referenced, Source, Surroundings, TokenWanted, VolumeMount, milli};

/// A file to be written before the first instance starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeFile {
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

/// The volumes of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volumes {
    /// Directories that must exist, even when empty.
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) files: Vec<VolumeFile>,
    pub(crate) mounts: Vec<VolumeMount>,
}

const DEFAULT_MODE: i32 = 0o644;

/// What the files of one volume come from.
struct Projection<'a> {
    kind: &'static str,
    name: &'a str,
    items: Option<&'a Vec<core::KeyToPath>>,
    optional: bool,
    mode: Option<i32>,
    data: Option<&'a BTreeMap<String, Vec<u8>>>,
}

/// Plans the volumes that the container mounts.
///
/// # Errors
/// Something does not exist, leads out of its volume, or is not supported yet.
pub(super) fn plan(
    pod: &core::PodSpec,
    container: &core::Container,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    referenced: &Referenced,
    around: &Surroundings<'_>,
) -> Result<Volumes, String> {
    let mut volumes = Volumes::default();
    let mut sources: BTreeMap<&str, (Source, bool)> = BTreeMap::new();
    for volume in pod.volumes.iter().flatten() {
        let directory = around.volume_dir.join(&volume.name);
        let files = |volumes: &mut Volumes, parts: &[Projection<'_>]| {
            volumes.directories.push(directory.clone());
            parts.iter().try_for_each(|part| part.write(&directory, volumes))
        };
        let written = Source::Path(directory.clone());
        let source = if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            let part = Projection {
                kind: "secret",
                name,
                items: secret.items.as_ref(),
                optional: secret.optional == Some(true),
                mode: secret.default_mode,
                data: referenced.secrets.get(name),
            };
            files(&mut volumes, &[part])?;
            (written, true)
        } else if let Some(map) = &volume.config_map {
            let part = Projection {
                kind: "configmap",
                name: &map.name,
                items: map.items.as_ref(),
                optional: map.optional == Some(true),
                mode: map.default_mode,
                data: referenced.config_maps.get(&map.name),
            };
            files(&mut volumes, &[part])?;
            (written, true)
        } else if let Some(projected) = &volume.projected {
            files(&mut volumes, &projections(projected, referenced))?;
            for item in projected.sources.iter().flatten() {
                if let Some(downward) = &item.downward_api {
                    let items = downward.items.as_deref().unwrap_or_default();
                    downward_files(&directory, items, labels, annotations, around, &mut volumes)?;
                } else if let Some(token) = &item.service_account_token {
                    let content = referenced.tokens.get(&TokenWanted::of(token));
                    volumes.files.push(VolumeFile {
                        path: directory.join(inside(&token.path)?),
                        content: content.cloned().ok_or("the service account has no token")?,
                        mode: mode(projected.default_mode),
                    });
                }
            }
            (written, true)
        } else if let Some(downward) = &volume.downward_api {
            volumes.directories.push(directory.clone());
            let items = downward.items.as_deref().unwrap_or_default();
            downward_files(&directory, items, labels, annotations, around, &mut volumes)?;
            (written, true)
        } else if let Some(empty) = &volume.empty_dir {
            let limit = empty.size_limit.as_ref().map(|size| milli(&size.0)).transpose()?;
            // Memory is one container's own; what several share is on disk.
            let shared = pod.containers.len() > 1 || pod.init_containers.is_some();
            match empty.medium.as_deref() {
                Some("Memory") if !shared => (Source::Memory(limit.map(|milli| milli.div_ceil(1000))), false),
                _ => (Source::Scratch(volume.name.clone()), false),
            }
        } else if let Some(host) = &volume.host_path {
            (Source::Path(PathBuf::from(&host.path)), false)
        } else {
            return Err(format!("volume {:?}: this type of volume is not supported yet", volume.name));
        };
        sources.insert(&volume.name, source);
    }
    for mount in container.volume_mounts.iter().flatten() {
        let Some((source, always_read_only)) = sources.get(mount.name.as_str()) else {
            return Err(format!("volumeMount {:?} has no volume", mount.name));
        };
        let mut source = source.clone();
        if let Some(sub_path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            let inside = inside(sub_path)?;
            match &mut source {
                Source::Path(path) => path.push(inside),
                Source::Scratch(name) => name.push_str(&format!("/{}", inside.display())),
                Source::Memory(_) => {
                    return Err(format!("volumeMount {:?}: subPath of memory is not supported", mount.name));
                }
            }
        }
        let read_only = *always_read_only || mount.read_only == Some(true);
        volumes.mounts.push(VolumeMount { source, target: PathBuf::from(&mount.mount_path), read_only });
    }
    Ok(volumes)
}

fn projections<'a>(
    projected: &'a core::ProjectedVolumeSource,
    referenced: &'a Referenced,
) -> Vec<Projection<'a>> {
    let mode = projected.default_mode;
    let part = |source: &'a core::VolumeProjection| {
        let secret = source.secret.as_ref().map(|secret| Projection {
            kind: "secret",
            name: &secret.name,
            items: secret.items.as_ref(),
            optional: secret.optional == Some(true),
            mode,
            data: referenced.secrets.get(&secret.name),
        });
        secret.or_else(|| {
            source.config_map.as_ref().map(|map| Projection {
                kind: "configmap",
                name: &map.name,
                items: map.items.as_ref(),
                optional: map.optional == Some(true),
                mode,
                data: referenced.config_maps.get(&map.name),
            })
        })
    };
    projected.sources.iter().flatten().filter_map(part).collect()
}

fn downward_files(
    directory: &Path,
    items: &[core::DownwardAPIVolumeFile],
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    around: &Surroundings<'_>,
    volumes: &mut Volumes,
) -> Result<(), String> {
    let lines = |map: &BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
    };
    for item in items {
        let path = item.field_ref.as_ref().map(|field| field.field_path.as_str());
        let content = match path {
            Some("metadata.labels") => lines(labels),
            Some("metadata.annotations") => lines(annotations),
            Some("metadata.namespace") => around.namespace.to_owned(),
            other => {
                return Err(format!("downward API file {:?}: {other:?} is not supported yet", item.path));
            }
        };
        volumes.files.push(VolumeFile {
            path: directory.join(inside(&item.path)?),
            content: content.into_bytes(),
            mode: mode(item.mode),
        });
    }
    Ok(())
}

fn mode(mode: Option<i32>) -> u32 {
    u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

/// A path that stays where it is put.
fn inside(path: &str) -> Result<PathBuf, String> {
    let parsed = PathBuf::from(path);
    if !path.is_empty()
        && parsed.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        Ok(parsed)
    } else {
        Err(format!("path {path:?} leads out of its volume"))
    }
}

// === impl Projection ===

impl Projection<'_> {
    fn write(&self, directory: &Path, volumes: &mut Volumes) -> Result<(), String> {
        let Some(data) = self.data else {
            return if self.optional {
                Ok(())
            } else {
                Err(format!("{} {:?} not found", self.kind, self.name))
            };
        };
        let mut push = |path: &str, content: &[u8], given: Option<i32>| -> Result<(), String> {
            let path = directory.join(inside(path)?);
            volumes.files.push(VolumeFile {
                path,
                content: content.to_vec(),
                mode: mode(given.or(self.mode)),
            });
            Ok(())
        };
        match self.items {
            None => data.iter().try_for_each(|(key, value)| push(key, value, None)),
            Some(items) => items.iter().try_for_each(|item| match data.get(&item.key) {
                Some(value) => push(&item.path, value, item.mode),
                None if self.optional => Ok(()),
                None => Err(format!("{} {:?} has no key {:?}", self.kind, self.name, item.key)),
            }),
        }
    }
}
