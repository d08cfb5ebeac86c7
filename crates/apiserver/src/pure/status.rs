//! Error answers: the `Status` objects that clients branch on by code, reason and causes.

use dormouse_api::kind::KindInfo;
use serde_json::{Map, Value, json};

/// Media types that request bodies of built-in kinds may have.
pub(crate) const ACCEPTED_BODIES: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// An answer of kind `Status`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Status {
    code: u16,
    success: bool,
    reason: &'static str,
    message: String,
    details: Map<String, Value>,
}

/// One mistake within an invalid object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// Machine-readable, such as `FieldValueRequired`.
    pub(crate) reason: String,
    /// What is wrong, without the field's name.
    pub(crate) message: String,
    /// The path of the field; empty when the mistake belongs to no field.
    pub(crate) field: String,
}

impl Cause {
    fn json(&self) -> Value {
        let mut cause = Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                cause.insert(key.to_owned(), Value::from(text.as_str()));
            }
        }
        Value::Object(cause)
    }

    fn sentence(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }
}

fn details(name: &str, group: &str, kind: &str) -> Map<String, Value> {
    let mut details = Map::new();
    for (key, text) in [("name", name), ("group", group), ("kind", kind)] {
        if !text.is_empty() {
            details.insert(key.to_owned(), Value::from(text));
        }
    }
    details
}

fn of(kind: &KindInfo, name: &str) -> Map<String, Value> {
    details(name, kind.group, kind.plural)
}

// === impl Status: causes ===

impl Status {
    fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, success: false, reason, message: message.into(), details: Map::new() }
    }

    fn about(mut self, details: Map<String, Value>) -> Self {
        self.details = details;
        self
    }

    fn causes<'a>(mut self, causes: impl IntoIterator<Item = &'a Cause>) -> Self {
        let list: Vec<Value> = causes.into_iter().map(Cause::json).collect();
        if !list.is_empty() {
            self.details.insert("causes".to_owned(), Value::Array(list));
        }
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.details.insert("retryAfterSeconds".to_owned(), Value::from(seconds));
        self
    }

    /// No such object.
    pub(crate) fn not_found(kind: &KindInfo, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.resource());
        Self::failure(404, "NotFound", message).about(of(kind, name))
    }

    /// No such path or resource.
    pub(crate) fn not_found_path() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
    }

    /// The name is taken.
    pub(crate) fn already_exists(kind: &KindInfo, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.resource());
        Self::failure(409, "AlreadyExists", message).about(of(kind, name))
    }

    /// The name is taken by an object that is on its way out.
    pub(crate) fn already_exists_terminating(kind: &KindInfo, name: &str) -> Self {
        let message = format!("object is being deleted: {} \"{name}\" already exists", kind.resource());
        Self::failure(409, "AlreadyExists", message).about(of(kind, name))
    }

    /// The writer saw an old state.
    pub(crate) fn conflict(kind: &KindInfo, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict_because(kind, name, why)
    }

    /// The write cannot be done on the present state, for the given reason.
    pub(crate) fn conflict_because(kind: &KindInfo, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource());
        Self::failure(409, "Conflict", message).about(of(kind, name))
    }

    /// Server-side apply met fields that others own.
    pub(crate) fn apply_conflict(message: String, causes: &[Cause]) -> Self {
        Self::failure(409, "Conflict", message).causes(causes)
    }

    /// The request cannot be understood.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// The object breaks the rules of its kind.
    pub(crate) fn invalid(kind: &KindInfo, name: &str, causes: Vec<Cause>) -> Self {
        Self::invalid_kind(&kind.qualified_kind(), kind.group, kind.kind, name, &causes)
    }

    /// The query parameters of a list or watch contradict each other.
    pub(crate) fn invalid_list_options(field: &str, message: &str) -> Self {
        let cause = Cause {
            reason: "FieldValueForbidden".to_owned(),
            message: format!("Forbidden: {message}"),
            field: field.to_owned(),
        };
        Self::invalid_kind("ListOptions.meta.k8s.io", "meta.k8s.io", "ListOptions", "", &[cause])
    }

    /// The query parameters of a patch contradict its type or lack something.
    pub(crate) fn invalid_patch_options(field: &str, message: &str) -> Self {
        let cause = Cause {
            reason: "FieldValueInvalid".to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        };
        Self::invalid_kind("PatchOptions.meta.k8s.io", "meta.k8s.io", "PatchOptions", "", &[cause])
    }

    fn invalid_kind(qualified: &str, group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let sentences: Vec<String> = causes.iter().map(Cause::sentence).collect();
        let what = match sentences.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Self::failure(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {what}"))
            .about(details(name, group, kind))
            .causes(causes)
    }

    /// The patch is well-formed but cannot be applied to this object.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::failure(422, "Invalid", message)
    }

    /// The user may not do this.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::failure(403, "Forbidden", message)
    }

    /// The user is not known.
    pub(crate) fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// The resource exists but not with this verb.
    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::failure(405, "MethodNotAllowed", message)
    }

    /// The body's media type is not one of `accepted`.
    pub(crate) fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {list}"
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// No acceptable representation.
    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json";
        Self::failure(406, "NotAcceptable", message)
    }

    /// The body is over the limit.
    pub(crate) fn too_large() -> Self {
        Self::too_large_because("the request is too large: the body may have 3145728 bytes at most")
    }

    /// Something in the request is over its limit.
    pub(crate) fn too_large_because(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message)
    }

    /// The revision or token asked for has been compacted away.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// The revision asked for lies in the future.
    pub(crate) fn timeout_too_large(requested: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {requested}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        Self::failure(504, "Timeout", message).causes([&cause]).retry_after(1)
    }

    /// Our fault.
    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        Self::failure(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// The server cannot take the request now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message).retry_after(1)
    }

    /// Nothing new may be made in a namespace on its way out.
    pub(crate) fn namespace_terminating(kind: &KindInfo, name: &str, namespace: &str) -> Self {
        let message = format!(
            "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being \
             terminated",
            kind.resource()
        );
        let cause = Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        };
        Self::forbidden(message).about(of(kind, name)).causes([&cause])
    }

    /// The object is gone.
    pub(crate) fn success_deleted(kind: &KindInfo, name: &str, uid: &str) -> Self {
        let mut about = of(kind, name);
        about.insert("uid".to_owned(), Value::from(uid));
        Self { code: 200, success: true, ..Self::failure(200, "", "").about(about) }
    }

    /// The HTTP status code.
    pub(crate) fn code(&self) -> u16 {
        self.code
    }

    /// The reason, for logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    /// The message for humans.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The object to send.
    pub(crate) fn json(&self) -> Value {
        let mut object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": if self.success { "Success" } else { "Failure" },
        });
        if let Some(fields) = object.as_object_mut() {
            if !self.message.is_empty() {
                fields.insert("message".to_owned(), Value::from(self.message.as_str()));
            }
            if !self.reason.is_empty() {
                fields.insert("reason".to_owned(), Value::from(self.reason));
            }
            if !self.details.is_empty() {
                fields.insert("details".to_owned(), Value::Object(self.details.clone()));
            }
            if !self.success {
                fields.insert("code".to_owned(), Value::from(self.code));
            }
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_api::kind::by_kind;

    fn service() -> &'static KindInfo {
        by_kind("serving.knative.dev", "Service").unwrap()
    }

    #[test]
    fn missing_object_names_the_qualified_resource() {
        let status = Status::not_found(service(), "x");
        assert_eq!(
            status.json(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound",
                "message": "services.serving.knative.dev \"x\" not found", "code": 404,
                "details": {"name": "x", "group": "serving.knative.dev", "kind": "services"},
            })
        );
        let pod = Status::not_found(by_kind("", "Pod").unwrap(), "x");
        assert_eq!(pod.message(), "pods \"x\" not found");
    }

    #[test]
    fn invalid_object_lists_every_cause() {
        let cause = |field: &str| Cause {
            reason: "FieldValueRequired".to_owned(),
            message: "Required value".to_owned(),
            field: field.to_owned(),
        };
        let one = Status::invalid(service(), "x", vec![cause("spec.a")]);
        assert_eq!(one.message(), "Service.serving.knative.dev \"x\" is invalid: spec.a: Required value");
        let two = Status::invalid(service(), "x", vec![cause("a"), cause("b")]);
        assert!(two.message().ends_with("is invalid: [a: Required value, b: Required value]"));
        assert_eq!(two.json().pointer("/details/kind"), Some(&json!("Service")));
        assert_eq!(two.json().pointer("/details/causes/1/field"), Some(&json!("b")));
    }

    #[test]
    fn deletion_answers_success_with_the_uid() {
        let status = Status::success_deleted(service(), "x", "u-1");
        assert_eq!(status.code(), 200);
        assert_eq!(status.json().get("status"), Some(&json!("Success")));
        assert_eq!(status.json().pointer("/details/uid"), Some(&json!("u-1")));
    }

    #[test]
    fn future_revision_is_a_timeout_that_clients_recognise() {
        let json = Status::timeout_too_large(9, 3).json();
        assert_eq!(json.pointer("/details/causes/0/reason"), Some(&json!("ResourceVersionTooLarge")));
        assert_eq!(json.pointer("/details/retryAfterSeconds"), Some(&json!(1)));
        assert_eq!(json.get("code"), Some(&json!(504)));
    }
}
