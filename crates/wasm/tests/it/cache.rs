//! Compiled once, found again, never trusted when damaged.

use dormouse_base::shutdown::Shutdown;
use dormouse_base::task::Tasks;
use dormouse_wasm::{Config, Error, Grants, Host, Source};

use crate::support::{Machine, SOON, call, component, digest, limits};

/// The files of a cache with one of the ends.
fn files(root: &std::path::Path, end: &str) -> Vec<std::path::PathBuf> {
    let engine = std::fs::read_dir(root).unwrap().next().unwrap().unwrap().path();
    let all = std::fs::read_dir(engine).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|found| found == end)).collect()
}

#[tokio::test]
async fn a_second_host_needs_no_bytes_and_a_damaged_file_is_compiled_again() {
    let machine = Machine::new();
    call(&machine.plain(), "/hello").await;
    let root = machine.folder.path().join("cache");
    let (path, name) = component("function");
    let absent = Source::Bytes(b"");
    let again = || Host::new(Config::new(&root), Tasks::new(Shutdown::new())).unwrap();
    let found = again().load(&name, absent).expect("found on disk").bind(limits(SOON), Grants::default());
    assert_eq!(call(&found, "/hello").await.0, 200);

    let code = files(&root, "cwasm").pop().unwrap();
    let mut bytes = std::fs::read(&code).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&code, &bytes).unwrap();
    let host = again();
    assert!(host.load(&name, absent).is_err(), "the damaged file was used");
    let mended = host.load(&name, Source::File(&path)).unwrap().bind(limits(SOON), Grants::default());
    assert_eq!(call(&mended, "/hello").await.0, 200);
    assert!(again().load(&name, absent).is_ok());
}

#[tokio::test]
async fn what_is_forgotten_is_gone() {
    let machine = Machine::new();
    let function = machine.plain();
    let (_, name) = component("function");
    machine.host.forget(&name).unwrap();
    assert!(files(&machine.folder.path().join("cache"), "cwasm").is_empty());
    assert!(machine.host.load(&name, Source::Bytes(b"")).is_err());
    // What is bound goes on.
    assert_eq!(call(&function, "/hello").await.0, 200);
}

#[tokio::test]
async fn bytes_that_are_no_component_are_refused_with_the_reason() {
    let machine = Machine::new();
    let refused =
        |bytes: &[u8]| machine.host.load(&digest(bytes), Source::Bytes(bytes)).expect_err("refused");
    assert!(refused(b"\0asm\x01\0\0\0").to_string().contains("wasm32-wasip2"));
    assert!(matches!(refused(b"#!/bin/sh\n"), Error::NotComponent(_)));
    assert!(matches!(refused(b"\0asm\x0d\0\x01\0garbage"), Error::Compile(_)));
    let (path, _) = component("function");
    let other = machine.host.load(&digest(b"other"), Source::File(&path)).expect_err("other bytes");
    assert!(matches!(other, Error::DigestMismatch { .. }));
    assert!(matches!(machine.host.load("../../etc", Source::File(&path)), Err(Error::Digest(_))));
    let small = Machine::with(|config| config.component_bytes_max = 1000);
    let (path, name) = component("function");
    assert!(matches!(small.host.load(&name, Source::File(&path)), Err(Error::TooLarge { limit: 1000, .. })));
}

#[tokio::test]
async fn components_beyond_the_bound_are_mapped_again() {
    let machine = Machine::with(|config| config.loaded_max = 0);
    for _ in 0..2 {
        assert_eq!(call(&machine.plain(), "/hello").await.0, 200);
    }
}
