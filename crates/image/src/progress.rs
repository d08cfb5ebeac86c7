//! How a pull or push tells what it does.

use crate::digest::Digest;

/// One step of a transfer. Sizes are bytes as transferred (compressed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The other side already has this content.
    Present {
        /// The content.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// A transfer begins, or begins again after a failure.
    Started {
        /// The content.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// A transfer has come this far.
    Advanced {
        /// The content.
        digest: Digest,
        /// Bytes so far.
        done: u64,
        /// Its size.
        size: u64,
    },
    /// A transfer is complete and verified.
    Finished {
        /// The content.
        digest: Digest,
        /// Its size.
        size: u64,
    },
}

/// Receives the events of a transfer; called from several tasks and must not block.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event) {}
}
