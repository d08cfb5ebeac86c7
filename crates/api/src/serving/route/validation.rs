use std::collections::BTreeMap;

use super::TrafficTarget;
use crate::fielderror::FieldError;
use crate::names;

/// What is wrong with targets; in a Service the Configuration is implied.
pub(crate) fn traffic(traffic: &[TrafficTarget], service: bool) -> FieldError {
    let mut errors = FieldError::none();
    let mut tags: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sum = 0i64;
    for (index, target) in traffic.iter().enumerate() {
        let percent = target.percent.unwrap_or(0);
        sum = sum.saturating_add(percent);
        let mut error = self::target(target, service);
        if !(0..=100).contains(&percent) {
            error.add(FieldError::bounds(percent, 0, 100, "percent"));
        }
        errors.add(error.via_index(index));
        let Some(tag) = target.tag.as_deref().filter(|tag| !tag.is_empty()) else { continue };
        if let Some(text) = names::label_1035_error(tag) {
            errors.add(FieldError::invalid(
                format!("not a DNS 1035 label: [{text}]"),
                &format!(".tag[{index}]"),
            ));
        }
        if let Some(first) = tags.insert(tag, index) {
            errors.add(FieldError::new(
                format!("Multiple definitions for {tag:?}"),
                &[&format!("[{index}].tag"), &format!("[{first}].tag")],
            ));
        }
    }
    if sum != 100 {
        errors.add(FieldError::new(format!("Traffic targets sum to {sum}, want 100"), &[""]));
    }
    errors.via("traffic")
}

fn target(target: &TrafficTarget, service: bool) -> FieldError {
    let mut errors = FieldError::none();
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let (revision, configuration) = (set(&target.revision_name), set(&target.configuration_name));
    if service {
        if configuration {
            errors.add(FieldError::disallowed(&["configurationName"]));
        }
    } else if revision && configuration {
        errors.add(FieldError::both(&["revisionName", "configurationName"]));
    } else if !revision && !configuration {
        errors.add(FieldError::neither(&["revisionName", "configurationName"]));
    }
    let name = target.revision_name.as_deref().unwrap_or_default();
    match target.latest_revision {
        Some(true) if revision => errors.add(FieldError::new(
            format!("may not set revisionName {name:?} when latestRevision is true"),
            &["latestRevision"],
        )),
        Some(false) if !revision => errors.add(FieldError::new(
            "may not set latestRevision to false when revisionName is empty",
            &["latestRevision"],
        )),
        _ => {}
    }
    if revision && let Some(text) = names::subdomain_error(name) {
        errors.add(FieldError::invalid_because(name, "revisionName", text));
    }
    if set(&target.url) {
        errors.add(FieldError::disallowed(&["url"]));
    }
    errors
}
