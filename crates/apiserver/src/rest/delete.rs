//! Deletion: options, preconditions, grace, finalizers.

use dormouse_api::kind::KindInfo;
use dormouse_base::clock;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::json::{at, map_mut, meta_mut, root_mut, text, texts};
use crate::pure::protobuf;
use crate::pure::status::Status;
use crate::rest::read::Selection;
use crate::rest::{Named, external, is, json_body, one};
use crate::server::{Call, Server, durability, object_key, store_failure};

/// A pod's grace when its spec names none, as upstream has it.
const POD_GRACE_SECONDS: i64 = 30;
/// Objects deleted at the same time by one request for a collection.
const PARALLEL: usize = 64;
const RACES_MAX: usize = 32;

/// Namespaces that the platform needs.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    /// `None` keeps the finalizers that the object has.
    pub(crate) propagation: Option<Propagation>,
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// From the query and the body; the body wins.
    fn of(call: &Call) -> Result<Self, Status> {
        let mut given = json!({});
        for name in ["propagationPolicy", "gracePeriodSeconds", "orphanDependents"] {
            if let Some(text) = call.query.get(name) {
                let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
                root_mut(&mut given).insert(name.into(), value);
            }
        }
        let mut dry_run = call.query.dry_run()?;
        if !call.body.is_empty() {
            let decoded = if protobuf::is_protobuf(&call.body) {
                protobuf::decode(&call.body).map_err(Status::bad_request)?
            } else if call.content_type().ends_with("yaml") {
                crate::rest::yaml(&call.body)?
            } else {
                json_body(&call.body)?
            };
            for (name, value) in
                decoded.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null())
            {
                root_mut(&mut given).insert(name.clone(), value.clone());
            }
        }
        match texts(&given, &["dryRun"]).as_slice() {
            [] => {}
            ["All"] => dry_run = true,
            _ => return Err(Status::bad_request("dryRun: Unsupported value: supported values: \"All\"")),
        }
        let legacy = given.get("orphanDependents").and_then(Value::as_bool);
        let propagation = match (text(&given, &["propagationPolicy"]), legacy) {
            ("Background", _) | ("", Some(false)) => Some(Propagation::Background),
            ("Foreground", _) => Some(Propagation::Foreground),
            ("Orphan", _) | ("", Some(true)) => Some(Propagation::Orphan),
            ("", None) => None,
            (other, _) => {
                return Err(Status::bad_request(format!(
                    "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
                )));
            }
        };
        let wanted = |name| {
            let text = text(&given, &["preconditions", name]);
            (!text.is_empty()).then(|| text.to_owned())
        };
        Ok(Self {
            propagation,
            grace_seconds: given.get("gracePeriodSeconds").and_then(Value::as_i64).map(|grace| grace.max(0)),
            uid: wanted("uid"),
            revision: wanted("resourceVersion"),
            dry_run,
        })
    }
}

/// What a deletion came to.
pub(crate) enum Deleted {
    /// The object is gone; its last state.
    Gone(Value),
    /// It is marked and waits for finalizers or its grace.
    Marked(Value),
}

impl Server {
    pub(crate) async fn delete(&self, named: &Named<'_>, call: &Call) -> Result<Response<Body>, Status> {
        let options = DeleteOptions::of(call)?;
        Ok(match self.delete_object(named, &options).await? {
            Deleted::Gone(last) => {
                let uid = text(&last, &["metadata", "uid"]);
                body::json(StatusCode::OK, &Status::success_deleted(named.kind, named.name, uid).json())
            }
            Deleted::Marked(object) => one(named.kind, call, StatusCode::OK, object),
        })
    }

    /// Deletes one object as far as its finalizers and its grace allow.
    pub(crate) async fn delete_object(
        &self,
        named: &Named<'_>,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let Named { kind, namespace, name } = *named;
        if is(kind, "Namespace") && IMMORTAL.contains(&name) {
            return Err(Status::forbidden(format!(
                "namespaces \"{name}\" is forbidden: this namespace may not be deleted"
            )));
        }
        let key = object_key(kind, namespace, name);
        for _ in 0..RACES_MAX {
            let stored = self.inner.store.get(&key).ok_or_else(|| Status::not_found(kind, name))?;
            let current = stored.value();
            check_preconditions(named, options, &current)?;
            let marked = mark(kind, options, &current);
            if options.dry_run {
                return Ok(marked.map_or(Deleted::Gone(current), Deleted::Marked));
            }
            let result = match marked {
                Some(object) if object == current => return Ok(Deleted::Marked(object)),
                Some(object) => self
                    .inner
                    .store
                    .update(key.clone(), stored.revision, object, durability(kind))
                    .await
                    .map(|stored| Deleted::Marked(stored.value())),
                None => self
                    .inner
                    .store
                    .delete(key.clone(), stored.revision, None)
                    .await
                    .map(|stored| Deleted::Gone(stored.value())),
            };
            match result {
                Ok(deleted) => return Ok(deleted),
                Err(dormouse_store::Error::Conflict { .. }) => {}
                Err(error) => return Err(store_failure(kind, name, &error)),
            }
        }
        Err(Status::conflict(kind, name))
    }

    pub(crate) async fn delete_collection(
        &self,
        kind: &'static KindInfo,
        namespace: Option<&str>,
        call: &Call,
    ) -> Result<Response<Body>, Status> {
        use futures::StreamExt;
        let options = DeleteOptions::of(call)?;
        let selection = Selection::of(kind, call)?;
        let (objects, revision) = self.objects(kind, namespace, &selection);
        let values: Vec<Value> = self.selected(kind, &selection, &objects).collect();
        let options = &options;
        let results: Vec<Result<Deleted, Status>> = futures::stream::iter(values)
            .map(|value| async move {
                let named = Named { kind, namespace, name: text(&value, &["metadata", "name"]) };
                self.delete_object(&named, options).await
            })
            .buffered(PARALLEL)
            .collect()
            .await;
        let mut items = Vec::with_capacity(results.len());
        for result in results {
            match result {
                Ok(Deleted::Gone(object) | Deleted::Marked(object)) => items.push(external(kind, object)),
                Err(status) if status.code() == 404 => {}
                Err(status) => return Err(status),
            }
        }
        let list = json!({
            "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
            "metadata": { "resourceVersion": revision.to_string() }, "items": items,
        });
        Ok(body::json(StatusCode::OK, &list))
    }

    /// An eviction is a deletion that budgets may refuse; there are none.
    pub(crate) async fn evict(&self, named: &Named<'_>, call: &Call) -> Result<Response<Body>, Status> {
        let body = crate::rest::decode(named.kind, call)?;
        let options = DeleteOptions {
            grace_seconds: at(&body, &["deleteOptions", "gracePeriodSeconds"]).and_then(Value::as_i64),
            dry_run: call.query.dry_run()? || !texts(&body, &["deleteOptions", "dryRun"]).is_empty(),
            ..DeleteOptions::default()
        };
        self.delete_object(named, &options).await?;
        let done =
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
        Ok(body::json(StatusCode::CREATED, &done))
    }
}

fn check_preconditions(named: &Named<'_>, options: &DeleteOptions, current: &Value) -> Result<(), Status> {
    let conflict = |what: &str, given: &str, present: &str| {
        let why =
            format!("Precondition failed: {what} in precondition: {given}, {what} in object meta: {present}");
        Status::conflict_because(named.kind, named.name, &why)
    };
    let uid = text(current, &["metadata", "uid"]);
    if let Some(given) = options.uid.as_deref().filter(|given| *given != uid) {
        return Err(conflict("UID", given, uid));
    }
    let revision = text(current, &["metadata", "resourceVersion"]);
    if let Some(given) = options.revision.as_deref().filter(|given| *given != revision) {
        return Err(conflict("ResourceVersion", given, revision));
    }
    Ok(())
}

/// The state of an object that is to go but has to wait; `None` when it can go at once.
fn mark(kind: &KindInfo, options: &DeleteOptions, current: &Value) -> Option<Value> {
    let mut finalizers: Vec<&str> = texts(current, &["metadata", "finalizers"]);
    if let Some(propagation) = options.propagation {
        finalizers.retain(|name| !matches!(*name, "orphan" | "foregroundDeletion"));
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push("foregroundDeletion"),
            Propagation::Orphan => finalizers.push("orphan"),
        }
    }
    let namespace = is(kind, "Namespace");
    let grace = if is(kind, "Pod") { pod_grace(options, current) } else { 0 };
    let kept = namespace && !texts(current, &["spec", "finalizers"]).is_empty();
    if finalizers.is_empty() && grace == 0 && !kept {
        return None;
    }
    let finalizers = json!(finalizers);
    let deleting = at(current, &["metadata", "deletionTimestamp"]).is_some();
    let mut object = current.clone();
    let generation = at(current, &["metadata", "generation"]).and_then(Value::as_i64);
    let meta = meta_mut(&mut object);
    if finalizers.as_array().is_some_and(|list| !list.is_empty()) {
        meta.insert("finalizers".into(), finalizers);
    } else {
        meta.remove("finalizers");
    }
    let before = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    // A later request may only shorten the grace.
    if !deleting || before.is_some_and(|before| grace < before) {
        let now = clock::timestamp();
        let end = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
        meta.insert("deletionTimestamp".into(), end.to_string().into());
        meta.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    if let Some(generation) = generation.filter(|_| !deleting) {
        meta.insert("generation".into(), (generation + 1).into());
    }
    if namespace {
        map_mut(&mut object, "status").insert("phase".into(), "Terminating".into());
    }
    Some(object)
}

/// How long a pod may take to end. One that never started or has ended needs no time.
fn pod_grace(options: &DeleteOptions, current: &Value) -> i64 {
    let ended = matches!(text(current, &["status", "phase"]), "Succeeded" | "Failed");
    if ended || text(current, &["spec", "nodeName"]).is_empty() {
        return 0;
    }
    let own = at(current, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    options.grace_seconds.unwrap_or_else(|| own.unwrap_or(POD_GRACE_SECONDS)).max(0)
}
