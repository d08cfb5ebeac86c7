//! Directories, locks and files of builds: what is there is whole, what is left of the dead is removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dormouse_base::clock;

use crate::error::{Error, Reason, Result};
use crate::progress::{Event, Progress};

/// How long a second build of the same name waits for the first.
const LOCK_PATIENCE: Duration = Duration::from_secs(1800);

/// A directory of one build, removed with it. A dead process's is removed by the next one.
pub(super) struct Work {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Work {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        // Several engines of one process must not meet.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{}-{}", std::process::id(), number));
        fs::create_dir_all(&path).map_err(|source| Error::file("create", &path, source))?;
        let file = path.join("lock");
        let lock = File::create(&file).map_err(|source| Error::file("create", &file, source))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::file("lock", &file, errno.into()))?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove what a build has left");
        }
    }
}

/// Removes what processes that died have left.
pub(super) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let free = match File::open(path.join("lock")) {
            Ok(lock) => {
                rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
            }
            // Its process died before it had locked, or is about to lock: then its id tells.
            Err(_) => {
                let name = entry.file_name().to_string_lossy().into_owned();
                let id = name.split('-').next().unwrap_or_default().to_owned();
                !Path::new("/proc").join(id).exists()
            }
        };
        if free {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Holds the lock of a name; another build of it is waited for.
pub(super) fn hold(path: &Path, progress: &dyn Progress) -> Result<File> {
    let file = File::create(path).map_err(|source| Error::file("create", path, source))?;
    let deadline = clock::now() + LOCK_PATIENCE;
    let mut told = false;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::file("lock", path, errno.into())),
        }
        if progress.canceled() || clock::now() >= deadline {
            return Err(Error::new(Reason::BuildRunCanceled, "another build of the same name did not end"));
        }
        if !std::mem::replace(&mut told, true) {
            progress.event(Event::Output("waiting for another build of the same name"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Replaces a file in one step.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&fresh, bytes).map_err(|source| Error::file("write", &fresh, source))?;
    fs::rename(&fresh, path).map_err(|source| Error::file("replace", path, source))
}
