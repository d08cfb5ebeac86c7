//! The life cycle of namespaces: furnished when made, emptied before they go.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dormouse_api::kind;
use dormouse_base::backoff::Backoff;
use dormouse_base::clock;
use dormouse_store::Stored;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::garbage;
use crate::json::{at, map_mut};
use crate::pure::status::Status;
use crate::rest::Named;
use crate::rest::delete::{DeleteOptions, Propagation};
use crate::rest::write::{Options, Part};
use crate::server::Server;
use crate::user::UserInfo;

/// Pause between looks at a namespace whose objects wait for finalizers.
const LOOK: Backoff =
    Backoff { first: Duration::from_millis(10), max: Duration::from_secs(1), jitter_percent: 10 };
/// Objects deleted at the same time.
const PARALLEL: usize = 64;

/// Creates what every namespace has.
pub(crate) async fn furnish(server: &Server, namespace: &str) -> Result<(), Status> {
    let mut objects =
        vec![json!({ "kind": "ServiceAccount", "apiVersion": "v1", "metadata": { "name": "default" } })];
    if let Some(authority) = &server.inner.hooks.authority {
        objects.push(json!({
            "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "kube-root-ca.crt" },
            "data": { "ca.crt": authority },
        }));
    }
    let user = UserInfo::master("system:kube-controller-manager");
    let options = Options::internal(&user);
    let created = objects.into_iter().map(|object| {
        let kind = kind::by_kind("", crate::json::text(&object, &["kind"]));
        let options = &options;
        async move {
            match kind {
                Some(kind) => server.create_object(kind, Some(namespace), object, options).await.map(|_| ()),
                None => Ok(()),
            }
        }
    });
    for result in futures::future::join_all(created).await {
        // Already there, or the namespace is on its way out again: both are fine.
        if let Err(status) = result
            && !matches!(status.code(), 403 | 404 | 409)
        {
            return Err(status);
        }
    }
    Ok(())
}

/// Empties and removes namespaces that are to go, until shutdown.
pub(crate) async fn run(server: Server) {
    let shutdown = server.inner.tasks.shutdown().clone();
    let busy = Arc::new(Mutex::new(HashSet::new()));
    while !shutdown.is_triggered() {
        let Ok(mut watch) = server.inner.store.watch("/namespaces", None, None) else {
            clock::sleep(LOOK.max).await;
            continue;
        };
        for stored in server.inner.store.list("/namespaces", None).0 {
            consider(&server, &busy, &stored);
        }
        loop {
            tokio::select! {
                biased; // the end first
                () = shutdown.wait() => return,
                event = watch.next() => match event {
                    Some(event) => consider(&server, &busy, &event.object),
                    None => break,
                },
            }
        }
    }
}

type Busy = Arc<Mutex<HashSet<String>>>;

fn consider(server: &Server, busy: &Busy, stored: &Stored) {
    if at(&stored.value(), &["metadata", "deletionTimestamp"]).is_none() {
        return;
    }
    let name = stored.key.name.to_string();
    if !busy.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
        return;
    }
    let (server, busy) = (server.clone(), busy.clone());
    server.inner.tasks.clone().spawn("namespace removal", async move {
        empty(&server, &name).await;
        busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    });
}

/// Deletes everything in the namespace, waits until it is gone, then lets the namespace go.
async fn empty(server: &Server, namespace: &str) {
    let shutdown = server.inner.tasks.shutdown().clone();
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    let mut attempt = 0;
    loop {
        let resources = server.inner.store.resources();
        let content: Vec<Arc<Stored>> = resources
            .iter()
            .filter(|resource| garbage::kind_of(resource).is_some_and(|kind| kind.namespaced))
            .flat_map(|resource| server.inner.store.list(resource, Some(namespace)).0)
            .collect();
        if content.is_empty() {
            break;
        }
        let options = &options;
        futures::stream::iter(content)
            .for_each_concurrent(PARALLEL, |stored| async move {
                if let Some((_, named)) = garbage::named(&stored.key)
                    && let Err(status) = server.delete_object(&named, options).await
                    && status.code() != 404
                {
                    tracing::debug!(object = %stored.key, reason = status.message(), "will be deleted later");
                }
            })
            .await;
        tokio::select! {
            biased; // the end first
            () = shutdown.wait() => return,
            () = clock::sleep(LOOK.delay(attempt, fastrand::f64())) => attempt += 1,
        }
    }
    let Some(kind) = kind::by_kind("", "Namespace") else { return };
    let user = UserInfo::master("system:serviceaccount:kube-system:namespace-controller");
    let edit = |current: &Value| {
        let mut object = current.clone();
        map_mut(&mut object, "spec").insert("finalizers".into(), json!([]));
        Ok(object)
    };
    let named = Named { kind, namespace: None, name: namespace };
    let removed = server.modify(&named, Part::Finalize, &Options::internal(&user), &edit).await;
    if let Err(status) = removed
        && status.code() != 404
    {
        tracing::warn!(namespace, reason = status.message(), "namespace could not be removed");
    }
}
