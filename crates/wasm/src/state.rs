//! What belongs to one instance: its WASI context, its limits, its deadline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dormouse_base::clock;
use http::{Request, Response};
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::config::{Grants, Limits, MEMORY_BYTES_MAX};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::log::{Output, Stream};
use crate::outbound::{Driver, Outbound};

/// What a store of the engine carries.
pub(crate) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: Hooks,
    pub(crate) memory: Memory,
    pub(crate) deadline: Instant,
    /// What whoever waits for the present request must know.
    pub(crate) signs: Arc<Signs>,
}

/// What one request's component tells those outside its store.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    /// It has held its thread for a whole tick.
    pub(crate) busy: AtomicBool,
    /// It ended with an error. Set before its store goes and with it the sending half of the response's body.
    pub(crate) failed: AtomicBool,
    /// It has given its answer.
    pub(crate) answered: AtomicBool,
}

/// Bounds the linear memory of one instance.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    used: u64,
    /// Whether more was asked for than is allowed.
    pub(crate) exhausted: bool,
}

struct Hooks {
    outbound: Option<Outbound>,
}

/// The deadline passed while the component computed.
#[derive(Debug, thiserror::Error)]
#[error("deadline")]
pub(crate) struct DeadlinePassed;

/// A store for one instance. The time and the flag are set anew for each request.
pub(crate) fn store(host: &Host, limits: &Limits, grants: &Grants) -> Result<Store<State>> {
    let state = State {
        wasi: wasi(grants)?,
        http: WasiHttpCtx::new(),
        table: ResourceTable::new(),
        hooks: Hooks { outbound: grants.outbound.clone() },
        memory: Memory { limit: limits.memory_bytes.min(MEMORY_BYTES_MAX), used: 0, exhausted: false },
        deadline: clock::now() + limits.request_timeout,
        signs: Arc::default(),
    };
    let mut store = Store::new(&host.0.engine, state);
    store.limiter(|state| &mut state.memory);
    store.epoch_deadline_callback(on_tick);
    Ok(store)
}

/// The component has run into the next tick: it ends if its time is over, else others get a turn.
fn on_tick(store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let state = store.data();
    if clock::now() >= state.deadline {
        return Err(wasmtime::Error::new(DeadlinePassed));
    }
    state.signs.busy.store(true, Ordering::Relaxed);
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

fn wasi(grants: &Grants) -> Result<WasiCtx> {
    let mut builder = WasiCtxBuilder::new();
    builder.envs(&grants.environment).args(&grants.arguments);
    if let Some(sink) = &grants.log {
        builder.stdout(Output::new(sink.clone(), Stream::Stdout));
        builder.stderr(Output::new(sink.clone(), Stream::Stderr));
    }
    for directory in &grants.directories {
        let permissions = if directory.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        builder.preopened_dir(&directory.host, &directory.guest, permissions).map_err(|error| {
            Error::Directory { path: directory.host.clone(), source: crate::error::cause(error) }
        })?;
    }
    // Sockets are linked, because language runtimes import them, but no address may be used.
    builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    Ok(builder.build())
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // A component may have several memories: the limit is for all together.
        let used = self.used - (current as u64).min(self.used) + desired as u64;
        if used > self.limit {
            self.exhausted = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // The pool bounds tables.
        Ok(true)
    }
}

// The forbidden headers stay those of the library. `host` is among them: a component that may call one host must not reach
// another behind the same address by naming it there.
impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Driver), wasmtime_wasi_http::Error>> + Send>
    {
        Box::new(crate::outbound::send(self.outbound.clone(), request, options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_limit_is_for_all_memories_together() {
        let mut memory = Memory { limit: 100, used: 0, exhausted: false };
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(0, 30, None).unwrap());
        assert!(memory.memory_growing(30, 40, None).unwrap());
        assert!(!memory.exhausted && !memory.memory_growing(60, 61, None).unwrap());
        assert!(memory.exhausted && memory.used == 100);
    }
}
