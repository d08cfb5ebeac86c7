//! The engine with what was compiled for it: from the bytes of a component to code that can be called at once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dormouse_base::task::Tasks;
use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::{Component as Code, Linker};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::background::Background;
use crate::cache::{Cache, Digest, Whole};
use crate::config::{Config, Grants, Limits};
use crate::engine;
use crate::epoch::Epoch;
use crate::error::{Error, Result, cause};
use crate::function::Function;
use crate::state::State;

/// The interface of a component that answers HTTP.
const HANDLER: &str = "wasi:http/incoming-handler";
/// Packages whose WASI 0.2 interfaces are linked; what they may do is decided by the grants.
const PACKAGES: [&str; 7] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// Where the bytes of a component come from, should it have to be compiled.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A file.
    File(&'a Path),
    /// Memory.
    Bytes(&'a [u8]),
}

/// A machine for components. Clones share it.
#[derive(Clone)]
pub struct Host(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) epoch: Epoch,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) tasks: Tasks,
    pub(crate) background: Background,
    linker: Linker<State>,
    cache: Cache,
    config: Config,
    loaded: Mutex<Loaded>,
    /// One compilation at a time: each uses all cores and a multiple of the component's size.
    compiling: Mutex<()>,
}

#[derive(Default)]
struct Loaded {
    /// With the time of their last use, in loads.
    components: HashMap<Digest, (Arc<ProxyPre<State>>, u64)>,
    /// Files that were checked since the start; they are not read again.
    checked: HashMap<Digest, Whole>,
    clock: u64,
}

/// Compiled code, linked and ready to be instantiated. Clones share it.
#[derive(Clone)]
pub struct Component {
    pub(crate) host: Host,
    pub(crate) proxy: Arc<ProxyPre<State>>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Host").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Component {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Component")
    }
}

// === impl Host ===

impl Host {
    /// Sets the engine up. `tasks` owns what goes on after a response was given. Blocking, some milliseconds.
    ///
    /// # Errors
    /// [`Error::Engine`] if this machine cannot run WebAssembly, [`Error::Cache`] for the directory of compiled components.
    pub fn new(config: Config, tasks: Tasks) -> Result<Self> {
        let engine = engine::new(config.instances_max)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(|error| Error::Engine(cause(error)))?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)
            .map_err(|error| Error::Engine(cause(error)))?;
        let cache = Cache::open(&config.cache_dir, &key(&engine), config.cache_bytes_max)?;
        let shared = Shared {
            epoch: Epoch::start(&engine).map_err(|error| Error::Engine(error.into()))?,
            slots: Arc::new(Semaphore::new(config.instances_max as usize)),
            background: Background::new(config.background_threads),
            tasks,
            linker,
            cache,
            engine,
            config,
            loaded: Mutex::default(),
            compiling: Mutex::default(),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Makes a component ready: from memory, else from the cache on disk, else by compiling it (milliseconds to seconds).
    /// `digest` is `sha256:…` of the component's bytes. Blocking.
    ///
    /// # Errors
    /// [`Error::NotComponent`], [`Error::Compile`], [`Error::MissingExport`], [`Error::ImportNotGranted`], [`Error::Link`],
    /// [`Error::TooLarge`] for what cannot be run; [`Error::Digest`], [`Error::DigestMismatch`], [`Error::Cache`].
    pub fn load(&self, digest: &str, source: Source<'_>) -> Result<Component> {
        let digest = Digest::parse(digest)?;
        match self.ready(&digest) {
            Some(component) => Ok(component),
            None => self.load_anew(&digest, source),
        }
    }

    /// A component that is loaded, without looking at any file; `None` when it must be loaded first.
    ///
    /// # Errors
    /// [`Error::Digest`].
    pub fn find(&self, digest: &str) -> Result<Option<Component>> {
        Ok(self.ready(&Digest::parse(digest)?))
    }

    /// Removes what was compiled for a component. What runs goes on.
    ///
    /// # Errors
    /// [`Error::Digest`].
    pub fn forget(&self, digest: &str) -> Result<()> {
        let digest = Digest::parse(digest)?;
        let mut loaded = self.loaded();
        loaded.components.remove(&digest);
        loaded.checked.remove(&digest);
        drop(loaded);
        self.0.cache.forget(&digest);
        Ok(())
    }

    /// Instances that could be started now.
    pub fn free_instances(&self) -> usize {
        self.0.slots.available_permits()
    }

    /// Whether more than half of the places are taken: then nobody keeps one for later.
    pub(crate) fn is_crowded(&self) -> bool {
        self.0.slots.available_permits() < self.0.config.instances_max as usize / 2
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self, digest: &Digest) -> Option<Component> {
        let mut loaded = self.loaded();
        loaded.clock += 1;
        let now = loaded.clock;
        let (proxy, used) = loaded.components.get_mut(digest)?;
        *used = now;
        Some(Component { host: self.clone(), proxy: proxy.clone() })
    }

    fn load_anew(&self, digest: &Digest, source: Source<'_>) -> Result<Component> {
        if let Some(whole) = self.stored(digest) {
            match self.map(&whole.path) {
                Ok(code) => return self.link(digest, code, whole),
                Err(error) => {
                    let error = dormouse_base::chain(&*cause(error));
                    tracing::warn!(%digest, error, "a compiled component cannot be used; it is compiled again");
                }
            }
        }
        let whole = self.compile(digest, source)?;
        let code = self.map(&whole.path).map_err(|error| Error::Compile(cause(error)))?;
        self.link(digest, code, whole)
    }

    /// The file on disk, checked once since the start.
    fn stored(&self, digest: &Digest) -> Option<Whole> {
        let checked = self.loaded().checked.get(digest).cloned();
        checked.filter(Whole::is_unchanged).or_else(|| self.0.cache.find(digest))
    }

    fn map(&self, path: &Path) -> wasmtime::Result<Code> {
        #[expect(
            unsafe_code,
            reason = "a compiled component is machine code: the engine cannot prove that it is ours"
        )]
        // SAFETY: the file lies in a directory that only this user can write, was written by `compile` from the output of
        // this very engine's compiler (its settings are part of the directory's name and checked again while loading), and
        // its checksum was compared since this process started; files there are replaced by rename, never changed in place.
        unsafe {
            Code::deserialize_file(&self.0.engine, path)
        }
    }

    fn compile(&self, digest: &Digest, source: Source<'_>) -> Result<Whole> {
        let turn = self.0.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        // Another caller may have compiled the same one while this one waited.
        if let Some(whole) = self.0.cache.find(digest) {
            return Ok(whole);
        }
        let read;
        let bytes = match source {
            Source::Bytes(bytes) => bytes,
            Source::File(path) => {
                let size = std::fs::metadata(path).map_err(Error::cache("read", path))?.len();
                self.check_size(size)?;
                read = std::fs::read(path).map_err(Error::cache("read", path))?;
                &read
            }
        };
        self.check_size(bytes.len() as u64)?;
        let found = Digest::of(bytes);
        if found != *digest {
            return Err(Error::DigestMismatch { expected: digest.to_string(), found: found.to_string() });
        }
        check_kind(bytes)?;
        let compiled = background_compile(&self.0.engine, bytes)?;
        let whole = self.0.cache.store(digest, &compiled);
        drop(turn);
        whole
    }

    fn check_size(&self, bytes: u64) -> Result<()> {
        let limit = self.0.config.component_bytes_max;
        if bytes > limit { Err(Error::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    fn link(&self, digest: &Digest, code: Code, whole: Whole) -> Result<Component> {
        let linked = self.0.linker.instantiate_pre(&code).and_then(ProxyPre::new);
        let proxy = Arc::new(linked.map_err(|error| self.not_linked(&code, error))?);
        let mut loaded = self.loaded();
        loaded.clock += 1;
        let now = loaded.clock;
        loaded.checked.insert(*digest, whole);
        loaded.components.insert(*digest, (proxy.clone(), now));
        while loaded.components.len() > self.0.config.loaded_max {
            let oldest =
                loaded.components.iter().min_by_key(|(_, (_, used))| *used).map(|(digest, _)| *digest);
            let Some(oldest) = oldest else { break };
            loaded.components.remove(&oldest);
        }
        Ok(Component { host: self.clone(), proxy })
    }

    /// Why a component cannot be linked: the first import that nobody gives, or no way to call it.
    fn not_linked(&self, code: &Code, error: wasmtime::Error) -> Error {
        let kind = code.component_type();
        if let Some((import, _)) = kind.imports(&self.0.engine).find(|(name, _)| !is_granted(name)) {
            return Error::ImportNotGranted(import.to_owned());
        }
        let exports: Vec<&str> = kind.exports(&self.0.engine).map(|(name, _)| name).collect();
        if !exports.iter().any(|name| interface(name) == Some((HANDLER, 0, 2))) {
            let found = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
            return Error::MissingExport { wanted: "wasi:http/incoming-handler@0.2", found };
        }
        Error::Link(cause(error))
    }
}

// === impl Component ===

impl Component {
    /// Decides what requests may use and touch. Cheap: nothing runs before the first request.
    pub fn bind(&self, limits: Limits, grants: Grants) -> Function {
        Function::new(self.clone(), limits, grants)
    }
}

/// Names the engine's version and settings.
fn key(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Tells text, core modules and components apart: the mistakes that people make.
fn check_kind(bytes: &[u8]) -> Result<()> {
    match (bytes.get(..4), bytes.get(4..8)) {
        (Some(b"\0asm"), Some([_, _, 1, 0])) => Ok(()),
        (Some(b"\0asm"), Some([1, 0, 0, 0])) => Err(Error::NotComponent(
            "it is a core module; build for a component target such as wasm32-wasip2",
        )),
        (Some(b"\0asm"), _) => Err(Error::NotComponent("its version is unknown")),
        _ => Err(Error::NotComponent("it does not begin with the WebAssembly magic number")),
    }
}

/// Compiles with a low priority, so that a large component delays nobody's requests.
fn background_compile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>> {
    let compile = || {
        crate::background::lower_priority();
        engine.precompile_component(bytes).map_err(|error| Error::Compile(cause(error)))
    };
    // The compiler's own pool of threads inherits the priority of the thread that first needs it: this one.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("wasm-compile".to_owned()).spawn_scoped(scope, compile);
        let thread = thread.map_err(|error| Error::Engine(error.into()))?;
        thread.join().unwrap_or_else(|_| Err(Error::Compile("the compiler panicked".into())))
    })
}

/// `package:name/interface`, major and minor version.
fn interface(name: &str) -> Option<(&str, u32, u32)> {
    let (name, version) = name.split_once('@')?;
    let mut numbers = version.split('.');
    Some((name, numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn is_granted(import: &str) -> bool {
    interface(import).is_some_and(|(name, major, minor)| {
        (major, minor) == (0, 2) && PACKAGES.iter().any(|package| name.starts_with(package))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_granted_by_package_and_version() {
        assert!(is_granted("wasi:http/types@0.2.3") && is_granted("wasi:io/streams@0.2.12"));
        for import in
            ["wasi:http/types@0.3.0", "wasi:keyvalue/store@0.2.0", "acme:db/sql", "wasi:http/types", "log"]
        {
            assert!(!is_granted(import), "{import}");
        }
    }

    #[test]
    fn what_is_no_component_says_what_it_is() {
        let text = |bytes: &[u8]| check_kind(bytes).unwrap_err().to_string();
        assert!(text(b"\0asm\x01\0\0\0").contains("core module"));
        assert!(text(b"#!/bin/sh").contains("magic number"));
        assert!(text(b"").contains("magic number"));
        assert!(check_kind(b"\0asm\x0d\0\x01\0").is_ok());
    }
}
