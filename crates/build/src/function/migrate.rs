//! Old func.yaml files become current ones, step by step as upstream's steps are.

use super::record::{Field, Notes};
use super::spec::{Env, Git, Health, Label, Options, Spec, Volume};
use super::yaml::Node;

/// The version that is written.
pub const SPEC_VERSION: &str = "0.36.0";

/// The builder image that old files named without meaning it.
const OLD_DEFAULT_BUILDER: &str = "gcr.io/paketo-buildpacks/builder:base";

/// Keys of the first level that only old versions know; their content has moved, or says nothing any more.
const OLD_KEYS: [&str; 16] = [
    "version",
    "imageDigest",
    "builder",
    "builders",
    "builderImages",
    "buildpacks",
    "buildType",
    "buildEnvs",
    "envs",
    "volumes",
    "annotations",
    "options",
    "labels",
    "healthEndpoints",
    "git",
    "invocation",
];

/// Brings `spec`, read from `root`, to [`SPEC_VERSION`]; whether anything had to be done. `now` is the time of creation
/// of functions that are older than that field.
pub(super) fn migrate(spec: &mut Spec, root: &Node, now: &str) -> Result<bool, String> {
    let from = match spec.spec_version.as_str() {
        "" => (0, 0, 0),
        text => version(text).ok_or_else(|| format!("specVersion {text:?} is not a version"))?,
    };
    if !spec.spec_version.is_empty() && from >= version(SPEC_VERSION).unwrap_or_default() {
        return Ok(false);
    }
    let before = |step: (u32, u32, u32)| from < step;
    if before((0, 19, 0)) {
        creation_stamp(spec, now);
    }
    if before((0, 23, 0)) {
        builder_images(spec, root);
    }
    if before((0, 34, 0)) {
        structure(spec, root);
    }
    if before((0, 35, 0)) {
        invoke(spec, root);
    }
    claim_name(spec);
    spec.unknown.retain(|(key, _)| !OLD_KEYS.contains(&key.as_str()));
    spec.spec_version = SPEC_VERSION.to_owned();
    Ok(true)
}

/// 0.19: functions have a time of creation. Name and runtime tell that a file without it was a function already.
fn creation_stamp(spec: &mut Spec, now: &str) {
    if !spec.created.is_set() && !spec.name.is_empty() && !spec.runtime.is_empty() {
        now.clone_into(&mut spec.created.0);
    }
}

/// 0.23: `builder` was an image of buildpacks.
fn builder_images(spec: &mut Spec, root: &Node) {
    let builder = read::<String>(root, "builder");
    if !builder.is_empty() && builder != OLD_DEFAULT_BUILDER && !is_builder(&builder) {
        spec.build.builder_images.insert("pack".to_owned(), builder);
    }
}

/// 0.34: `build`, `run` and `deploy`.
fn structure(spec: &mut Spec, root: &Node) {
    let git = read::<Git>(root, "git");
    for (old, new) in [
        (git.url, &mut spec.build.git.url),
        (git.revision, &mut spec.build.git.revision),
        (git.context_dir, &mut spec.build.git.context_dir),
    ] {
        if !old.is_empty() {
            *new = old;
        }
    }
    spec.build.builder_images.extend(read::<std::collections::BTreeMap<_, _>>(root, "builderImages"));
    spec.build.buildpacks.extend(read::<Vec<String>>(root, "buildpacks"));
    spec.build.envs.extend(read::<Vec<Env>>(root, "buildEnvs"));
    spec.run.volumes.extend(read::<Vec<Volume>>(root, "volumes"));
    spec.run.envs.extend(read::<Vec<Env>>(root, "envs"));
    spec.deploy.annotations.extend(read::<std::collections::BTreeMap<_, _>>(root, "annotations"));
    let options = read::<Options>(root, "options");
    spec.deploy.options.resources = options.resources.or(spec.deploy.options.resources.take());
    spec.deploy.options.scale = options.scale.or(spec.deploy.options.scale.take());
    spec.deploy.labels.extend(read::<Vec<Label>>(root, "labels"));
    let health = read::<Health>(root, "healthEndpoints");
    for (old, new) in [
        (health.readiness, &mut spec.deploy.health.readiness),
        (health.liveness, &mut spec.deploy.health.liveness),
    ] {
        if !old.is_empty() {
            *new = old;
        }
    }
    spec.deploy.namespace = read::<String>(root, "namespace");
    // Only a builder's short name is one; before 0.23 the key held an image, which has moved.
    let builder = read::<String>(root, "builder");
    spec.build.builder = if is_builder(&builder) { builder } else { String::new() };
}

/// 0.35: `invocation.format` is `invoke`, and `http` is not said.
fn invoke(spec: &mut Spec, root: &Node) {
    let format = root.get("invocation").map(|node| read::<String>(node, "format")).unwrap_or_default();
    if !format.is_empty() && format != "http" {
        spec.invoke = format;
    }
}

/// 0.36: `presistentVolumeClaim` was a misspelling.
fn claim_name(spec: &mut Spec) {
    for volume in &mut spec.run.volumes {
        if let Some(place) = volume.unknown.iter().position(|(key, _)| key == "presistentVolumeClaim") {
            let (_, node) = volume.unknown.remove(place);
            volume.claim = Field::read(&mut Notes::default(), &node).or(volume.claim.take());
        }
    }
}

/// An old key's value; of the wrong kind it is as if it were absent, as upstream has it.
fn read<T: Field>(root: &Node, key: &str) -> T {
    root.get(key)
        .filter(|node| !node.is_null())
        .and_then(|node| T::read(&mut Notes::default(), node))
        .unwrap_or_default()
}

fn is_builder(name: &str) -> bool {
    matches!(name, "pack" | "s2i" | "host")
}

/// Major, minor and patch; what follows a hyphen or plus does not matter.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|part| part.parse::<u32>().ok());
    let version = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}
