//! Where the node meets the WebAssembly engine. The engine is made when the first component comes, so that a platform
//! without one pays nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use dormouse_api::vocabulary::{
    CLUSTER_DOMAIN, WASM_ALLOWED_HOSTS, WASM_IMPORT_NOT_GRANTED, WASM_INVALID_COMPONENT, WASM_INVALID_GRANT,
};
use dormouse_base::task::Tasks;
use dormouse_gateway::{Call, CallBody, RequestBody};
use dormouse_node::{ComponentError, ComponentLog, ComponentPlan, ComponentSource, Components, Serving};
use dormouse_wasm as wasm;
use dormouse_wasm::{
    Config, Directory, Function, Grants, Host, HostPattern, Limits, Outbound, Source, Target, Transport,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Runs the node's components on the engine.
pub(crate) struct Engine {
    cache_dir: PathBuf,
    tasks: Tasks,
    host: Arc<Mutex<Option<Host>>>,
    connector: Arc<Connector>,
    served: Arc<Mutex<HashMap<SocketAddr, Function>>>,
}

// === impl Engine ===

impl Engine {
    /// `cache_dir` keeps what was compiled.
    pub(crate) fn new(cache_dir: PathBuf, connector: Connector, tasks: Tasks) -> Self {
        let connector = Arc::new(connector);
        Self { cache_dir, tasks, host: Arc::default(), connector, served: Arc::default() }
    }

    /// How the gateway calls the component that is served at an address: on its own thread, past the socket.
    pub(crate) fn call(&self, address: &SocketAddr) -> Option<Arc<dyn Call>> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.get(address).map(|function| Arc::new(Called(function.clone())) as Arc<dyn Call>)
    }

    /// The engine. Blocking when it is made, some milliseconds.
    fn host(&self) -> impl FnOnce() -> Result<Host, ComponentError> + Send + use<> {
        let (slot, cache_dir, tasks) = (self.host.clone(), self.cache_dir.clone(), self.tasks.clone());
        move || {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(host) = &*slot {
                return Ok(host.clone());
            }
            let host = Host::new(Config::new(cache_dir), tasks).map_err(|error| refused(&error))?;
            Ok(slot.insert(host).clone())
        }
    }

    fn grants(&self, plan: ComponentPlan) -> Result<Grants, ComponentError> {
        let directory = |one: dormouse_node::ComponentDirectory| Directory {
            host: one.host,
            guest: one.guest,
            writable: one.writable,
        };
        let allowed = patterns(&plan.source.allowed_hosts)?;
        let outbound = Outbound { allowed, connector: self.connector.clone() };
        Ok(Grants {
            environment: plan.environment,
            arguments: plan.arguments,
            log: Some(Arc::new(Lines(plan.log))),
            directories: plan.directories.into_iter().map(directory).collect(),
            outbound: (!outbound.allowed.is_empty()).then_some(outbound),
        })
    }
}

impl Components for Engine {
    fn prepare(&self, source: ComponentSource) -> BoxFuture<'static, Result<(), ComponentError>> {
        let host = self.host();
        async move {
            patterns(&source.allowed_hosts)?;
            blocking(move || load(&host()?, &source).map(drop)).await
        }
        .boxed()
    }

    fn serve(&self, plan: ComponentPlan) -> BoxFuture<'static, Result<Box<dyn Serving>, ComponentError>> {
        let (source, host, tasks) = (plan.source.clone(), self.host(), self.tasks.clone());
        let all = self.served.clone();
        let limits = Limits {
            memory_bytes: plan.memory_bytes.unwrap_or(Limits::default().memory_bytes),
            request_timeout: plan.request_timeout,
            requests_per_instance: plan.requests_per_instance,
        };
        let grants = self.grants(plan);
        let ready = self.host.lock().unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            let grants = grants?;
            let found = ready.map_or(Ok(None), |host| host.find(&source.digest));
            let component = match found.map_err(|error| refused(&error))? {
                Some(component) => component,
                None => blocking(move || load(&host()?, &source)).await?,
            };
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(wasm::Error::Listen);
            let function = component.bind(limits, grants);
            let served = listener.and_then(|listener| function.serve(listener, &tasks));
            let instance = served.map_err(|error| refused(&error))?;
            let address = instance.address().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
            all.lock().unwrap_or_else(PoisonError::into_inner).insert(address, function);
            let instance = Mutex::new(Some(instance));
            let serving: Box<dyn Serving> = Box::new(Served { address, instance, all });
            Ok(serving)
        }
        .boxed()
    }
}

/// A component behind its socket, until it is stopped.
struct Served {
    address: SocketAddr,
    instance: Mutex<Option<wasm::Instance>>,
    all: Arc<Mutex<HashMap<SocketAddr, Function>>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

impl Serving for Served {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, ()> {
        let instance = self.instance.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            if let Some(instance) = instance {
                instance.stop(grace).await;
            }
        }
        .boxed()
    }
}

/// A component as the gateway calls it.
struct Called(Function);

impl Call for Called {
    fn call(&self, request: Request<RequestBody>) -> BoxFuture<'static, Response<CallBody>> {
        let function = self.0.clone();
        async move {
            let response = function.answer(request).await;
            response.map(|body| body.map_err(|error| Box::new(error) as _).boxed_unsync())
        }
        .boxed()
    }
}

struct Lines(ComponentLog);

impl wasm::LogSink for Lines {
    fn write(&self, stream: wasm::Stream, bytes: &[u8]) {
        self.0.write(stream == wasm::Stream::Stderr, bytes);
    }
}

fn load(host: &Host, source: &ComponentSource) -> Result<wasm::Component, ComponentError> {
    host.load(&source.digest, Source::File(&source.path)).map_err(|error| refused(&error))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ComponentError> + Send + 'static,
) -> Result<T, ComponentError> {
    let stopped = |_| ComponentError { reason: "CreateContainerError", message: "stopped".to_owned() };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(stopped(error)))
}

fn patterns(hosts: &[String]) -> Result<Vec<HostPattern>, ComponentError> {
    let refuse = |why: String| ComponentError {
        reason: WASM_INVALID_GRANT,
        message: format!("annotation {WASM_ALLOWED_HOSTS}: {why}"),
    };
    hosts.iter().map(|host| host.parse().map_err(refuse)).collect()
}

/// The error as a container's waiting state tells it.
fn refused(error: &wasm::Error) -> ComponentError {
    let reason = match error {
        wasm::Error::ImportNotGranted(_) => WASM_IMPORT_NOT_GRANTED,
        wasm::Error::NotComponent(_)
        | wasm::Error::Compile(_)
        | wasm::Error::MissingExport { .. }
        | wasm::Error::Link(_)
        | wasm::Error::TooLarge { .. }
        | wasm::Error::DigestMismatch { .. } => WASM_INVALID_COMPONENT,
        _ => "CreateContainerError",
    };
    ComponentError { reason, message: dormouse_base::chain(error) }
}

/// Connects components: to services of this platform through its gateway, to others directly.
pub(crate) struct Connector {
    /// Answers for hosts of the cluster's domain.
    internal: SocketAddr,
    /// Answers for public hosts, and their suffix.
    public: (SocketAddr, &'static str),
    /// Root certificates are read when the first TLS connection is made.
    tls: OnceLock<TlsConnector>,
}

// === impl Connector ===

impl Connector {
    pub(crate) fn new(internal: SocketAddr, public: SocketAddr, domain: &'static str) -> Self {
        Self { internal, public: (public, domain), tls: OnceLock::new() }
    }

    /// Where the gateway answers for a host, if it does.
    fn gateway(&self, host: &str) -> Option<SocketAddr> {
        let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        let (public, domain) = self.public;
        match host {
            _ if below(CLUSTER_DOMAIN) => Some(self.internal),
            _ if below(domain) => Some(public),
            _ => None,
        }
    }

    async fn open(&self, target: &Target) -> std::io::Result<TcpStream> {
        let host = target.host.trim_matches(['[', ']']);
        if let Some(gateway) = self.gateway(host) {
            return TcpStream::connect(gateway).await;
        }
        // Who allows an address or this machine by name means it; a name that leads here by itself is a trap.
        let on_purpose = host.parse::<IpAddr>().is_ok() || host == "localhost";
        let mut last = None;
        for address in tokio::net::lookup_host((host, target.port)).await? {
            if !on_purpose && is_here(address.ip()) {
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last
            .unwrap_or_else(|| std::io::Error::other(format!("{host} has no address outside this machine"))))
    }
}

fn is_here(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_unspecified() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local()
        }
    }
}

impl wasm::Connector for Connector {
    fn connect(&self, target: Target) -> BoxFuture<'_, std::io::Result<Box<dyn Transport>>> {
        async move {
            let stream = self.open(&target).await?;
            stream.set_nodelay(true)?;
            let plain: Box<dyn Transport> = if target.tls {
                let host = target.host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
                Box::new(self.tls().await?.connect(name, stream).await?)
            } else {
                Box::new(stream)
            };
            Ok(plain)
        }
        .boxed()
    }
}

impl Connector {
    async fn tls(&self) -> std::io::Result<TlsConnector> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let made = tokio::task::spawn_blocking(trust).await.map_err(std::io::Error::other)??;
        Ok(self.tls.get_or_init(|| made).clone())
    }
}

/// Trusts the machine's root certificates. Blocking.
fn trust() -> std::io::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let lack = "no root certificates found: install the package ca-certificates";
        return Err(std::io::Error::other(lack));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_the_platform_are_reached_through_its_gateway() {
        let (internal, public) =
            (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
        let connector = Connector::new(internal, public, "localhost");
        assert_eq!(connector.gateway("a.default.svc.cluster.local"), Some(internal));
        assert_eq!(connector.gateway("a.default.localhost"), Some(public));
        for host in ["localhost", "evilsvc.cluster.local", "example.com"] {
            assert_eq!(connector.gateway(host), None, "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_refused_and_an_address_is_meant() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let connector = Connector::new(at, at, "localhost");
        let open = async |host: &str| {
            connector.open(&Target { host: host.to_owned(), port: at.port(), tls: false }).await.is_ok()
        };
        assert!(open("127.0.0.1").await && open("localhost").await);
        for address in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "::1", "::ffff:127.0.0.1"] {
            assert!(is_here(address.parse().unwrap()), "{address}");
        }
        assert!(!is_here("10.0.0.1".parse().unwrap()));
    }
}
