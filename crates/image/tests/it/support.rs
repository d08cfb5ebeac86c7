//! A world per test: a store, a registry on a free port, a raw HTTP client.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_image::{BuildInput, BuildOptions, Config, Images};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) images: Images,
    pub(crate) address: SocketAddr,
    pub(crate) tasks: Tasks,
    http: Client<HttpConnector, Full<Bytes>>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(edit: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = Config {
            local_hosts: vec![address.to_string(), format!("localhost:{}", address.port())],
            ..Config::default()
        };
        edit(&mut config);
        let images = Images::open(&dir.path().join("store"), config).unwrap();
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("registry", dormouse_image::registry::serve(listener, images.clone(), tasks.clone()));
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { dir, images, address, tasks, http }
    }

    /// A name in this world's registry.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let uri =
            if path.starts_with("http") { path.to_owned() } else { format!("http://{}{path}", self.address) };
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let response = self.http.request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], b"").await
    }

    pub(crate) async fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = dormouse_image::Digest::of(bytes).to_string();
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        assert_eq!(self.send(Method::POST, &path, &[], bytes).await.status, StatusCode::CREATED);
        digest
    }

    /// Pushes a tiny image and answers its manifest's digest and bytes.
    pub(crate) async fn push_image(&self, repository: &str, tag: &str, salt: &str) -> (String, Vec<u8>) {
        let config =
            format!(r#"{{"os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"salt":"{salt}"}}"#);
        let digest = self.push_blob(repository, config.as_bytes()).await;
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":[]}}"#,
            config.len()
        );
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer =
            self.send(Method::PUT, &path, &[("content-type", OCI_MANIFEST)], manifest.as_bytes()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
        (answer.header("docker-content-digest").to_owned(), manifest.into_bytes())
    }

    /// Builds an image from a directory with one script, under `name`.
    pub(crate) async fn build(&self, name: &str, content: &str) -> dormouse_image::Digest {
        let dir = self.path(&format!("source-{content}"));
        make_source(&dir, content);
        let options =
            BuildOptions { entrypoint: vec!["/bin/run".into()], port: Some(8080), ..Default::default() };
        self.images.build(BuildInput::Directory(dir), name, options).await.unwrap()
    }

    pub(crate) async fn end(self) {
        self.tasks.shutdown().trigger();
        drop(self.http);
        assert_eq!(self.tasks.drain(Duration::from_secs(10)).await, 0, "every task ends");
    }
}

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) fn make_source(dir: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir.join("bin")).unwrap();
    std::fs::create_dir_all(dir.join("etc")).unwrap();
    std::fs::write(dir.join("bin/run"), content.repeat(5000)).unwrap();
    std::fs::set_permissions(dir.join("bin/run"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(dir.join("etc/passwd"), "app:x:10:20::/data:/bin/sh\n").unwrap();
    let _ = std::os::unix::fs::symlink("run", dir.join("bin/alias"));
}

/// Files below a directory.
pub(crate) fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}
