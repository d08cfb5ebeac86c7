//! Get and list.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dormouse_api::kind::KindInfo;
use dormouse_store::Stored;
use futures::StreamExt;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::pure::accept::Representation;
use crate::pure::selector::{FieldSelector, LabelSelector};
use crate::pure::status::Status;
use crate::pure::table::{partial, table};
use crate::rest::{Named, external, include, one};
use crate::server::{Call, Server, object_key, resource_name};

/// How long a reader of a future revision waits for it.
pub(crate) const FUTURE_PATIENCE: Duration = Duration::from_secs(3);
/// Lists up to this size are sent in one piece, larger ones as a stream.
const PIECE: usize = 1 << 20;

/// Which objects of a collection are meant.
pub(crate) struct Selection {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Selection {
    pub(crate) fn of(kind: &KindInfo, call: &Call) -> Result<Self, Status> {
        let labels = LabelSelector::parse(call.query.get("labelSelector").unwrap_or_default());
        let fields = FieldSelector::parse(call.query.get("fieldSelector").unwrap_or_default(), kind);
        Ok(Self {
            labels: labels.map_err(Status::bad_request)?,
            fields: fields.map_err(Status::bad_request)?,
        })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub(crate) fn matches(&self, value: &Value) -> bool {
        self.labels.matches(value) && self.fields.matches(value)
    }

    /// Whether the name alone rules the object out: saves parsing it.
    pub(crate) fn excludes(&self, stored: &Stored) -> bool {
        self.fields.exact_name().is_some_and(|name| *stored.key.name != *name)
    }
}

/// Parses a revision parameter; `None` when absent.
pub(crate) fn revision(call: &Call) -> Result<Option<u64>, Status> {
    match call.query.get("resourceVersion") {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be a number"))
        }),
    }
}

impl Server {
    pub(crate) fn get(&self, named: &Named<'_>, call: &Call) -> Result<Response<Body>, Status> {
        let Named { kind, namespace, name } = *named;
        let stored = self.inner.store.get(&object_key(kind, namespace, name));
        let stored = stored.ok_or_else(|| Status::not_found(kind, name))?;
        if call.representation == Representation::Json && kind.group != "events.k8s.io" {
            return Ok(body::response(StatusCode::OK, body::JSON, body::full(stored.bytes.clone())));
        }
        Ok(one(kind, call, StatusCode::OK, stored.value()))
    }

    pub(crate) async fn list(
        &self,
        kind: &'static KindInfo,
        namespace: Option<&str>,
        call: &Call,
    ) -> Result<Response<Body>, Status> {
        self.check_list_options(call).await?;
        let selection = Selection::of(kind, call)?;
        let (objects, revision) = self.objects(kind, namespace, &selection);
        match call.representation {
            Representation::Json | Representation::AggregatedDiscovery(_) => {
                Ok(stream_list(kind, &selection, objects, revision))
            }
            Representation::Table => {
                let values = self.selected(kind, &selection, &objects).map(Arc::new).collect::<Vec<_>>();
                let meta = json!({ "resourceVersion": revision.to_string() });
                let values: Vec<Arc<Value>> = values;
                let now = dormouse_base::clock::timestamp();
                Ok(body::json(StatusCode::OK, &table(kind, &values, meta, include(call), now)))
            }
            Representation::PartialMetadata | Representation::PartialMetadataList => {
                let items: Vec<Value> =
                    self.selected(kind, &selection, &objects).map(|value| partial(&value)).collect();
                let list = json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": { "resourceVersion": revision.to_string() }, "items": items,
                });
                Ok(body::json(StatusCode::OK, &list))
            }
        }
    }

    /// The rules for `resourceVersion`, `resourceVersionMatch`, `continue` and `sendInitialEvents` of lists.
    ///
    /// Every list is complete and current, so `limit` is not needed and no continue token was ever handed out.
    async fn check_list_options(&self, call: &Call) -> Result<(), Status> {
        let query = &call.query;
        if query.get("sendInitialEvents").is_some() {
            return Err(Status::invalid_list_options(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            ));
        }
        let wanted = revision(call)?;
        match (query.get("resourceVersionMatch"), wanted) {
            (None, _) => {}
            (Some(_), _) if query.get("continue").is_some() => {
                return Err(Status::invalid_list_options(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            (Some(_), None) => {
                return Err(Status::invalid_list_options(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (Some("Exact"), Some(0)) => {
                return Err(Status::invalid_list_options(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            (Some("Exact"), Some(exact)) if exact < self.inner.store.revision() => {
                return Err(Status::expired(format!("the state at resource version {exact} is not kept")));
            }
            (Some("Exact" | "NotOlderThan"), Some(_)) => {}
            (Some(other), Some(_)) => {
                let text =
                    format!("unsupported value {other:?}: supported values: \"Exact\", \"NotOlderThan\"");
                return Err(Status::invalid_list_options("resourceVersionMatch", &text));
            }
        }
        if query.get("continue").is_some() {
            return Err(Status::expired("the provided continue parameter is too old; list again without it"));
        }
        query.number("limit")?;
        if let Some(wanted) = wanted {
            let current = self.inner.store.reach(wanted, FUTURE_PATIENCE).await;
            if current < wanted {
                return Err(Status::timeout_too_large(wanted, current));
            }
        }
        Ok(())
    }

    /// The objects that may match, by name where the selection gives one, and the revision of this state.
    pub(crate) fn objects(
        &self,
        kind: &KindInfo,
        namespace: Option<&str>,
        selection: &Selection,
    ) -> (Vec<Arc<Stored>>, u64) {
        match (selection.fields.exact_name(), namespace, kind.namespaced) {
            (Some(name), Some(_), true) | (Some(name), None, false) => {
                let revision = self.inner.store.revision();
                (self.inner.store.get(&object_key(kind, namespace, name)).into_iter().collect(), revision)
            }
            _ => self.inner.store.list(&resource_name(kind), namespace),
        }
    }

    /// The selected objects as this kind's group shows them.
    pub(crate) fn selected<'a>(
        &self,
        kind: &'static KindInfo,
        selection: &'a Selection,
        objects: &'a [Arc<Stored>],
    ) -> impl Iterator<Item = Value> + use<'a> {
        objects
            .iter()
            .filter(|stored| !selection.excludes(stored))
            .map(move |stored| external(kind, stored.value()))
            .filter(|value| selection.matches(value))
    }
}

/// Sends stored texts as they are; they are parsed only to be selected.
fn stream_list(
    kind: &'static KindInfo,
    selection: &Selection,
    objects: Vec<Arc<Stored>>,
    revision: u64,
) -> Response<Body> {
    let converted = kind.group == "events.k8s.io";
    let everything = selection.is_everything();
    let texts: Vec<Bytes> = objects
        .iter()
        .filter(|stored| !selection.excludes(stored))
        .filter_map(|stored| {
            if everything && !converted {
                return Some(stored.bytes.clone());
            }
            let value = external(kind, stored.value());
            let text = || if converted { Bytes::from(value.to_string()) } else { stored.bytes.clone() };
            selection.matches(&value).then(text)
        })
        .collect();
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"}},\"items\":[",
        kind.kind,
        kind.api_version()
    );
    let size: usize = texts.iter().map(|text| text.len() + 1).sum();
    if size <= PIECE {
        let mut all = BytesMut::with_capacity(head.len() + size + 2);
        all.put_slice(head.as_bytes());
        for (index, text) in texts.iter().enumerate() {
            if index > 0 {
                all.put_u8(b',');
            }
            all.put_slice(text);
        }
        all.put_slice(b"]}");
        return body::response(StatusCode::OK, body::JSON, body::full(all.freeze()));
    }
    let mut texts = texts.into_iter().enumerate().peekable();
    let pieces = std::iter::from_fn(move || {
        let mut piece = BytesMut::new();
        texts.peek()?;
        while piece.len() < PIECE
            && let Some((index, text)) = texts.next()
        {
            if index > 0 {
                piece.put_u8(b',');
            }
            piece.put_slice(&text);
        }
        Some(piece.freeze())
    });
    let whole =
        std::iter::once(Bytes::from(head)).chain(pieces).chain(std::iter::once(Bytes::from_static(b"]}")));
    body::response(StatusCode::OK, body::JSON, body::stream(futures::stream::iter(whole).boxed()))
}
