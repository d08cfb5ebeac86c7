//! Slots: a cgroup and an empty work directory each, made ahead (0.2 ms) and removed behind the hot path.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dormouse_base::clock;
use dormouse_base::task::Tasks;
use dormouse_sandbox::cgroup::Limits;
use dormouse_sandbox::{Cgroup, CgroupRoot};
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::network::QUIET;
use crate::template::PIDS_MAX;

/// What one container uses besides its network. It is used once.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) cgroup: Cgroup,
    pub(crate) work_dir: PathBuf,
}

/// The pool of slots. Clones share it.
#[derive(Clone)]
pub(crate) struct Slots {
    inner: Arc<Inner>,
}

struct Inner {
    root: CgroupRoot,
    work: PathBuf,
    target: usize,
    next: AtomicU64,
    ready: Mutex<VecDeque<Slot>>,
    low: Notify,
    /// Slots that wait for their removal; removed one after the other, so that it takes one core at most.
    used: tokio::sync::mpsc::Sender<Slot>,
}

/// The limits of a container that asks for none: groups in the pool have them already.
const USUAL: Limits =
    Limits { cpu_millis: None, cpu_request_millis: None, memory_bytes: None, pids: Some(PIDS_MAX) };

/// The files below `/etc` that every instance gets its own content of: a new file on a disk costs 0.1 ms.
const ETC: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Bound of the removal queue; a slot beyond it is removed by the next start.
const USED_MAX: usize = 8192;

// === impl Slot ===

impl Slot {
    /// Sets the limits, unless they are those that the group has from the pool.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub(crate) fn limit(&self, limits: &Limits) -> Result<()> {
        if *limits == USUAL {
            return Ok(());
        }
        self.cgroup.set_limits(limits).map_err(|source| Error::Sandbox { step: "set the limits", source })
    }
}

// === impl Slots ===

impl Slots {
    /// Opens the pool, removing slots of earlier runs except those `adopted`. Fills in the background.
    ///
    /// # Errors
    /// The work directory cannot be made.
    pub(crate) async fn start(
        root: CgroupRoot,
        data_dir: &Path,
        target: usize,
        adopted: Vec<String>,
        tasks: &Tasks,
    ) -> Result<Self> {
        let work = data_dir.join("work");
        let (clean_root, clean_work, kept) = (root.clone(), work.clone(), adopted.clone());
        let cleaned = tokio::task::spawn_blocking(move || clean(&clean_root, &clean_work, &kept));
        cleaned.await.unwrap_or(Err(Error::Stopped))?;
        let number = |name: &String| u64::from_str_radix(name.strip_prefix('s')?, 16).ok();
        let next = adopted.iter().filter_map(number).max().map_or(1, |highest| highest + 1);
        let (used, mut corpses) = tokio::sync::mpsc::channel::<Slot>(USED_MAX);
        let inner = Inner {
            root,
            work,
            target,
            next: AtomicU64::new(next),
            ready: Mutex::default(),
            low: Notify::new(),
            used,
        };
        let slots = Self { inner: Arc::new(inner) };
        let (refill, shutdown) = (slots.clone(), tasks.shutdown().clone());
        tasks.spawn("node-slots", async move {
            tokio::select! {
                biased; // Leftovers are removed by `close` or the next start.
                () = shutdown.wait() => {}
                () = refill.refill() => {}
            }
        });
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("node-slots-end", async move {
            loop {
                tokio::select! {
                    biased; // What is queued is removed before the stop is looked at.
                    slot = corpses.recv() => match slot {
                        Some(slot) => drop(tokio::task::spawn_blocking(move || remove(&slot)).await),
                        None => return,
                    },
                    () = shutdown.wait() => return,
                }
            }
        });
        Ok(slots)
    }

    /// A ready slot, or one made now.
    ///
    /// # Errors
    /// The cgroup or the directory cannot be made.
    pub(crate) fn take(&self) -> Result<Slot> {
        let (slot, left) = {
            let mut ready = self.inner.lock();
            (ready.pop_front(), ready.len())
        };
        if left < self.inner.target {
            self.inner.low.notify_one();
        }
        slot.map_or_else(|| self.inner.make(), Ok)
    }

    /// Removes the slot behind the hot path.
    pub(crate) fn discard(&self, slot: Slot) {
        if let Err(error) = self.inner.used.try_send(slot) {
            // The queue is full or closed: better late than never.
            let (tokio::sync::mpsc::error::TrySendError::Full(slot)
            | tokio::sync::mpsc::error::TrySendError::Closed(slot)) = error;
            drop(tokio::task::spawn_blocking(move || remove(&slot)));
        }
    }

    /// The slot of an adopted instance.
    ///
    /// # Errors
    /// Its cgroup cannot be opened.
    pub(crate) fn adopt(&self, name: &str) -> Result<Slot> {
        self.inner.open(name)
    }

    /// Removes the unused slots. Blocking.
    pub(crate) fn close(&self) {
        let unused: Vec<Slot> = self.inner.lock().drain(..).collect();
        unused.iter().for_each(remove);
    }

    async fn refill(&self) {
        loop {
            while self.inner.lock().len() < self.inner.target {
                let inner = self.inner.clone();
                match tokio::task::spawn_blocking(move || inner.make()).await {
                    Ok(Ok(slot)) => self.inner.lock().push_back(slot),
                    Ok(Err(error)) => {
                        tracing::warn!(error = dormouse_base::chain(&error), "could not prepare a slot");
                        break;
                    }
                    Err(_) => return,
                }
            }
            self.inner.low.notified().await;
            if self.inner.lock().len() >= self.inner.target.div_ceil(2) {
                clock::sleep(QUIET).await;
            }
        }
    }
}

// === impl Inner ===

impl Inner {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Slot>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) -> Result<Slot> {
        let name = format!("s{:x}", self.next.fetch_add(1, Ordering::Relaxed));
        let slot = self.open(&name)?;
        fs::create_dir(&slot.work_dir).map_err(Error::path("create", &slot.work_dir))?;
        let failed = |step| move |source| Error::Sandbox { step, source };
        dormouse_sandbox::prepare_work_dir(&slot.work_dir).map_err(failed("prepare a work directory"))?;
        for name in ETC {
            let file = slot.work_dir.join("upper/etc").join(name);
            fs::File::create(&file).map_err(Error::path("create", &file))?;
        }
        slot.cgroup.set_limits(&USUAL).map_err(failed("set the limits"))?;
        Ok(slot)
    }

    fn open(&self, name: &str) -> Result<Slot> {
        let cgroup =
            self.root.create(name).map_err(|source| Error::Sandbox { step: "make a cgroup", source })?;
        Ok(Slot { name: name.to_owned(), cgroup, work_dir: self.work.join(name) })
    }
}

fn remove(slot: &Slot) {
    if let Err(error) = slot.cgroup.kill_all().and_then(|()| slot.cgroup.remove()) {
        tracing::warn!(slot = slot.name, error = dormouse_base::chain(&error), "could not remove a cgroup");
    }
    remove_dir(&slot.work_dir);
}

fn remove_dir(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not remove a work directory");
    }
}

/// Removes what is not adopted. Blocking.
fn clean(root: &CgroupRoot, work: &Path, adopted: &[String]) -> Result<()> {
    fs::create_dir_all(work).map_err(Error::path("create", work))?;
    std::os::unix::fs::chown(work, Some(0), Some(0)).ok();
    for name in root.list().into_iter().filter(|name| !adopted.contains(name)) {
        let group =
            root.create(&name).map_err(|source| Error::Sandbox { step: "open an old cgroup", source })?;
        if let Err(error) = group.kill_all().and_then(|()| group.remove()) {
            tracing::warn!(
                cgroup = name,
                error = dormouse_base::chain(&error),
                "could not remove an old cgroup"
            );
        }
    }
    for entry in fs::read_dir(work).map_err(Error::path("list", work))?.flatten() {
        if !adopted.iter().any(|name| *name == *entry.file_name().to_string_lossy()) {
            remove_dir(&entry.path());
        }
    }
    Ok(())
}
