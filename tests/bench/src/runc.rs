//! The peer of a cold start: `runc run` of the same root file system, without a network of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dormouse_base::clock;
use dormouse_e2e::{Said, tools};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fleet::since;

/// Between two attempts to connect: small beside what is measured.
const LOOK: Duration = Duration::from_micros(100);

/// A bundle that can be run any number of times, one at a time.
pub(crate) struct Bundle {
    folder: TempDir,
    address: SocketAddr,
}

impl Bundle {
    /// Makes the bundle: the usual specification, our program, the host's network.
    pub(crate) fn new() -> Result<Bundle> {
        let folder = tempfile::tempdir()?;
        let rootfs = folder.path().join("rootfs");
        std::fs::create_dir(&rootfs)?;
        std::fs::copy(tools::hello()?, rootfs.join("hello"))?;
        let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Said::from(runc(folder.path())?.arg("spec").output()?).ok().context("runc spec")?;
        let path = folder.path().join("config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let mut set = |pointer: &str, value: Value| -> Result<()> {
            *spec.pointer_mut(pointer).with_context(|| format!("config.json: {pointer}"))? = value;
            Ok(())
        };
        set("/process/terminal", json!(false))?;
        set("/process/args", json!(["/hello"]))?;
        set("/process/env", json!([format!("PORT={}", free.port()), "K_REVISION=runc"]))?;
        let namespaces = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]);
        set("/linux/namespaces", namespaces)?;
        std::fs::write(&path, spec.to_string())?;
        Ok(Bundle { folder, address: free })
    }

    /// From the start of `runc run` to the first byte of the first answer; then the container is removed.
    pub(crate) fn start(&self, name: &str) -> Result<Duration> {
        ensure!(TcpStream::connect(self.address).is_err(), "the port of the last container is still open");
        let begun = clock::now();
        let mut run = runc(self.folder.path())?;
        run.args(["run", name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = run.spawn().context("runc run")?;
        let deadline = begun + Duration::from_secs(10);
        let taken = loop {
            if let Ok(taken) = self.ask().map(|()| since(begun)) {
                break Ok(taken);
            }
            if clock::now() > deadline {
                break Err(anyhow::anyhow!("the container of runc does not answer"));
            }
            std::thread::sleep(LOOK);
        };
        Said::from(runc(self.folder.path())?.args(["kill", name, "KILL"]).output()?)
            .ok()
            .context("runc kill")?;
        process.wait()?;
        drop(runc(self.folder.path())?.args(["delete", "--force", name]).output()?);
        taken
    }

    fn ask(&self) -> Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: runc\r\n\r\n")?;
        let mut answer = [0_u8; 12];
        stream.read_exact(&mut answer)?;
        ensure!(answer.starts_with(b"HTTP/1.1 200"));
        Ok(())
    }
}

fn runc(bundle: &Path) -> Result<Command> {
    let mut command = Command::new(tools::find("runc")?);
    command.current_dir(bundle);
    Ok(command)
}
