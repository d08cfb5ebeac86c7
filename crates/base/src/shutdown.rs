//! One signal, many listeners: stop accepting, drain, return.

use tokio_util::sync::CancellationToken;

/// The side that services hold: wait for it or ask whether it has been given.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A signal that nobody has given yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A signal that follows this one but can also be given alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Gives the signal. Idempotent.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether the signal has been given.
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns once the signal has been given. Cancel-safe.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }
}
