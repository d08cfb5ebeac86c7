//! `serviceaccounts/<name>/token`: a token for a workload.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::json::{at, root_mut, text, texts};
use crate::pure::protobuf;
use crate::pure::status::Status;
use crate::rest::Named;
use crate::server::{Call, Server, object_key};
use crate::tokens::{Claims, ISSUER};

impl Server {
    /// Signs a token for a service account.
    pub(crate) fn token(&self, named: &Named<'_>, call: &Call) -> Result<Response<Body>, Status> {
        let signer = self.inner.hooks.signer.as_ref().ok_or_else(Status::not_found_path)?;
        let mut request = if protobuf::is_protobuf(&call.body) {
            protobuf::decode(&call.body).map_err(Status::bad_request)?
        } else {
            crate::rest::json_body(&call.body)?
        };
        let key = object_key(named.kind, named.namespace, named.name);
        let stored = self.inner.store.get(&key).ok_or_else(|| Status::not_found(named.kind, named.name))?;
        let account = stored.value();
        let mut audiences: Vec<String> =
            texts(&request, &["spec", "audiences"]).into_iter().map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let claims = Claims {
            namespace: named.namespace.unwrap_or_default(),
            account: named.name,
            account_uid: text(&account, &["metadata", "uid"]),
            audiences,
            seconds: at(&request, &["spec", "expirationSeconds"]).and_then(Value::as_i64),
        };
        let (token, ends) = signer
            .sign(&claims, dormouse_base::clock::timestamp())
            .ok_or_else(|| Status::internal("the token could not be signed"))?;
        let root = root_mut(&mut request);
        root.insert("kind".into(), "TokenRequest".into());
        root.insert("apiVersion".into(), "authentication.k8s.io/v1".into());
        root.entry("metadata").or_insert_with(|| json!({}));
        root.insert("status".into(), json!({ "token": token, "expirationTimestamp": ends }));
        Ok(body::json(StatusCode::CREATED, &request))
    }
}
