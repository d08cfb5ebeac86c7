//! The handle that callers hold.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::disk::Disk;
use crate::error::Error;
use crate::index::{EVERYTHING, Index};
use crate::object::{Draft, Durability, ObjectKey, Stored};
use crate::watch::Watch;
use crate::writer::{Command, Write, Writer};

/// Writes that may wait for the writer; beyond it callers wait for a place.
const QUEUE: usize = 1024;

/// Sizes of a store.
#[derive(Clone, Debug)]
pub struct Config {
    /// Changes that watches can replay.
    pub history_max: usize,
    /// Changes that one watch may lag behind before it is ended.
    pub watch_buffer: usize,
    /// The file may not grow beyond this many bytes; `None` leaves it to the disk.
    pub size_max: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self { history_max: 10_000, watch_buffer: 4_096, size_max: None }
    }
}

/// Revisioned objects. A cheap clone shares the store; the last one to go closes it.
#[derive(Clone)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    index: Arc<RwLock<Index>>,
    revision: watch::Receiver<u64>,
    watch_buffer: usize,
}

impl Store {
    /// Opens the database `file`, creating it and its directory when missing.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it, [`Error::Corrupt`] when it is damaged, and what the disk says.
    pub async fn open(file: &Path, config: Config) -> Result<Self, Error> {
        let file = file.to_path_buf();
        let (ready, opened) = oneshot::channel();
        let (commands, queue) = mpsc::channel(QUEUE);
        let watch_buffer = config.watch_buffer;
        let spawned = std::thread::Builder::new().name("store-writer".into()).spawn({
            let file = file.clone();
            move || match Disk::open(&file, config.size_max) {
                Err(error) => drop(ready.send(Err(error))),
                Ok(found) => {
                    let mut index = Index::new(found.revision, config.history_max);
                    for object in found.objects {
                        index.load(object);
                    }
                    let index = Arc::new(RwLock::new(index));
                    let (revision, revisions) = watch::channel(found.revision);
                    if ready.send(Ok((index.clone(), revisions))).is_ok() {
                        Writer { disk: found.disk, index, revision }.run(queue);
                    }
                }
            }
        });
        spawned.map_err(|source| Error::File {
            file,
            operation: "start the writer of",
            source: Arc::new(source),
        })?;
        let (index, revision) = opened.await.map_err(|_| Error::Closed)??;
        Ok(Self { commands, index, revision, watch_buffer })
    }

    /// Finishes what is queued and closes the file; later writes answer [`Error::Closed`].
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision of the last visible change.
    pub fn revision(&self) -> u64 {
        self.index().revision()
    }

    /// Waits at most `patience` until the store has reached `revision`; answers the current one.
    pub async fn reach(&self, revision: u64, patience: Duration) -> u64 {
        let mut revisions = self.revision.clone();
        let reached = async { revisions.wait_for(|current| *current >= revision).await.is_ok() };
        tokio::select! {
            biased; // no priority matters: both only read
            _ = reached => {}
            () = dormouse_base::clock::sleep(patience) => {}
        }
        self.revision()
    }

    /// The object's present state.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Stored>> {
        self.index().get(key)
    }

    /// One consistent state of a resource, ordered by namespace and name, and its revision.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> (Vec<Arc<Stored>>, u64) {
        let index = self.index();
        (index.list(resource, namespace), index.revision())
    }

    /// The resources that have objects.
    pub fn resources(&self) -> Vec<Arc<str>> {
        self.index().resources()
    }

    /// Every change of a resource after revision `from`; without it, from now on.
    ///
    /// # Errors
    /// [`Error::Compacted`] and [`Error::Future`] when `from` cannot be served.
    pub fn watch(&self, resource: &str, namespace: Option<&str>, from: Option<u64>) -> Result<Watch, Error> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let (replay, live) = index.subscribe(resource, namespace, from, self.watch_buffer)?;
        Ok(Watch { replay, live, index: self.index.clone() })
    }

    /// Every change of every resource after revision `from`; without it, from now on.
    ///
    /// # Errors
    /// As [`Store::watch`].
    pub fn watch_everything(&self, from: Option<u64>) -> Result<Watch, Error> {
        self.watch(EVERYTHING, None, from)
    }

    /// Forgets the history: watches from older revisions answer [`Error::Compacted`] from now on.
    pub fn compact(&self) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).compact();
    }

    /// Stores a new object. `metadata.resourceVersion` is set by the store.
    ///
    /// # Errors
    /// [`Error::Exists`], or what the disk says: then nothing was changed.
    pub async fn create(
        &self,
        key: ObjectKey,
        value: Value,
        durability: Durability,
    ) -> Result<Arc<Stored>, Error> {
        self.write(key, Write::Create { draft: Draft::new(value), durability }).await
    }

    /// Replaces an object that is at revision `expected`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Conflict`], or what the disk says: then nothing was changed.
    pub async fn update(
        &self,
        key: ObjectKey,
        expected: u64,
        value: Value,
        durability: Durability,
    ) -> Result<Arc<Stored>, Error> {
        self.write(key, Write::Update { draft: Draft::new(value), expected, durability }).await
    }

    /// Removes an object that is at revision `expected`; `last` is its final state if it differs from the present one.
    /// Answers the last state under the deletion's revision.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Conflict`], or what the disk says: then nothing was changed.
    pub async fn delete(
        &self,
        key: ObjectKey,
        expected: u64,
        last: Option<Value>,
    ) -> Result<Arc<Stored>, Error> {
        self.write(key, Write::Delete { last: last.map(Draft::new), expected }).await
    }

    /// Not cancel-safe: a dropped future may or may not have written.
    async fn write(&self, key: ObjectKey, write: Write) -> Result<Arc<Stored>, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Write { key, write, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}
