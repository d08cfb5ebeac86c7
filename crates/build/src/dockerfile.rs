//! Dockerfiles: built by buildah where it is installed. It keeps its own store of containers in the build directory; the
//! finished image is taken into ours.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use dormouse_base::clock;

use crate::error::{Error, Reason, Result};
use crate::host::Host;
use crate::progress::{Event, Progress};
use crate::project::{Project, StepLimits};

/// As much of the end of a failed build's output is told.
const TAIL_LINES: usize = 60;
/// Lines that wait to be told.
const LINES_MAX: usize = 256;
/// How often a build that says nothing is looked at.
const TICK: Duration = Duration::from_millis(100);

/// One build of a Dockerfile.
pub(crate) struct Docker<'a> {
    pub(crate) host: &'a Host,
    pub(crate) limits: &'a StepLimits,
    pub(crate) progress: &'a dyn Progress,
    /// The platform's registry, which speaks plain HTTP.
    pub(crate) registry: &'a str,
    /// buildah's own store, kept between builds: its layers are its cache.
    pub(crate) store: &'a Path,
    pub(crate) offline: bool,
}

/// The project's Dockerfile by the name that it has.
pub(crate) fn file(project: &Project) -> Result<&'static str> {
    ["Dockerfile", "Containerfile"]
        .into_iter()
        .find(|name| project.tree.has(name))
        .ok_or_else(|| Error::new(Reason::DockerfileInvalid, "the project has no Dockerfile"))
}

impl Docker<'_> {
    /// buildah's version, or why a Dockerfile cannot be built.
    pub(crate) fn version(host: &Host) -> Result<String> {
        let buildah = host.which("buildah").ok_or_else(|| {
            Error::new(
                Reason::EngineUnavailable,
                "a Dockerfile needs buildah, which is not installed (not in PATH)",
            )
            .with_remedy("install it: `apt-get install buildah`")
        })?;
        let text = host.ask(&buildah, &["--version"])?;
        Ok(text.split_whitespace().nth(2).unwrap_or("unknown").to_owned())
    }

    /// Builds `source` and answers the archive that holds the image; `work` is a directory of this build.
    pub(crate) fn build(&self, project: &Project, source: &Path, work: &Path) -> Result<PathBuf> {
        let dockerfile = file(project)?;
        let settings = work.join("registries.conf");
        let text = format!(
            "unqualified-search-registries = [\"docker.io\"]\n\n[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
            self.registry
        );
        fs::write(&settings, text).map_err(|error| Error::file("write", &settings, error))?;
        let image = format!("localhost/{}:build", project.name);
        let path = source.join(dockerfile).display().to_string();
        let context = source.display().to_string();
        let processes = format!("nproc={}", self.limits.processes);
        let size = format!("fsize={}", self.limits.file_bytes);
        let mut build =
            vec!["build", "--isolation", "chroot", "--format", "oci", "--timestamp", "0", "--layers"];
        build.extend(["--ulimit", &processes, "--ulimit", &size, "--pull=missing"]);
        if self.offline {
            build.extend(["--network", "none"]);
        }
        build.extend(["--file", &path, "--tag", &image, &context]);
        self.run(&build, &settings, work)?;
        let archive = work.join("image.tar");
        let target = format!("oci-archive:{}", archive.display());
        self.run(&["push", "--quiet", &image, &target], &settings, work)?;
        Ok(archive)
    }

    fn run(&self, arguments: &[&str], settings: &Path, work: &Path) -> Result<()> {
        let path = std::env::join_paths(&self.host.path).unwrap_or_default();
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(self.store)
            .arg("--runroot")
            .arg(work.join("run"))
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("HOME", &self.host.home)
            .env("TMPDIR", work)
            .env("CONTAINERS_REGISTRIES_CONF", settings)
            .envs(&self.host.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // With all its children in one group, which is killed whole.
            .process_group(0);
        let mut child = command.spawn().map_err(|error| {
            Error::new(Reason::EngineUnavailable, format!("buildah cannot be run: {error}"))
                .with_source(error)
        })?;
        let (sender, lines) = sync_channel(LINES_MAX);
        let ended = std::thread::scope(|scope| {
            for stream in [
                child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
                child.stderr.take().map(|err| Box::new(err) as Box<dyn Read + Send>),
            ] {
                let sender = sender.clone();
                scope.spawn(move || stream.map(|stream| tell(stream, &sender)));
            }
            drop(sender);
            self.attend(&mut child, &lines)
        });
        let (status, tail) = ended?;
        match status.success() {
            true => Ok(()),
            false => Err(judge(&tail)),
        }
    }

    /// Passes lines on until both streams are closed, and kills the group when it must end before.
    fn attend(&self, child: &mut Child, lines: &Receiver<String>) -> Result<(ExitStatus, Vec<String>)> {
        let deadline = clock::now() + self.limits.timeout;
        let mut tail: Vec<String> = Vec::new();
        let mut stopped = None;
        loop {
            match lines.recv_timeout(TICK) {
                Ok(line) => {
                    self.progress.event(Event::Output(&line));
                    if tail.len() >= TAIL_LINES {
                        tail.remove(0);
                    }
                    tail.push(line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if stopped.is_none() {
                let late = clock::now() >= deadline;
                if late || self.progress.canceled() {
                    stopped = Some(if late { Reason::BuildRunTimeout } else { Reason::BuildRunCanceled });
                    let group = rustix::process::Pid::from_child(child);
                    // It may have ended just now.
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
            }
        }
        let status = child.wait().map_err(|error| Error::new(Reason::EngineFailed, error.to_string()))?;
        match stopped {
            None => Ok((status, tail)),
            Some(reason) => {
                Err(Error::new(reason, "the build of the Dockerfile was stopped")
                    .with_output(tail.join("\n")))
            }
        }
    }
}

fn tell(stream: impl Read, sender: &SyncSender<String>) {
    for line in BufReader::new(stream).split(b'\n') {
        let Ok(line) = line else { return };
        if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
            return;
        }
    }
}

/// What buildah's own words tell about the failure.
fn judge(tail: &[String]) -> Error {
    let text = tail.join("\n");
    let last = tail.iter().rev().find(|line| !line.is_empty()).cloned().unwrap_or_default();
    let has = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    let reason = if has(&[
        "parse error",
        "unknown instruction",
        "Unknown instruction",
        "dockerfile parse",
        "no FROM statement",
    ]) {
        Reason::DockerfileInvalid
    } else if has(&["no space left on device"]) {
        Reason::DiskFull
    } else if has(&[
        "manifest unknown",
        "initializing source docker",
        "pinging container registry",
        "image not known",
    ]) {
        Reason::BaseImageNotFound
    } else if has(&["building at STEP"]) {
        Reason::CompileFailed
    } else {
        Reason::EngineFailed
    };
    Error::new(reason, format!("Dockerfile: {last}")).with_output(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buildahs_words_become_reasons() {
        for (line, reason) in [
            (
                "Error: parsing main Dockerfile: dockerfile parse error line 2: unknown instruction: FROMM",
                Reason::DockerfileInvalid,
            ),
            (
                "Error: building at STEP \"RUN false\": while running runtime: exit status 1",
                Reason::CompileFailed,
            ),
            (
                "Error: creating build container: initializing source docker://x: reading manifest",
                Reason::BaseImageNotFound,
            ),
            ("Error: something else", Reason::EngineFailed),
        ] {
            let error = judge(&["STEP 1/2".to_owned(), line.to_owned()]);
            assert_eq!(error.reason, reason, "{line}");
            assert!(error.message.contains("Error:") && error.output.contains("STEP 1/2"));
        }
    }
}
