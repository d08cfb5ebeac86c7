//! As much of a Kubernetes API as the node uses: Deployments from the test, Pods and statuses from the node.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};

type Answer = UnsyncBoxBody<Bytes, Infallible>;
type Watchers = Vec<(String, mpsc::UnboundedSender<String>)>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    watchers: Watchers,
    revision: u64,
}

/// The fake; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Api(Arc<Mutex<State>>);

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch,
    }
}

impl Api {
    pub(crate) fn client(&self) -> kube::Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Puts an object, as a user does.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.write(path, object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// The objects below a collection.
    pub(crate) fn list(&self, collection: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        let prefix = format!("{collection}/");
        state
            .objects
            .iter()
            .filter(|(path, _)| path.starts_with(&prefix))
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub(crate) fn remove(&self, path: &str) {
        let mut state = self.0.lock().unwrap();
        if let Some(object) = state.objects.remove(path) {
            Self::tell(&mut state, path, "DELETED", &object);
        }
    }

    fn tell(state: &mut State, path: &str, kind: &str, object: &Value) {
        let resource = path.rsplit('/').nth(1).unwrap().to_owned();
        let line = format!("{}\n", json!({ "type": kind, "object": object }));
        state
            .watchers
            .retain(|(watched, sender)| *watched != resource || sender.unbounded_send(line.clone()).is_ok());
    }

    fn write(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.0.lock().unwrap();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", state.revision));
        }
        let kind = if state.objects.insert(path.to_owned(), object.clone()).is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        Self::tell(&mut state, path, kind, &object);
        object
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_end_matches("/status").to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let json = |code: u16, value: &Value| {
            let body = Full::new(Bytes::from(serde_json::to_vec(value).unwrap())).boxed_unsync();
            Response::builder().status(code).body(body).unwrap()
        };
        let fail = |code: u16| {
            json(
                code,
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "message": "no", "reason": "No", "metadata": {}}),
            )
        };
        let resource = path.rsplit('/').next().unwrap().to_owned();
        let is_collection = matches!(
            resource.as_str(),
            "pods" | "deployments" | "nodes" | "events" | "secrets" | "configmaps"
        );
        match parts.method {
            Method::GET if query.contains("watch=true") => {
                let (sender, receiver) = mpsc::unbounded();
                self.0.lock().unwrap().watchers.push((resource, sender));
                let frames = receiver.map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line))));
                Response::new(StreamBody::new(frames).boxed_unsync())
            }
            Method::GET if is_collection => {
                let state = self.0.lock().unwrap();
                let items: Vec<&Value> = state
                    .objects
                    .iter()
                    .filter(|(path, _)| path.rsplit('/').nth(1) == Some(&resource))
                    .map(|(_, object)| object)
                    .collect();
                let version = state.revision.to_string();
                json(
                    200,
                    &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
                )
            }
            Method::GET => match self.get(&path) {
                Some(object) => json(200, &object),
                None => fail(404),
            },
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.get(&path).is_some() {
                    return fail(409);
                }
                json(201, &self.write(&path, body))
            }
            Method::PATCH => match self.get(&path) {
                Some(mut object) => {
                    merge(&mut object, body);
                    json(200, &self.write(&path, object))
                }
                None => fail(404),
            },
            Method::DELETE => {
                self.remove(&path);
                json(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}))
            }
            _ => fail(405),
        }
    }
}
