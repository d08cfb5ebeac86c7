//! Starts that must fail with a text that names the cause, and starts after something went wrong.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use dormouse_e2e::platform::{possible, up_fails};
use dormouse_e2e::{Options, Outcome, Platform, Said, tools, until};

use crate::manifest::service;

const LIMIT: Duration = Duration::from_secs(20);

const FREE: [&str; 10] = [
    "--api-listen",
    "127.0.0.1:0",
    "--gateway-listen",
    "127.0.0.1:0",
    "--internal-gateway-listen",
    "127.0.0.1:0",
    "--registry-listen",
    "127.0.0.1:0",
    "--admin-listen",
    "127.0.0.1:0",
];

#[test]
fn a_second_up_on_the_same_data_is_refused_and_the_first_lives_on() -> Outcome {
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    let data = platform.data().display().to_string();
    let mut arguments = vec!["--data-dir", &data];
    arguments.extend(FREE);
    let said = up_fails(&arguments, LIMIT)?.failed()?;
    ensure!(said.contains(&data), "the data directory is not named: {said}");
    let pid = platform.state().pid.to_string();
    ensure!(
        said.contains(&pid) || said.contains("in use") || said.contains("running"),
        "the reason is not told: {said}"
    );
    platform.kubectl(&["get", "namespaces"])?.ok().context("the first one still serves")?;
    platform.take_down()
}

#[test]
fn each_port_in_use_is_named() -> Outcome {
    if !possible() {
        return Ok(());
    }
    for flag in [
        "--api-listen",
        "--gateway-listen",
        "--internal-gateway-listen",
        "--registry-listen",
        "--admin-listen",
    ] {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let address = taken.local_addr()?.to_string();
        let data = tempfile::tempdir()?;
        let folder = data.path().display().to_string();
        let mut arguments = vec!["--data-dir", &folder];
        for pair in FREE.chunks(2) {
            if let [name, free] = pair {
                arguments.extend([*name, if *name == flag { &address } else { free }]);
            }
        }
        let said = up_fails(&arguments, LIMIT)?.failed()?;
        ensure!(said.contains(&address), "{flag}: the address {address} is not named: {said}");
        let left = dormouse_e2e::leftovers::of_platform(data.path(), &[]);
        ensure!(left.is_empty(), "{flag}: left behind: {left:?}");
    }
    Ok(())
}

#[test]
fn missing_privileges_are_told() -> Outcome {
    if !possible() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    // Nobody may not read the repository, perhaps; the program's copy it may.
    let program = folder.path().join("dormouse");
    std::fs::copy(tools::dormouse()?, &program)?;
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    for path in [folder.path(), &data] {
        chown(path, Some(65534), Some(65534))?;
    }
    let mut command = Command::new(tools::find("setpriv")?);
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["up", "--data-dir"])
        .arg(&data);
    let said = Said::from(command.args(FREE).output()?).failed()?;
    ensure!(said.contains("root"), "what is missing is not told: {said}");
    Ok(())
}

/// The largest regular file with an extension that a database has.
fn database(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(folder)?.flatten() {
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "db" || extension == "sqlite") {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("no database under {}", folder.display())
}

#[test]
fn a_damaged_store_is_named_and_left_as_it_is() -> Outcome {
    if !possible() {
        return Ok(());
    }
    for damage in ["overwritten", "truncated"] {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        Platform::start(Options { data: Some(data.clone()), ..Options::default() })?.take_down()?;
        let file = database(&data)?;
        let bytes = if damage == "truncated" {
            let length = file.metadata()?.len();
            OpenOptions::new().write(true).open(&file)?.set_len(length / 2)?;
            std::fs::read(&file)?
        } else {
            OpenOptions::new().write(true).open(&file)?.write_all_at(&[0xA5; 8192], 0)?;
            std::fs::read(&file)?
        };
        let folder = data.display().to_string();
        let mut arguments = vec!["--data-dir", &folder];
        arguments.extend(FREE);
        let said = up_fails(&arguments, LIMIT)?.failed().with_context(|| damage.to_owned())?;
        ensure!(said.contains(&file.display().to_string()), "{damage}: the file is not named: {said}");
        ensure!(std::fs::read(&file)? == bytes, "{damage}: the evidence was changed");
        let left = dormouse_e2e::leftovers::of_platform(&data, &[]);
        ensure!(left.is_empty(), "{damage}: left behind: {left:?}");
    }
    Ok(())
}

/// A small file system of its own, unmounted when dropped.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new(size: &str) -> anyhow::Result<Disk> {
        let folder = tempfile::tempdir()?;
        let option = format!("size={size}");
        let mut mount = Command::new(tools::find("mount")?);
        Said::from(mount.args(["-t", "tmpfs", "-o", &option, "tmpfs"]).arg(folder.path()).output()?).ok()?;
        Ok(Disk { folder })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmount = tools::find("umount")
            .and_then(|umount| Ok(Command::new(umount).arg("-l").arg(self.folder.path()).status()?));
        drop(unmount);
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() -> Outcome {
    if !possible() {
        return Ok(());
    }
    let disk = Disk::new("96m")?;
    let data = disk.folder.path().join("data");
    std::fs::create_dir(&data)?;
    let platform = Platform::start(Options { data: Some(data), ..Options::default() })?;
    platform.add_hello()?;
    platform.deploy("before", &service("before").yaml())?;
    let filler = disk.folder.path().join("filler");
    let full = std::fs::write(&filler, vec![1_u8; 128 * 1024 * 1024]);
    ensure!(full.is_err(), "the disk took it all");

    // The store may have some room of its own left in its files; it ends soon.
    let blob = "x".repeat(200 * 1024);
    let mut acknowledged = Vec::new();
    let mut session = platform.api()?.connect()?;
    let said = until("the full disk is told", Duration::from_secs(60), || {
        let name = format!("fills-{}", acknowledged.len());
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "x": blob },
        });
        let answer = session.request("POST", "/api/v1/namespaces/default/configmaps", Some(&object))?;
        if answer.status == 201 {
            acknowledged.push(name);
            return Ok(None);
        }
        Ok(Some(format!("{} {}", answer.status, answer.text())))
    })?;
    ensure!(
        ["full", "space", "disk"].iter().any(|word| said.to_lowercase().contains(word)),
        "the reason is not told: {said}"
    );
    std::fs::remove_file(&filler)?;
    until("writes work again", Duration::from_secs(20), || {
        platform.kubectl(&["create", "configmap", "room-again"])?.ok()?;
        Ok(Some(()))
    })?;
    let listed = platform.kubectl(&["get", "configmaps", "-o", "name"])?.ok()?;
    for name in &acknowledged {
        ensure!(listed.contains(name.as_str()), "{name} was acknowledged and is gone");
    }
    let answer = platform.get("before", "/")?;
    ensure!(answer.status == 200, "{answer:?}");
    platform.take_down()
}

#[test]
fn a_clock_that_goes_backwards_stops_nothing() -> Outcome {
    // libfaketime moves the wall clock of one program only; the machine's own is not ours to move.
    let library = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    ];
    let Some(library) = library.iter().find(|path| Path::new(path).exists()) else {
        anyhow::bail!(
            "libfaketime is not installed: run `cargo xtask test`, which installs what the tests need"
        );
    };
    let control = tempfile::NamedTempFile::new()?;
    std::fs::write(control.path(), "+0")?;
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let environment = vec![
        variable("LD_PRELOAD", library),
        variable("FAKETIME_TIMESTAMP_FILE", &control.path().display().to_string()),
        variable("FAKETIME_NO_CACHE", "1"),
        variable("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        variable("DONT_FAKE_MONOTONIC", "1"),
    ];
    let Some(platform) = Platform::own(Options { environment, ..Options::default() })? else { return Ok(()) };
    platform.deploy("timeless", &service("timeless").yaml())?;
    let answer = platform.get("timeless", "/")?;
    ensure!(answer.status == 200, "{answer:?}");
    std::fs::write(control.path(), "-3600")?;
    let changed = service("timeless").environment("TARGET", "an hour ago");
    platform.deploy("timeless", &changed.yaml())?;
    until("the change is served", Duration::from_secs(20), || {
        let answer = platform.get("timeless", "/")?;
        ensure!(answer.text() == "Hello from an hour ago!\n", "{answer:?}");
        Ok(Some(()))
    })?;
    platform.asleep("timeless", Duration::from_secs(90))?;
    let answer = platform.get("timeless", "/")?;
    ensure!(answer.status == 200, "{answer:?}");
    platform.take_down()
}
