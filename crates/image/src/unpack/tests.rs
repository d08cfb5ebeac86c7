use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;

struct World {
    dir: tempfile::TempDir,
    store: Store,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    World { dir, store }
}

impl World {
    fn unpack(&self, archive: &[u8]) -> Result<PathBuf> {
        self.unpack_with(archive, archive, &Limits::default())
    }

    fn unpack_with(&self, archive: &[u8], blob: &[u8], limits: &Limits) -> Result<PathBuf> {
        let layer = self.store.put(blob).unwrap();
        unpack(&self.store, layer, Digest::of(archive), limits)
    }

    fn refused(&self, archive: &[u8], expect: &str) {
        let error = self.unpack(archive).unwrap_err().to_string();
        assert!(error.contains(expect), "expected {expect:?} in {error:?}");
        let leftovers = fs::read_dir(self.dir.path().join("store/tmp")).unwrap().count();
        assert_eq!(leftovers, 0, "nothing is left behind");
        assert_eq!(fs::read_dir(self.dir.path().join("store/layers")).unwrap().count(), 0);
    }
}

/// Writes names as they stand, which the `tar` crate's builder would refuse.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, name: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o640 });
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, EntryType::Regular, "", content.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(name, EntryType::Directory, "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, target, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Link, target, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry("pax", EntryType::XHeader, "", &body)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn archive() -> Archive {
    Archive::default()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

#[test]
fn files_keep_mode_owner_time_and_links() {
    let world = world();
    let bytes = archive()
        .dir("./")
        .dir("d/")
        .file("d/f", "content")
        .link("d/hard", "d/f")
        .symlink("d/soft", "/etc/passwd")
        .entry("pipe", EntryType::Fifo, "", b"")
        .file("implied/parent", "x")
        .end();
    let dir = world.unpack(&bytes).unwrap();
    let meta = fs::metadata(dir.join("d/f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.nlink()), (0o640, 1000, 2));
    assert_eq!(meta.ino(), fs::metadata(dir.join("d/hard")).unwrap().ino());
    assert_eq!(fs::read_link(dir.join("d/soft")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(
        fs::metadata(dir.join("d")).unwrap().mtime(),
        1000,
        "filling a directory does not change its time"
    );
    assert_eq!(fs::symlink_metadata(dir.join("d/soft")).unwrap().mtime(), 1000);
    assert!(fs::metadata(dir.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::metadata(dir.join("implied")).unwrap().permissions().mode() & 0o7777, 0o755);
    if root() {
        assert_eq!((meta.uid(), meta.gid()), (7, 8));
        assert_eq!(fs::symlink_metadata(dir.join("d/soft")).unwrap().uid(), 7);
    }
    assert_eq!(world.unpack(&bytes).unwrap(), dir, "unpacked once");
}

#[test]
fn every_compression_is_read_whatever_the_media_type_says() {
    let bytes = archive().file("f", &"long ".repeat(50)).end();
    let (front, back) = bytes.split_at(600);
    let members = [gzip(front), gzip(back)].concat();
    let frames = [zstd::encode_all(front, 3).unwrap(), zstd::encode_all(back, 3).unwrap()].concat();
    for blob in [bytes.clone(), gzip(&bytes), members, frames] {
        let dir = world().unpack_with(&bytes, &blob, &Limits::default()).map(|dir| dir.join("f"));
        assert!(dir.is_ok(), "{dir:?}");
    }
}

#[test]
fn long_names_attributes_and_fractional_times_come_from_extended_headers() {
    let world = world();
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let bytes = archive()
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"12.5"),
            ("SCHILY.xattr.user.color", b"green"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .file("short", "x")
        .entry("././@LongLink", EntryType::GNULongName, "", format!("{}\0", "g".repeat(200)).as_bytes())
        .file("g", "y")
        .end();
    let dir = world.unpack(&bytes).unwrap();
    let meta = fs::metadata(dir.join(&long)).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (12, 500_000_000));
    assert!(dir.join("g".repeat(200)).exists());
    let mut value = [0; 16];
    match rustix::fs::getxattr(dir.join(&long), "user.color", &mut value) {
        Ok(length) => assert_eq!(&value[..length], b"green"),
        Err(errno) => assert_eq!(errno, rustix::io::Errno::NOTSUP, "this file system has no user attributes"),
    }
    assert!(rustix::fs::getxattr(dir.join(&long), "trusted.overlay.redirect", &mut value).is_err());
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    if !root() {
        return;
    }
    let world = world();
    let bytes = archive()
        .dir("d/")
        .file("d/.wh..wh..opq", "")
        .file("d/.wh.gone", "")
        .file(".wh.back", "")
        .dir("back/")
        .file(".wh.deep", "")
        .file("deep/inside", "x")
        .file("kept", "x")
        .file(".wh.kept", "")
        .file(".wh..wh.plnk", "")
        .end();
    let dir = world.unpack(&bytes).unwrap();
    let opaque = |name: &str| {
        let mut value = [0; 4];
        rustix::fs::getxattr(dir.join(name), "trusted.overlay.opaque", &mut value).is_ok()
    };
    let gone = fs::symlink_metadata(dir.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert!(opaque("d") && opaque("back") && opaque("deep"));
    assert!(fs::metadata(dir.join("kept")).unwrap().is_file(), "a whiteout hides lower layers only");
    assert!(!dir.join(".wh..wh.plnk").exists());
}

#[test]
fn devices_are_made() {
    if !root() {
        return;
    }
    let mut header = tar::Header::new_gnu();
    header.set_path("null").unwrap();
    header.set_entry_type(EntryType::Char);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_mode(0o666);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    let bytes = Archive(header.as_bytes().to_vec()).end();
    let dir = world().unpack(&bytes);
    assert!(dir.is_ok(), "{dir:?}");
}

#[test]
fn entries_that_lead_outside_are_refused_by_name() {
    let world = world();
    for (bytes, expect) in [
        (archive().file("../x", "").end(), "\"../x\" leads outside"),
        (archive().file("a/../../x", "").end(), "\"a/../../x\" leads outside"),
        (archive().file("/etc/x", "").end(), "\"/etc/x\" has an absolute path"),
        (
            archive().symlink("l", "/tmp").file("l/x", "").end(),
            "\"l/x\" passes through the symbolic link \"l\"",
        ),
        (archive().symlink("l", "..").dir("l/d").end(), "passes through the symbolic link"),
        (archive().file("f", "").file("f/x", "").end(), "passes through \"f\", not a directory"),
        (archive().link("h", "/etc/passwd").end(), "target has an absolute path"),
        (archive().link("h", "../../x").end(), "target leads outside"),
        (archive().link("h", "missing").end(), "\"missing\", which is not in the layer"),
        (
            archive().symlink("l", "/etc").link("h", "l/passwd").end(),
            "passes through the symbolic link \"l\"",
        ),
        (archive().dir("d").link("h", "d").end(), "hard link to the directory"),
        (archive().file(".wh...", "").end(), "whiteout of nothing"),
        (archive().file(".wh.x/y", "").end(), "under a whiteout"),
        (archive().symlink(".", "/etc").end(), "replaces the root directory"),
        (archive().pax(&[("path", b"../../y")]).file("x", "").end(), "\"../../y\" leads outside"),
        (archive().pax(&[("size", b"99")]).file("x", "").end(), "larger than 8 GiB"),
    ] {
        world.refused(&bytes, expect);
    }
    assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), 1, "nothing escaped");
}

#[test]
fn a_link_is_replaced_and_never_written_through() {
    let world = world();
    let outside = world.dir.path().join("victim");
    fs::write(&outside, "safe").unwrap();
    let target = outside.to_str().unwrap();
    let bytes = archive()
        .symlink("f", target)
        .file("f", "evil")
        .dir("d")
        .file("d/x", "")
        .file("d", "now a file")
        .end();
    let dir = world.unpack(&bytes).unwrap();
    assert_eq!(fs::read_to_string(&outside).unwrap(), "safe");
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "evil");
    assert_eq!(fs::read_to_string(dir.join("d")).unwrap(), "now a file");
}

#[test]
fn bombs_are_refused() {
    let world = world();
    let many = (0..20).fold(archive(), |archive, n| archive.file(&format!("f{n}"), "")).end();
    let limits = Limits { layer_entries: 10, ..Limits::default() };
    let error = world.unpack_with(&many, &many, &limits).unwrap_err().to_string();
    assert!(error.contains("more than 10 entries"), "{error}");
    let big = archive().file("f", &"0".repeat(1 << 20)).end();
    let limits = Limits { layer_bytes: 1 << 19, ..Limits::default() };
    let error = world.unpack_with(&big, &gzip(&big), &limits).unwrap_err().to_string();
    assert!(error.contains("unpacks to more than 524288 bytes"), "{error}");
    // A pax header of zeros costs the attacker nothing; it must not cost us memory.
    let long = archive().entry("pax", EntryType::XHeader, "", &vec![b'0'; 2 << 20]).end();
    let error = world.unpack(&long).unwrap_err().to_string();
    assert!(error.contains("extended header of more than"), "{error}");
    let deep = archive().pax(&[("path", "d/".repeat(400).as_bytes())]).dir("x").end();
    let error = world.unpack(&deep).unwrap_err().to_string();
    assert!(error.contains("deeper than 256"), "{error}");
    let ratio = Limits { layer_ratio: 2, ..Limits::default() };
    let zeros = archive().entry("f", EntryType::Regular, "", &vec![0; 160 << 20]).end();
    let error =
        world.unpack_with(&zeros, &zstd::encode_all(&zeros[..], 1).unwrap(), &ratio).unwrap_err().to_string();
    assert!(error.contains("more than 2 times its size"), "{error}");
}

#[test]
fn corrupt_layers_and_wrong_diff_ids_are_told_apart() {
    let world = world();
    let bytes = archive().file("f", &"x".repeat(5000)).end();
    let packed = gzip(&bytes);
    let error = world.unpack_with(&bytes, &packed[..packed.len() / 2], &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    let layer = world.store.put(&packed).unwrap();
    let error = unpack(&world.store, layer, Digest::of(b"other"), &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::DiffId { .. }), "{error}");
    fs::write(world.store.blob_path(layer), &packed[..100]).unwrap();
    let error = unpack(&world.store, layer, Digest::of(&bytes), &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let error = unpack(&world.store, layer, Digest::of(&bytes), &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "the damaged blob is gone: {error}");
}
