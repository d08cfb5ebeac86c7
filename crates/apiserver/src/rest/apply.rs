//! Server-side apply, and the bookkeeping of managers that it needs from every other write.

use dormouse_api::kind::KindInfo;
use dormouse_base::clock;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::json::{at, meta_mut, strip_nulls};
use crate::meta;
use crate::pure::apply::{self, Writer};
use crate::pure::status::Status;
use crate::rest::write::{Options, Part, RACES_MAX};
use crate::rest::{Named, one, yaml};
use crate::server::{Call, Server};

impl Server {
    /// Makes the object what its applier says it is; creates it when it is missing.
    pub(crate) async fn apply(
        &self,
        named: &Named<'_>,
        part: Part,
        call: &Call,
        options: Options<'_>,
    ) -> Result<Response<Body>, Status> {
        let Named { kind, namespace, name } = *named;
        if call.query.get("fieldManager").is_none() {
            let why = "Required value: is required for apply patch";
            return Err(Status::invalid_patch_options("fieldManager", why));
        }
        let options = Options { applying: true, ..options };
        let mut body = yaml(&call.body)?;
        strip_nulls(&mut body);
        let force = call.query.flag("force");
        let writer =
            || Writer { manager: &options.manager, subresource: part.subresource(), now: clock::timestamp() };
        let edit = |current: &Value| apply::apply(kind, Some(current), &body, &writer(), force);
        for _ in 0..RACES_MAX {
            let (code, result) = match self.modify(named, part, &options, &edit).await {
                Err(status) if status.code() == 404 && part == Part::Main => {
                    let mut object = apply::apply(kind, None, &body, &writer(), force)?;
                    meta_mut(&mut object).insert("name".into(), name.into());
                    (StatusCode::CREATED, self.create_object(kind, namespace, object, &options).await)
                }
                result => (StatusCode::OK, result),
            };
            match result {
                // Somebody else created it in between.
                Err(status) if status.reason() == "AlreadyExists" => {}
                result => {
                    let written = result?;
                    let mut response = one(kind, call, code, written.object);
                    body::warn(&mut response, &written.warnings);
                    return Ok(response);
                }
            }
        }
        Err(Status::conflict(kind, name))
    }
}

/// The state to store, with its managers brought up to date; `None` when nothing changes.
pub(crate) fn tracked(
    kind: &KindInfo,
    part: Part,
    options: &Options<'_>,
    current: &Value,
    mut object: Value,
) -> Option<Value> {
    if options.applying {
        return (object != *current).then_some(object);
    }
    if at(current, &["metadata", "managedFields"]).is_none() {
        // Nobody tracks an object that was never applied, whatever the client sends.
        meta_mut(&mut object).remove("managedFields");
        return (object != *current).then_some(object);
    }
    let ended = at(&object, &["metadata", "managedFields"])
        .and_then(Value::as_array)
        .is_some_and(|list| list.iter().all(|entry| entry == &json!({})));
    if !ended && meta::same_but_managers(current, &object) {
        return None;
    }
    let writer =
        Writer { manager: &options.manager, subresource: part.subresource(), now: clock::timestamp() };
    Some(apply::track_update(kind, current, object, &writer))
}
