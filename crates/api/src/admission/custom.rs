//! Knative's kinds: the defaulting and validating webhooks, in process.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::decode::decode;
use super::{Admitted, Denied, Operation, Request};
use crate::autoscaling::PodAutoscaler;
use crate::fielderror::FieldError;
use crate::networking::Ingress;
use crate::serving::configuration::Configuration;
use crate::serving::domainmapping::{self, DomainMapping};
use crate::serving::meta;
use crate::serving::revision::{self, Revision, RevisionTemplateSpec};
use crate::serving::route::{self, Route};
use crate::serving::service::Service;

pub(super) fn admit(request: &Request<'_>, object: Value) -> Result<Admitted, Denied> {
    match request.kind.kind {
        "Service" => pass::<Service>(request, &object, service),
        "Configuration" => pass::<Configuration>(request, &object, configuration),
        "Revision" => pass::<Revision>(request, &object, revision),
        "Route" => pass::<Route>(request, &object, route),
        "DomainMapping" => pass::<DomainMapping>(request, &object, |request, new, old| {
            domainmapping::admit(new, old, request.user)
        }),
        "PodAutoscaler" => pass::<PodAutoscaler>(request, &object, |_, _, _| FieldError::none()),
        "Ingress" => pass::<Ingress>(request, &object, ingress),
        _ => Ok(Admitted { object, warnings: Vec::new() }),
    }
}

/// Decodes, lets `rule` default and judge, and encodes. A status write is only decoded.
fn pass<K: DeserializeOwned + Serialize + kube::Resource>(
    request: &Request<'_>,
    object: &Value,
    rule: fn(&Request<'_>, &mut K, Option<&K>) -> FieldError,
) -> Result<Admitted, Denied> {
    let (mut typed, mut warnings) = decode::<K>(request, object)?;
    if request.subresource.is_none() {
        let old = match request.operation {
            Operation::Create => None,
            Operation::Update => request.old.and_then(|old| K::deserialize(old).ok()),
        };
        rule(request, &mut typed, old.as_ref()).into_result().map_err(|text| {
            Denied::BadRequest(format!(
                "admission webhook \"validation.webhook.serving.knative.dev\" denied the request: validation failed: {text}"
            ))
        })?;
        warnings.extend(ignored(object));
    }
    let object = serde_json::to_value(&typed).map_err(|error| Denied::BadRequest(error.to_string()))?;
    Ok(Admitted { object, warnings })
}

/// Annotations for a process that Dormouse does not have.
fn ignored(object: &Value) -> Vec<String> {
    let annotations = object.pointer("/spec/template/metadata/annotations").and_then(Value::as_object);
    annotations
        .into_iter()
        .flat_map(|map| map.keys())
        .filter(|key| key.starts_with("queue.sidecar.serving.knative.dev/"))
        .map(|key| {
            format!("{key} has no effect: Dormouse runs no queue-proxy beside the container: spec.template.metadata.annotations")
        })
        .collect()
}

fn template(
    request: &Request<'_>,
    template: &mut RevisionTemplateSpec,
    old: Option<&RevisionTemplateSpec>,
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> FieldError {
    revision::defaults::template(template, old, request.settings);
    let generated = request.operation == Operation::Create
        && metadata.generate_name.as_deref().is_some_and(|name| !name.is_empty());
    let name = metadata.name.as_deref().unwrap_or_default();
    revision::validation::template(template, old, name, generated, request.settings)
        .via("template")
        .via("spec")
}

fn service(request: &Request<'_>, new: &mut Service, old: Option<&Service>) -> FieldError {
    let mut errors =
        template(request, &mut new.spec.template, old.map(|old| &old.spec.template), &new.metadata);
    route::defaults::traffic(&mut new.spec.traffic, true);
    let changed = old.is_some_and(|old| old.spec != new.spec);
    meta::stamp(&mut new.metadata, old.map(|old| &old.metadata), changed, request.user);
    errors.add(meta::metadata(&new.metadata, old.map(|old| &old.metadata)));
    errors.also(route::validation::traffic(&new.spec.traffic, true).via("spec"))
}

fn configuration(request: &Request<'_>, new: &mut Configuration, old: Option<&Configuration>) -> FieldError {
    let errors = template(request, &mut new.spec.template, old.map(|old| &old.spec.template), &new.metadata);
    let changed = old.is_some_and(|old| old.spec != new.spec);
    meta::stamp(&mut new.metadata, old.map(|old| &old.metadata), changed, request.user);
    errors.also(meta::metadata(&new.metadata, old.map(|old| &old.metadata)))
}

fn route(request: &Request<'_>, new: &mut Route, old: Option<&Route>) -> FieldError {
    route::defaults::traffic(&mut new.spec.traffic, false);
    let changed = old.is_some_and(|old| old.spec != new.spec);
    meta::stamp(&mut new.metadata, old.map(|old| &old.metadata), changed, request.user);
    meta::metadata(&new.metadata, old.map(|old| &old.metadata))
        .also(route::validation::traffic(&new.spec.traffic, false).via("spec"))
}

fn revision(request: &Request<'_>, new: &mut Revision, old: Option<&Revision>) -> FieldError {
    let empty = std::collections::BTreeMap::new();
    if let Some(old) = old {
        if old.spec == new.spec {
            return FieldError::none();
        }
        return FieldError::detailed(
            "Immutable fields changed (-old +new)",
            &["spec"],
            meta::diff(&old.spec, &new.spec),
        );
    }
    revision::defaults::spec(&mut new.spec, true, request.settings);
    let annotations = new.metadata.annotations.as_ref().unwrap_or(&empty);
    let errors = revision::validation::annotations(annotations, request.settings.scaling)
        .via("annotations")
        .via("metadata");
    let lacks_name = new.metadata.name.as_deref().is_none_or(str::is_empty)
        && new.metadata.generate_name.as_deref().is_none_or(str::is_empty);
    let name = if lacks_name { FieldError::missing(&["metadata.name"]) } else { FieldError::none() };
    errors.also(name).also(revision::validation::spec(&new.spec, request.settings).via("spec"))
}

fn ingress(_: &Request<'_>, new: &mut Ingress, _: Option<&Ingress>) -> FieldError {
    let namespace = new.metadata.namespace.clone().unwrap_or_default();
    let mut errors = FieldError::none();
    new.spec.http_option.get_or_insert_with(|| "Enabled".to_owned());
    if new.spec.rules.is_empty() {
        errors.add(FieldError::missing(&["rules"]));
    }
    for (index, rule) in new.spec.rules.iter_mut().enumerate() {
        let mut error = FieldError::none();
        if rule.hosts.is_empty() {
            error.add(FieldError::missing(&["hosts"]));
        }
        let paths = rule.http.as_mut().map(|http| &mut http.paths).filter(|paths| !paths.is_empty());
        match paths {
            None => error.add(FieldError::missing(&["http.paths"])),
            Some(paths) => {
                for (number, path) in paths.iter_mut().enumerate() {
                    error.add(splits(&mut path.splits, &namespace).via_field_index("http.paths", number));
                }
            }
        }
        errors.add(error.via_field_index("rules", index));
    }
    errors.via("spec")
}

fn splits(splits: &mut [crate::networking::IngressBackendSplit], namespace: &str) -> FieldError {
    let mut errors = FieldError::none();
    if let [single] = splits {
        single.percent.get_or_insert(100);
    }
    if splits.is_empty() {
        return FieldError::missing(&["splits"]);
    }
    let sum: i64 = splits.iter().map(|split| split.percent.unwrap_or(0)).sum();
    if sum != 100 {
        errors.add(FieldError::new(
            format!("traffic split percentage must total to 100, but was {sum}"),
            &["splits"],
        ));
    }
    for (index, split) in splits.iter().enumerate() {
        let mut error = FieldError::none();
        if split.service_name.is_empty() {
            error.add(FieldError::missing(&["serviceName"]));
        }
        if split.service_namespace != namespace {
            error.add(FieldError::new(
                "service namespace must match ingress namespace",
                &["serviceNamespace"],
            ));
        }
        errors.add(error.via_field_index("splits", index));
    }
    errors
}
