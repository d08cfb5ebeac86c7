use std::collections::HashSet;

use super::blob::{BlobWriter, Expect};
use super::refs::{Origin, Record};
use super::*;
use crate::manifest::OCI_MANIFEST;

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn record(name: &str, digest: Digest) -> Record {
    Record { name: name.into(), media_type: OCI_MANIFEST.into(), digest, origin: Origin::Local }
}

#[test]
fn a_blob_is_stored_once_and_verified() {
    let (dir, store) = open();
    let digest = store.put(b"hello").unwrap();
    assert_eq!(store.put(b"hello").unwrap(), digest);
    assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 1);
    assert_eq!(&store.read("x", digest, 10).unwrap()[..], b"hello");
    let mut writer = BlobWriter::new(&store, 10).unwrap();
    writer.append(b"other").unwrap();
    let error = writer.finish(&Expect { digest: Some(digest), size: None }, "layer 1").unwrap_err();
    assert!(error.to_string().contains("digest mismatch of layer 1"), "{error}");
    let mut writer = BlobWriter::new(&store, 4).unwrap();
    assert!(writer.append(b"12345").unwrap_err().to_string().contains("limit of 4 bytes"));
    drop(writer);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_damaged_blob_is_told_and_removed() {
    let (_dir, store) = open();
    let digest = store.put(b"hello").unwrap();
    fs::write(store.blob_path(digest), b"hellx").unwrap();
    assert!(matches!(store.read("x", digest, 10), Err(Error::Damaged { .. })));
    assert!(matches!(store.read("x", digest, 10), Err(Error::Missing { .. })));
}

#[test]
fn leftovers_of_a_crash_vanish_at_open_but_not_those_of_a_living_process() {
    let (dir, store) = open();
    let leftover = dir.path().join("tmp/blob-x");
    fs::write(&leftover, b"half").unwrap();
    fs::create_dir_all(dir.path().join("tmp/layer-x/etc")).unwrap();
    let second = Store::open(dir.path()).unwrap();
    assert!(leftover.exists(), "the first process may still be writing");
    drop((store, second));
    Store::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn names_survive_and_are_seen_by_other_processes() {
    let (dir, store) = open();
    let other = Store::open(dir.path()).unwrap();
    let digest = store.put(b"x").unwrap();
    assert!(other.names().unwrap().is_empty());
    store.set_names(vec![record("a/b:1", digest), record("a/b:2", digest)]).unwrap();
    assert_eq!(other.names().unwrap().len(), 2);
    other.remove_names(&["a/b:1".into()]).unwrap();
    assert_eq!(store.names().unwrap().keys().collect::<Vec<_>>(), ["a/b:2"]);
    drop((store, other));
    assert_eq!(Store::open(dir.path()).unwrap().names().unwrap().len(), 1);
}

#[test]
fn a_damaged_name_does_not_hide_the_others() {
    let (dir, store) = open();
    let digest = store.put(b"x").unwrap();
    store.set_names(vec![record("a/b:1", digest)]).unwrap();
    fs::write(dir.path().join("refs/zzz"), b"{\"na").unwrap();
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().names().unwrap().len(), 1);
}

#[test]
fn a_sweep_spares_names_users_and_transfers() {
    let (_dir, store) = open();
    let config = store.put(br#"{"rootfs":{"diff_ids":[]}}"#).unwrap();
    let manifest = |text: &str| {
        let body = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"c","digest":"{config}","size":26}},
               "layers":[],"annotations":{{"a":"{text}"}}}}"#
        );
        store.put(body.as_bytes()).unwrap()
    };
    let (named, used, lost) = (manifest("named"), manifest("used"), manifest("lost"));
    store.set_names(vec![record("a/b:1", named)]).unwrap();
    assert_eq!(store.sweep(&HashSet::new()).unwrap().blobs, 0, "the transfer's claims hold");
    store.claims().clear();
    fs::create_dir(store.layer_path(Digest::of(b"layer"))).unwrap();
    let swept = store.sweep(&HashSet::from([used])).unwrap();
    assert_eq!((swept.blobs, swept.layers, swept.postponed), (1, 1, false));
    assert!(store.size(named).is_some() && store.size(used).is_some() && store.size(config).is_some());
    assert!(store.size(lost).is_none());
}

#[test]
fn a_sweep_waits_for_other_processes() {
    let (dir, store) = open();
    let lost = store.put(b"x").unwrap();
    store.claims().clear();
    let other = Store::open(dir.path()).unwrap();
    assert!(store.sweep(&HashSet::new()).unwrap().postponed);
    assert!(store.size(lost).is_some());
    drop(other);
    assert_eq!(store.sweep(&HashSet::new()).unwrap().blobs, 1);
}
