//! The runtimes of the main process and how urgent each is.
//!
//! ```text
//! gateway-N   one per core      requests                       usual priority
//! hot         one               starts and ends of instances   usual priority
//! others      tokio's           everything that is told, watched and reconciled: a little behind
//! ```

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// How far the control plane stands back when the cores are busy. It still gets its third of a core beside a busy
/// function: enough to scale it.
const NICE: i32 = 5;

/// The runtime of everything that nobody waits for with a request in flight.
///
/// # Errors
/// The system has no threads or descriptors left.
pub(crate) fn control() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().on_thread_start(stand_back).build()
}

/// A thread for the starts and ends of instances; it lives as long as the process.
///
/// # Errors
/// The system has no threads or descriptors left.
pub(crate) fn hot() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("hot".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Lowers the calling thread's priority: on Linux that is each thread's own.
fn stand_back() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "cannot lower a thread's priority");
    }
}
