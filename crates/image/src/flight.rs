//! Single flight: concurrent callers of the same work share one execution and its result.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use crate::error::{Error, Result};

type Work<V> = BoxFuture<'static, std::result::Result<V, Arc<Error>>>;

/// Work in progress by key. The callers' own polling drives it: when all of them leave, it stops.
pub(crate) struct Flights<K, V> {
    running: Mutex<HashMap<K, WeakShared<Work<V>>>>,
}

impl<K: Eq + Hash + Clone, V: Clone + Send + Sync + 'static> Flights<K, V> {
    /// Nothing in progress.
    pub(crate) fn new() -> Self {
        Self { running: Mutex::new(HashMap::new()) }
    }

    /// Joins the work of `key` or starts it.
    pub(crate) async fn run(
        &self,
        key: K,
        start: impl FnOnce() -> BoxFuture<'static, Result<V>>,
    ) -> Result<V> {
        let shared = self.join(key.clone(), start);
        let result = shared.clone().await;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Finished work must not answer later callers: the next one starts anew.
        if running.get(&key).and_then(WeakShared::upgrade).is_none_or(|other| other.peek().is_some()) {
            running.remove(&key);
        }
        drop(running);
        result.map_err(Error::Shared)
    }

    fn join(&self, key: K, start: impl FnOnce() -> BoxFuture<'static, Result<V>>) -> Shared<Work<V>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = running.get(&key).and_then(WeakShared::upgrade)
            && shared.peek().is_none()
        {
            return shared;
        }
        let work = start();
        let shared = async move { work.await.map_err(Arc::new) }.boxed().shared();
        if let Some(weak) = shared.downgrade() {
            running.insert(key, weak);
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn concurrent_callers_share_one_execution_and_later_ones_start_anew() {
        let flights: Flights<u8, usize> = Flights::new();
        let count = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Notify::new());
        let call = || {
            let (count, gate) = (count.clone(), gate.clone());
            flights.run(1, move || {
                async move {
                    gate.notified().await;
                    Ok(count.fetch_add(1, Ordering::SeqCst))
                }
                .boxed()
            })
        };
        let everybody = futures::future::join_all((0..10).map(|_| call()));
        let (all, ()) = futures::future::join(everybody, async { gate.notify_one() }).await;
        assert!(all.into_iter().all(|result| result.unwrap() == 0));
        gate.notify_one();
        assert_eq!(call().await.unwrap(), 1);
    }
}
