//! A server over a store in a temporary directory.

use std::time::Duration;

use bytes::Bytes;
use dormouse_apiserver::{Hooks, Server, UserInfo};
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_store::{Config, Store};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) store: Store,
    pub(crate) tasks: Tasks,
    pub(crate) directory: tempfile::TempDir,
}

/// What a request was answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.json()
    }

    #[track_caller]
    pub(crate) fn refused(self, code: u16, reason: &str) -> String {
        assert_eq!(self.code, code, "{}", self.text);
        let status = self.json();
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["reason"], reason, "{status}");
        assert_eq!(status["code"], code);
        status["message"].as_str().unwrap().to_owned()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Hooks { version: "test".into(), authority: Some("PEM".into()), ..Hooks::default() }).await
    }

    pub(crate) async fn with(hooks: Hooks) -> Self {
        Self::over(hooks, tempfile::tempdir().unwrap()).await
    }

    /// Ends this server and starts another one over the same data.
    pub(crate) async fn restarted(self) -> Self {
        let Self { server, store, tasks, directory } = self;
        drop(server);
        tasks.shutdown().trigger();
        assert_eq!(tasks.drain(Duration::from_secs(10)).await, 0, "tasks still run");
        store.close().await;
        Self::over(Hooks::default(), directory).await
    }

    async fn over(hooks: Hooks, directory: tempfile::TempDir) -> Self {
        let store = Store::open(&directory.path().join("store.db"), Config::default()).await.unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let server = Server::new(store.clone(), hooks, tasks.clone()).await.unwrap();
        Self { server, store, tasks, directory }
    }

    pub(crate) async fn close(self) {
        self.tasks.shutdown().trigger();
        assert_eq!(self.tasks.drain(Duration::from_secs(10)).await, 0, "tasks still run");
        assert_eq!(self.tasks.failure(), None);
        self.store.close().await;
    }

    pub(crate) async fn send(&self, request: http::Request<Bytes>) -> Answer {
        self.send_as(UserInfo::master("tester"), request).await
    }

    pub(crate) async fn send_as(&self, user: UserInfo, request: http::Request<Bytes>) -> Answer {
        let response = self.server.handle(user, request.map(Full::new)).await;
        let (parts, body) = response.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8(text.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let request = http::Request::builder().method(method).uri(path).header("content-type", content_type);
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "").await
    }

    pub(crate) async fn post(&self, path: &str, object: &Value) -> Answer {
        self.call("POST", path, "application/json", object.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, object: &Value) -> Answer {
        self.call("PUT", path, "application/json", object.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Answer {
        self.call("PATCH", path, "application/merge-patch+json", patch.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.call("DELETE", path, "application/json", options.to_string()).await
    }

    /// Waits until a GET of `path` answers `code`.
    pub(crate) async fn until(&self, path: &str, code: u16) -> Answer {
        let deadline = dormouse_base::clock::now() + Duration::from_secs(10);
        loop {
            let answer = self.get(path).await;
            if answer.code == code {
                return answer;
            }
            assert!(dormouse_base::clock::now() < deadline, "{path} never answered {code}: {answer:?}");
            tokio::task::yield_now().await;
        }
    }

    /// The events of a watch that ends by its own timeout of one second.
    pub(crate) async fn watch(&self, path: &str) -> Vec<Value> {
        let join = if path.contains('?') { '&' } else { '?' };
        let answer = self.get(&format!("{path}{join}watch=1&timeoutSeconds=1")).await;
        assert_eq!(answer.code, 200, "{}", answer.text);
        assert!(answer.text.is_empty() || answer.text.ends_with('\n'));
        answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

pub(crate) fn service(name: &str) -> Value {
    json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"template": {"spec": {"containers": [{"image": "example.com/hello"}]}}}})
}

pub(crate) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const SERVICES: &str = "/apis/serving.knative.dev/v1/namespaces/default/services";
