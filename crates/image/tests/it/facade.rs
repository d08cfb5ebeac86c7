//! The facade: building, resolving, preparing, removing, and what the disk can do to it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use dormouse_image::{Auth, BuildInput, BuildOptions, Config, Digest, Error, Images, Silent};

use crate::support::{World, count, make_source};

#[tokio::test]
async fn the_same_input_gives_the_same_digest() {
    let (one, two) = (World::new().await, World::new().await);
    assert_eq!(one.build("a:1", "same").await, two.build("b:2", "same").await);
    assert_ne!(one.build("a:1", "same").await, one.build("a:1", "other").await);
    one.end().await;
    two.end().await;
}

#[tokio::test]
async fn names_are_answered_where_they_belong() {
    let world = World::new().await;
    let digest = world.build(&world.name("hello:v1"), "x").await;
    let auth = Auth::anonymous();
    for name in [world.name("hello:v1"), format!("localhost:{}/hello:v1", world.address.port())] {
        assert_eq!(world.images.resolve(&name, &auth).await.unwrap(), digest);
        assert_eq!(world.images.pull(&name, &auth, Arc::new(Silent)).await.unwrap(), digest);
    }
    let at = world.name(&format!("hello@{digest}"));
    assert_eq!(world.images.resolve(&at, &auth).await.unwrap(), digest);
    for name in
        [world.name("hello:v2"), "ko.local/none:1".to_owned(), world.name(&format!("x@{}", Digest::of(b"?")))]
    {
        let error = world.images.resolve(&name, &auth).await.unwrap_err();
        assert!(matches!(error, Error::NotLocal { .. }), "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
    let built = world.build("team/app", "y").await;
    assert_eq!(
        world.images.resolve("docker.io/team/app:latest", &auth).await.unwrap(),
        built,
        "no registry is asked"
    );
    let manifest = world.get("/v2/hello/manifests/v1").await;
    assert_eq!(manifest.header("docker-content-digest"), digest.to_string(), "what was built can be pulled");
    world.end().await;
}

#[tokio::test]
async fn an_image_is_prepared_once_for_many_callers() {
    let world = World::new().await;
    let digest = world.build("app:1", "x").await;
    let all = futures::future::join_all((0..20).map(|_| world.images.prepare(digest))).await;
    let first = all[0].as_ref().unwrap();
    assert!(all.iter().all(|prepared| prepared.as_ref().unwrap().layers == first.layers));
    assert_eq!(count(&world.path("store/layers")), 1);
    assert_eq!(count(&world.path("store/tmp")), 0);
    assert_eq!(first.config.entrypoint, ["/bin/run"]);
    assert_eq!(first.config.exposed_ports, ["8080/tcp"]);
    assert_eq!(first.user("app").unwrap(), (10, 20, vec![]));
    assert_eq!(first.home(10).unwrap().as_deref(), Some("/data"));
    let mode = std::fs::metadata(first.layers[0].join("bin/run")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o755);
    world.end().await;
}

#[tokio::test]
async fn removing_a_name_frees_what_nothing_else_needs() {
    let world = World::new().await;
    let digest = world.build("app:1", "x").await;
    world.build("app:2", "x").await;
    world.images.prepare(digest).await.unwrap();
    let listed = world.images.list().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|listed| listed.reference.as_str()).collect();
    assert_eq!(names, ["docker.io/library/app:1", "docker.io/library/app:2"]);
    assert!(listed[0].bytes > 100 && listed[0].digest == digest && !listed[0].pulled);
    let nobody = HashSet::new();
    assert_eq!(world.images.remove("app:1", &nobody).await.unwrap().blobs, 0);
    let in_use = HashSet::from([digest]);
    assert_eq!(world.images.remove("app:2", &in_use).await.unwrap().blobs, 0, "a revision may still run");
    assert!(world.images.prepare(digest).await.is_ok());
    let swept = world.images.sweep(&nobody).await.unwrap();
    assert_eq!((swept.blobs, swept.layers), (3, 1));
    assert_eq!(count(&world.path("store/refs")), 0);
    assert!(matches!(world.images.remove("app:1", &nobody).await, Err(Error::NotLocal { .. })));
    world.end().await;
}

#[tokio::test]
async fn what_cannot_run_is_refused_when_it_is_built() {
    let world = World::new().await;
    let build = |path: &Path| {
        let (images, path) = (world.images.clone(), path.to_path_buf());
        async move { images.build(BuildInput::Binary(path), "x", BuildOptions::default()).await }
    };
    let script = world.path("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let error = build(&script).await.unwrap_err().to_string();
    assert!(error.contains("script") && error.contains("not a Linux program"), "{error}");
    let error = build(&world.path("none")).await.unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
    let shell = std::fs::canonicalize("/bin/sh").unwrap();
    let error = build(&shell).await.unwrap_err().to_string();
    assert!(error.contains("dynamically linked and needs /lib"), "{error}");
    make_source(&world.path("dir"), "x");
    let input = BuildInput::Directory(world.path("dir"));
    let error = world.images.build(input, "x", BuildOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("an entrypoint is needed"), "{error}");
    world.end().await;
}

#[tokio::test]
async fn a_static_program_becomes_an_image_that_runs_as_nobody() {
    let world = World::new().await;
    // The smallest file that counts as a program for this machine: a header without program headers.
    let mut program = vec![0u8; 64];
    program[..4].copy_from_slice(b"\x7fELF");
    program[18] = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    std::fs::write(world.path("hello"), &program).unwrap();
    let input = BuildInput::Binary(world.path("hello"));
    let digest = world.images.build(input, &world.name("hello"), BuildOptions::default()).await.unwrap();
    let prepared = world.images.prepare(digest).await.unwrap();
    assert_eq!(
        (prepared.config.entrypoint.as_slice(), prepared.config.user.as_str()),
        (&["/hello".to_owned()][..], "65532:65532")
    );
    assert_eq!(prepared.user("nonroot").unwrap(), (65532, 65532, vec![]));
    assert_eq!(std::fs::read(prepared.layers[0].join("hello")).unwrap(), program);
    let mode = std::fs::metadata(prepared.layers[0].join("tmp")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o7777, 0o1777);
    world.end().await;
}

#[tokio::test]
async fn everything_survives_a_restart_and_leftovers_do_not() {
    let world = World::new().await;
    let name = world.name("app:1");
    let digest = world.build(&name, "x").await;
    let config = Config { local_hosts: vec!["127.0.0.1:1".into()], ..Config::default() };
    let dir = world.path("store");
    std::fs::write(dir.join("tmp/blob-half"), "half").unwrap();
    let kept = world.dir;
    world.tasks.shutdown().trigger();
    world.tasks.drain(std::time::Duration::from_secs(10)).await;
    drop(world.images);
    let images = Images::open(&dir, config).unwrap();
    assert_eq!(count(&dir.join("tmp")), 0);
    assert_eq!(
        images.resolve("127.0.0.1:1/app:1", &Auth::anonymous()).await.unwrap(),
        digest,
        "on whatever port"
    );
    drop(kept);
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_the_store_whole() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: mounting a small disk needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let size = std::ffi::CString::new("size=256k").unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("tmpfs", &small, "tmpfs", flags, size.as_c_str()) {
        return eprintln!("SKIPPED: cannot mount a small disk: {error}");
    }
    let images = Images::open(&small.join("store"), Config::default()).unwrap();
    std::fs::create_dir_all(dir.path().join("source")).unwrap();
    let noise: Vec<u8> =
        (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ (n >> 7) as u8).collect();
    let noise: Vec<u8> = noise.chunks(64).flat_map(|chunk| Digest::of(chunk).hex().into_bytes()).collect();
    std::fs::write(dir.path().join("source/noise"), noise).unwrap();
    let options = BuildOptions { entrypoint: vec!["/noise".into()], ..Default::default() };
    let result = images.build(BuildInput::Directory(dir.path().join("source")), "x:1", options).await;
    let leftovers = count(&small.join("store/tmp"));
    let listed = images.list().await;
    drop(images);
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::DETACH).unwrap();
    let error = result.unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    assert!(error.to_string().starts_with("disk full: cannot write"), "{error}");
    assert_eq!((leftovers, listed.unwrap().len()), (0, 0));
}

#[tokio::test]
async fn a_component_is_stored_as_an_artifact_and_told_from_an_image() {
    let (one, two) = (World::new().await, World::new().await);
    let file = one.path("f.wasm");
    // Importing `a:b`, exporting nothing.
    let bytes = b"\0asm\x0d\0\x01\0\x0a\x08\x01\x00\x03a:b\x05\x00";
    std::fs::write(&file, bytes).unwrap();
    let name = one.name("fn:v1");
    let digest = one.images.build_component(&file, &name).await.unwrap();
    assert_eq!(two.images.build_component(&file, "other:v1").await.unwrap(), digest, "the same everywhere");
    let manifest = one.get("/v2/fn/manifests/v1").await.json();
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    let config = manifest["config"]["digest"].as_str().unwrap();
    let config = one.get(&format!("/v2/fn/blobs/{config}")).await.json();
    assert_eq!(config["component"]["imports"], serde_json::json!(["a:b"]));

    // Another machine pulls it as it pulls images.
    let away = format!("{}/fn:v1", one.address);
    let pulled = two.images.pull(&away, &Auth::anonymous(), Arc::new(Silent)).await.unwrap();
    let found = two.images.component(pulled).await.unwrap().unwrap();
    assert_eq!((found.digest, std::fs::read(&found.path).unwrap()), (digest, bytes.to_vec()));
    let image = one.build("app:1", "x").await;
    assert_eq!(one.images.component(image).await.unwrap(), None);

    std::fs::write(&file, b"\0asm\x01\0\0\0").unwrap();
    let error = one.images.build_component(&file, "core:v1").await.unwrap_err().to_string();
    assert!(error.contains("core module"), "{error}");
    one.end().await;
    two.end().await;
}
