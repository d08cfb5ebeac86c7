//! Columns of built-in kinds.

use dormouse_api::kind::KindInfo;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Definition, age_of, column, count, name, pod, wide};
use crate::pure::{age, items, number, text};

pub(super) type CellsOf = fn(&Value, Timestamp) -> Vec<Value>;

/// More addresses than this are summed up.
const ENDPOINTS_SHOWN: usize = 3;

pub(super) fn layout(kind: &KindInfo) -> Option<(Vec<Definition>, CellsOf)> {
    let layout: (Vec<Definition>, CellsOf) = match (kind.group, kind.kind) {
        ("", "Pod") => (pod::columns(), pod::cells),
        ("apps", "Deployment") => (deployment_columns(), deployment),
        ("apps", "ReplicaSet") => (replica_set_columns(), replica_set),
        ("", "Service") => (service_columns(), service),
        ("", "Endpoints") => (named(vec![column("Endpoints"), column("Age")]), endpoints),
        ("discovery.k8s.io", "EndpointSlice") => (
            named(vec![column("AddressType"), column("Ports"), column("Endpoints"), column("Age")]),
            endpoint_slice,
        ),
        ("", "Namespace") => (named(vec![column("Status"), column("Age")]), namespace),
        ("", "ServiceAccount") => (named(vec![column("Secrets"), column("Age")]), service_account),
        ("", "ConfigMap") => (named(vec![count("Data"), column("Age")]), config_map),
        ("", "Secret") => (named(vec![column("Type"), count("Data"), column("Age")]), secret),
        ("", "Node") => (node_columns(), node),
        ("", "Event") => (event_columns(), event),
        ("events.k8s.io", "Event") => (event_columns(), new_event),
        ("", "ResourceQuota") => {
            (named(vec![column("Request"), column("Limit"), column("Age")]), resource_quota)
        }
        ("", "LimitRange") => (named(vec![column("Created At")]), created_at),
        ("coordination.k8s.io", "Lease") => (named(vec![column("Holder"), column("Age")]), lease),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            (named(vec![column("Created At")]), created_at)
        }
        _ => return None,
    };
    Some(layout)
}

fn named(rest: Vec<Definition>) -> Vec<Definition> {
    let mut columns = vec![column("Name")];
    columns.extend(rest);
    columns
}

/// `a=b,c=d`, or `<none>`.
fn pairs(map: Option<&Map<String, Value>>) -> String {
    let pairs: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(pairs.join(","))
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn label_selector(selector: Option<&Value>) -> String {
    pairs(selector.and_then(|selector| selector.get("matchLabels")).and_then(Value::as_object))
}

fn containers(object: &Value, field: &str) -> String {
    let list = items(object, "/spec/template/spec/containers");
    list.iter().map(|container| text(container, field)).collect::<Vec<_>>().join(",")
}

/// `spec.replicas` defaults to one.
fn desired(object: &Value) -> i64 {
    object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1)
}

fn deployment_columns() -> Vec<Definition> {
    let columns = vec![column("Ready"), count("Up-to-date"), count("Available"), column("Age")];
    let mut columns = named(columns);
    columns.extend([wide("Containers"), wide("Images"), wide("Selector")]);
    columns
}

fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(format!("{}/{}", number(object, "/status/readyReplicas"), desired(object))),
        json!(number(object, "/status/updatedReplicas")),
        json!(number(object, "/status/availableReplicas")),
        age_of(object, now),
        json!(containers(object, "/name")),
        json!(containers(object, "/image")),
        json!(label_selector(object.pointer("/spec/selector"))),
    ]
}

fn replica_set_columns() -> Vec<Definition> {
    let mut columns = named(vec![count("Desired"), count("Current"), count("Ready"), column("Age")]);
    columns.extend([wide("Containers"), wide("Images"), wide("Selector")]);
    columns
}

fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(desired(object)),
        json!(number(object, "/status/replicas")),
        json!(number(object, "/status/readyReplicas")),
        age_of(object, now),
        json!(containers(object, "/name")),
        json!(containers(object, "/image")),
        json!(label_selector(object.pointer("/spec/selector"))),
    ]
}

fn service_columns() -> Vec<Definition> {
    let columns = ["Type", "Cluster-IP", "External-IP", "Port(s)", "Age"].map(column);
    let mut columns = named(columns.into());
    columns.push(wide("Selector"));
    columns
}

fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let kind = match text(object, "/spec/type") {
        "" => "ClusterIP",
        kind => kind,
    };
    let cluster_ip = match text(object, "/spec/clusterIP") {
        "" if kind == "ExternalName" => "<none>",
        "" => "<none>",
        address => address,
    };
    vec![
        name(object),
        json!(kind),
        json!(cluster_ip),
        json!(external_address(object, kind)),
        json!(service_ports(object)),
        age_of(object, now),
        json!(pairs(object.pointer("/spec/selector").and_then(Value::as_object))),
    ]
}

fn external_address(object: &Value, kind: &str) -> String {
    let fixed = items(object, "/spec/externalIPs").iter().filter_map(Value::as_str);
    match kind {
        "ExternalName" => text(object, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let ingress =
                items(object, "/status/loadBalancer/ingress").iter().map(|each| match text(each, "/ip") {
                    "" => text(each, "/hostname"),
                    ip => ip,
                });
            let all: Vec<&str> = ingress.chain(fixed).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => or_none(fixed.collect::<Vec<_>>().join(",")),
    }
}

fn service_ports(object: &Value) -> String {
    let ports: Vec<String> = items(object, "/spec/ports")
        .iter()
        .map(|port| {
            let protocol = match text(port, "/protocol") {
                "" => "TCP",
                protocol => protocol,
            };
            match number(port, "/nodePort") {
                0 => format!("{}/{protocol}", number(port, "/port")),
                node => format!("{}:{node}/{protocol}", number(port, "/port")),
            }
        })
        .collect();
    or_none(ports.join(","))
}

fn summed_up(all: &[String]) -> String {
    let shown: Vec<&str> = all.iter().take(ENDPOINTS_SHOWN).map(String::as_str).collect();
    match all.len().saturating_sub(ENDPOINTS_SHOWN) {
        0 => or_none(shown.join(",")),
        more => format!("{} + {more} more...", shown.join(",")),
    }
}

fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in items(object, "/subsets") {
        for address in items(subset, "/addresses") {
            let ip = text(address, "/ip");
            match items(subset, "/ports") {
                [] => all.push(ip.to_owned()),
                ports => all.extend(ports.iter().map(|port| format!("{ip}:{}", number(port, "/port")))),
            }
        }
    }
    vec![name(object), json!(summed_up(&all)), age_of(object, now)]
}

fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = items(object, "/ports")
        .iter()
        .map(|port| {
            port.get("port").and_then(Value::as_i64).map_or_else(|| "*".to_owned(), |port| port.to_string())
        })
        .collect();
    let addresses: Vec<String> = items(object, "/endpoints")
        .iter()
        .flat_map(|endpoint| items(endpoint, "/addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let unset = |text: String| if text == "<none>" { "<unset>".to_owned() } else { text };
    vec![
        name(object),
        json!(text(object, "/addressType")),
        json!(unset(summed_up(&ports))),
        json!(unset(summed_up(&addresses))),
        age_of(object, now),
    ]
}

fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, "/status/phase")), age_of(object, now)]
}

fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(items(object, "/secrets").len()), age_of(object, now)]
}

fn entries(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, Map::len)
}

fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = entries(object, "data") + entries(object, "binaryData");
    vec![name(object), json!(count), age_of(object, now)]
}

fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, "/type")), json!(entries(object, "data")), age_of(object, now)]
}

fn node_columns() -> Vec<Definition> {
    let mut columns = named(["Status", "Roles", "Age", "Version"].map(column).into());
    columns
        .extend(["Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"].map(wide));
    columns
}

fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready =
        items(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    let address = |kind: &str| {
        let found = items(object, "/status/addresses").iter().find(|each| text(each, "/type") == kind);
        or_none(found.map(|each| text(each, "/address")).unwrap_or_default().to_owned())
    };
    let info = |field: &str| match text(object, &format!("/status/nodeInfo/{field}")) {
        "" => age::UNKNOWN.to_owned(),
        value => value.to_owned(),
    };
    vec![
        name(object),
        json!(status),
        json!(or_none(roles.join(","))),
        age_of(object, now),
        json!(text(object, "/status/nodeInfo/kubeletVersion")),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        json!(info("osImage")),
        json!(info("kernelVersion")),
        json!(info("containerRuntimeVersion")),
    ]
}

fn event_columns() -> Vec<Definition> {
    let mut columns: Vec<Definition> = ["Last Seen", "Type", "Reason", "Object"].map(column).into();
    columns.extend([wide("Subobject"), wide("Source"), column("Message"), wide("First Seen")]);
    columns.push(Definition { name: "Count", kind: "integer", wide: true });
    columns.push(wide("Name"));
    columns
}

fn new_event(object: &Value, now: Timestamp) -> Vec<Value> {
    event(&crate::pure::event::to_core(object), now)
}

fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let moment = |pointers: &[&str]| pointers.iter().map(|at| text(object, at)).find(|text| !text.is_empty());
    let first = moment(&["/firstTimestamp", "/eventTime"]).unwrap_or_default();
    let last = moment(&["/series/lastObservedTime", "/lastTimestamp"]).unwrap_or(first);
    let involved = |field: &str| text(object, &format!("/involvedObject/{field}"));
    let component = match text(object, "/source/component") {
        "" => text(object, "/reportingComponent"),
        component => component,
    };
    let source = match text(object, "/source/host") {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    };
    let count = match (number(object, "/series/count"), number(object, "/count")) {
        (0, 0) => 1,
        (0, count) | (count, _) => count,
    };
    vec![
        json!(age::since(last, now)),
        json!(text(object, "/type")),
        json!(text(object, "/reason")),
        json!(format!("{}/{}", involved("kind").to_lowercase(), involved("name"))),
        json!(involved("fieldPath")),
        json!(source),
        json!(text(object, "/message").trim()),
        json!(age::since(first, now)),
        json!(count),
        name(object),
    ]
}

fn resource_quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in object.pointer("/status/hard").and_then(Value::as_object).into_iter().flatten() {
        let used = object.pointer("/status/used").and_then(|used| used.get(resource));
        let used = used.and_then(Value::as_str).unwrap_or("0");
        let line = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits") { limits.push(line) } else { requests.push(line) }
    }
    vec![name(object), json!(requests.join(", ")), json!(limits.join(", ")), age_of(object, now)]
}

fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, "/spec/holderIdentity")), age_of(object, now)]
}

fn created_at(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, "/metadata/creationTimestamp"))]
}
