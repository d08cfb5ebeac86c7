//! The objects that must be there before anybody asks.

use dormouse_api::kind;
use dormouse_base::clock;
use dormouse_store::Durability;
use serde_json::{Value, json};

use crate::error::Error;
use crate::json::{at, meta_mut, put, text};
use crate::rest::Named;
use crate::rest::write::{Options, Part};
use crate::server::{Server, durability, object_key};
use crate::user::UserInfo;

const NAMESPACES: &[&str] = &[
    "default",
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "knative-serving",
    "knative-eventing",
    "istio-system",
];

/// ConfigMaps of `knative-serving`: empty ones mean the defaults.
const SERVING_CONFIG: &[&str] = &[
    "config-autoscaler",
    "config-certmanager",
    "config-defaults",
    "config-deployment",
    "config-domain",
    "config-features",
    "config-gc",
    "config-leader-election",
    "config-logging",
    "config-network",
    "config-observability",
    "config-tracing",
];

/// Writes what is missing.
pub(crate) async fn run(server: &Server) -> Result<(), Error> {
    let user = UserInfo::master("system:apiserver");
    let options = Options::internal(&user);
    let namespaces = NAMESPACES.iter().map(|name| {
        ensure(
            server,
            None,
            json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": name } }),
            &options,
        )
    });
    all(namespaces).await?;
    let config = SERVING_CONFIG.iter().map(|name| {
        let object = json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": { "name": name, "labels": { "app.kubernetes.io/name": "knative-serving" } },
        });
        ensure(server, Some("knative-serving"), object, &options)
    });
    all(config).await?;
    let kubernetes = json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": { "name": "kubernetes", "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": { "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443 }] },
    });
    ensure(server, Some("default"), kubernetes, &options).await?;
    ingress_gateway(server, &options).await?;
    definitions(server).await
}

/// Clients of Knative with Istio look here for the address of the gateway.
async fn ingress_gateway(server: &Server, options: &Options<'_>) -> Result<(), Error> {
    // The port on this machine is the node port: clients that dial an address of their own choosing look there.
    let port = server.inner.hooks.gateway_port;
    let ports =
        json!([{ "name": "http2", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": port }]);
    let gateway = json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": { "name": "istio-ingressgateway", "labels": { "istio": "ingressgateway" } },
        "spec": { "type": "LoadBalancer",
            "ports": ports },
    });
    ensure(server, Some("istio-system"), gateway, options).await?;
    let Some(kind) = kind::by_kind("", "Service") else { return Ok(()) };
    let named = Named { kind, namespace: Some("istio-system"), name: "istio-ingressgateway" };
    let edit = |current: &Value| {
        let mut object = current.clone();
        let status = json!({ "loadBalancer": { "ingress": [{ "ip": "127.0.0.1" }] } });
        put(crate::json::root_mut(&mut object), "status", Some(status));
        Ok(object)
    };
    // The port may be another one than at the last start.
    let moved = |current: &Value| {
        let mut object = current.clone();
        put(crate::json::root_mut(&mut object), "spec", {
            let mut spec = current.get("spec").cloned().unwrap_or_default();
            put(crate::json::root_mut(&mut spec), "ports", Some(ports.clone()));
            Some(spec)
        });
        Ok(object)
    };
    let written = server.modify(&named, Part::Main, options, &moved).await;
    written.map_err(|status| refused("Service istio-ingressgateway", status.message()))?;
    let written = server.modify(&named, Part::Status, options, &edit).await;
    written.map(|_| ()).map_err(|status| refused("Service istio-ingressgateway", status.message()))
}

/// Our custom kinds as CustomResourceDefinitions; a newer program replaces what an older one wrote.
async fn definitions(server: &Server) -> Result<(), Error> {
    let Some(kind) = kind::by_kind("apiextensions.k8s.io", "CustomResourceDefinition") else { return Ok(()) };
    let store = &server.inner.store;
    let writes = crate::pure::crd::crd_objects(clock::timestamp()).into_iter().map(|mut object| async move {
        let key = object_key(kind, None, text(&object, &["metadata", "name"]));
        match store.get(&key) {
            None => {
                meta_mut(&mut object).insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
                store.create(key, object, Durability::Durable).await.map(|_| ())
            }
            Some(stored) => {
                let present = stored.value();
                let labels = ["metadata", "labels"];
                if present.get("spec") == object.get("spec") && at(&present, &labels) == at(&object, &labels)
                {
                    return Ok(());
                }
                for name in ["uid", "creationTimestamp"] {
                    put(meta_mut(&mut object), name, at(&present, &["metadata", name]).cloned());
                }
                store.update(key, stored.revision, object, durability(kind)).await.map(|_| ())
            }
        }
    });
    let results = futures::future::join_all(writes).await;
    results.into_iter().collect::<Result<(), _>>().map_err(Error::Bootstrap)
}

async fn ensure(
    server: &Server,
    namespace: Option<&str>,
    object: Value,
    options: &Options<'_>,
) -> Result<(), Error> {
    let (kind, name) = (text(&object, &["kind"]).to_owned(), text(&object, &["metadata", "name"]).to_owned());
    let Some(info) = kind::by_kind("", &kind) else { return Ok(()) };
    if server.inner.store.get(&object_key(info, namespace, &name)).is_some() {
        return Ok(());
    }
    match server.create_object(info, namespace, object, options).await {
        Err(status) if status.code() != 409 => Err(refused(&format!("{kind} {name}"), status.message())),
        _ => Ok(()),
    }
}

async fn all(writes: impl Iterator<Item = impl Future<Output = Result<(), Error>>>) -> Result<(), Error> {
    futures::future::join_all(writes).await.into_iter().collect()
}

fn refused(object: &str, message: &str) -> Error {
    Error::Refused { object: object.into(), message: message.into() }
}
