//! The schemas of Knative's kinds.

use dormouse_api::kind::KindInfo;
use serde_json::{Map, Value, json};

use super::{OBJECT_META, message, properties as message_properties, reference};

type Schemas = Map<String, Value>;

/// One sentence about a kind.
pub(super) fn description(kind: &KindInfo) -> &'static str {
    match kind.kind {
        "Service" => "A workload with its address: manages a Configuration and a Route of the same name.",
        "Configuration" => "The wanted state of a workload; every change of it makes a new Revision.",
        "Revision" => "An unchangeable snapshot of a workload's code and settings.",
        "Route" => "An address whose requests are split among Revisions.",
        "PodAutoscaler" => "How many instances a Revision shall have.",
        "DomainMapping" => "A name of one's own for a Service or Route.",
        "ClusterDomainClaim" => "Which namespace may map a domain.",
        "Ingress" => "Rules that lead requests from hosts and paths to Revisions.",
        _ => "A kind of Knative.",
    }
}

/// The properties of an object of a kind, beside its type.
pub(super) fn properties(schemas: &mut Schemas, kind: &KindInfo) -> Map<String, Value> {
    let prefix = match kind.kind {
        "PodAutoscaler" => "dev.knative.internal.autoscaling.v1alpha1",
        "Ingress" | "ClusterDomainClaim" => "dev.knative.internal.networking.v1alpha1",
        "DomainMapping" => "dev.knative.serving.v1beta1",
        _ => "dev.knative.serving.v1",
    };
    let spec = match kind.kind {
        "Service" => {
            let mut fields = configuration_spec(schemas);
            fields.extend(route_spec(schemas));
            fields
        }
        "Configuration" => configuration_spec(schemas),
        "Revision" => revision_spec(schemas),
        "Route" => route_spec(schemas),
        "PodAutoscaler" => pod_autoscaler_spec(schemas),
        "DomainMapping" => fields(json!({
            "ref": { "type": "object", "description": "What the domain leads to.", "properties": {
                "apiVersion": text("Group and version of the target."), "kind": text("The target's kind."),
                "name": text("The target's name."), "namespace": text("The target's namespace."),
            }},
            "tls": { "type": "object", "properties": { "secretName": text("The Secret with the certificate.") }},
        })),
        "ClusterDomainClaim" => fields(json!({ "namespace": text("Whose the domain is.") })),
        _ => ingress_spec(),
    };
    let spec = define(schemas, &format!("{prefix}.{}Spec", kind.kind), "What is wanted.", spec);
    let status = status(schemas, kind);
    let status = define(schemas, &format!("{prefix}.{}Status", kind.kind), "What was last seen.", status);
    let mut all = Map::new();
    all.insert("metadata".to_owned(), reference(schemas, OBJECT_META));
    all.insert("spec".to_owned(), spec);
    all.insert("status".to_owned(), status);
    all
}

/// Adds a named schema and answers the reference to it.
fn define(schemas: &mut Schemas, name: &str, description: &str, properties: Map<String, Value>) -> Value {
    let schema = json!({"type": "object", "description": description, "properties": properties});
    schemas.insert(name.to_owned(), schema);
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn fields(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

fn text(what: &str) -> Value {
    json!({"type": "string", "description": what})
}

fn number(what: &str) -> Value {
    json!({"type": "integer", "format": "int64", "description": what})
}

fn revision_spec(schemas: &mut Schemas) -> Map<String, Value> {
    let mut all = message("core.PodSpec").map(|pod| message_properties(schemas, pod)).unwrap_or_default();
    all.extend(fields(json!({
        "containerConcurrency": number("Requests that one instance works on at a time; 0 means no limit."),
        "timeoutSeconds": number("Seconds until a request must be answered."),
        "responseStartTimeoutSeconds": number("Seconds until an answer must begin."),
        "idleTimeoutSeconds": number("Seconds for which a request may send and receive nothing."),
    })));
    all
}

fn configuration_spec(schemas: &mut Schemas) -> Map<String, Value> {
    let spec = revision_spec(schemas);
    let spec =
        define(schemas, "dev.knative.serving.v1.RevisionSpec", "What an instance runs, and how.", spec);
    let metadata = reference(schemas, OBJECT_META);
    let template = define(
        schemas,
        "dev.knative.serving.v1.RevisionTemplateSpec",
        "What each new Revision is made from.",
        fields(json!({"metadata": metadata, "spec": spec})),
    );
    fields(json!({"template": template}))
}

fn route_spec(schemas: &mut Schemas) -> Map<String, Value> {
    let target = define(
        schemas,
        "dev.knative.serving.v1.TrafficTarget",
        "A share of the requests and the Revision that gets it.",
        fields(json!({
            "configurationName": text("Sends to the latest ready Revision of this Configuration."),
            "revisionName": text("Sends to this Revision."),
            "latestRevision": {"type": "boolean", "description": "Whether the latest ready Revision is meant."},
            "percent": number("The share of the requests, in percent."),
            "tag": text("A name under which this target has an address of its own."),
            "url": text("The address of the tag."),
        })),
    );
    fields(json!({"traffic": {
        "type": "array",
        "description": "How requests are split; everything goes to the latest ready Revision by default.",
        "items": target,
    }}))
}

fn pod_autoscaler_spec(schemas: &mut Schemas) -> Map<String, Value> {
    let target = reference(schemas, "core.ObjectReference");
    fields(json!({
        "containerConcurrency": number("Requests that one instance works on at a time; 0 means no limit."),
        "scaleTargetRef": target,
        "reachability": text("Whether any Route leads here: Reachable, Unreachable or empty."),
        "protocolType": text("What instances speak: http1 or h2c."),
    }))
}

fn ingress_spec() -> Map<String, Value> {
    let list = |what: &str| json!({"type": "array", "description": what, "items": {"type": "object"}});
    fields(json!({
        "rules": list("What to do with requests for some hosts."),
        "tls": list("Certificates for some hosts."),
        "httpOption": text("Whether plain HTTP is served or redirected: Enabled or Redirected."),
    }))
}

fn status(schemas: &mut Schemas, kind: &KindInfo) -> Map<String, Value> {
    let condition = define(
        schemas,
        "dev.knative.pkg.apis.Condition",
        "One aspect of the state.",
        fields(json!({
            "type": text("The aspect."),
            "status": text("True, False or Unknown."),
            "severity": text("Empty for errors, or Info."),
            "reason": text("Why, in one word."),
            "message": text("Why, in a sentence."),
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        })),
    );
    let mut all = fields(json!({
        "observedGeneration": number("The generation that this status tells of."),
        "conditions": {"type": "array", "items": condition},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    }));
    let created = text("The Revision made last.");
    let ready = text("The newest Revision that became ready.");
    let configuration = json!({"latestCreatedRevisionName": created, "latestReadyRevisionName": ready});
    let address = json!({
        "url": text("The public address."),
        "address": {"type": "object", "properties": {"url": text("The address inside the cluster.")}},
        "traffic": {"type": "array", "items": {"type": "object"}},
    });
    let replicas = |what| number(what);
    match kind.kind {
        "Service" => {
            all.extend(fields(configuration));
            all.extend(fields(address));
        }
        "Configuration" => all.extend(fields(configuration)),
        "Route" | "DomainMapping" => all.extend(fields(address)),
        "Revision" => all.extend(fields(json!({
            "containerStatuses": {"type": "array", "items": {"type": "object"}},
            "actualReplicas": replicas("Instances that run."),
            "desiredReplicas": replicas("Instances that are wanted."),
        }))),
        "PodAutoscaler" => all.extend(fields(json!({
            "desiredScale": replicas("Instances that are wanted."),
            "actualScale": replicas("Instances that run."),
            "serviceName": text("The service with the instances."),
        }))),
        _ => {}
    }
    all
}
