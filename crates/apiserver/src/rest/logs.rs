//! Logs of pods.

use http::{Response, StatusCode};
use serde_json::Value;

use crate::body::{self, Body};
use crate::hooks::{LogError, LogQuery};
use crate::json::{at, text};
use crate::pure::status::Status;
use crate::rest::Named;
use crate::server::{Call, Server, object_key};

impl Server {
    pub(crate) async fn logs(&self, named: &Named<'_>, call: &Call) -> Result<Response<Body>, Status> {
        let Named { kind, namespace, name } = *named;
        let stored = self.inner.store.get(&object_key(kind, namespace, name));
        let pod = stored.ok_or_else(|| Status::not_found(kind, name))?.value();
        let query = log_query(call, &pod, name)?;
        let logs = self.inner.hooks.logs.as_ref();
        let logs =
            logs.ok_or_else(|| Status::bad_request("this server runs no containers, so it has no logs"))?;
        let opened = logs.logs(namespace.unwrap_or_default(), name, query).await;
        let stream = opened.map_err(|error| match error {
            LogError::BadRequest(message) => Status::bad_request(message),
            LogError::NotFound(_) => Status::not_found(kind, name),
            LogError::Internal(message) => Status::internal(message),
        })?;
        Ok(body::response(StatusCode::OK, "text/plain", body::stream(stream)))
    }
}

fn log_query(call: &Call, pod: &Value, name: &str) -> Result<LogQuery, Status> {
    let query = &call.query;
    let containers: Vec<&str> = ["containers", "initContainers"]
        .into_iter()
        .filter_map(|list| at(pod, &["spec", list]).and_then(Value::as_array))
        .flatten()
        .map(|container| text(container, &["name"]))
        .collect();
    let container = match (query.get("container"), containers.as_slice()) {
        (Some(wanted), known) if known.contains(&wanted) || known.is_empty() => Some(wanted),
        (Some(wanted), _) => {
            return Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")));
        }
        (None, [only]) => Some(*only),
        (None, []) => None,
        (None, many) => {
            return Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            )));
        }
    };
    let since_time = match query.get("sinceTime") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            Status::bad_request(format!("sinceTime: invalid time {text:?}: must be RFC 3339"))
        })?),
    };
    Ok(LogQuery {
        container: container.map(str::to_owned),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
        since_seconds: query.number("sinceSeconds")?,
        since_time,
    })
}
