//! The API as a program sees it: TLS with the kubeconfig's client certificate, JSON in and out.
//!
//! `kubectl` is what most scenarios use; this client serves where a process per look would be too slow.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;

use crate::http::{Connection, Request, Response};

/// How to reach the API; connections are made from it.
#[derive(Clone)]
pub struct Api {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// One connection to the API.
pub struct Session {
    connection: Connection<StreamOwned<ClientConnection, TcpStream>>,
}

impl Api {
    /// Reads address and credentials from a kubeconfig that `dormouse up` wrote.
    ///
    /// # Errors
    /// When the file lacks a field.
    pub fn from_kubeconfig(path: &Path) -> Result<Api> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let field = |name: &str| -> Result<String> {
            let line = text.lines().find_map(|line| line.trim().trim_start_matches("- ").strip_prefix(name));
            let value = line.and_then(|rest| rest.strip_prefix(':'));
            let value = value.with_context(|| format!("{}: no {name}", path.display()))?;
            Ok(value.trim().trim_matches('"').to_owned())
        };
        let data = |name: &str| -> Result<Vec<u8>> {
            base64::engine::general_purpose::STANDARD.decode(field(name)?).with_context(|| name.to_owned())
        };
        let address = field("server")?.trim_start_matches("https://").parse().context("server")?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&data("certificate-authority-data")?) {
            roots.add(root.context("certificate authority")?)?;
        }
        let certificate = data("client-certificate-data")?;
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&data("client-key-data")?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        Ok(Api { address, tls: Arc::new(tls) })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the API does not answer or its certificate is not the kubeconfig's authority's.
    pub fn connect(&self) -> Result<Session> {
        let stream =
            TcpStream::connect(self.address).with_context(|| format!("connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connection = ClientConnection::new(Arc::clone(&self.tls), name)?;
        Ok(Session { connection: Connection::over(StreamOwned::new(connection, stream)) })
    }

    /// One GET on a connection of its own.
    ///
    /// # Errors
    /// When the answer is not 200.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.connect()?.get(path)
    }
}

impl Session {
    /// One request; `body` is sent as `application/json` (or merge patch for PATCH).
    ///
    /// # Errors
    /// When the connection fails.
    pub fn request(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = body.map(Value::to_string).unwrap_or_default();
        let headers = [("accept", "application/json"), ("content-type", kind)];
        self.connection.send(&Request {
            method,
            host: "dormouse",
            path,
            headers: &headers,
            body: body.as_bytes(),
        })
    }

    /// GET an object or a list.
    ///
    /// # Errors
    /// When the answer is not 200.
    pub fn get(&mut self, path: &str) -> Result<Value> {
        let response = self.request("GET", path, None)?;
        if response.status != 200 {
            bail!("GET {path}: {} {}", response.status, response.text());
        }
        serde_json::from_slice(&response.body).context("JSON")
    }

    /// Creates or changes an object.
    ///
    /// # Errors
    /// When the answer is not 2xx.
    pub fn send(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let response = self.request(method, path, Some(body))?;
        if !(200..300).contains(&response.status) {
            bail!("{method} {path}: {} {}", response.status, response.text());
        }
        serde_json::from_slice(&response.body).context("JSON")
    }

    /// Watches a collection and hands every event to `seen` until it returns `false`.
    ///
    /// # Errors
    /// When the watch ends by itself.
    pub fn watch(mut self, path: &str, mut seen: impl FnMut(&Value) -> bool) -> Result<()> {
        let request = Request::get("dormouse", path).encode();
        self.connection.write(&request)?;
        let (status, _) = self.connection.head()?;
        if status != 200 {
            bail!("watch {path}: {status}");
        }
        let mut pending = Vec::new();
        loop {
            let Some(chunk) = self.connection.chunk()? else { bail!("watch {path}: ended") };
            pending.extend_from_slice(&chunk);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let event = serde_json::from_slice(&line).context("watch event")?;
                if !seen(&event) {
                    return Ok(());
                }
            }
        }
    }
}
