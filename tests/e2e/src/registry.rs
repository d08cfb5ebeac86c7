//! A registry that misbehaves as a scenario tells it: what ours must survive from others.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry on a loopback port; it stops when dropped.
pub struct Registry {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Content {
    answers: HashMap<String, (String, Vec<u8>)>,
    password: Option<String>,
}

/// One file of a layer.
pub struct Entry<'a> {
    /// Its path as the archive spells it.
    pub path: &'a str,
    /// Its content.
    pub content: &'a [u8],
}

impl Registry {
    /// Starts an empty one.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> Result<Registry> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let content = Arc::new(Mutex::new(Content::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&content), Arc::clone(&stop));
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let content = Arc::clone(&shared);
                std::thread::spawn(move || drop(serve(stream, &content)));
            }
        });
        Ok(Registry { address, content, stop, server: Some(server) })
    }

    /// Only this `user:password` may read.
    pub fn require(&self, credentials: &str) {
        self.lock().password = Some(credentials.to_owned());
    }

    /// Adds an image of one layer whose only program is `/hello`; gives its reference by tag.
    pub fn add(&self, name: &str, layer: &[u8]) -> String {
        let layer_digest = self.blob(name, layer);
        self.add_manifest(name, layer, &layer_digest)
    }

    /// As [`Registry::add`], but the layer's bytes are not those that its digest promises.
    pub fn add_corrupt(&self, name: &str, layer: &[u8]) -> String {
        let digest = self.blob(name, layer);
        let mut wrong = layer.to_vec();
        if let Some(byte) = wrong.get_mut(layer.len() / 2) {
            *byte ^= 1;
        }
        self.answer(format!("/v2/{name}/blobs/{digest}"), "application/octet-stream", wrong);
        self.add_manifest(name, layer, &digest)
    }

    /// An image referred to by a digest that its manifest does not have.
    pub fn add_mismatched(&self, name: &str, layer: &[u8]) -> String {
        let honest = self.add(name, layer);
        let digest = format!("sha256:{}", "0".repeat(64));
        let manifest =
            self.lock().answers.get(&format!("/v2/{name}/manifests/v1")).cloned().unwrap_or_default();
        self.answer(format!("/v2/{name}/manifests/{digest}"), MANIFEST, manifest.1);
        honest.replace(":v1", &format!("@{digest}"))
    }

    /// The reference of an image that is not there.
    pub fn missing(&self, name: &str) -> String {
        format!("{}/{name}:v1", self.address)
    }

    fn add_manifest(&self, name: &str, layer: &[u8], layer_digest: &str) -> String {
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Entrypoint": ["/hello"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
        });
        let config = config.to_string().into_bytes();
        let config_digest = self.blob(name, &config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len() }],
        });
        let manifest = manifest.to_string().into_bytes();
        self.answer(format!("/v2/{name}/manifests/{}", digest(&manifest)), MANIFEST, manifest.clone());
        self.answer(format!("/v2/{name}/manifests/v1"), MANIFEST, manifest);
        format!("{}/{name}:v1", self.address)
    }

    fn blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.answer(format!("/v2/{name}/blobs/{digest}"), "application/octet-stream", bytes.to_vec());
        digest
    }

    fn answer(&self, path: String, kind: &str, body: Vec<u8>) {
        self.lock().answers.insert(path, (kind.to_owned(), body));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accept loop, which then sees the flag.
        drop(TcpStream::connect(self.address));
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
    }
}

fn serve(stream: TcpStream, content: &Mutex<Content>) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (mut words, mut credentials) = (line.split(' '), None);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("authorization")
            {
                credentials = value.trim().strip_prefix("Basic ").map(str::to_owned);
            }
        }
        let (head, body) =
            answer(path, credentials.as_deref(), &content.lock().unwrap_or_else(PoisonError::into_inner));
        write!(writer, "HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len())?;
        if method != "HEAD" {
            writer.write_all(&body)?;
        }
    }
}

fn answer(path: &str, credentials: Option<&str>, content: &Content) -> (String, Vec<u8>) {
    use base64::Engine;
    if let Some(expected) = &content.password {
        let expected = base64::engine::general_purpose::STANDARD.encode(expected);
        if credentials != Some(expected.as_str()) {
            let body =
                json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "authentication required" }] });
            let head = "401 Unauthorized\r\nwww-authenticate: Basic realm=\"test\"\r\ncontent-type: application/json";
            return (head.to_owned(), body.to_string().into_bytes());
        }
    }
    if matches!(path, "/v2/" | "/v2") {
        return ("200 OK".to_owned(), b"{}".to_vec());
    }
    match content.answers.get(path) {
        Some((kind, body)) => {
            let mut head = format!("200 OK\r\ncontent-type: {kind}");
            if kind == MANIFEST {
                head.push_str(&format!("\r\ndocker-content-digest: {}", digest(body)));
            }
            (head, body.clone())
        }
        None => {
            let code = if path.contains("/manifests/") { "MANIFEST_UNKNOWN" } else { "BLOB_UNKNOWN" };
            let body = json!({ "errors": [{ "code": code, "message": "unknown to registry" }] });
            ("404 Not Found\r\ncontent-type: application/json".to_owned(), body.to_string().into_bytes())
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tar archive of executable files, written by hand so that it can hold what no tool would write.
pub fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut archive = Vec::new();
    for entry in entries {
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, text: &str| {
            for (slot, byte) in header.iter_mut().skip(at).zip(text.bytes()) {
                *slot = byte;
            }
        };
        put(0, entry.path);
        put(100, "0000755");
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", entry.content.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar");
        put(263, "00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        for (slot, byte) in header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
            *slot = byte;
        }
        archive.extend_from_slice(&header);
        archive.extend_from_slice(entry.content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}
