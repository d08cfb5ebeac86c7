//! What a func.yaml may say, with upstream's texts.

use std::collections::BTreeMap;

use super::names;
use super::spec::{Env, Label, Options, Requests, Spec, Volume};
use super::value::{Meaning, meaning};

/// All that is wrong, in one text; `env` tells variables of whoever deploys.
pub(super) fn validate(spec: &Spec, env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let groups = [
        volumes(&spec.run.volumes),
        build_envs(&spec.build.envs),
        envs(&spec.run.envs),
        options(&spec.deploy.options),
        labels(&spec.deploy.labels, env),
        git(&spec.build.git.url),
        kafka(spec),
    ];
    let mut text = "'func.yaml' contains errors:".to_owned();
    let mut any = false;
    for group in groups.iter().filter(|group| !group.is_empty()) {
        any = true;
        text.push('\n');
        for error in group {
            text.push('\t');
            text.push_str(error);
        }
    }
    any.then_some(text)
}

fn volumes(volumes: &[Volume]) -> Vec<String> {
    let mut errors = Vec::new();
    let mut seen = BTreeMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        if let Some(path) = &volume.path {
            let first = *seen.entry(clean(path)).or_insert(index);
            if first != index {
                errors.push(format!(
                    "volume entry #{index} has duplicate path {path:?} (first defined at entry #{first})"
                ));
            }
        }
        let kinds = usize::from(volume.secret.is_some())
            + usize::from(volume.config_map.is_some())
            + usize::from(volume.claim.is_some())
            + usize::from(volume.empty_dir.is_some());
        if volume.claim.as_ref().is_some_and(|claim| claim.name.is_none()) {
            errors.push(format!("volume entry #{index} ({volume}) is missing claim name"));
        }
        if let Some(dir) = &volume.empty_dir
            && !matches!(dir.medium.as_str(), "" | "Memory")
        {
            errors.push(format!(
                "volume entry #{index} ({volume}) has invalid storage medium ({})",
                dir.medium
            ));
        }
        match kinds {
            0 => errors.push(format!("volume entry #{index} ({volume}) is missing a volume type")),
            1 => {}
            _ => errors
                .push(format!("volume entry #{index} ({volume}) may not specify more than one volume type")),
        }
        if volume.path.is_none() {
            errors.push(format!("volume entry #{index} ({volume}) is missing path field"));
        }
    }
    errors
}

/// A path without `.`, `..` and doubled slashes, as Go's `path.Clean` has it.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if path.starts_with('/') => {}
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    match (path.starts_with('/'), parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// What variables of the build and of the run have in common; `rest` judges one by what it has of name and value.
fn variables(envs: &[Env], rest: impl Fn(usize, &Env) -> Option<String>) -> Vec<String> {
    let mut errors = Vec::new();
    let mut seen = BTreeMap::new();
    for (index, env) in envs.iter().enumerate() {
        if let Some(name) = &env.name {
            let first = *seen.entry(name.clone()).or_insert(index);
            if first != index {
                errors.push(format!(
                    "env entry #{index} has duplicate name {name:?} (first defined at entry #{first})"
                ));
            }
        }
        match (&env.name, &env.value) {
            (None, None) => errors.push(format!("env entry #{index} is not properly set")),
            (Some(name), None) => {
                errors.push(format!("env entry #{index} is missing value field, only name '{name}' is set"))
            }
            (Some(name), Some(_)) => {
                errors.extend(
                    names::variable(name)
                        .map(|why| format!("env entry #{index} has invalid name set: {name:?}; {why}")),
                );
                errors.extend(rest(index, env));
            }
            (None, Some(_)) => errors.extend(rest(index, env)),
        }
    }
    errors
}

fn envs(envs: &[Env]) -> Vec<String> {
    variables(envs, |index, env| {
        let value = env.value.as_deref()?;
        let meaning = meaning(value);
        let Some(name) = &env.name else {
            return (!matches!(meaning, Meaning::Secret(_) | Meaning::ConfigMap(_))).then(|| {
                format!(
                    "env entry #{index} has invalid value field set, it has '{value}', but allowed is only \
                     '{{{{ secret:secretName }}}}' or '{{{{ configMap:configMapName }}}}'"
                )
            });
        };
        matches!(meaning, Meaning::Unknown | Meaning::Secret(_) | Meaning::ConfigMap(_)).then(|| {
            format!(
                "env entry #{index} with name '{name}' has invalid value field set, it has '{value}', but allowed is only \
                 '{{{{ env:MY_ENV }}}}', '{{{{ secret:secretName:key }}}}' or '{{{{ configMap:configMapName:key }}}}'"
            )
        })
    })
}

fn build_envs(envs: &[Env]) -> Vec<String> {
    variables(envs, |index, env| {
        let value = env.value.as_deref()?;
        let Some(name) = &env.name else {
            return Some(format!("env entry #{index} is missing name field, only value '{value}' is set"));
        };
        (!matches!(meaning(value), Meaning::Text(_) | Meaning::Local(_))).then(|| {
            format!(
                "env entry #{index} with name '{name}' has invalid value field set, it has '{value}', but allowed is only \
                 '{{{{ env:MY_ENV }}}}'"
            )
        })
    })
}

fn options(options: &Options) -> Vec<String> {
    let mut errors = Vec::new();
    if let Some(scale) = &options.scale {
        for (field, value) in [("min", scale.min), ("max", scale.max)] {
            errors.extend(value.filter(|value| *value < 0).map(|value| {
                format!(
                    "options field \"scale.{field}\" has invalid value set: {value}, the value must be greater than \"0\""
                )
            }));
        }
        if let (Some(min), Some(max)) = (scale.min, scale.max)
            && max < min
        {
            errors.push(
                "options field \"scale.max\" value must be greater or equal to \"scale.min\"".to_owned(),
            );
        }
        let metric = scale.metric.as_deref();
        errors.extend(metric.filter(|metric| !matches!(*metric, "concurrency" | "rps")).map(|metric| {
            format!(
                "options field \"scale.metric\" has invalid value set: {metric}, allowed is only \"concurrency\" or \"rps\""
            )
        }));
        errors.extend(scale.target.filter(|target| *target < 0.01).map(|target| {
            format!(
                "options field \"scale.target\" has value set to \"{target:.6}\", but it must not be less than 0.01"
            )
        }));
        errors.extend(scale.utilization.filter(|percent| !(1.0..=100.0).contains(percent)).map(|percent| {
            format!(
                "options field \"scale.utilization\" has value set to \"{percent:.6}\", but it must not be less than 1 or greater than 100"
            )
        }));
    }
    let Some(resources) = &options.resources else { return errors };
    let none = Requests::default();
    let requests = resources.requests.as_ref().unwrap_or(&none);
    let limits = resources.limits.as_ref();
    for (field, value) in [
        ("requests.cpu", requests.cpu.as_deref()),
        ("requests.memory", requests.memory.as_deref()),
        ("limits.cpu", limits.and_then(|limits| limits.cpu.as_deref())),
        ("limits.memory", limits.and_then(|limits| limits.memory.as_deref())),
    ] {
        errors.extend(value.and_then(|value| Some((value, names::quantity(value)?))).map(|(value, why)| {
            format!("options field \"resources.{field}\" has invalid value set: \"{value}\"; \"{why}\"")
        }));
    }
    let concurrency = limits.and_then(|limits| limits.concurrency);
    errors.extend(concurrency.filter(|value| *value < 0).map(|value| {
        format!(
            "options field \"resources.limits.concurrency\" has value set to \"{value}\", but it must not be less than 0"
        )
    }));
    errors
}

pub(super) fn labels(labels: &[Label], env: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut errors = Vec::new();
    for (index, label) in labels.iter().enumerate() {
        let Some(key) = &label.key else {
            errors.push(match &label.value {
                None => format!("label entry #{index} is not properly set"),
                Some(value) => {
                    format!("label entry #{index} is missing key field, only value '{value}' is set")
                }
            });
            continue;
        };
        errors.extend(
            names::label_key(key)
                .map(|why| format!("label entry #{index} has invalid key set: {key:?}; {why}")),
        );
        let Some(value) = &label.value else { continue };
        errors.extend(
            names::label_value(value)
                .map(|why| format!("label entry #{index} has invalid value set: {value:?}; {why}")),
        );
        match meaning(value) {
            Meaning::Text(_) => {}
            Meaning::Local(name) => {
                let known = env(name).unwrap_or_default();
                errors.extend(names::label_value(&known).map(|why| {
                    format!(
                        "label entry #{index} with key '{key}' has invalid value when the environment is evaluated: '{known}': {why}"
                    )
                }));
            }
            _ => errors.push(format!(
                "label entry #{index} with key '{key}' has invalid value field set, it has '{value}', but allowed is only \
                 '{{{{ env:MY_ENV }}}}'"
            )),
        }
    }
    errors
}

fn git(url: &str) -> Vec<String> {
    let error = if url.is_empty() { None } else { names::git_url(url) };
    error
        .map(|why| format!("specified option \"git.url={url}\" is not valid, error: {why}"))
        .into_iter()
        .collect()
}

fn kafka(spec: &Spec) -> Vec<String> {
    let Some(kafka) = &spec.run.kafka else { return Vec::new() };
    if spec.runtime != "go" {
        return vec!["run.kafka is currently only supported for the Go runtime".to_owned()];
    }
    if spec.invoke != "cloudevent" {
        return vec!["run.kafka is only supported with invoke: cloudevent".to_owned()];
    }
    [("brokers", &kafka.brokers), ("topic", &kafka.topic), ("consumerGroup", &kafka.consumer_group)]
        .into_iter()
        .filter(|(_, value)| value.is_empty())
        .map(|(field, _)| format!("run.kafka.{field} is required when Kafka is configured"))
        .collect()
}

// === impl Volume ===

impl std::fmt::Display for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(name) = &self.config_map {
            write!(f, "ConfigMap \"{name}\"")?;
        } else if let Some(name) = &self.secret {
            write!(f, "Secret \"{name}\"")?;
        } else if let Some(claim) = &self.claim {
            f.write_str("PersistentVolumeClaim")?;
            if let Some(name) = &claim.name {
                write!(f, " \"{name}\"")?;
            }
        } else if let Some(dir) = &self.empty_dir {
            f.write_str("EmptyDir")?;
            if dir.medium == "Memory" {
                f.write_str(" in memory")?;
            }
            if let Some(limit) = &dir.size_limit {
                write!(f, " with size limit \"{limit}\"")?;
            }
        } else {
            f.write_str("No volume type")?;
        }
        match &self.path {
            Some(path) => write!(f, " at path: \"{path}\""),
            None => Ok(()),
        }
    }
}
