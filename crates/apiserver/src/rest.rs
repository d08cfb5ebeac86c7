//! The verbs on resources.

pub(crate) mod apply;
pub(crate) mod delete;
pub(crate) mod logs;
pub(crate) mod read;
pub(crate) mod review;
pub(crate) mod scale;
mod token;
pub(crate) mod watch;
pub(crate) mod write;

use dormouse_api::kind::KindInfo;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::pure::accept::Representation;
use crate::pure::protobuf;
use crate::pure::status::{ACCEPTED_BODIES, Status};
use crate::pure::table::{IncludeObject, partial, table};
use crate::route::Resource;
use crate::server::{Call, Server};
use crate::user::{self, Attributes};

/// A request for one object, or for one part of it.
pub(crate) struct Named<'a> {
    pub(crate) kind: &'static KindInfo,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
}

impl Server {
    /// Answers a request for a resource.
    pub(crate) async fn resource(&self, resource: Resource, call: Call) -> Result<Response<Body>, Status> {
        let Resource { kind, namespace, name, subresource } = &resource;
        let (namespace, subresource) = (namespace.as_deref(), subresource.as_deref());
        user::authorize(
            &call.user,
            &Attributes {
                verb: verb(&call, name.is_some()),
                group: kind.group,
                resource: subresource.map_or(kind.plural.into(), |sub| format!("{}/{sub}", kind.plural)),
                namespace,
            },
        )?;
        let watching = call.query.flag("watch");
        let Some(name) = name.as_deref() else {
            return match call.parts.method {
                Method::GET | Method::HEAD if watching => self.watch(kind, namespace, None, call).await,
                Method::GET | Method::HEAD => self.list(kind, namespace, &call).await,
                Method::POST if kind.namespaced == namespace.is_some() => {
                    self.create(kind, namespace, &call).await
                }
                Method::DELETE if kind.namespaced == namespace.is_some() => {
                    self.delete_collection(kind, namespace, &call).await
                }
                _ => Err(Status::method_not_allowed()),
            };
        };
        let named = Named { kind, namespace, name };
        match (subresource, &call.parts.method) {
            (None, &Method::GET) if watching => self.watch(kind, namespace, Some(name), call).await,
            (None, &(Method::GET | Method::HEAD)) => self.get(&named, &call),
            (None, &(Method::PUT | Method::PATCH)) => self.write(&named, write::Part::Main, &call).await,
            (None, &Method::DELETE) => self.delete(&named, &call).await,
            (Some("status"), method) if kind.status => match *method {
                Method::GET => self.get(&named, &call),
                Method::PUT | Method::PATCH => self.write(&named, write::Part::Status, &call).await,
                _ => Err(Status::method_not_allowed()),
            },
            (Some("scale"), method) if kind.scale => match *method {
                Method::GET => self.get_scale(&named),
                Method::PUT | Method::PATCH => self.write_scale(&named, &call).await,
                _ => Err(Status::method_not_allowed()),
            },
            (Some("finalize"), &Method::PUT) if is(kind, "Namespace") => {
                self.write(&named, write::Part::Finalize, &call).await
            }
            (Some("log"), method) if is(kind, "Pod") => match *method {
                Method::GET => self.logs(&named, &call).await,
                _ => Err(Status::method_not_allowed()),
            },
            (Some("token"), &Method::POST) if is(kind, "ServiceAccount") => self.token(&named, &call),
            (Some("eviction"), &Method::POST) if is(kind, "Pod") => self.evict(&named, &call).await,
            (None, _) => Err(Status::method_not_allowed()),
            (Some(_), _) => Err(Status::not_found_path()),
        }
    }
}

/// Whether `kind` is this kind of the core group.
pub(crate) fn is(kind: &KindInfo, name: &str) -> bool {
    kind.group.is_empty() && kind.kind == name
}

fn verb(call: &Call, named: bool) -> &'static str {
    match call.parts.method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ if call.query.flag("watch") => "watch",
        _ if named => "get",
        _ => "list",
    }
}

/// The object in a request's body: JSON, YAML or, for built-in kinds, protobuf.
pub(crate) fn decode(kind: &KindInfo, call: &Call) -> Result<Value, Status> {
    let mut object = match call.content_type() {
        "application/vnd.kubernetes.protobuf" if kind.custom => {
            return Err(Status::unsupported_media_type(&["application/json", "application/yaml"]));
        }
        "application/vnd.kubernetes.protobuf" => protobuf::decode(&call.body).map_err(Status::bad_request)?,
        "application/yaml" => yaml(&call.body)?,
        "" | "application/json" | "text/plain" if protobuf::is_protobuf(&call.body) => {
            protobuf::decode(&call.body).map_err(Status::bad_request)?
        }
        "" | "application/json" => json_body(&call.body)?,
        _ => return Err(Status::unsupported_media_type(ACCEPTED_BODIES)),
    };
    crate::json::strip_nulls(&mut object);
    if object.is_object() {
        Ok(object)
    } else {
        Err(Status::bad_request("the body of the request is not an object"))
    }
}

pub(crate) fn json_body(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes)
        .map_err(|error| Status::bad_request(format!("the body of the request is not valid JSON: {error}")))
}

pub(crate) fn yaml(bytes: &[u8]) -> Result<Value, Status> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Status::bad_request("the body of the request is not UTF-8"))?;
    serde_saphyr::from_str(text)
        .map_err(|error| Status::bad_request(format!("the body of the request is not valid YAML: {error}")))
}

/// One object in the representation that the client wants.
pub(crate) fn one(kind: &'static KindInfo, call: &Call, code: StatusCode, value: Value) -> Response<Body> {
    let value = external(kind, value);
    let value = match call.representation {
        Representation::Table => {
            let version = crate::json::text(&value, &["metadata", "resourceVersion"]).to_owned();
            let now = dormouse_base::clock::timestamp();
            table(kind, &[value.into()], json!({ "resourceVersion": version }), include(call), now)
        }
        Representation::PartialMetadata | Representation::PartialMetadataList => partial(&value),
        Representation::Json | Representation::AggregatedDiscovery(_) => value,
    };
    body::json(code, &value)
}

/// The form in which this group shows the object: events have two.
pub(crate) fn external(kind: &KindInfo, value: Value) -> Value {
    if kind.group == "events.k8s.io" { crate::pure::event::from_core(&value) } else { value }
}

pub(crate) fn include(call: &Call) -> IncludeObject {
    IncludeObject::parse(call.query.get("includeObject"))
}
