//! Create, update and patch: one path that decides, one that retries.

use std::sync::Arc;

use dormouse_api::admission::{self, Denied, Operation, Strictness};
use dormouse_api::config::Settings;
use dormouse_api::kind::{self, KindInfo};
use dormouse_api::vocabulary::SYSTEM_NAMESPACE;
use dormouse_base::clock;
use http::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::json::{at, map_mut, meta_mut, put, root_mut, strip_nulls, text};
use crate::meta;
use crate::pure::patch::{self, PatchKind};
use crate::pure::status::{Cause, Status};
use crate::rest::apply::tracked;
use crate::rest::{Named, decode, external, is, one};
use crate::server::{Call, Server, durability, object_key, store_failure};
use crate::user::UserInfo;

/// How often a generated name is tried anew.
const NAMES_MAX: usize = 8;
/// How often a write without a revision is tried anew on what another writer left.
pub(crate) const RACES_MAX: usize = 32;

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status, where that is a part of its own.
    Main,
    Status,
    /// A namespace's own finalizers.
    Finalize,
}

impl Part {
    pub(crate) fn subresource(self) -> Option<&'static str> {
        (self == Self::Status).then_some("status")
    }
}

/// Who writes, and how.
pub(crate) struct Options<'a> {
    pub(crate) user: &'a UserInfo,
    pub(crate) strict: Strictness,
    pub(crate) dry_run: bool,
    /// Whose fields are written, for objects that were ever applied.
    pub(crate) manager: String,
    /// Whether this is an apply, which keeps the managers itself.
    pub(crate) applying: bool,
}

impl<'a> Options<'a> {
    pub(crate) fn of(call: &'a Call) -> Result<Self, Status> {
        let strict = match call.query.get("fieldValidation") {
            None | Some("Warn") => Strictness::Warn,
            Some("Ignore") => Strictness::Ignore,
            Some("Strict") => Strictness::Strict,
            Some(other) => {
                return Err(Status::bad_request(format!("fieldValidation: Unsupported value: {other:?}")));
            }
        };
        let agent = call.parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let agent = agent.unwrap_or("unknown").split('/').next().unwrap_or_default();
        let manager = call.query.get("fieldManager").unwrap_or(agent).to_owned();
        Ok(Self { user: &call.user, strict, dry_run: call.query.dry_run()?, manager, applying: false })
    }

    /// The server's own writes.
    pub(crate) fn internal(user: &'a UserInfo) -> Self {
        let manager = user.name.clone();
        Self { user, strict: Strictness::Ignore, dry_run: false, manager, applying: false }
    }
}

/// What became of a write.
pub(crate) struct Written {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

/// Makes the new state from the present one, as the kind's group shows it; called again after a lost race.
pub(crate) type Edit<'a> = dyn Fn(&Value) -> Result<Value, Status> + Send + Sync + 'a;

impl Server {
    pub(crate) async fn create(
        &self,
        kind: &'static KindInfo,
        namespace: Option<&str>,
        call: &Call,
    ) -> Result<Response<Body>, Status> {
        let options = Options::of(call)?;
        let written = self.create_object(kind, namespace, decode(kind, call)?, &options).await?;
        let mut response = one(kind, call, StatusCode::CREATED, written.object);
        body::warn(&mut response, &written.warnings);
        Ok(response)
    }

    /// Creates one object as a client asks for it.
    pub(crate) async fn create_object(
        &self,
        kind: &'static KindInfo,
        namespace: Option<&str>,
        mut object: Value,
        options: &Options<'_>,
    ) -> Result<Written, Status> {
        meta::match_type(kind, &mut object)?;
        let (kind, mut object) = internal_form(kind, object);
        meta::match_namespace(&mut object, namespace)?;
        let version = text(&object, &["metadata", "resourceVersion"]);
        if !version.is_empty() && version != "0" {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let base = text(&object, &["metadata", "generateName"]).to_owned();
        let generated = text(&object, &["metadata", "name"]).is_empty() && !base.is_empty();
        let mut tries = if generated { NAMES_MAX } else { 1 };
        loop {
            tries -= 1;
            let mut candidate = object.clone();
            if generated {
                meta_mut(&mut candidate).insert("name".into(), meta::generate_name(&base).into());
            }
            match self.create_named(kind, namespace, candidate, options).await {
                Err(status) if generated && tries > 0 && status.reason() == "AlreadyExists" => {}
                result => return result,
            }
        }
    }

    async fn create_named(
        &self,
        kind: &'static KindInfo,
        namespace: Option<&str>,
        mut object: Value,
        options: &Options<'_>,
    ) -> Result<Written, Status> {
        let now = clock::timestamp();
        meta::validate(kind, None, &object)?;
        let name = text(&object, &["metadata", "name"]).to_owned();
        if let Some(namespace) = namespace {
            self.check_namespace(kind, &name, namespace)?;
        }
        meta::stamp_new(kind, &mut object, now);
        if !options.applying {
            meta_mut(&mut object).remove("managedFields");
        }
        initial_state(kind, &mut object);
        let settings = self.settings(kind);
        let (object, warnings) =
            admit(kind, Operation::Create, Part::Main, None, object, options, &settings, now)?;
        let key = object_key(kind, namespace, &name);
        let exists = || match self.inner.store.get(&key).map(|stored| stored.value()) {
            Some(present) if at(&present, &["metadata", "deletionTimestamp"]).is_some() => {
                Status::already_exists_terminating(kind, &name)
            }
            _ => Status::already_exists(kind, &name),
        };
        if options.dry_run {
            return match self.inner.store.get(&key) {
                Some(_) => Err(exists()),
                None => Ok(Written { object, warnings }),
            };
        }
        let stored = match self.inner.store.create(key.clone(), object, durability(kind)).await {
            Ok(stored) => stored,
            Err(dormouse_store::Error::Exists { .. }) => return Err(exists()),
            Err(error) => return Err(store_failure(kind, &name, &error)),
        };
        if is(kind, "Namespace") {
            crate::namespaces::furnish(self, &name).await?;
        }
        Ok(Written { object: stored.value(), warnings })
    }

    /// Whether something may be made in the namespace.
    fn check_namespace(&self, kind: &KindInfo, name: &str, namespace: &str) -> Result<(), Status> {
        let Some(namespaces) = kind::find("", "v1", "namespaces") else { return Ok(()) };
        let stored = self.inner.store.get(&object_key(namespaces, None, namespace));
        let value = stored.ok_or_else(|| Status::not_found(namespaces, namespace))?.value();
        if at(&value, &["metadata", "deletionTimestamp"]).is_some() {
            return Err(Status::namespace_terminating(kind, name, namespace));
        }
        Ok(())
    }

    /// What the platform's ConfigMaps say; it concerns only our own kinds.
    fn settings(&self, kind: &KindInfo) -> Settings {
        let Some(maps) = kind::find("", "v1", "configmaps").filter(|_| kind.custom) else {
            return Settings::default();
        };
        Settings::read(|name| {
            let stored = self.inner.store.get(&object_key(maps, Some(SYSTEM_NAMESPACE), name))?;
            serde_json::from_value(stored.value().get("data")?.clone()).ok()
        })
    }

    /// PUT and PATCH.
    pub(crate) async fn write(
        &self,
        named: &Named<'_>,
        part: Part,
        call: &Call,
    ) -> Result<Response<Body>, Status> {
        let options = Options::of(call)?;
        let kind = named.kind;
        let written = if call.parts.method == Method::PUT {
            let requested = decode(kind, call)?;
            let unversioned = text(&requested, &["metadata", "resourceVersion"]);
            if kind.custom && matches!(unversioned, "" | "0") {
                return Err(Status::invalid(
                    kind,
                    named.name,
                    vec![Cause {
                        reason: "FieldValueInvalid".into(),
                        message: "Invalid value: 0: must be specified for an update".into(),
                        field: "metadata.resourceVersion".into(),
                    }],
                ));
            }
            self.modify(named, part, &options, &|_| Ok(requested.clone())).await?
        } else {
            if call.content_type() == "application/apply-patch+yaml" {
                return self.apply(named, part, call, options).await;
            }
            let patch_kind = patch_kind(kind, call)?;
            if call.query.get("force").is_some() {
                let why = "Forbidden: may not be specified for non-apply patch";
                return Err(Status::invalid_patch_options("force", why));
            }
            self.modify(named, part, &options, &|current| patch::apply(patch_kind, kind, current, &call.body))
                .await?
        };
        let mut response = one(kind, call, StatusCode::OK, written.object);
        body::warn(&mut response, &written.warnings);
        Ok(response)
    }

    /// Changes one object; without a revision in the new state, again and again until no other writer came between.
    pub(crate) async fn modify(
        &self,
        named: &Named<'_>,
        part: Part,
        options: &Options<'_>,
        edit: &Edit<'_>,
    ) -> Result<Written, Status> {
        let Named { kind, namespace, name } = *named;
        let key = object_key(kind, namespace, name);
        for _ in 0..RACES_MAX {
            let stored = self.inner.store.get(&key).ok_or_else(|| Status::not_found(kind, name))?;
            let current = Arc::new(stored.value());
            let mut edited = edit(&external(kind, (*current).clone()))?;
            strip_nulls(&mut edited);
            meta::match_type(kind, &mut edited)?;
            let (kind, mut edited) = internal_form(kind, edited);
            check_identity(named, &current, &mut edited)?;
            let mut object = isolate(kind, part, &current, edited);
            meta::stamp_update(&current, &mut object);
            meta::validate(kind, Some(&current), &object)?;
            let deleting = at(&current, &["metadata", "deletionTimestamp"]).is_some();
            let mut warnings = Vec::new();
            // An object on its way out changes only in its finalizers and status; no rule may hold it back.
            if !deleting && part != Part::Finalize {
                let now = clock::timestamp();
                (object, warnings) = admit(
                    kind,
                    Operation::Update,
                    part,
                    Some(&current),
                    object,
                    options,
                    &self.settings(kind),
                    now,
                )?;
                meta::stamp_update(&current, &mut object);
            }
            if part == Part::Main {
                meta::count_generation(kind, &current, &mut object);
            }
            object = match tracked(kind, part, options, &current, object) {
                Some(object) => object,
                None => return Ok(Written { object: (*current).clone(), warnings }),
            };
            if options.dry_run {
                return Ok(Written { object, warnings });
            }
            let result = if deleting && is_finished(kind, &object) {
                self.inner.store.delete(key.clone(), stored.revision, Some(object)).await
            } else {
                self.inner.store.update(key.clone(), stored.revision, object, durability(kind)).await
            };
            match result {
                Ok(stored) => return Ok(Written { object: stored.value(), warnings }),
                Err(dormouse_store::Error::Conflict { .. }) => {}
                Err(error) => return Err(store_failure(kind, name, &error)),
            }
        }
        Err(Status::conflict(kind, name))
    }
}

/// Whether nothing holds a deleted object back any more.
pub(crate) fn is_finished(kind: &KindInfo, object: &Value) -> bool {
    let empty = |path: &[&str]| at(object, path).and_then(Value::as_array).is_none_or(Vec::is_empty);
    let grace = at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    empty(&["metadata", "finalizers"])
        && grace == 0
        && (!is(kind, "Namespace") || empty(&["spec", "finalizers"]))
}

/// The patch dialect of the body.
pub(crate) fn patch_kind(kind: &KindInfo, call: &Call) -> Result<PatchKind, Status> {
    let dialect = PatchKind::of_media_type(call.content_type());
    match dialect.filter(|dialect| !(kind.custom && *dialect == PatchKind::Strategic)) {
        Some(dialect) => Ok(dialect),
        None => Err(Status::unsupported_media_type(patch::accepted(kind))),
    }
}

/// Events of both groups are one kind of object inside.
fn internal_form(kind: &'static KindInfo, object: Value) -> (&'static KindInfo, Value) {
    match kind::find("", "v1", "events") {
        Some(core) if kind.group == "events.k8s.io" => (core, crate::pure::event::to_core(&object)),
        _ => (kind, object),
    }
}

/// What a new object's status is, before anything has looked at it.
fn initial_state(kind: &KindInfo, object: &mut Value) {
    if kind.status && !is(kind, "Node") && kind.kind != "CustomResourceDefinition" {
        root_mut(object).remove("status");
    }
    if is(kind, "Pod") {
        root_mut(object).insert("status".into(), json!({ "phase": "Pending", "qosClass": "BestEffort" }));
    }
    if is(kind, "Namespace") {
        map_mut(object, "spec").insert("finalizers".into(), json!(["kubernetes"]));
        root_mut(object).insert("status".into(), json!({ "phase": "Active" }));
    }
}

/// The body must mean the object that the path names, at the revision that it names.
fn check_identity(named: &Named<'_>, current: &Value, edited: &mut Value) -> Result<(), Status> {
    let Named { kind, namespace, name } = *named;
    let given = text(edited, &["metadata", "name"]);
    if !given.is_empty() && given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    meta::match_namespace(edited, namespace)?;
    let (given, uid) = (text(edited, &["metadata", "uid"]), text(current, &["metadata", "uid"]));
    if !given.is_empty() && given != uid {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
        return Err(Status::conflict_because(kind, name, &why));
    }
    let given = text(edited, &["metadata", "resourceVersion"]);
    if !matches!(given, "" | "0") && given != text(current, &["metadata", "resourceVersion"]) {
        return Err(Status::conflict(kind, name));
    }
    Ok(())
}

/// Keeps what this part may not change.
fn isolate(kind: &KindInfo, part: Part, current: &Value, mut edited: Value) -> Value {
    match part {
        Part::Main => {
            if kind.status && kind.kind != "CustomResourceDefinition" {
                put(root_mut(&mut edited), "status", current.get("status").cloned());
            }
            if is(kind, "Namespace") {
                put(
                    map_mut(&mut edited, "spec"),
                    "finalizers",
                    at(current, &["spec", "finalizers"]).cloned(),
                );
            }
            edited
        }
        Part::Status => {
            let mut object = current.clone();
            put(root_mut(&mut object), "status", edited.get("status").cloned());
            object
        }
        Part::Finalize => {
            let mut object = current.clone();
            let finalizers = at(&edited, &["spec", "finalizers"]).cloned().unwrap_or_else(|| json!([]));
            map_mut(&mut object, "spec").insert("finalizers".into(), finalizers);
            object
        }
    }
}

/// Defaults and validates as the kind's rules say.
#[expect(clippy::too_many_arguments, reason = "a request's parts, each named once")]
fn admit(
    kind: &'static KindInfo,
    operation: Operation,
    part: Part,
    old: Option<&Value>,
    object: Value,
    options: &Options<'_>,
    settings: &Settings,
    now: jiff::Timestamp,
) -> Result<(Value, Vec<String>), Status> {
    let name = text(&object, &["metadata", "name"]).to_owned();
    let request = admission::Request {
        kind,
        operation,
        subresource: part.subresource(),
        user: &options.user.name,
        old,
        strict: options.strict,
        settings,
        now,
    };
    match admission::admit(&request, object) {
        Ok(admitted) => Ok((admitted.object, admitted.warnings)),
        Err(Denied::BadRequest(message)) => Err(Status::bad_request(message)),
        Err(Denied::Invalid { causes, .. }) => {
            let causes = causes.into_iter().map(|cause| Cause {
                reason: cause.reason.to_string(),
                message: cause.message,
                field: cause.field,
            });
            Err(Status::invalid(kind, &name, causes.collect()))
        }
    }
}
