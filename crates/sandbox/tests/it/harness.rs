//! A keeper of its own for each test, a root file system with one static program, and conditions to wait on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use dormouse_base::{clock, shutdown::Shutdown, task::Tasks};
use dormouse_sandbox::{Error, Keeper, KeeperEvent, LogPlan, Plan, Running};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);

/// Whether this machine can run sandboxes; says so loudly when not.
pub(crate) fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: sandboxes need root; run the tests as root");
    }
    root
}

/// The static program, built once.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/probe.c");
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("probe-{}", std::process::id()));
        let built = Command::new("cc").args(["-static", "-O1", "-w", "-o"]).arg(&out).arg(source).status();
        assert!(built.expect("cc is needed").success(), "cc -static is needed");
        // One file whatever the number of runs; a run that happens at the same time puts the same there.
        let path = out.with_file_name("sandbox-probe");
        std::fs::rename(&out, &path).unwrap();
        path
    })
}

/// The example that is keeper and main process.
pub(crate) fn exe() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/keeper");
    assert!(path.exists(), "{} is missing: run the tests without --test", path.display());
    path
}

/// The directory, shared so that it survives one [`World`] and is found by the next.
pub(crate) type Dir = std::rc::Rc<tempfile::TempDir>;

pub(crate) struct World {
    pub(crate) dir: Dir,
    pub(crate) keeper: Keeper,
    pub(crate) running: Vec<Running>,
    events: mpsc::Receiver<KeeperEvent>,
    _tasks: Tasks,
    kill_on_drop: bool,
    seen: std::collections::HashMap<String, KeeperEvent>,
}

/// A directory with a root file system that has nothing but the program.
pub(crate) fn new_dir() -> Dir {
    let dir = Dir::new(tempfile::tempdir().unwrap());
    let bin = dir.path().join("rootfs/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy(probe(), bin.join("probe")).unwrap();
    dir
}

pub(crate) fn plan_in(dir: &Path, id: &str, args: &[&str]) -> Plan {
    let work = dir.join(format!("work-{id}"));
    std::fs::create_dir_all(&work).unwrap();
    let args = std::iter::once("probe").chain(args.iter().copied()).map(str::to_owned).collect();
    Plan::new(id, vec![dir.join("rootfs")], work, args, LogPlan::new(dir.join(format!("{id}.log"))))
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::attach(new_dir()).await.unwrap()
    }

    pub(crate) async fn attach(dir: Dir) -> Result<Self, Error> {
        let tasks = Tasks::new(Shutdown::new());
        let (keeper, events, running) =
            Keeper::start_or_attach(&exe(), &dir.path().join("keeper"), &tasks).await?;
        Ok(Self { dir, keeper, running, events, _tasks: tasks, kill_on_drop: true, seen: Default::default() })
    }

    /// Goes away as a main process does, without a word; the keeper stays.
    pub(crate) fn detach(mut self) -> Dir {
        self.kill_on_drop = false;
        self.dir.clone()
    }

    pub(crate) fn plan(&self, id: &str, args: &[&str]) -> Plan {
        plan_in(self.dir.path(), id, args)
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    /// Text of the log without times: `stdout F hello`.
    pub(crate) fn log(&self, id: &str) -> String {
        let text = std::fs::read_to_string(self.log_path(id)).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once(' ')).map(|(_, rest)| format!("{rest}\n")).collect()
    }

    /// What the program said on stdout.
    pub(crate) fn said(&self, id: &str) -> String {
        let log = self.log(id);
        log.lines()
            .filter_map(|line| line.strip_prefix("stdout F "))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    pub(crate) async fn event(&mut self) -> KeeperEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("a keeper")
    }

    /// Waits until the sandbox has ended.
    pub(crate) async fn exit(&mut self, id: &str) -> KeeperEvent {
        loop {
            if let Some(event) = self.seen.remove(id) {
                return event;
            }
            let event = self.event().await;
            match &event {
                KeeperEvent::Exited { id, .. } => drop(self.seen.insert(id.clone(), event)),
                KeeperEvent::KeeperDied => panic!("the keeper died; it said:\n{}", self.keeper_log()),
            }
        }
    }

    /// Runs the program to its end and answers what it said; it must succeed.
    pub(crate) async fn run(&mut self, plan: Plan) -> String {
        let id = plan.id.clone();
        if let Err(error) = self.keeper.launch(plan).await {
            panic!("{}\n{}", dormouse_base::chain(&error), self.keeper_log());
        }
        let event = self.exit(&id).await;
        let expected = KeeperEvent::Exited { id: id.clone(), code: Some(0), signal: None, oom: false };
        assert_eq!(event, expected, "log: {}", self.log(&id));
        self.said(&id)
    }

    /// Starts the program and waits until it has said `word`.
    pub(crate) async fn start(&mut self, plan: Plan, word: &str) -> u32 {
        let id = plan.id.clone();
        let launched = self.keeper.launch(plan).await.unwrap();
        until(&format!("{id} says {word}"), || self.log(&id).contains(word)).await;
        launched.pid
    }

    pub(crate) fn keeper_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("keeper/keeper.log")).unwrap_or_default()
    }

    /// Stops the keeper and checks that it has left nothing.
    pub(crate) async fn stop(self) {
        self.keeper.stop().await;
        until("the keeper is gone", || !alive(self.keeper.pid())).await;
        let dir = self.dir.path().to_str().unwrap().to_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&dir), "mounts are left:\n{mounts}");
        assert!(!self.dir.path().join("keeper/keeper.sock").exists());
    }
}

impl Drop for World {
    /// A failed test must not leave its keeper behind.
    fn drop(&mut self) {
        if !self.kill_on_drop {
            return;
        }
        if let Some(pid) = i32::try_from(self.keeper.pid()).ok().and_then(rustix::process::Pid::from_raw) {
            let comm =
                std::fs::read_to_string(format!("/proc/{}/comm", self.keeper.pid())).unwrap_or_default();
            if comm.trim() == "keeper" {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Whether a process exists and is not a zombie.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Waits until `condition` holds, at most [`PATIENCE`].
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = clock::now() + PATIENCE;
    while !condition() {
        assert!(clock::now() < deadline, "waited in vain: {what}");
        clock::sleep(Duration::from_millis(2)).await;
    }
}
