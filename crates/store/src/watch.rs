//! One subscription.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::mpsc;

use crate::index::Index;
use crate::object::Event;

/// Every change after a revision, once and in order. It ends (`None`) when its reader was too slow for the bounded
/// buffer or the store was closed: then list again or watch from the last revision seen.
pub struct Watch {
    pub(crate) replay: VecDeque<Arc<Event>>,
    pub(crate) live: mpsc::Receiver<Arc<Event>>,
    pub(crate) index: Arc<RwLock<Index>>,
}

impl Watch {
    /// The next change. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        match self.replay.pop_front() {
            Some(event) => Some(event),
            None => self.live.recv().await,
        }
    }

    /// The next change if it is already there.
    pub fn try_next(&mut self) -> Option<Arc<Event>> {
        self.replay.pop_front().or_else(|| self.live.try_recv().ok())
    }

    /// The store's revision, if every change up to it has been taken from this watch: what a bookmark may promise.
    pub fn progress(&self) -> Option<u64> {
        // Read the revision first: its changes entered the buffer before it became readable.
        let revision = self.index.read().unwrap_or_else(PoisonError::into_inner).revision();
        (self.replay.is_empty() && self.live.is_empty() && !self.live.is_closed()).then_some(revision)
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Watch").field("replay", &self.replay.len()).finish_non_exhaustive()
    }
}
