//! Owned tasks: every spawned future belongs to a [`Tasks`], has a name, and its panic reaches the owner.

use std::future::Future;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::shutdown::Shutdown;

/// The owner of a group of tasks. Clones share the group.
///
/// A task that panics triggers the group's shutdown: half-alive is the worst state.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
    failed: std::sync::Arc<std::sync::Mutex<Option<String>>>,
    /// Where [`Tasks::spawn`] runs: the runtime that the group was made in, whichever thread asks.
    home: Option<tokio::runtime::Handle>,
}

impl Tasks {
    /// An empty group that stops everything through `shutdown` when one of its tasks panics.
    pub fn new(shutdown: Shutdown) -> Self {
        let home = tokio::runtime::Handle::try_current().ok();
        Self { tracker: TaskTracker::new(), shutdown, failed: Default::default(), home }
    }

    /// The same group, whose [`Tasks::spawn`] runs in another runtime.
    pub fn at(&self, runtime: tokio::runtime::Handle) -> Self {
        Self { home: Some(runtime), ..self.clone() }
    }

    /// Spawns `future` in the runtime that the group was made in (made outside of any, in the caller's); a panic is
    /// logged, remembered and triggers the group's shutdown.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        let failed = self.failed.clone();
        let home = self.home.clone().unwrap_or_else(tokio::runtime::Handle::current);
        let inner = home.spawn(future);
        let guarded = async move {
            if let Err(error) = inner.await
                && error.is_panic()
            {
                tracing::error!(task = name, %error, "task panicked; stopping");
                if let Ok(mut slot) = failed.lock() {
                    slot.get_or_insert_with(|| format!("task {name} panicked: {error}"));
                }
                shutdown.trigger();
            }
        };
        self.tracker.spawn_on(guarded, &home);
    }

    /// Spawns work that is bounded by one request or connection, in the caller's runtime, which its sockets belong to:
    /// a panic is logged and ends only that work.
    pub fn spawn_connection(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns; the tracker owns the task")]
        let inner = tokio::spawn(self.tracker.track_future(future));
        drop(inner);
        let _ = name;
    }

    /// The signal that this group follows.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// How many tasks still run.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits at most `grace` for all tasks to return; answers how many were still running.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.tracker.close();
        let _ = tokio::time::timeout(grace, self.tracker.wait()).await;
        self.tracker.len()
    }

    /// The first panic of a task of this group, if any.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().ok().and_then(|slot| slot.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_stops_the_group_and_is_remembered() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("bad", async { panic!("boom") });
        tokio::time::timeout(Duration::from_secs(5), tasks.shutdown().wait()).await.unwrap();
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
        assert!(tasks.failure().unwrap().contains("bad"));
    }

    #[tokio::test]
    async fn drain_reports_what_was_cut() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("endless", std::future::pending());
        assert_eq!(tasks.drain(Duration::from_millis(10)).await, 1);
    }
}
