//! Watches: initial state, changes, bookmarks, and every failure after the start told in the stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use dormouse_api::kind::KindInfo;
use dormouse_base::clock;
use dormouse_base::shutdown::Shutdown;
use dormouse_store::{Change, Event, Stored, Watch};
use futures::StreamExt;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::pure::accept::Representation;
use crate::pure::status::Status;
use crate::pure::table::{IncludeObject, partial, table};
use crate::rest::read::{FUTURE_PATIENCE, Selection, revision};
use crate::rest::{external, include};
use crate::server::{Call, Server, resource_name, store_failure};

/// How often an idle watch tells how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts that names no timeout; spread so that clients do not come back at once.
const LIFE_MIN: Duration = Duration::from_secs(30 * 60);
/// Changes put into one chunk at most.
const CHUNK_EVENTS: usize = 256;

impl Server {
    pub(crate) async fn watch(
        &self,
        kind: &'static KindInfo,
        namespace: Option<&str>,
        name: Option<&str>,
        call: Call,
    ) -> Result<Response<Body>, Status> {
        let mut selection = Selection::of(kind, &call)?;
        if let Some(name) = name {
            selection.fields = selection.fields.and_name(name);
        }
        let from = revision(&call)?;
        let bookmarks = call.query.flag("allowWatchBookmarks");
        let asked_initial = call.query.get("sendInitialEvents").is_some();
        let matching = call.query.get("resourceVersionMatch");
        if asked_initial && matching != Some("NotOlderThan") {
            return Err(Status::invalid_list_options(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if !asked_initial && matching.is_some() {
            return Err(Status::invalid_list_options(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        let initial =
            if asked_initial { call.query.flag("sendInitialEvents") } else { from.unwrap_or(0) == 0 };
        let life = match call.query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0) {
            Some(seconds) => Duration::from_secs(seconds.min(24 * 3600)),
            None => LIFE_MIN.mul_f64(1.0 + fastrand::f64()),
        };
        let now = clock::now();
        let mut stream = Stream {
            kind,
            selection,
            representation: call.representation,
            include: include(&call),
            columns_sent: false,
            bookmarks,
            watch: None,
            ready: VecDeque::new(),
            next_bookmark: now + BOOKMARK_EVERY,
            deadline: now + life,
            shutdown: self.inner.tasks.shutdown().clone(),
        };
        if let Err(status) = self.start(&mut stream, namespace, from, initial).await {
            // kube-rs looks only into the stream, so what goes wrong from here on is an event, not a status code.
            stream.ready.push_back(line("ERROR", &status.json()));
        }
        let chunks = futures::stream::unfold(stream, |mut stream| async {
            stream.next().await.map(|chunk| (chunk, stream))
        });
        Ok(body::response(StatusCode::OK, body::JSON, body::stream(chunks.boxed())))
    }

    async fn start(
        &self,
        stream: &mut Stream,
        namespace: Option<&str>,
        from: Option<u64>,
        initial: bool,
    ) -> Result<(), Status> {
        let kind = stream.kind;
        let store = &self.inner.store;
        if let Some(wanted) = from {
            let current = store.reach(wanted, FUTURE_PATIENCE).await;
            if current < wanted {
                return Err(Status::timeout_too_large(wanted, current));
            }
        }
        let failed = |error| store_failure(kind, "", &error);
        if !initial {
            let from = from.filter(|from| *from > 0);
            stream.watch = Some(store.watch(&resource_name(kind), namespace, from).map_err(failed)?);
            return Ok(());
        }
        let (objects, revision) = self.objects(kind, namespace, &stream.selection);
        stream.watch = Some(store.watch(&resource_name(kind), namespace, Some(revision)).map_err(failed)?);
        for stored in &objects {
            if let Some(text) = stream.shown("ADDED", stored) {
                stream.ready.push_back(text);
            }
        }
        if stream.bookmarks {
            let bookmark = stream.bookmark(revision, true);
            stream.ready.push_back(bookmark);
        }
        Ok(())
    }
}

struct Stream {
    kind: &'static KindInfo,
    selection: Selection,
    representation: Representation,
    include: IncludeObject,
    columns_sent: bool,
    bookmarks: bool,
    /// `None` once the stream is to end after what is ready.
    watch: Option<Watch>,
    ready: VecDeque<Bytes>,
    next_bookmark: Instant,
    deadline: Instant,
    shutdown: Shutdown,
}

impl Stream {
    /// The next chunk: all that is ready, or the next change.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.ready.is_empty() {
                return Some(self.chunk());
            }
            let watch = self.watch.as_mut()?;
            let wake = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
            tokio::select! {
                // Ending comes first, so that a busy watch ends too; changes come before bookmarks, which promise that
                // all of them were sent.
                biased;
                () = self.shutdown.wait() => self.watch = None,
                event = watch.next() => match event {
                    None => self.watch = None,
                    Some(event) => {
                        let mut events = vec![event];
                        while events.len() < CHUNK_EVENTS && let Some(event) = watch.try_next() {
                            events.push(event);
                        }
                        for event in events {
                            if let Some(text) = self.changed(&event) {
                                self.ready.push_back(text);
                            }
                        }
                    }
                },
                () = clock::sleep_until(wake) => {
                    let progress = watch.progress();
                    if let Some(revision) = progress.filter(|_| self.bookmarks) {
                        let bookmark = self.bookmark(revision, false);
                        self.ready.push_back(bookmark);
                    }
                    let now = clock::now();
                    self.next_bookmark = now + BOOKMARK_EVERY;
                    if now >= self.deadline {
                        self.watch = None;
                    }
                }
            }
            if clock::now() >= self.deadline {
                self.watch = None;
            }
        }
    }

    fn chunk(&mut self) -> Bytes {
        if self.ready.len() == 1
            && let Some(only) = self.ready.pop_front()
        {
            return only;
        }
        let mut chunk = BytesMut::new();
        let count = self.ready.len().min(CHUNK_EVENTS);
        for text in self.ready.drain(..count) {
            chunk.put_slice(&text);
        }
        chunk.freeze()
    }

    /// One change as this watch sees it: an object may begin or cease to match its selectors.
    fn changed(&mut self, event: &Event) -> Option<Bytes> {
        let change = if self.selection.is_everything() {
            event.change
        } else {
            let matched = event.previous.as_deref().is_some_and(|previous| self.selects(previous));
            let matches = event.change != Change::Deleted && self.selects(&event.object);
            match (matched, matches) {
                (false, false) => return None,
                (false, true) => Change::Added,
                (true, true) => Change::Modified,
                (true, false) => Change::Deleted,
            }
        };
        let name = match change {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        };
        Some(self.rendered(name, &event.object))
    }

    fn selects(&self, stored: &Stored) -> bool {
        !self.selection.excludes(stored) && self.selection.matches(&external(self.kind, stored.value()))
    }

    fn shown(&mut self, name: &str, stored: &Arc<Stored>) -> Option<Bytes> {
        let wanted = self.selection.is_everything() || self.selects(stored);
        wanted.then(|| self.rendered(name, stored))
    }

    fn rendered(&mut self, name: &str, stored: &Stored) -> Bytes {
        let value = match self.representation {
            Representation::Json | Representation::AggregatedDiscovery(_)
                if self.kind.group != "events.k8s.io" =>
            {
                let mut text = BytesMut::with_capacity(stored.bytes.len() + 32);
                text.put_slice(b"{\"type\":\"");
                text.put_slice(name.as_bytes());
                text.put_slice(b"\",\"object\":");
                text.put_slice(&stored.bytes);
                text.put_slice(b"}\n");
                return text.freeze();
            }
            _ => external(self.kind, stored.value()),
        };
        let value = match self.representation {
            Representation::Table => self.as_table(vec![Arc::new(value)], stored.revision),
            Representation::PartialMetadata | Representation::PartialMetadataList => partial(&value),
            Representation::Json | Representation::AggregatedDiscovery(_) => value,
        };
        line(name, &value)
    }

    fn as_table(&mut self, rows: Vec<Arc<Value>>, revision: u64) -> Value {
        let meta = json!({ "resourceVersion": revision.to_string() });
        let mut value = table(self.kind, &rows, meta, self.include, clock::timestamp());
        if std::mem::replace(&mut self.columns_sent, true) {
            crate::json::root_mut(&mut value).insert("columnDefinitions".into(), json!([]));
        }
        value
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let (kind, version) = match self.representation {
            Representation::PartialMetadata | Representation::PartialMetadataList => {
                ("PartialObjectMetadata", "meta.k8s.io/v1".into())
            }
            _ => (self.kind.kind, self.kind.api_version()),
        };
        let mut meta = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial_end {
            crate::json::root_mut(&mut meta)
                .insert("annotations".into(), json!({ "k8s.io/initial-events-end": "true" }));
        }
        line("BOOKMARK", &json!({ "kind": kind, "apiVersion": version, "metadata": meta }))
    }
}

fn line(name: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{name}\",\"object\":{object}}}\n"))
}
