//! What is visible: the objects, the recent history, and who watches. One writer, many readers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::error::Error;
use crate::object::{Change, Event, ObjectKey, Stored};

/// Stands for every resource; no resource has this name.
pub(crate) const EVERYTHING: &str = "*";

/// Within a resource: namespace, then name; this is the order of lists.
type Objects = BTreeMap<(Arc<str>, Arc<str>), Arc<Stored>>;

struct Watcher {
    namespace: Option<Arc<str>>,
    events: mpsc::Sender<Arc<Event>>,
}

/// The changes to replay and those to come.
pub(crate) type Subscription = (VecDeque<Arc<Event>>, mpsc::Receiver<Arc<Event>>);

pub(crate) struct Index {
    resources: HashMap<Arc<str>, Objects>,
    watchers: HashMap<Arc<str>, Vec<Watcher>>,
    /// Revision and change, oldest first; at most `history_max`.
    history: VecDeque<Arc<Event>>,
    history_max: usize,
    /// A watch may start from this revision or a later one.
    oldest: u64,
    revision: u64,
}

impl Index {
    /// An index whose history begins at `revision`.
    pub(crate) fn new(revision: u64, history_max: usize) -> Self {
        Self {
            resources: HashMap::new(),
            watchers: HashMap::new(),
            history: VecDeque::new(),
            history_max: history_max.max(1),
            oldest: revision,
            revision,
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Puts an object that was on disk before; it makes no event.
    pub(crate) fn load(&mut self, object: Stored) {
        let place = (object.key.namespace.clone(), object.key.name.clone());
        self.resources.entry(object.key.resource.clone()).or_default().insert(place, Arc::new(object));
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<Stored>> {
        // BTreeMap's borrowed lookup cannot split a tuple, so the key's Arcs are cloned: two counters.
        self.resources.get(&key.resource)?.get(&(key.namespace.clone(), key.name.clone())).cloned()
    }

    pub(crate) fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Stored>> {
        let Some(objects) = self.resources.get(resource) else { return Vec::new() };
        match namespace {
            None => objects.values().cloned().collect(),
            Some(namespace) => {
                let first: (Arc<str>, Arc<str>) = (namespace.into(), "".into());
                objects
                    .range((Bound::Included(first), Bound::Unbounded))
                    .take_while(|((place, _), _)| &**place == namespace)
                    .map(|(_, object)| object.clone())
                    .collect()
            }
        }
    }

    pub(crate) fn resources(&self) -> Vec<Arc<str>> {
        self.resources
            .iter()
            .filter(|(_, objects)| !objects.is_empty())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Makes one change visible and hands it to the watchers; a watcher whose buffer is full loses its subscription.
    pub(crate) fn publish(&mut self, event: Arc<Event>) {
        let object = &event.object;
        debug_assert!(object.revision > self.revision, "revisions become visible in order");
        let place = (object.key.namespace.clone(), object.key.name.clone());
        match event.change {
            Change::Added | Change::Modified => {
                self.resources.entry(object.key.resource.clone()).or_default().insert(place, object.clone());
            }
            Change::Deleted => {
                if let Some(objects) = self.resources.get_mut(&object.key.resource) {
                    objects.remove(&place);
                }
            }
        }
        for name in [&*object.key.resource, EVERYTHING] {
            let Some(watchers) = self.watchers.get_mut(name) else { continue };
            watchers.retain(|watcher| {
                let wanted =
                    watcher.namespace.as_ref().is_none_or(|namespace| *namespace == object.key.namespace);
                if wanted {
                    watcher.events.try_send(event.clone()).is_ok()
                } else {
                    !watcher.events.is_closed()
                }
            });
        }
        self.revision = object.revision;
        self.history.push_back(event);
        while self.history.len() > self.history_max {
            if let Some(old) = self.history.pop_front() {
                self.oldest = old.object.revision;
            }
        }
    }

    /// The changes after `from` and a subscription to all later ones.
    pub(crate) fn subscribe(
        &mut self,
        resource: &str,
        namespace: Option<&str>,
        from: Option<u64>,
        buffer: usize,
    ) -> Result<Subscription, Error> {
        let from = from.unwrap_or(self.revision);
        if from < self.oldest {
            return Err(Error::Compacted { wanted: from, oldest: self.oldest });
        }
        if from > self.revision {
            return Err(Error::Future { wanted: from, current: self.revision });
        }
        let start = self.history.partition_point(|event| event.object.revision <= from);
        let replay = self
            .history
            .range(start..)
            .filter(|event| {
                let key = &event.object.key;
                (&*key.resource == resource || resource == EVERYTHING)
                    && namespace.is_none_or(|namespace| *key.namespace == *namespace)
            })
            .cloned()
            .collect();
        let (events, receiver) = mpsc::channel(buffer.max(1));
        let watcher = Watcher { namespace: namespace.map(Arc::from), events };
        let watchers = self.watchers.entry(resource.into()).or_default();
        watchers.retain(|watcher| !watcher.events.is_closed());
        watchers.push(watcher);
        Ok((replay, receiver))
    }

    /// Forgets the history: every older watch must list again.
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.oldest = self.revision;
    }
}
