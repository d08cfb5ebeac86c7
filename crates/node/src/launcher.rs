//! What the node needs of the sandbox and image crates, as traits: the product uses the real ones, tests use fakes.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use dormouse_sandbox::{ExecResult, Keeper, Plan};
use futures::FutureExt;
use futures::future::BoxFuture;

/// Starts and signals sandboxes.
pub(crate) trait Launcher: Send + Sync {
    /// Starts one; answers its process id.
    fn launch(&self, plan: Plan) -> BoxFuture<'_, Result<u32, dormouse_sandbox::Error>>;
    /// Sends a signal to the first process of one.
    fn signal<'a>(&'a self, id: &'a str, signal: i32) -> BoxFuture<'a, Result<(), dormouse_sandbox::Error>>;
    /// Runs a command inside one.
    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecResult, dormouse_sandbox::Error>>;
}

/// The keeper of the moment: it is replaced when it dies.
#[derive(Clone)]
pub(crate) struct CurrentKeeper(Arc<RwLock<Keeper>>);

impl CurrentKeeper {
    pub(crate) fn new(keeper: Keeper) -> Self {
        Self(Arc::new(RwLock::new(keeper)))
    }

    pub(crate) fn get(&self) -> Keeper {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace(&self, keeper: Keeper) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keeper;
    }
}

impl Launcher for CurrentKeeper {
    fn launch(&self, plan: Plan) -> BoxFuture<'_, Result<u32, dormouse_sandbox::Error>> {
        let keeper = self.get();
        async move { keeper.launch(plan).await.map(|launched| launched.pid) }.boxed()
    }

    fn signal<'a>(&'a self, id: &'a str, signal: i32) -> BoxFuture<'a, Result<(), dormouse_sandbox::Error>> {
        let keeper = self.get();
        async move { keeper.signal(id, signal).await }.boxed()
    }

    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecResult, dormouse_sandbox::Error>> {
        let keeper = self.get();
        async move { keeper.exec(id, command, timeout).await }.boxed()
    }
}
