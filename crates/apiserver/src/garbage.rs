//! Garbage collection by owner references: dependents of what is gone go too; foreground and orphaning deletions wait
//! for it.
//!
//! It watches every resource, remembers only who depends on whom, and judges each case on the store's present state,
//! so a late or repeated event does no harm.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dormouse_api::kind::{self, KindInfo};
use dormouse_base::clock;
use dormouse_store::{Change, Event, ObjectKey, Stored};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::Value;

use crate::json::{meta_mut, text};
use crate::pure::status::Status;
use crate::rest::Named;
use crate::rest::delete::{DeleteOptions, Propagation};
use crate::rest::write::{Options, Part};
use crate::server::{Server, resource_name};
use crate::user::UserInfo;

/// Objects examined at the same time.
const PARALLEL: usize = 64;
/// Changes taken in before the next examination.
const BATCH: usize = 1024;
/// Pause before what could not be done is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Events live this long.
const EVENT_LIFE: Duration = Duration::from_secs(3600);
const EVENT_SWEEP: Duration = Duration::from_secs(60);
/// More events than this are not kept: the oldest go first.
const EVENTS_MAX: usize = 10_000;

#[derive(Deserialize)]
struct Object {
    metadata: Meta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    uid: String,
    owner_references: Vec<Owner>,
    finalizers: Vec<String>,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Owner {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
    block_owner_deletion: Option<bool>,
}

impl Meta {
    /// Only the metadata is built; the rest of the text is skipped.
    fn of(stored: &Stored) -> Self {
        serde_json::from_slice::<Object>(&stored.bytes).map(|object| object.metadata).unwrap_or_default()
    }

    fn waits_for(&self, finalizer: &str) -> bool {
        self.deletion_timestamp.is_some() && self.finalizers.iter().any(|name| name == finalizer)
    }
}

type Uid = Box<str>;

/// Who depends on whom.
#[derive(Default)]
struct Graph {
    owners: HashMap<ObjectKey, Vec<Uid>>,
    dependents: HashMap<Uid, HashSet<ObjectKey>>,
    /// Objects whose deletion waits for their dependents.
    waiting: HashMap<Uid, ObjectKey>,
}

impl Graph {
    /// Takes in the state of an object; answers whether it must be examined.
    fn put(&mut self, stored: &Stored) -> bool {
        let meta = Meta::of(stored);
        let uids: Vec<Uid> = meta.owner_references.iter().map(|owner| owner.uid.as_str().into()).collect();
        let waits = meta.waits_for("foregroundDeletion") || meta.waits_for("orphan");
        if waits {
            self.waiting.insert(meta.uid.as_str().into(), stored.key.clone());
        }
        let same = match self.owners.get(&stored.key) {
            Some(known) => *known == uids,
            None => uids.is_empty(),
        };
        if !same {
            self.forget_owners(&stored.key);
            for uid in &uids {
                self.dependents.entry(uid.clone()).or_default().insert(stored.key.clone());
            }
            if !uids.is_empty() {
                self.owners.insert(stored.key.clone(), uids);
            }
        }
        waits || !same
    }

    /// Takes in a deletion; answers what must be examined because of it.
    fn remove(&mut self, stored: &Stored) -> Vec<ObjectKey> {
        let uid = Meta::of(stored).uid;
        self.waiting.remove(uid.as_str());
        let mut touched: Vec<ObjectKey> =
            self.dependents.get(uid.as_str()).into_iter().flatten().cloned().collect();
        touched.extend(
            self.forget_owners(&stored.key).iter().filter_map(|owner| self.waiting.get(owner).cloned()),
        );
        touched
    }

    fn forget_owners(&mut self, key: &ObjectKey) -> Vec<Uid> {
        let owners = self.owners.remove(key).unwrap_or_default();
        for uid in &owners {
            if let Some(dependents) = self.dependents.get_mut(uid) {
                dependents.remove(key);
                if dependents.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
        owners
    }

    fn dependents(&self, uid: &str) -> Vec<ObjectKey> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

/// Collects until shutdown.
pub(crate) async fn run(server: Server) {
    let shutdown = server.inner.tasks.shutdown().clone();
    while !shutdown.is_triggered() {
        // Ends when it fell behind the history or at shutdown; then everything is read anew.
        collect(&server).await;
    }
}

async fn collect(server: &Server) {
    let store = &server.inner.store;
    let shutdown = server.inner.tasks.shutdown().clone();
    let Ok(mut watch) = store.watch_everything(None) else { return clock::sleep(RETRY).await };
    let mut graph = Graph::default();
    let mut dirty = HashSet::new();
    for resource in store.resources() {
        for (index, stored) in store.list(&resource, None).0.into_iter().enumerate() {
            if graph.put(&stored) {
                dirty.insert(stored.key.clone());
            }
            if index % PARALLEL == PARALLEL - 1 {
                // A hundred thousand objects must not keep a worker thread from everything else.
                tokio::task::yield_now().await;
            }
        }
    }
    loop {
        let failed = examine_all(server, &graph, std::mem::take(&mut dirty)).await;
        let pause = if failed.is_empty() { Duration::from_secs(3600) } else { RETRY };
        dirty.extend(failed);
        tokio::select! {
            biased; // the end first, then news; retries can wait
            () = shutdown.wait() => return,
            event = watch.next() => {
                let Some(event) = event else { return };
                take_in(&mut graph, &mut dirty, &event);
                for _ in 0..BATCH {
                    let Some(event) = watch.try_next() else { break };
                    take_in(&mut graph, &mut dirty, &event);
                }
            }
            () = clock::sleep(pause) => {}
        }
    }
}

fn take_in(graph: &mut Graph, dirty: &mut HashSet<ObjectKey>, event: &Arc<Event>) {
    match event.change {
        Change::Added | Change::Modified => {
            if graph.put(&event.object) {
                dirty.insert(event.object.key.clone());
            }
        }
        Change::Deleted => dirty.extend(graph.remove(&event.object)),
    }
}

/// Answers what has to be examined again.
async fn examine_all(server: &Server, graph: &Graph, keys: HashSet<ObjectKey>) -> Vec<ObjectKey> {
    let results = futures::stream::iter(keys).map(|key| async move {
        match examine(server, graph, &key).await {
            Ok(()) => None,
            Err(status) => {
                tracing::debug!(object = %key, reason = status.message(), "garbage collection will try again");
                Some(key)
            }
        }
    });
    results.buffer_unordered(PARALLEL).filter_map(std::future::ready).collect().await
}

/// What is to be done about one object now.
async fn examine(server: &Server, graph: &Graph, key: &ObjectKey) -> Result<(), Status> {
    let Some(stored) = server.inner.store.get(key) else { return Ok(()) };
    let meta = Meta::of(&stored);
    if meta.waits_for("orphan") {
        for dependent in graph.dependents(&meta.uid) {
            disown(server, &dependent, &[&meta.uid]).await?;
        }
        return drop_finalizer(server, key, "orphan").await;
    }
    if meta.waits_for("foregroundDeletion") {
        return foreground(server, graph, key, &meta).await;
    }
    if meta.owner_references.is_empty() || meta.deletion_timestamp.is_some() {
        return Ok(());
    }
    let (mut kept, mut dangling) = (0, Vec::new());
    for owner in &meta.owner_references {
        match owner_state(server, key, owner) {
            OwnerState::Present => kept += 1,
            OwnerState::Absent | OwnerState::Leaving => dangling.push(owner.uid.as_str()),
        }
    }
    if dangling.is_empty() {
        Ok(())
    } else if kept > 0 {
        disown(server, key, &dangling).await
    } else {
        delete(server, graph, key, &meta).await
    }
}

enum OwnerState {
    Present,
    Absent,
    /// It waits for its dependents to go.
    Leaving,
}

fn owner_state(server: &Server, dependent: &ObjectKey, owner: &Owner) -> OwnerState {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    // What we do not serve we cannot judge.
    let Some(kind) = kind::by_kind(group, &owner.kind) else { return OwnerState::Present };
    if kind.namespaced && dependent.namespace.is_empty() {
        return OwnerState::Present;
    }
    let namespace = if kind.namespaced { dependent.namespace.clone() } else { "".into() };
    let key = ObjectKey::new(resource_name(kind), namespace, owner.name.as_str());
    match server.inner.store.get(&key).map(|stored| Meta::of(&stored)) {
        Some(meta) if meta.uid == owner.uid && meta.waits_for("foregroundDeletion") => OwnerState::Leaving,
        Some(meta) if meta.uid == owner.uid => OwnerState::Present,
        _ => OwnerState::Absent,
    }
}

/// Deletes the dependents; lets the owner go when none is left that blocks it.
async fn foreground(server: &Server, graph: &Graph, key: &ObjectKey, meta: &Meta) -> Result<(), Status> {
    let mut blocked = false;
    for dependent in graph.dependents(&meta.uid) {
        let Some(stored) = server.inner.store.get(&dependent) else { continue };
        let its = Meta::of(&stored);
        if its.deletion_timestamp.is_none() {
            let elsewhere = its.owner_references.iter().any(|owner| {
                owner.uid != meta.uid && matches!(owner_state(server, &dependent, owner), OwnerState::Present)
            });
            if elsewhere {
                disown(server, &dependent, &[&meta.uid]).await?;
                continue;
            }
            delete(server, graph, &dependent, &its).await?;
        }
        let blocks = its
            .owner_references
            .iter()
            .any(|owner| owner.uid == meta.uid && owner.block_owner_deletion == Some(true));
        blocked |= blocks && server.inner.store.get(&dependent).is_some();
    }
    // A blocking dependent's own deletion examines this object again.
    if blocked { Ok(()) } else { drop_finalizer(server, key, "foregroundDeletion").await }
}

async fn delete(server: &Server, graph: &Graph, key: &ObjectKey, meta: &Meta) -> Result<(), Status> {
    let Some((_, named)) = named(key) else { return Ok(()) };
    // Within a foreground deletion the whole tree goes leaves first.
    let leaving = meta
        .owner_references
        .iter()
        .any(|owner| matches!(owner_state(server, key, owner), OwnerState::Leaving));
    let propagation = if leaving && !graph.dependents(&meta.uid).is_empty() {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    let options = DeleteOptions {
        propagation: Some(propagation),
        uid: Some(meta.uid.clone()),
        ..DeleteOptions::default()
    };
    gone_is_fine(server.delete_object(&named, &options).await.map(|_| ()))
}

/// Removes references to owners.
async fn disown(server: &Server, key: &ObjectKey, uids: &[&str]) -> Result<(), Status> {
    let uids: Vec<&str> = uids.to_vec();
    change(server, key, &|object| {
        if let Some(owners) = meta_mut(object).get_mut("ownerReferences").and_then(Value::as_array_mut) {
            owners.retain(|owner| !uids.contains(&text(owner, &["uid"])));
        }
    })
    .await
}

async fn drop_finalizer(server: &Server, key: &ObjectKey, finalizer: &str) -> Result<(), Status> {
    change(server, key, &|object| {
        if let Some(finalizers) = meta_mut(object).get_mut("finalizers").and_then(Value::as_array_mut) {
            finalizers.retain(|name| name.as_str() != Some(finalizer));
        }
    })
    .await
}

async fn change(
    server: &Server,
    key: &ObjectKey,
    edit: &(dyn Fn(&mut Value) + Send + Sync),
) -> Result<(), Status> {
    let Some((_, named)) = named(key) else { return Ok(()) };
    let user = UserInfo::master("system:serviceaccount:kube-system:generic-garbage-collector");
    let edit = |current: &Value| {
        let mut object = current.clone();
        edit(&mut object);
        Ok(object)
    };
    gone_is_fine(server.modify(&named, Part::Main, &Options::internal(&user), &edit).await.map(|_| ()))
}

fn gone_is_fine(result: Result<(), Status>) -> Result<(), Status> {
    match result {
        // Gone, or replaced by another object of the same name.
        Err(status) if status.code() == 404 || status.message().contains("UID in precondition") => Ok(()),
        other => other,
    }
}

/// The kind behind a resource name of the store.
pub(crate) fn kind_of(resource: &str) -> Option<&'static KindInfo> {
    let (group, plural) = resource.split_once('/')?;
    kind::kinds().iter().find(|kind| kind.group == group && kind.plural == plural)
}

pub(crate) fn named(key: &ObjectKey) -> Option<(&'static KindInfo, Named<'_>)> {
    let kind = kind_of(&key.resource)?;
    let namespace = kind.namespaced.then_some(&*key.namespace);
    Some((kind, Named { kind, namespace, name: &key.name }))
}

/// Removes old events, and the oldest when there are too many.
pub(crate) async fn expire_events(server: Server) {
    let shutdown = server.inner.tasks.shutdown().clone();
    loop {
        tokio::select! {
            biased; // the end first
            () = shutdown.wait() => return,
            () = clock::sleep(EVENT_SWEEP) => {}
        }
        let (mut events, _) = server.inner.store.list("/events", None);
        events.sort_by_key(|event| event.revision);
        let surplus = events.len().saturating_sub(EVENTS_MAX);
        let oldest = clock::timestamp().checked_sub(EVENT_LIFE).unwrap_or_default();
        for (index, stored) in events.iter().enumerate() {
            let value = stored.value();
            let last = ["lastTimestamp", "eventTime"].into_iter().map(|name| text(&value, &[name]));
            let last =
                last.chain([text(&value, &["metadata", "creationTimestamp"])]).find(|time| !time.is_empty());
            let old =
                last.and_then(|time| time.parse::<jiff::Timestamp>().ok()).is_none_or(|time| time < oldest);
            if index < surplus || old {
                // A lost race means that it was renewed: then it is not old.
                let _ = server.inner.store.delete(stored.key.clone(), stored.revision, None).await;
            }
        }
    }
}
