//! The threads that serve: one per core, each with a runtime of its own.
//!
//! A request is accepted, routed, sent and answered on one thread, over connections to instances that belong to that
//! thread. Nothing is handed to another thread and nobody is woken for it, which is most of what a request costs in a
//! work-stealing runtime. Connections are spread when they are accepted: each thread accepts for itself, and passes a
//! new connection on only when another thread has fewer.
//!
//! Only connections live here. Whatever else a request sets in motion (an instance that starts, say) belongs to the
//! runtime that its [`Tasks`] was made in.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dormouse_base::task::Tasks;
use tokio::sync::mpsc;

use crate::gateway::Shared;
use crate::route::Visibility;
use crate::server;

/// Most threads: beyond it, more would wait for the kernel rather than work.
pub(crate) const MAX: usize = 32;
/// Listeners and connections that wait for a thread. A connection beyond it is served where it was accepted.
const BACKLOG: usize = 1024;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// The number of this thread among the workers; 0 elsewhere.
pub(crate) fn index() -> usize {
    INDEX.get()
}

/// What a worker is given.
pub(crate) enum Job {
    /// Accept here.
    Listen { listener: std::net::TcpListener, visibility: Visibility, tasks: Tasks, shared: Arc<Shared> },
    /// Serve a connection that another worker accepted.
    Connection {
        stream: std::net::TcpStream,
        peer: SocketAddr,
        visibility: Visibility,
        tasks: Tasks,
        shared: Arc<Shared>,
    },
}

/// The threads. They end when this is dropped and their connections are closed.
#[derive(Debug)]
pub(crate) struct Workers {
    jobs: Vec<mpsc::Sender<Job>>,
    open: Arc<[AtomicUsize]>,
}

/// One open connection of a worker, counted until it is dropped.
pub(crate) struct Counted {
    open: Arc<[AtomicUsize]>,
    index: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(count) = self.open.get(self.index) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Workers {
    /// Starts `count` threads (0: one per core).
    ///
    /// # Errors
    /// The system has no thread or no descriptors left.
    pub(crate) fn start(count: usize) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = if count == 0 { cores } else { count }.min(MAX);
        let open: Arc<[AtomicUsize]> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        let mut jobs = Vec::with_capacity(count);
        for index in 0..count {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (sender, receiver) = mpsc::channel(BACKLOG);
            std::thread::Builder::new().name(format!("gateway-{index}")).spawn(move || {
                INDEX.set(index);
                runtime.block_on(work(receiver));
            })?;
            jobs.push(sender);
        }
        Ok(Self { jobs, open })
    }

    /// Every worker accepts from `listener`.
    ///
    /// # Errors
    /// Descriptors are exhausted.
    pub(crate) fn listen(
        &self,
        listener: &std::net::TcpListener,
        visibility: Visibility,
        tasks: &Tasks,
        shared: &Arc<Shared>,
    ) -> std::io::Result<()> {
        for jobs in &self.jobs {
            let listener = listener.try_clone()?;
            let job = Job::Listen { listener, visibility, tasks: tasks.clone(), shared: shared.clone() };
            jobs.try_send(job).map_err(std::io::Error::other)?;
        }
        Ok(())
    }

    /// Counts a connection of this thread.
    pub(crate) fn count(&self) -> Counted {
        let index = index();
        if let Some(count) = self.open.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Counted { open: self.open.clone(), index }
    }

    /// The worker that should serve a connection accepted here, if that is another one.
    pub(crate) fn better(&self) -> Option<&mpsc::Sender<Job>> {
        let here = self.open.get(index())?.load(Ordering::Relaxed);
        let counts = self.open.iter().map(|count| count.load(Ordering::Relaxed));
        let (least, count) = counts.enumerate().min_by_key(|(_, count)| *count)?;
        (count < here).then(|| self.jobs.get(least)).flatten()
    }
}

async fn work(mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Listen { listener, visibility, tasks, shared } => {
                server::accept(listener, visibility, tasks, shared);
            }
            Job::Connection { stream, peer, visibility, tasks, shared } => {
                server::adopt(stream, peer, visibility, tasks, shared);
            }
        }
    }
}
