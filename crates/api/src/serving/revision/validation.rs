mod container;
mod pod;

use std::collections::BTreeMap;

use super::{RevisionSpec, RevisionTemplateSpec};
use crate::autoscaling::{self, Allowed};
use crate::config::Settings;
use crate::fielderror::FieldError;
use crate::names;
use crate::serving::meta;
use crate::vocabulary::{PROGRESS_DEADLINE, PROGRESS_DEADLINE_ALIAS};

/// What is wrong with a template; `parent` is the name that a chosen Revision name must start with.
pub(crate) fn template(
    template: &RevisionTemplateSpec,
    old: Option<&RevisionTemplateSpec>,
    parent: &str,
    generated: bool,
    settings: &Settings,
) -> FieldError {
    let mut errors = spec(&template.spec, settings).via("spec");
    let empty = BTreeMap::new();
    let metadata = template.metadata.as_ref();
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref()).unwrap_or(&empty);
    errors.add(self::annotations(annotations, settings.scaling).via("annotations").via("metadata"));
    let Some(name) = metadata.and_then(|metadata| metadata.name.as_deref()).filter(|name| !name.is_empty())
    else {
        return errors;
    };
    if generated {
        errors.add(FieldError::disallowed(&["metadata.name"]));
    } else if let Some(error) = names::label_1035_error(name) {
        errors.add(FieldError::new(format!("not a DNS 1035 label: [{error}]"), &["metadata.name"]));
    } else if !name.starts_with(&format!("{parent}-")) {
        errors.add(FieldError::new(
            format!("invalid value: {name:?} must have prefix {:?}", format!("{parent}-")),
            &["metadata.name"],
        ));
    }
    if let Some(old) = old
        && old.metadata.as_ref().and_then(|metadata| metadata.name.as_deref()) == Some(name)
        && old.spec != template.spec
    {
        errors.add(FieldError::detailed(
            "Saw the following changes without a name change (-old +new)",
            &["metadata.name"],
            meta::diff(&old.spec, &template.spec),
        ));
    }
    errors
}

/// What is wrong with annotations of a template or Revision; paths are keys.
pub(crate) fn annotations(annotations: &BTreeMap<String, String>, allowed: Allowed) -> FieldError {
    let mut errors = autoscaling::validate(annotations, allowed);
    for key in [PROGRESS_DEADLINE, PROGRESS_DEADLINE_ALIAS] {
        let Some(value) = annotations.get(key) else { continue };
        match autoscaling::parse_duration(value) {
            None => errors.add(FieldError::invalid(value, key)),
            Some(nanoseconds) if nanoseconds % 1_000_000_000 != 0 => {
                errors.add(FieldError::new(
                    format!("progress-deadline={value} is not at second precision"),
                    &[key],
                ));
            }
            Some(nanoseconds) if nanoseconds <= 0 => {
                errors.add(FieldError::new(format!("progress-deadline={value} must be positive"), &[key]));
            }
            Some(_) => {}
        }
    }
    errors.also(meta::networking(annotations))
}

/// What is wrong with a Revision's spec.
pub(crate) fn spec(spec: &RevisionSpec, settings: &Settings) -> FieldError {
    let mut errors = pod::pod(&spec.pod, &settings.features);
    let bounds = &settings.defaults;
    if let Some(seconds) = spec.timeout_seconds
        && !(0..=bounds.timeout_max).contains(&seconds)
    {
        errors.add(FieldError::bounds(seconds, 0, bounds.timeout_max, "timeoutSeconds"));
    }
    let least = if bounds.allow_unlimited { 0 } else { 1 };
    if let Some(concurrency) = spec.container_concurrency
        && !(least..=bounds.concurrency_max).contains(&concurrency)
    {
        errors.add(FieldError::bounds(concurrency, least, bounds.concurrency_max, "containerConcurrency"));
    }
    let timeout = spec.timeout_seconds.unwrap_or(bounds.timeout_max);
    for (name, value) in [
        ("responseStartTimeoutSeconds", spec.response_start_timeout_seconds),
        ("idleTimeoutSeconds", spec.idle_timeout_seconds),
    ] {
        if let Some(seconds) = value.filter(|seconds| *seconds < 0) {
            errors.add(FieldError::bounds(seconds, 0, timeout, name));
        }
    }
    errors
}
