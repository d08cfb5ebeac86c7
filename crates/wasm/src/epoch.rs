//! The clock that interrupts components: a thread that ticks while something runs and sleeps when nothing does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

/// Time between two ticks: as long as a component may hold a thread at once.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Ticks without anything to interrupt before the thread sleeps: waking it costs a request a system call.
const LINGER: u32 = 100;

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    stopped: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// The ticking thread. It ends with this handle.
pub(crate) struct Epoch(Arc<Shared>);

/// While one exists the clock ticks.
pub(crate) struct Ticking(Arc<Shared>);

impl Epoch {
    /// Starts the thread, asleep.
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (thread, engine) = (shared.clone(), engine.weak());
        std::thread::Builder::new().name("wasm-epoch".to_owned()).spawn(move || tick(&thread, &engine))?;
        Ok(Self(shared))
    }

    /// Lets the clock tick until the answer is dropped.
    pub(crate) fn run(&self) -> Ticking {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        if self.0.asleep.load(Ordering::SeqCst) {
            drop(self.0.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.0.wake.notify_one();
        }
        Ticking(self.0.clone())
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        drop(self.0.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.wake.notify_one();
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(shared: &Shared, engine: &EngineWeak) {
    let mut idle = 0;
    while !shared.stopped.load(Ordering::SeqCst) {
        if shared.running.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else if idle < LINGER {
            idle += 1;
        } else {
            sleep(shared);
            continue;
        }
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        drop(engine);
        std::thread::sleep(TICK);
    }
}

/// Sleeps until something runs.
fn sleep(shared: &Shared) {
    let mut guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
    // Told before looked at: whoever starts to run after the look sees it and wakes us.
    shared.asleep.store(true, Ordering::SeqCst);
    while shared.running.load(Ordering::SeqCst) == 0 && !shared.stopped.load(Ordering::SeqCst) {
        guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
    shared.asleep.store(false, Ordering::SeqCst);
}
