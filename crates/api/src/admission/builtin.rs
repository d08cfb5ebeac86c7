//! Built-in kinds: the defaults and the validation that users notice.

mod pod;

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, RollingUpdateDeployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decode::decode;
use super::{Admitted, Cause, Denied, Operation, Request};
use crate::config;
use crate::names;
use crate::vocabulary::SYSTEM_NAMESPACE;

/// Collects what is wrong.
#[derive(Default)]
pub(super) struct Causes(Vec<Cause>);

impl Causes {
    fn add(&mut self, reason: &str, field: &str, message: String) {
        self.0.push(Cause { reason: reason.to_owned(), message, field: field.to_owned() });
    }
    fn required(&mut self, field: &str, why: &str) {
        let detail = if why.is_empty() { String::new() } else { format!(": {why}") };
        self.add("FieldValueRequired", field, format!("Required value{detail}"));
    }
    fn invalid(&mut self, field: &str, value: &Value, why: &str) {
        self.add("FieldValueInvalid", field, format!("Invalid value: {value}: {why}"));
    }
    fn duplicate(&mut self, field: &str, value: &str) {
        self.add("FieldValueDuplicate", field, format!("Duplicate value: {value:?}"));
    }
    fn unsupported(&mut self, field: &str, value: &str, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        self.add(
            "FieldValueNotSupported",
            field,
            format!("Unsupported value: {value:?}: supported values: {}", list.join(", ")),
        );
    }
    fn immutable(&mut self, field: &str, value: &Value) {
        self.invalid(field, value, "field is immutable");
    }
}

pub(super) fn admit(request: &Request<'_>, object: Value) -> Result<Admitted, Denied> {
    let free = |_: &mut _, _: Option<&_>, _: &mut Causes| {};
    match (request.kind.group, request.kind.kind) {
        ("", "Namespace") => pass::<core::Namespace>(request, &object, namespace),
        ("", "ConfigMap") => {
            settings(request, &object)?;
            pass::<core::ConfigMap>(request, &object, config_map)
        }
        ("", "Secret") => pass::<core::Secret>(request, &object, secret),
        ("", "ServiceAccount") => pass::<core::ServiceAccount>(request, &object, free),
        ("", "Service") => pass::<core::Service>(request, &object, service),
        ("", "Pod") => pass::<core::Pod>(request, &object, pod::pod),
        ("", "Endpoints") => plain::<core::Endpoints>(request, object),
        ("", "Event") => plain::<core::Event>(request, object),
        ("", "LimitRange") => plain::<core::LimitRange>(request, object),
        ("", "Node") => plain::<core::Node>(request, object),
        ("", "ResourceQuota") => plain::<core::ResourceQuota>(request, object),
        ("apps", "Deployment") => pass::<Deployment>(request, &object, deployment),
        ("apps", "ReplicaSet") => plain::<ReplicaSet>(request, object),
        ("coordination.k8s.io", "Lease") => plain::<Lease>(request, object),
        ("discovery.k8s.io", "EndpointSlice") => plain::<EndpointSlice>(request, object),
        ("events.k8s.io", "Event") => plain::<Event>(request, object),
        _ => Ok(Admitted { object, warnings: Vec::new() }),
    }
}

/// The platform's own ConfigMaps must be readable: what it cannot honour is refused here, not ignored later.
fn settings(request: &Request<'_>, object: &Value) -> Result<(), Denied> {
    let metadata = |field: &str| object.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
    let (Some(SYSTEM_NAMESPACE), Some(name), None) =
        (metadata("namespace"), metadata("name"), request.subresource)
    else {
        return Ok(());
    };
    let data = object.get("data").and_then(|data| config::Data::deserialize(data).ok()).unwrap_or_default();
    config::check(name, &data).map_err(|why| {
        Denied::BadRequest(format!(
            "admission webhook \"config.webhook.serving.knative.dev\" denied the request: validation failed: {why}"
        ))
    })
}

fn plain<K>(request: &Request<'_>, object: Value) -> Result<Admitted, Denied>
where
    K: DeserializeOwned + Serialize + Resource<DynamicType = ()>,
{
    pass::<K>(request, &object, |_, _, _| {})
}

fn pass<K>(
    request: &Request<'_>,
    object: &Value,
    rule: fn(&mut K, Option<&K>, &mut Causes),
) -> Result<Admitted, Denied>
where
    K: DeserializeOwned + Serialize + Resource<DynamicType = ()>,
{
    let (mut typed, warnings) = decode::<K>(request, object)?;
    if request.subresource.is_none() {
        let old = match request.operation {
            Operation::Create => None,
            Operation::Update => request.old.and_then(|old| K::deserialize(old).ok()),
        };
        let mut causes = Causes::default();
        metadata(request, typed.meta(), &mut causes);
        rule(&mut typed, old.as_ref(), &mut causes);
        refuse(request, typed.meta().name.as_deref().unwrap_or_default(), causes.0)?;
    }
    let object = serde_json::to_value(&typed).map_err(|error| Denied::BadRequest(error.to_string()))?;
    Ok(Admitted { object, warnings })
}

fn refuse(request: &Request<'_>, name: &str, causes: Vec<Cause>) -> Result<(), Denied> {
    let texts: Vec<String> =
        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    let text = match texts.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let message = format!("{} {name:?} is invalid: {text}", request.kind.qualified_kind());
    Err(Denied::Invalid { message, causes })
}

fn metadata(request: &Request<'_>, metadata: &ObjectMeta, causes: &mut Causes) {
    let name = metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        if metadata.generate_name.as_deref().unwrap_or_default().is_empty() {
            causes.required("metadata.name", "name or generateName is required");
        }
        return;
    }
    let error = match (request.kind.group, request.kind.kind) {
        ("", "Service") => names::label_1035_error(name),
        ("", "Namespace") => names::label_error(name),
        _ => names::subdomain_error(name),
    };
    if let Some(why) = error {
        causes.invalid("metadata.name", &Value::from(name), &why);
    }
    for (field, map) in [("metadata.labels", &metadata.labels)] {
        for (key, value) in map.iter().flatten() {
            let good = value.len() <= 63
                && value.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter));
            if !good {
                causes.invalid(
                    field,
                    &Value::from(value.as_str()),
                    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                );
            }
            let plain = key.rsplit('/').next().unwrap_or_default();
            if plain.is_empty() || plain.len() > 63 {
                causes.invalid(
                    field,
                    &Value::from(key.as_str()),
                    "name part must be non-empty and no more than 63 characters",
                );
            }
        }
    }
}

fn namespace(new: &mut core::Namespace, _: Option<&core::Namespace>, _: &mut Causes) {
    if let Some(name) = new.metadata.name.clone() {
        let labels = new.metadata.labels.get_or_insert_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
    new.spec.get_or_insert_default().finalizers.get_or_insert_with(|| vec!["kubernetes".to_owned()]);
    new.status.get_or_insert_default().phase.get_or_insert_with(|| "Active".to_owned());
}

fn config_keys<'a>(field: &str, keys: impl Iterator<Item = &'a String>, causes: &mut Causes) {
    for key in keys.filter(|key| !names::is_config_key(key)) {
        causes.invalid(
            &format!("{field}[{key}]"),
            &Value::from(key.as_str()),
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        );
    }
}

fn config_map(new: &mut core::ConfigMap, old: Option<&core::ConfigMap>, causes: &mut Causes) {
    config_keys("data", new.data.iter().flat_map(BTreeMap::keys), causes);
    config_keys("binaryData", new.binary_data.iter().flat_map(BTreeMap::keys), causes);
    if let Some(old) = old.filter(|old| old.immutable == Some(true)) {
        if new.immutable != Some(true) {
            causes.add(
                "FieldValueForbidden",
                "immutable",
                "Forbidden: field is immutable when `immutable` is set".to_owned(),
            );
        }
        if old.data != new.data || old.binary_data != new.binary_data {
            causes.add(
                "FieldValueForbidden",
                "data",
                "Forbidden: field is immutable when `immutable` is set".to_owned(),
            );
        }
    }
}

fn secret(new: &mut core::Secret, old: Option<&core::Secret>, causes: &mut Causes) {
    if let Some(strings) = new.string_data.take() {
        let data = new.data.get_or_insert_default();
        data.extend(strings.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
    }
    let kind = new.type_.get_or_insert_with(|| "Opaque".to_owned()).clone();
    config_keys("data", new.data.iter().flat_map(BTreeMap::keys), causes);
    let needed: &[&str] = match kind.as_str() {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        match new.data.as_ref().and_then(|data| data.get(*key)) {
            None => causes.required(&format!("data[{key}]"), ""),
            Some(bytes)
                if key.starts_with(".docker") && serde_json::from_slice::<Value>(&bytes.0).is_err() =>
            {
                causes.invalid(
                    &format!("data[{key}]"),
                    &Value::from("<secret contents redacted>"),
                    "not valid JSON",
                );
            }
            Some(_) => {}
        }
    }
    if let Some(old) = old {
        if old.type_ != new.type_ {
            causes.immutable("type", &Value::from(kind));
        }
        if old.immutable == Some(true) && (old.data != new.data || new.immutable != Some(true)) {
            causes.add(
                "FieldValueForbidden",
                "data",
                "Forbidden: field is immutable when `immutable` is set".to_owned(),
            );
        }
    }
}

fn service(new: &mut core::Service, old: Option<&core::Service>, causes: &mut Causes) {
    let spec = new.spec.get_or_insert_default();
    let kind = spec.type_.get_or_insert_with(|| "ClusterIP".to_owned()).clone();
    spec.session_affinity.get_or_insert_with(|| "None".to_owned());
    if kind != "ExternalName" {
        spec.cluster_ip.get_or_insert_default();
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if !matches!(kind.as_str(), "ClusterIP" | "ExternalName" | "LoadBalancer" | "NodePort") {
        causes.unsupported("spec.type", &kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    }
    if kind == "ExternalName" && spec.external_name.as_deref().unwrap_or_default().is_empty() {
        causes.required("spec.externalName", "");
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports = spec.ports.get_or_insert_default();
    if ports.is_empty() && kind != "ExternalName" && !headless {
        causes.required("spec.ports", "");
    }
    let several = ports.len() > 1;
    let mut seen = std::collections::BTreeSet::new();
    for (index, port) in ports.iter_mut().enumerate() {
        let field = format!("spec.ports[{index}]");
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        if kind != "ExternalName" {
            let number = port.port;
            port.target_port.get_or_insert(IntOrString::Int(number));
        }
        if !(1..=65535).contains(&port.port) {
            causes.invalid(
                &format!("{field}.port"),
                &Value::from(port.port),
                "must be between 1 and 65535, inclusive",
            );
        }
        let name = port.name.clone().unwrap_or_default();
        if several && name.is_empty() {
            causes.required(&format!("{field}.name"), "");
        } else if several && !seen.insert(name.clone()) {
            causes.duplicate(&format!("{field}.name"), &name);
        }
    }
    if ports.is_empty() {
        spec.ports = None;
    }
    if let Some(old) = old.and_then(|old| old.spec.as_ref())
        && spec.cluster_ip.as_deref().unwrap_or_default().is_empty()
        && kind != "ExternalName"
    {
        spec.cluster_ip.clone_from(&old.cluster_ip);
    }
    new.status.get_or_insert_default().load_balancer.get_or_insert_default();
}

fn deployment(new: &mut Deployment, old: Option<&Deployment>, causes: &mut Causes) {
    let Some(spec) = new.spec.as_mut() else {
        causes.required("spec.selector", "");
        causes.required("spec.template.spec.containers", "");
        return;
    };
    spec.replicas.get_or_insert(1);
    spec.progress_deadline_seconds.get_or_insert(600);
    spec.revision_history_limit.get_or_insert(10);
    let strategy = spec.strategy.get_or_insert_default();
    let kind = strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned()).clone();
    match kind.as_str() {
        "RollingUpdate" => {
            let quarter = || IntOrString::String("25%".to_owned());
            let rolling = strategy.rolling_update.get_or_insert_with(RollingUpdateDeployment::default);
            rolling.max_surge.get_or_insert_with(quarter);
            rolling.max_unavailable.get_or_insert_with(quarter);
        }
        "Recreate" => {
            if strategy.rolling_update.is_some() {
                causes.add(
                    "FieldValueForbidden",
                    "spec.strategy.rollingUpdate",
                    "Forbidden: may not be specified when strategy `type` is 'Recreate'".to_owned(),
                );
            }
        }
        other => causes.unsupported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]),
    }
    if let Some(replicas) = spec.replicas.filter(|replicas| *replicas < 0) {
        causes.invalid("spec.replicas", &Value::from(replicas), "must be greater than or equal to 0");
    }
    let empty = BTreeMap::new();
    let labels =
        spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref()).unwrap_or(&empty);
    if is_empty(&spec.selector) {
        causes.required("spec.selector", "");
    } else if !matches(&spec.selector, labels) {
        let shown = serde_json::to_value(labels).unwrap_or_default();
        causes.invalid(
            "spec.template.metadata.labels",
            &shown,
            "`selector` does not match template `labels`",
        );
    }
    if let Some(old) = old.and_then(|old| old.spec.as_ref())
        && old.selector != spec.selector
    {
        causes.immutable("spec.selector", &serde_json::to_value(&spec.selector).unwrap_or_default());
    }
    let pod = spec.template.spec.get_or_insert_default();
    pod::spec(pod, "spec.template.spec", causes);
    if let Some(policy) = pod.restart_policy.as_deref().filter(|policy| *policy != "Always") {
        causes.unsupported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
}

fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|rule| {
        let value = labels.get(&rule.key);
        let listed = || value.is_some_and(|value| rule.values.iter().flatten().any(|other| other == value));
        match rule.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && expressions
}
