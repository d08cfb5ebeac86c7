//! Running one stage: its commands one after the other, each in a sandbox that sees the source, its results and its tools.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};

use dormouse_sandbox::{
    Capabilities, Cgroup, LogPlan, Mount, MountSource, Plan as Sandbox, Rlimit, RlimitKind, StepEnd,
    StepGuard, StepWatch, Stop, Stream, User, cgroup, run_step,
};

use crate::error::{Error, Reason, Result};
use crate::host::{Host, Located};
use crate::plan::Stage;
use crate::progress::{Event, Progress};
use crate::project::StepLimits;

/// Who runs build steps: nobody in particular, on the machine as in images.
const USER: u32 = 65532;
/// Free bytes that a build leaves on the disk.
const DISK_RESERVE: u64 = 512 << 20;
/// As much of the end of a failed command's output is told.
const TAIL_BYTES: usize = 16 << 10;
/// System settings that tools read.
const SETTINGS: [&str; 8] = [
    "/etc/ssl",
    "/etc/ca-certificates",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/maven",
    "/etc/java-17-openjdk",
    "/etc/java-21-openjdk",
    "/etc/nsswitch.conf",
];
/// Settings of package managers in the user's home: only steps that fetch see them, and only in memory.
const HOME_FILES: [&str; 6] =
    [".npmrc", ".netrc", ".config/pip/pip.conf", ".pip/pip.conf", ".cargo/config.toml", ".m2/settings.xml"];

/// What every stage of a build shares.
pub(crate) struct Runner<'a> {
    pub(crate) host: &'a Host,
    pub(crate) tools: &'a BTreeMap<String, Located>,
    pub(crate) limits: &'a StepLimits,
    /// Where caches are kept.
    pub(crate) caches: &'a Path,
    /// The name of the project, for caches of its own.
    pub(crate) project: &'a str,
    pub(crate) offline: bool,
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) progress: &'a dyn Progress,
}

/// The places of one stage on this machine.
pub(crate) struct Rooms<'a> {
    /// A directory of this stage alone.
    pub(crate) work: &'a Path,
    /// The stage's copy of the source.
    pub(crate) source: &'a Path,
    /// Where it leaves results.
    pub(crate) out: &'a Path,
    /// Results of earlier stages.
    pub(crate) stages: &'a BTreeMap<String, PathBuf>,
}

impl Runner<'_> {
    /// Runs the commands of `stage`.
    pub(crate) fn run(&self, stage: &Stage, rooms: &Rooms<'_>) -> Result<()> {
        for dir in [rooms.source, rooms.out] {
            give(dir)?;
        }
        let mounts = self.mounts(stage, rooms)?;
        for (number, command) in stage.commands.iter().enumerate() {
            let work = rooms.work.join(format!("command-{number}"));
            for dir in [&work, &work.join("root"), &work.join("layer"), &work.join("mount")] {
                make(dir)?;
            }
            root_links(&work.join("root"))?;
            let plan = self.sandbox(stage, command, &work, mounts.clone());
            let mut watch = Watch {
                progress: self.progress,
                line: Vec::new(),
                tail: Vec::new(),
                left: self.limits.output_bytes,
            };
            let guard = StepGuard {
                dir: work.join("mount"),
                timeout: self.limits.timeout,
                cgroup: self.cgroup.cloned(),
                disk_reserve: Some((rooms.out.to_path_buf(), DISK_RESERVE)),
                network: stage.network && !self.offline,
            };
            let end = run_step(&plan, &guard, &mut watch).map_err(|error| not_started(command, error))?;
            let output = watch.finish();
            self.judge(stage, command, end, output)?;
        }
        Ok(())
    }

    fn sandbox(&self, stage: &Stage, command: &[String], work: &Path, mounts: Vec<Mount>) -> Sandbox {
        let command = command.iter().map(|word| placed(word)).collect();
        let mut plan = Sandbox::new(
            "build",
            vec![work.join("root")],
            work.join("layer"),
            command,
            LogPlan::new(work.join("unused")),
        );
        plan.cgroup = self.cgroup.map(Cgroup::plan).unwrap_or_default();
        plan.env = self.env(stage).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        plan.cwd = PathBuf::from("/work/src");
        plan.user = User { uid: USER, gid: USER, additional_gids: Vec::new() };
        plan.capabilities = Capabilities::EMPTY;
        plan.mounts = mounts;
        plan.files = self.files(stage);
        let limit = |kind, value| Rlimit { kind, soft: value, hard: value };
        plan.rlimits = vec![limit(RlimitKind::Core, 0), limit(RlimitKind::FileSize, self.limits.file_bytes)];
        plan
    }

    fn env(&self, stage: &Stage) -> BTreeMap<String, String> {
        let mut path: Vec<String> = Vec::new();
        let mut env = BTreeMap::new();
        for tool in self.tools.values() {
            path.extend(tool.path.iter().map(|dir| dir.display().to_string()));
            env.extend(tool.env.clone());
        }
        path.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(str::to_owned));
        let mut seen = std::collections::BTreeSet::new();
        path.retain(|dir| seen.insert(dir.clone()));
        let common = [
            ("PATH", path.join(":").as_str()),
            ("HOME", "/work/home"),
            ("TMPDIR", "/tmp"),
            ("LANG", "C.UTF-8"),
            // After 1980, where zip archives begin.
            ("SOURCE_DATE_EPOCH", "315532800"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        env.extend(common);
        if stage.network {
            env.extend(
                self.host
                    .env
                    .iter()
                    .filter(|(name, _)| Host::passes(name))
                    .map(|(n, v)| (n.clone(), v.clone())),
            );
        }
        env.extend(stage.env.iter().map(|(name, value)| (name.clone(), placed(value))));
        env
    }

    fn files(&self, stage: &Stage) -> Vec<(PathBuf, String)> {
        let mut files = vec![
            (
                PathBuf::from("/etc/passwd"),
                format!("root:x:0:0:root:/root:/bin/sh\nbuild:x:{USER}:{USER}:build:/work/home:/bin/sh\n"),
            ),
            (PathBuf::from("/etc/group"), format!("root:x:0:\nbuild:x:{USER}:\n")),
            (PathBuf::from("/etc/hosts"), "127.0.0.1 localhost build\n::1 localhost\n".to_owned()),
        ];
        if stage.network && !self.offline {
            let read = |path: &Path| fs::read_to_string(path).ok();
            files.extend(read(Path::new("/etc/resolv.conf")).map(|text| ("/etc/resolv.conf".into(), text)));
            files.extend(read(Path::new("/etc/hosts")).map(|text| ("/etc/hosts".into(), text)));
            for path in ["/etc/pip.conf", "/etc/npmrc"] {
                files.extend(read(Path::new(path)).map(|text| (path.into(), text)));
            }
            for name in HOME_FILES {
                let text = read(&self.host.home.join(name));
                files.extend(text.map(|text| (Path::new("/work/home").join(name), text)));
            }
        }
        files
    }

    fn mounts(&self, stage: &Stage, rooms: &Rooms<'_>) -> Result<Vec<Mount>> {
        let bind = |from: &Path, to: &Path, read_only: bool| Mount {
            source: MountSource::Bind(from.to_path_buf()),
            target: to.to_path_buf(),
            read_only,
        };
        let mut shown: Vec<PathBuf> = vec![PathBuf::from("/usr")];
        shown.extend(
            ["/bin", "/sbin", "/lib", "/lib64"]
                .map(PathBuf::from)
                .into_iter()
                .filter(|dir| fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir())),
        );
        shown.extend(SETTINGS.map(PathBuf::from).into_iter().filter(|path| path.exists()));
        shown.extend(self.tools.values().flat_map(|tool| tool.needs.clone()));
        shown.sort();
        shown.dedup();
        let mut mounts: Vec<Mount> = shown.iter().map(|path| bind(path, path, true)).collect();
        mounts.push(bind(rooms.source, Path::new("/work/src"), false));
        mounts.push(bind(rooms.out, Path::new("/work/out"), false));
        for (name, dir) in rooms.stages {
            mounts.push(bind(dir, &Path::new("/work/stage").join(name), true));
        }
        for cache in &stage.caches {
            let dir = match cache.shared {
                true => self.caches.join("shared").join(&cache.name),
                false => self.caches.join("own").join(self.project).join(&cache.name),
            };
            fs::create_dir_all(&dir).map_err(|source| Error::file("create", &dir, source))?;
            lchown(&dir, Some(USER), Some(USER)).map_err(|source| Error::file("own", &dir, source))?;
            // Code of a project must not change what other projects will trust.
            let read_only = cache.shared && !stage.network;
            mounts.push(bind(&dir, &Path::new("/work/cache").join(&cache.name), read_only));
        }
        let home = MountSource::Tmpfs { size: Some(256 << 20) };
        mounts.push(Mount { source: home, target: PathBuf::from("/work/home"), read_only: false });
        Ok(mounts)
    }

    /// Turns the end of a command into success or the reason why not.
    fn judge(&self, stage: &Stage, command: &[String], end: StepEnd, output: String) -> Result<()> {
        let what = format!("{}: {}", stage.name, shown(command));
        let minutes = self.limits.timeout.as_secs_f64() / 60.0;
        let error = match end {
            StepEnd { stopped: Some(Stop::Timeout), .. } => Error::new(
                Reason::BuildRunTimeout,
                format!("{what} took longer than {minutes:.1} minutes and was killed"),
            ),
            StepEnd { stopped: Some(Stop::Canceled), .. } => {
                Error::new(Reason::BuildRunCanceled, format!("{what} was canceled"))
            }
            StepEnd { stopped: Some(Stop::Disk), .. } => {
                Error::new(Reason::DiskFull, format!("{what} filled the disk and was killed"))
            }
            StepEnd { code: Some(0), .. } => return Ok(()),
            StepEnd { oom: true, .. } => Error::new(
                Reason::StepOutOfMemory,
                format!("{what} needs more than {} MiB of memory", self.limits.memory_bytes >> 20),
            ),
            StepEnd { process_limit: true, .. } => Error::new(
                Reason::StepProcessLimit,
                format!("{what} starts more than {} processes", self.limits.processes),
            ),
            StepEnd { signal: Some(signal), .. } if signal == rustix::process::Signal::XFSZ.as_raw() => {
                Error::new(Reason::DiskFull, format!("{what} writes a file that is too large"))
            }
            StepEnd { code, signal, .. } => {
                let how = match (code, signal) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    (None, None) => "no status".to_owned(),
                };
                Error::new(self.reason(stage, &output), format!("{what} failed ({how})"))
            }
        };
        Err(error.with_output(output))
    }

    /// What the tool's own words tell about its failure.
    fn reason(&self, stage: &Stage, output: &str) -> Reason {
        const OUT_OF_DATE: [&str; 6] = [
            "missing go.sum entry",
            "updates to go.mod needed",
            "inconsistent vendoring",
            "are in sync",
            "needs to be updated but --locked",
            "lock file needs to be updated",
        ];
        if OUT_OF_DATE.iter().any(|text| output.contains(text)) {
            return Reason::LockfileOutOfDate;
        }
        if output.contains("No space left on device") {
            return Reason::DiskFull;
        }
        match (stage.network, self.offline) {
            (true, true) => Reason::OfflineCacheMiss,
            (true, false) => Reason::DependencyFetchFailed,
            (false, _) => Reason::CompileFailed,
        }
    }
}

/// A group with the limits of build steps; none where this machine has no control groups to give.
pub(crate) fn group(root: &cgroup::CgroupRoot, name: &str, limits: &StepLimits) -> Result<Cgroup> {
    let failed = |error: dormouse_sandbox::Error| {
        Error::new(Reason::SandboxFailed, error.to_string()).with_source(error)
    };
    let group = root.create(name).map_err(failed)?;
    group
        .set_limits(&cgroup::Limits {
            memory_bytes: Some(limits.memory_bytes),
            pids: Some(limits.processes),
            // Others' requests go first.
            cpu_request_millis: Some(100),
            ..cgroup::Limits::default()
        })
        .map_err(failed)?;
    Ok(group)
}

/// Passes lines on and keeps the end.
struct Watch<'a> {
    progress: &'a dyn Progress,
    line: Vec<u8>,
    tail: Vec<u8>,
    left: u64,
}

impl StepWatch for Watch<'_> {
    fn output(&mut self, _: Stream, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
        let taken = self.left.min(bytes.len() as u64);
        self.left -= taken;
        for byte in bytes.iter().take(usize::try_from(taken).unwrap_or(usize::MAX)) {
            match byte {
                b'\n' => self.tell(),
                b'\r' => {}
                byte if self.line.len() < 4096 => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn canceled(&self) -> bool {
        self.progress.canceled()
    }
}

impl Watch<'_> {
    fn tell(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.progress.event(Event::Output(&String::from_utf8_lossy(&line)));
    }

    /// The end of what was said.
    fn finish(mut self) -> String {
        if !self.line.is_empty() {
            self.tell();
        }
        String::from_utf8_lossy(&self.tail).trim().to_owned()
    }
}

fn not_started(command: &[String], error: dormouse_sandbox::Error) -> Error {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(&error) {
        text.push_str(&format!(": {cause}"));
    }
    Error::new(Reason::SandboxFailed, format!("{} could not be started: {text}", shown(command)))
        .with_source(error)
}

/// A command as it is told: the beginning is enough.
fn shown(command: &[String]) -> String {
    let text = command.join(" ");
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// Fills in the places of a plan.
fn placed(text: &str) -> String {
    text.replace("$SRC", "/work/src")
        .replace("$OUT", "/work/out")
        .replace("$STAGE/", "/work/stage/")
        .replace("$CACHE/", "/work/cache/")
}

/// Gives a tree to the user of build steps; links are not followed.
fn give(path: &Path) -> Result<()> {
    let failed = |source| Error::file("own", path, source);
    lchown(path, Some(USER), Some(USER)).map_err(failed)?;
    if fs::symlink_metadata(path).map_err(failed)?.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            give(&entry.map_err(failed)?.path())?;
        }
    }
    Ok(())
}

fn make(dir: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::file("create", dir, source))
        }
        _ => Ok(()),
    }
}

/// `/bin` and its like, where the machine has them as links into `/usr`.
fn root_links(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            let link = root.join(name);
            std::os::unix::fs::symlink(target, &link)
                .map_err(|source| Error::file("create", &link, source))?;
        }
    }
    Ok(())
}
