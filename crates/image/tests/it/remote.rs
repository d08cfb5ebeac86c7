//! The client against registries: our own endpoint in another world, and ones that misbehave.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dormouse_base::chain;
use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_image::{Auth, Digest, Error, Event, Progress, Silent};
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::support::{OCI_MANIFEST, World, count};

#[derive(Default)]
struct Recorder {
    events: Mutex<Vec<Event>>,
}

impl Progress for Recorder {
    fn event(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

impl Recorder {
    fn finished(&self) -> usize {
        self.events.lock().unwrap().iter().filter(|event| matches!(event, Event::Finished { .. })).count()
    }

    fn present(&self) -> usize {
        self.events.lock().unwrap().iter().filter(|event| matches!(event, Event::Present { .. })).count()
    }
}

#[tokio::test]
async fn an_image_travels_between_worlds_once() {
    let (near, far) = (World::with(|config| config.push_chunk_bytes = Some(50)).await, World::new().await);
    let digest = near.build("app:1", "x").await;
    let auth = Auth::anonymous();
    let progress = Arc::new(Recorder::default());
    near.images.push("app:1", &far.name("team/app:9"), &auth, progress.clone()).await.unwrap();
    assert_eq!((progress.finished(), progress.present()), (2, 0));
    near.images.push("app:1", &far.name("team/app:10"), &auth, progress.clone()).await.unwrap();
    assert_eq!((progress.finished(), progress.present()), (2, 2), "blobs that are there are not sent");

    let third = World::new().await;
    let progress = Arc::new(Recorder::default());
    let name = far.name("team/app:9");
    assert_eq!(third.images.resolve(&name, &auth).await.unwrap(), digest);
    let pulls = (0..8).map(|_| third.images.pull(&name, &auth, progress.clone()));
    let all = futures::future::join_all(pulls).await;
    assert!(all.into_iter().all(|pulled| pulled.unwrap() == digest));
    assert_eq!(progress.finished(), 2, "one transfer for all callers");
    third.images.prepare(digest).await.unwrap();
    assert!(third.images.list().await.unwrap()[0].pulled);
    let by_digest = far.name(&format!("team/app@{digest}"));
    far.end().await;
    assert_eq!(
        third.images.pull(&by_digest, &auth, progress).await.unwrap(),
        digest,
        "needs no registry any more"
    );
    let error = third.images.resolve(&name, &auth).await.unwrap_err();
    assert!(
        chain(&error).contains("cannot be reached: ") && chain(&error).contains("refused"),
        "{}",
        chain(&error)
    );
    assert!(chain(&error).contains(name.split('/').next().unwrap()), "host and port are named: {error}");
    near.end().await;
    third.end().await;
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_named() {
    let (near, far) = (World::new().await, World::new().await);
    let error =
        near.images.pull(&far.name("none:1"), &Auth::anonymous(), Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(error.inner(), Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains(&far.name("none:1")), "{error}");
    near.end().await;
    far.end().await;
}

type Handler = dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync;

/// A registry that does what the test says.
async fn fake(
    handler: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
) -> (String, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tasks = Tasks::new(Shutdown::new());
    let handler: Arc<Handler> = Arc::new(handler);
    let owner = tasks.clone();
    tasks.spawn("fake registry", async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = owner.shutdown().wait() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, _) = accepted.unwrap();
            let handler = handler.clone();
            owner.spawn_connection("fake connection", async move {
                let service = hyper::service::service_fn(move |request| {
                    let response = handler(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (address, tasks)
}

fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Response<Full<Bytes>> {
    let response =
        headers.iter().fold(Response::builder().status(status), |r, (name, value)| r.header(*name, *value));
    response.body(Full::new(Bytes::copy_from_slice(body))).unwrap()
}

/// An image of one empty layer: paths and what they serve.
fn image() -> (Digest, HashMap<String, Vec<u8>>) {
    let layer = vec![0u8; 1024];
    let config =
        format!(r#"{{"os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#, Digest::of(&layer));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":1024}}]}}"#,
        Digest::of(config.as_bytes()),
        config.len(),
        Digest::of(&layer)
    );
    let digest = Digest::of(manifest.as_bytes());
    let files = [(Digest::of(config.as_bytes()), config.into_bytes()), (Digest::of(&layer), layer)];
    let mut served: HashMap<String, Vec<u8>> =
        files.into_iter().map(|(digest, bytes)| (format!("/v2/p/x/blobs/{digest}"), bytes)).collect();
    for at in [digest.to_string(), "1".to_owned()] {
        served.insert(format!("/v2/p/x/manifests/{at}"), manifest.clone().into_bytes());
    }
    (digest, served)
}

fn serve(served: &HashMap<String, Vec<u8>>, path: &str) -> Response<Full<Bytes>> {
    match served.get(path) {
        Some(bytes) if path.contains("manifests") => {
            let digest = Digest::of(bytes).to_string();
            answer(200, &[("content-type", OCI_MANIFEST), ("docker-content-digest", &digest)], bytes)
        }
        Some(bytes) => answer(200, &[], bytes),
        None => answer(404, &[], br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
    }
}

#[tokio::test]
async fn tokens_are_fetched_and_never_follow_a_redirect() {
    let (digest, served) = image();
    let leaks = Arc::new(AtomicUsize::new(0));
    let (files, counter) = (served.clone(), leaks.clone());
    let (storage, storage_tasks) = fake(move |request| {
        counter.fetch_add(usize::from(request.headers().contains_key(AUTHORIZATION)), Ordering::SeqCst);
        serve(&files, request.uri().path())
    })
    .await;
    let (registry, tasks) = fake(move |request| {
        let host = request.headers()["host"].to_str().unwrap();
        let authorization = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap());
        let path = request.uri().path();
        if path == "/token" {
            assert!(request.uri().query().unwrap().contains("scope=repository%3Ap%2Fx%3Apull"));
            return match authorization {
                Some("Basic bWU6c2VjcmV0") => answer(200, &[], br#"{"token":"t0"}"#),
                _ => answer(401, &[], b""),
            };
        }
        if authorization != Some("Bearer t0") {
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="fake""#);
            return answer(401, &[("www-authenticate", &challenge)], b"");
        }
        match path.contains("/blobs/") {
            true => answer(307, &[("location", &format!("http://{storage}{path}"))], b""),
            false => serve(&served, path),
        }
    })
    .await;
    let world = World::new().await;
    let name = format!("{registry}/p/x:1");
    let secret = format!(r#"{{"auths":{{"{registry}":{{"username":"me","password":"secret"}}}}}}"#);
    let auth = Auth::from_docker_config("secret default/pull", secret.as_bytes()).unwrap();
    assert_eq!(world.images.pull(&name, &auth, Arc::new(Silent)).await.unwrap(), digest);
    assert_eq!(leaks.load(Ordering::SeqCst), 0, "the storage host saw no credentials");
    world.images.prepare(digest).await.unwrap();
    let error = world.images.resolve(&name, &Auth::basic("me", "wrong")).await.unwrap_err();
    assert!(
        error.to_string().contains("(401): wrong credentials") && error.to_string().contains(&name),
        "{error}"
    );
    let error = world.images.resolve(&name, &Auth::anonymous()).await.unwrap_err();
    assert!(error.to_string().contains("no credentials were given"), "{error}");
    for tasks in [tasks, storage_tasks] {
        tasks.shutdown().trigger();
    }
    world.end().await;
}

#[tokio::test]
async fn lies_about_content_are_found_out() {
    let (digest, served) = image();
    let layer = served.iter().find(|(_, bytes)| bytes.len() == 1024).map(|(path, _)| path.clone()).unwrap();
    for (replacement, expect) in
        [(vec![1u8; 1024], "digest mismatch of blob sha256:"), (vec![0u8; 1000], "size mismatch of blob")]
    {
        let mut served = served.clone();
        served.insert(layer.clone(), replacement);
        let (registry, tasks) = fake(move |request| serve(&served, request.uri().path())).await;
        let world = World::new().await;
        let name = format!("{registry}/p/x:1");
        let error =
            world.images.pull(&name, &Auth::anonymous(), Arc::new(Silent)).await.unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        // The other blob's writer may still be closing its file on another thread.
        let empty = async {
            while count(&world.path("store/tmp")) > 0 {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(10), empty).await.expect("nothing is left behind");
        assert_eq!(count(&world.path("store/refs")), 0, "and nothing has a name");
        tasks.shutdown().trigger();
        world.end().await;
    }
    let mut served = served;
    served.insert(format!("/v2/p/x/manifests/{digest}"), b"{}".to_vec());
    let (registry, tasks) = fake(move |request| serve(&served, request.uri().path())).await;
    let world = World::new().await;
    let name = format!("{registry}/p/x:1");
    let error = world.images.pull(&name, &Auth::anonymous(), Arc::new(Silent)).await.unwrap_err().to_string();
    assert!(error.contains("digest mismatch of the manifest of"), "{error}");
    tasks.shutdown().trigger();
    world.end().await;
}

#[tokio::test]
async fn failures_that_pass_are_repeated_and_others_told() {
    let (digest, served) = image();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let (registry, tasks) = fake(move |request| match counter.fetch_add(1, Ordering::SeqCst) {
        0 => answer(503, &[], b""),
        1 => answer(429, &[("retry-after", "0")], b""),
        _ if request.uri().path().contains("/broken/") => answer(500, &[], b"database on fire"),
        _ => serve(&served, request.uri().path()),
    })
    .await;
    let world = World::new().await;
    let auth = Auth::anonymous();
    assert_eq!(world.images.resolve(&format!("{registry}/p/x:1"), &auth).await.unwrap(), digest);
    let error = world
        .images
        .pull(&format!("{registry}/broken/x@{digest}"), &auth, Arc::new(Silent))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("answered 500 while reading the manifest"), "{error}");
    assert!(error.to_string().contains("database on fire"), "{error}");
    tasks.shutdown().trigger();
    world.end().await;
}

#[tokio::test]
async fn plain_http_is_for_loopback_only() {
    let (_, served) = image();
    let (registry, tasks) = fake(move |request| {
        assert!(!request.uri().path().contains("leak"), "never asked");
        match request.uri().path().contains("/blobs/") {
            true => answer(302, &[("location", "http://storage.example/leak")], b""),
            false => serve(&served, request.uri().path()),
        }
    })
    .await;
    let world = World::new().await;
    let name = format!("{registry}/p/x:1");
    let error = world.images.pull(&name, &Auth::anonymous(), Arc::new(Silent)).await.unwrap_err().to_string();
    assert!(error.contains("leads to storage.example without TLS"), "{error}");
    tasks.shutdown().trigger();
    world.end().await;
}

#[tokio::test]
async fn tls_is_spoken_to_trusted_registries_and_no_other() {
    let (digest, served) = image();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("localhost:{}/p/x:1", listener.local_addr().unwrap().port());
    let tasks = Tasks::new(Shutdown::new());
    let (owner, served) = (tasks.clone(), Arc::new(served));
    tasks.spawn("TLS registry", async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = owner.shutdown().wait() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok(stream) = acceptor.accept(accepted.unwrap().0).await else { continue };
            let served = served.clone();
            owner.spawn_connection("TLS connection", async move {
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let response = serve(&served, request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    let stranger = World::new().await;
    let error = chain(&stranger.images.resolve(&name, &Auth::anonymous()).await.unwrap_err());
    assert!(error.contains("cannot be reached: TLS: invalid peer certificate"), "{error}");
    let roots = stranger.path("roots.pem");
    std::fs::write(&roots, made.cert.pem()).unwrap();
    let friend = World::with(|config| config.root_certificates = vec![roots]).await;
    let pulled = friend.images.pull(&name, &Auth::anonymous(), Arc::new(Silent)).await.unwrap();
    assert_eq!(pulled, digest);
    tasks.shutdown().trigger();
    friend.end().await;
    stranger.end().await;
}
