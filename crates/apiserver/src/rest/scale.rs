//! The scale subresource of built-in workloads.

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::json::{at, map_mut, meta_mut, text};
use crate::pure::patch::{self, PatchKind};
use crate::pure::status::Status;
use crate::rest::write::{Options, Part, patch_kind};
use crate::rest::{Named, decode};
use crate::server::{Call, Server, object_key};

impl Server {
    pub(crate) fn get_scale(&self, named: &Named<'_>) -> Result<Response<Body>, Status> {
        let stored = self.inner.store.get(&object_key(named.kind, named.namespace, named.name));
        let stored = stored.ok_or_else(|| Status::not_found(named.kind, named.name))?;
        Ok(body::json(StatusCode::OK, &scale(&stored.value())))
    }

    pub(crate) async fn write_scale(&self, named: &Named<'_>, call: &Call) -> Result<Response<Body>, Status> {
        let options = Options::of(call)?;
        let put = if call.parts.method == Method::PUT { Some(decode(named.kind, call)?) } else { None };
        let patch = match (&put, call.parts.method == Method::PATCH) {
            // A Scale has no lists, so the strategic dialect is the plain one.
            (None, true) => Some(match patch_kind(named.kind, call)? {
                PatchKind::Strategic => PatchKind::Merge,
                other => other,
            }),
            _ => None,
        };
        let edit = |current: &Value| {
            let wanted = match (&put, patch) {
                (Some(wanted), _) => wanted.clone(),
                (None, Some(dialect)) => patch::apply(dialect, named.kind, &scale(current), &call.body)?,
                (None, None) => return Err(Status::method_not_allowed()),
            };
            let replicas = at(&wanted, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
            if replicas < 0 {
                return Err(Status::bad_request(format!(
                    "spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0"
                )));
            }
            let mut object = current.clone();
            map_mut(&mut object, "spec").insert("replicas".into(), replicas.into());
            let version = text(&wanted, &["metadata", "resourceVersion"]);
            meta_mut(&mut object).insert("resourceVersion".into(), version.into());
            Ok(object)
        };
        let written = self.modify(named, Part::Main, &options, &edit).await?;
        Ok(body::json(StatusCode::OK, &scale(&written.object)))
    }
}

/// An object as `autoscaling/v1 Scale`.
fn scale(object: &Value) -> Value {
    let meta: serde_json::Map<String, Value> =
        ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), at(object, &["metadata", name])?.clone())))
            .collect();
    let number = |path: &[&str]| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": { "replicas": number(&["spec", "replicas"]) },
        "status": { "replicas": number(&["status", "replicas"]), "selector": selector(object) },
    })
}

/// The label selector as text.
fn selector(object: &Value) -> String {
    let labels = at(object, &["spec", "selector", "matchLabels"]).and_then(Value::as_object);
    let pairs = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    pairs.collect::<Vec<_>>().join(",")
}
