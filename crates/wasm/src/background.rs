//! Threads for components that compute for long. They have a low priority, so that everything else goes first.

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

/// Niceness of the threads: they get what others leave, and a tenth of it when others leave nothing.
const NICE: i32 = 10;

/// The threads; started when they are first needed.
pub(crate) struct Background {
    threads: usize,
    runtime: OnceLock<Option<Runtime>>,
}

impl Background {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), runtime: OnceLock::new() }
    }

    /// Goes on with `work` here. `work` has its own deadline; it is dropped with the host at the latest.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let start = || {
            Builder::new_multi_thread()
                .worker_threads(self.threads)
                .thread_name("wasm-background")
                .on_thread_start(lower_priority)
                .enable_all()
                .build()
                .inspect_err(
                    |error| tracing::error!(%error, "no threads for components that compute for long"),
                )
                .ok()
        };
        if let Some(runtime) = self.runtime.get_or_init(start) {
            drop(runtime.spawn(work));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // The host may be dropped in a task, where waiting for threads is forbidden.
        if let Some(Some(runtime)) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the priority of the calling thread.
pub(crate) fn lower_priority() {
    // Process 0 is the calling thread: Linux keeps priorities per thread.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "could not lower a thread's priority");
    }
}
