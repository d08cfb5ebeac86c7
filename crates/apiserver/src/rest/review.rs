//! Questions about users and their rights: asked, not stored.

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::json::{root_mut, text, texts};
use crate::pure::protobuf;
use crate::pure::status::Status;
use crate::server::Call;
use crate::user::{MASTERS, UserInfo};

pub(crate) fn review(call: &Call, group: &str, resource: &str) -> Result<Response<Body>, Status> {
    if call.parts.method != Method::POST {
        return Err(Status::method_not_allowed());
    }
    if call.user.is_anonymous() {
        return Err(Status::forbidden(format!(
            "{resource}.{group} is forbidden: User \"{}\" cannot create resource \"{resource}\" in API group \"{group}\" at the cluster scope",
            call.user.name
        )));
    }
    let mut object = if protobuf::is_protobuf(&call.body) {
        protobuf::decode(&call.body).map_err(Status::bad_request)?
    } else {
        crate::rest::json_body(&call.body)?
    };
    let allowed = |user: &UserInfo| {
        let reason = if user.is_master() { "" } else { "only members of system:masters have rights" };
        json!({ "allowed": user.is_master(), "reason": reason })
    };
    let (kind, status) = match resource {
        "selfsubjectreviews" => (
            "SelfSubjectReview",
            json!({ "userInfo": { "username": call.user.name, "groups": call.user.groups } }),
        ),
        "selfsubjectaccessreviews" => ("SelfSubjectAccessReview", allowed(&call.user)),
        "subjectaccessreviews" => {
            let groups = texts(&object, &["spec", "groups"]).into_iter().map(str::to_owned).collect();
            let user = UserInfo { name: text(&object, &["spec", "user"]).into(), groups };
            ("SubjectAccessReview", allowed(&user))
        }
        _ => {
            let all = call.user.groups.iter().any(|group| group == MASTERS);
            let rules: Value = if all {
                json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }])
            } else {
                json!([])
            };
            let paths: Value =
                if all { json!([{ "verbs": ["*"], "nonResourceURLs": ["*"] }]) } else { json!([]) };
            (
                "SelfSubjectRulesReview",
                json!({ "resourceRules": rules, "nonResourceRules": paths, "incomplete": false }),
            )
        }
    };
    let root = root_mut(&mut object);
    root.insert("kind".into(), kind.into());
    root.insert("apiVersion".into(), format!("{group}/v1").into());
    root.entry("metadata").or_insert_with(|| json!({}));
    root.insert("status".into(), status);
    Ok(body::json(StatusCode::CREATED, &object))
}
