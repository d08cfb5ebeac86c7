//! The Configuration and the Route of a Service. Pure.

use std::collections::BTreeMap;

use dormouse_api::serving::configuration::{Configuration, ConfigurationSpec};
use dormouse_api::serving::route::{Route, RouteSpec};
use dormouse_api::serving::service::Service;
use dormouse_api::vocabulary::{
    LAST_APPLIED, ROLLOUT_DURATION, ROLLOUT_DURATION_ALIAS, ROUTES, SERVICE_LABEL, SERVICE_UID_LABEL,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::serving::context::owner;

/// The Configuration that `service` wants; what others keep on an `existing` one stays.
pub(crate) fn configuration(service: &Service, existing: Option<&Configuration>) -> Configuration {
    let mut labels = labels(service);
    labels.insert(SERVICE_UID_LABEL.to_owned(), service.metadata.uid.clone().unwrap_or_default());
    let mut annotations = annotations(service, &[LAST_APPLIED, ROLLOUT_DURATION, ROLLOUT_DURATION_ALIAS]);
    let kept = existing.and_then(|existing| existing.metadata.annotations.as_ref());
    if let Some(routes) = kept.and_then(|annotations| annotations.get(ROUTES)) {
        annotations.insert(ROUTES.to_owned(), routes.clone());
    }
    Configuration {
        metadata: metadata(service, existing.map(|existing| &existing.metadata), labels, annotations),
        spec: ConfigurationSpec { template: service.spec.template.clone() },
        status: existing.and_then(|existing| existing.status.clone()),
    }
}

/// The Route that `service` wants: targets without a Revision follow the Service's own Configuration.
pub(crate) fn route(service: &Service, existing: Option<&Route>) -> Route {
    let traffic = service.spec.traffic.iter().cloned().map(|mut target| {
        if target.revision_name.as_ref().is_none_or(String::is_empty) {
            target.configuration_name.clone_from(&service.metadata.name);
        }
        target
    });
    Route {
        metadata: metadata(
            service,
            existing.map(|existing| &existing.metadata),
            labels(service),
            annotations(service, &[LAST_APPLIED]),
        ),
        spec: RouteSpec { traffic: traffic.collect() },
        status: existing.and_then(|existing| existing.status.clone()),
    }
}

fn metadata(
    service: &Service,
    existing: Option<&ObjectMeta>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> ObjectMeta {
    let mut metadata = existing.cloned().unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        owner_references: Some(owner(service)),
        ..ObjectMeta::default()
    });
    metadata.labels = Some(labels);
    metadata.annotations = Some(annotations);
    metadata
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels
}

fn annotations(service: &Service, without: &[&str]) -> BTreeMap<String, String> {
    let mut annotations = service.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !without.contains(&key.as_str()));
    annotations
}
