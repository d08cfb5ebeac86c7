//! The server: authorizes, routes, answers.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use dormouse_api::kind::{KindInfo, Storage};
use dormouse_base::task::Tasks;
use dormouse_store::{Durability, ObjectKey, Store};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::{self, Body, BoxError};
use crate::error::Error;
use crate::hooks::Hooks;
use crate::pure::accept::{DiscoveryVersion, Representation, negotiate};
use crate::pure::status::Status;
use crate::pure::{discovery, openapi};
use crate::query::Query;
use crate::route::{Target, target};
use crate::tokens::{self, Signer};
use crate::user::{self, UserInfo};

/// The Kubernetes version whose behaviour we show.
const KUBERNETES: &str = "v1.35.0";

/// The API server. A cheap clone shares it.
#[derive(Clone)]
pub struct Server {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) hooks: Hooks,
    pub(crate) tasks: Tasks,
}

/// One request on its way through the handlers.
pub(crate) struct Call {
    pub(crate) user: UserInfo,
    pub(crate) parts: Parts,
    pub(crate) query: Query,
    pub(crate) body: Bytes,
    pub(crate) representation: Representation,
}

impl Call {
    /// The media type of the body without parameters.
    pub(crate) fn content_type(&self) -> &str {
        let value = self.parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().split(';').next().unwrap_or_default().trim()
    }
}

impl Server {
    /// A server over `store`: writes the first objects that are missing and starts garbage collection and the life
    /// cycle of namespaces on `tasks`.
    ///
    /// # Errors
    /// When the first objects cannot be written.
    pub async fn new(store: Store, hooks: Hooks, tasks: Tasks) -> Result<Self, Error> {
        let server = Self { inner: Arc::new(Inner { store, hooks, tasks }) };
        crate::bootstrap::run(&server).await?;
        server.inner.tasks.spawn("garbage collector", crate::garbage::run(server.clone()));
        server.inner.tasks.spawn("namespace life cycle", crate::namespaces::run(server.clone()));
        server.inner.tasks.spawn("event expiry", crate::garbage::expire_events(server.clone()));
        Ok(server)
    }

    /// A client in this process: no socket, no TLS; it acts as `user` with all rights. Call it inside a tokio runtime.
    pub fn client(&self, user: &str) -> kube::Client {
        let server = self.clone();
        let user = UserInfo::master(user);
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (server, user) = (server.clone(), user.clone());
            async move { Ok::<_, Infallible>(server.handle(user, request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Answers one request of an authenticated (or anonymous) user. Dropping the future may or may not have written.
    pub async fn handle<B>(&self, user: UserInfo, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, request_body) = request.into_parts();
        let result = async {
            let user = user::effective(user, &parts.headers)?;
            let target = target(parts.uri.path());
            if !matches!(target, Target::Resource(_) | Target::Review { .. }) {
                user::authorize_path(&user, &parts.method, parts.uri.path())?;
            }
            let body = match parts.method {
                Method::GET | Method::HEAD | Method::OPTIONS => Bytes::new(),
                _ => body::read(request_body).await?,
            };
            let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
            let accepted = negotiate(accept.unwrap_or_default());
            // Logs and health are text, so what else they accept does not matter.
            let representation = match (&target, accepted) {
                (_, Ok(representation)) => representation,
                (Target::Resource(resource), Err(())) if resource.subresource.as_deref() != Some("log") => {
                    return Err(Status::not_acceptable());
                }
                (_, Err(())) => Representation::Json,
            };
            let query = Query::parse(parts.uri.query());
            self.dispatch(target, Call { user, parts, query, body, representation }).await
        };
        result.await.unwrap_or_else(|status| body::failure(&status))
    }

    async fn dispatch(&self, target: Target, call: Call) -> Result<Response<Body>, Status> {
        let get = || match call.parts.method {
            Method::GET | Method::HEAD => Ok(()),
            _ => Err(Status::method_not_allowed()),
        };
        let found = |value: Option<Value>| value.ok_or_else(Status::not_found_path);
        let plain = |value: Value| Ok(body::json(StatusCode::OK, &value));
        match target {
            Target::Resource(resource) => self.resource(resource, call).await,
            Target::Review { group, resource } => crate::rest::review::review(&call, &group, &resource),
            Target::Unknown => Err(Status::not_found_path()),
            Target::Health => get().map(|()| body::text(StatusCode::OK, "ok")),
            Target::Issuer => get().and_then(|()| plain(tokens::discovery())),
            Target::Keys => {
                get().and_then(|()| plain(found(self.inner.hooks.signer.as_ref().map(Signer::key_set))?))
            }
            Target::Version => get().and_then(|()| plain(self.version())),
            Target::Root => {
                get()?;
                let paths =
                    ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"];
                plain(json!({ "paths": paths }))
            }
            Target::CoreVersions | Target::Groups => {
                get()?;
                let core = matches!(target, Target::CoreVersions);
                match call.representation {
                    Representation::AggregatedDiscovery(version) => {
                        let value = discovery::aggregated(core, version == DiscoveryVersion::V2Beta1);
                        let body = body::full(value.to_string());
                        Ok(body::response(StatusCode::OK, call.representation.content_type(), body))
                    }
                    _ if core => {
                        let host = call.parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
                        plain(discovery::api_versions(host.unwrap_or("127.0.0.1")))
                    }
                    _ => plain(discovery::api_group_list()),
                }
            }
            Target::Group(group) => get().and_then(|()| plain(found(discovery::api_group(&group))?)),
            Target::Resources { group, version } => {
                get().and_then(|()| plain(found(discovery::resource_list(&group, &version))?))
            }
            Target::OpenApiV2 => get().map(|()| {
                // An empty message is a valid empty document. kubectl asks for it when it does not know a kind, and
                // would report a failed download instead of the unknown kind.
                let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
                body::response(StatusCode::OK, kind, body::full(String::new()))
            }),
            Target::OpenApiIndex => get().and_then(|()| plain(openapi::index())),
            Target::OpenApi { group, version } => {
                get().and_then(|()| plain(found(openapi::document(&group, &version))?))
            }
        }
    }

    fn version(&self) -> Value {
        let ours = &self.inner.hooks.version;
        let build = if ours.is_empty() { String::new() } else { format!("+dormouse.{ours}") };
        json!({
            "major": "1", "minor": "35", "gitVersion": format!("{KUBERNETES}{build}"),
            "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "", "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, platform()),
        })
    }
}

/// Go's name of this machine's architecture.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The store's name of a kind's resource; both groups of events share one.
pub(crate) fn resource_name(kind: &KindInfo) -> String {
    match (kind.group, kind.plural) {
        ("events.k8s.io", plural) => format!("/{plural}"),
        (group, plural) => format!("{group}/{plural}"),
    }
}

pub(crate) fn object_key(kind: &KindInfo, namespace: Option<&str>, name: &str) -> ObjectKey {
    ObjectKey::new(resource_name(kind), namespace.unwrap_or_default(), name)
}

pub(crate) fn durability(kind: &KindInfo) -> Durability {
    match kind.storage {
        Storage::Durable => Durability::Durable,
        Storage::Ephemeral => Durability::Ephemeral,
    }
}

/// The answer to a failure of the store: the one place that turns it into a Status.
pub(crate) fn store_failure(kind: &KindInfo, name: &str, error: &dormouse_store::Error) -> Status {
    use dormouse_store::Error as Store;
    match error {
        Store::Exists { .. } => Status::already_exists(kind, name),
        Store::Missing { .. } => Status::not_found(kind, name),
        Store::Conflict { .. } => Status::conflict(kind, name),
        Store::Compacted { wanted, oldest } => {
            Status::expired(format!("too old resource version: {wanted} ({oldest})"))
        }
        Store::Future { wanted, current } => Status::timeout_too_large(*wanted, *current),
        Store::Closed => Status::unavailable("the server is shutting down"),
        other => Status::internal(dormouse_base::chain(other)),
    }
}
