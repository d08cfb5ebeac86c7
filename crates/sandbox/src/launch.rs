//! Starting one sandbox: the parent's side. It validates the plan, opens and prepares everything that a file can be,
//! then clones a child that only makes kernel calls ([`child`]).
//!
//! The clone shares memory and the parent sleeps until exec (`CLONE_VM | CLONE_VFORK`): copying page tables would cost
//! more than the whole set-up. Nothing here waits for an RCU grace period longer than the kernel's expedited one.

mod child;
mod root;
mod system;
mod window;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Resource, Rlimit};

use crate::capabilities::Capabilities;
use crate::cgroup::{CgroupPlan, Version};
use crate::error::Errno;
use crate::plan::{DEFAULT_PATH, MountSource, Plan, RlimitKind, SeccompProfile};
use crate::sys::{self, Stack, StringArray};
use crate::wire::Failure;
use child::{Identity, Joiner, OpenedSources, Outcome, Sandbox, Step, TextFile, View, Volume};
use window::Window;

/// The kernel's bound on layers of an overlay.
const MAX_LOWERS: usize = 500;

/// What every launch shares, made once.
pub(crate) struct Launcher {
    stack: Stack,
    filter: Vec<libc::sock_filter>,
    system: Vec<system::Op>,
    null: OwnedFd,
    keeper: OwnedFd,
    own_pid_namespace: OwnedFd,
    mount_point: CString,
    /// What every sandbox's mounts start from; without it from a copy of the host's.
    empty: Option<OwnedFd>,
    window: Window,
    last_capability: u32,
}

/// A first process that has become the program.
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Out-of-memory kills of its cgroup before the start.
    pub(crate) oom_kills: u64,
}

/// A process that has joined a sandbox.
pub(crate) struct Joined {
    pub(crate) pidfd: OwnedFd,
    pub(crate) output: OwnedFd,
}

type Attempt<T> = Result<T, Failure>;

impl Launcher {
    /// Prepares; `dir` is the keeper's directory.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        let mount_point = dir.join("root");
        match fs::create_dir(&mount_point) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
        let mount_point = CString::new(mount_point.as_os_str().as_bytes())?;
        let null = open("/dev/null", OFlags::RDWR)?;
        let own = rustix::process::getpid();
        let keeper = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty())?;
        // A kernel that refuses has its reasons at every launch too; those are told.
        let empty = root::empty_namespace(&mount_point).ok();
        let kept: Vec<_> =
            [Some(&null), Some(&keeper), empty.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
        let window = Window::new(null.as_fd(), &kept)?;
        Ok(Self {
            stack: Stack::new()?,
            filter: crate::seccomp::default_filter(),
            system: system::operations(),
            null,
            keeper,
            own_pid_namespace: open("/proc/self/ns/pid", OFlags::RDONLY)?,
            mount_point,
            empty,
            window,
            last_capability: last.trim().parse().unwrap_or(40).min(63),
        })
    }

    /// Starts the first process of a sandbox.
    pub(crate) fn launch(&mut self, plan: &Plan) -> Attempt<Started> {
        check(plan)?;
        let layers = Layers::prepare(plan)?;
        let oom_kills = plan.cgroup.oom_kills();
        let identity = identity(plan, &plan.args)?;
        let volumes = plan.mounts.iter().map(volume).collect::<Attempt<Vec<_>>>()?;
        let files = layers.late_files.iter().map(text_file).collect::<Attempt<Vec<_>>>()?;
        let cgroup = CgroupFds::open(&plan.cgroup)?;
        let netns = plan.netns.as_ref().map(|path| open_path(path, OFlags::RDONLY)).transpose()?;
        let (stdout, stdout_child) = pipe(plan.user.uid)?;
        let (stderr, stderr_child) = pipe(plan.user.uid)?;
        let views = views(&plan.cgroup)?;
        let cwd_parents = prefixes(&plan.cwd, true)?;
        let lowers = plan.lowers.iter().map(|path| c_path(path)).collect::<Attempt<Vec<_>>>()?;
        let sources = volumes.iter().filter(|volume| volume.source.is_some()).count() + views.len();
        let opened = OpenedSources((0..sources).map(|_| AtomicI32::new(-1)).collect());
        let outcome = Outcome::default();
        let highest = self.window.limit() as usize + sources + lowers.len() + 8;
        let empty = self.empty.as_ref().filter(|_| root::fits_one_option(lowers.len(), highest));
        let given = [&stdout_child, &stderr_child].into_iter().chain(&cgroup.tasks).chain(&netns);
        let count = given.clone().count();
        let filled = self.window.fill(given.map(AsFd::as_fd));
        let mut places = self.window.places().iter().map(AsFd::as_fd);
        let mut next = || places.next().unwrap_or(self.null.as_fd());
        let (stdout_place, stderr_place) = (next(), next());
        let tasks: Vec<_> = cgroup.tasks.iter().map(|_| next()).collect();
        let netns_place = netns.as_ref().map(|_| next());
        let sandbox = Sandbox {
            outcome: &outcome,
            keeper: self.keeper.as_fd(),
            filter: &self.filter,
            last_capability: self.last_capability,
            system: &self.system,
            mount_point: &self.mount_point,
            empty: empty.map(AsFd::as_fd),
            null: self.null.as_fd(),
            limit: self.window.limit(),
            stdout: stdout_place,
            stderr: stderr_place,
            tasks: &tasks,
            netns: netns_place,
            views: &views,
            lowers: &lowers,
            upper: &layers.upper,
            work: &layers.work,
            volumes: &volumes,
            files: &files,
            hostname: plan.hostname.as_bytes(),
            cwd_parents: &cwd_parents,
            read_only_root: plan.read_only_root,
            tmp: plan.read_only_root && !plan.mounts.iter().any(|mount| mount.target == Path::new("/tmp")),
            identity: &identity,
            opened: &opened,
        };
        let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_FILES;
        if empty.is_none() {
            flags |= libc::CLONE_NEWNS;
        }
        let into = cgroup.unified.as_ref().map(AsFd::as_fd);
        let flags = u64::from(flags.unsigned_abs());
        let spawned = filled
            .and_then(|()| sys::spawn_into(flags, into, &mut self.stack, child::run, &sandbox))
            .map_err(|errno| failed("clone".to_owned(), errno));
        self.window.clear(self.null.as_fd(), count);
        let (pid, pidfd) = spawned?;
        match outcome.failure() {
            None => Ok(Started { pid, pidfd, stdout, stderr, oom_kills }),
            Some((step, index, errno)) => {
                reap(pidfd.as_fd());
                Err(Failure::Launch { step: self.describe(plan, step, index), errno })
            }
        }
    }

    /// Starts `args` inside a running sandbox, with the identity of `plan`.
    pub(crate) fn join(&mut self, plan: &Plan, init: BorrowedFd<'_>, args: &[String]) -> Attempt<Joined> {
        if args.is_empty() {
            return Err(Failure::Plan("a command needs at least its program".to_owned()));
        }
        let mut identity = identity(plan, args)?;
        identity.rlimits.clear();
        let cgroup = CgroupFds::open(&plan.cgroup)?;
        let (output, output_child) = pipe(plan.user.uid)?;
        let outcome = Outcome::default();
        let joiner = Joiner {
            outcome: &outcome,
            keeper: self.keeper.as_fd(),
            filter: &self.filter,
            last_capability: self.last_capability,
            init,
            null: self.null.as_fd(),
            output: output_child.as_fd(),
            tasks: &cgroup.tasks,
            identity: &identity,
        };
        let enter = |namespace| sys::join_namespaces(namespace, libc::CLONE_NEWPID);
        enter(init).map_err(|errno| failed("join the pid namespace".to_owned(), errno))?;
        let into = cgroup.unified.as_ref().map(AsFd::as_fd);
        let result = sys::spawn_into(0, into, &mut self.stack, child::join, &joiner);
        enter(self.own_pid_namespace.as_fd())
            .map_err(|errno| failed("return to the pid namespace".to_owned(), errno))?;
        let (_, pidfd) = result.map_err(|errno| failed("clone".to_owned(), errno))?;
        match outcome.failure() {
            None => Ok(Joined { pidfd, output }),
            Some((Step::Exec, _, errno)) => {
                reap(pidfd.as_fd());
                Err(Failure::Launch { step: exec_step(args), errno })
            }
            Some((step, _, errno)) => {
                reap(pidfd.as_fd());
                Err(Failure::Launch { step: format!("join the sandbox ({step:?})"), errno })
            }
        }
    }

    /// What was attempted, in the words of the plan.
    fn describe(&self, plan: &Plan, step: Step, index: usize) -> String {
        let volume = |index: usize| plan.mounts.get(index).map(|m| m.target.display().to_string());
        match step {
            Step::Start => "start the child".to_owned(),
            Step::Cgroup => "join the cgroup".to_owned(),
            Step::Network => {
                format!(
                    "join the network namespace {}",
                    plan.netns.as_deref().unwrap_or(Path::new("")).display()
                )
            }
            Step::CgroupNamespace => "make a cgroup namespace".to_owned(),
            Step::Session => "make a session".to_owned(),
            Step::Propagation => "make mounts private".to_owned(),
            Step::Source => {
                let mut sources = plan.mounts.iter().filter_map(|mount| match &mount.source {
                    MountSource::Bind(path) => Some(path.display().to_string()),
                    MountSource::Tmpfs { .. } => None,
                });
                format!("open volume {}", sources.nth(index).unwrap_or_else(|| "of a cgroup".to_owned()))
            }
            Step::Layer => {
                let layer = plan.lowers.get(index).map(|path| path.display().to_string());
                format!("open layer {}", layer.unwrap_or_default())
            }
            Step::Overlay => format!("mount the image on {}", plan.work_dir.display()),
            Step::Pivot => "change the root".to_owned(),
            Step::System => {
                self.system.get(index).map_or_else(|| "mount system files".to_owned(), system::Op::describe)
            }
            Step::CgroupView => "mount /sys/fs/cgroup".to_owned(),
            Step::Volume => format!("mount volume {}", volume(index).unwrap_or_default()),
            Step::File => "write files".to_owned(),
            Step::Hostname => format!("set host name {:?}", plan.hostname),
            Step::Cwd => format!("enter working directory {}", plan.cwd.display()),
            Step::ReadOnlyRoot => "make / read-only".to_owned(),
            Step::Rlimit => plan
                .rlimits
                .get(index)
                .map_or_else(String::new, |limit| format!("set limit {:?}", limit.kind)),
            Step::Stdio => "connect stdout and stderr".to_owned(),
            Step::Seccomp => "install the system call filter".to_owned(),
            Step::Capabilities => "drop capabilities".to_owned(),
            Step::User => format!("become user {}:{}", plan.user.uid, plan.user.gid),
            Step::Join => "join the sandbox".to_owned(),
            Step::Parent => "watch the keeper".to_owned(),
            Step::Exec => exec_step(&plan.args),
        }
    }
}

impl Outcome {
    /// The step that failed; a child killed on its way counts as interrupted.
    fn failure(&self) -> Option<(Step, usize, Errno)> {
        let step = Step::from_number(self.step.load(Ordering::Relaxed));
        let index = self.index.load(Ordering::Relaxed) as usize;
        match (step, self.errno.load(Ordering::Relaxed)) {
            (Step::Exec, 0) => None,
            (step, 0) => Some((step, index, Errno(libc::EINTR))),
            (step, errno) => Some((step, index, Errno(errno))),
        }
    }
}

fn exec_step(args: &[String]) -> String {
    format!("exec {}", args.first().map_or("", String::as_str))
}

fn failed(step: String, errno: impl Into<Errno>) -> Failure {
    Failure::Launch { step, errno: errno.into() }
}

fn reap(pidfd: BorrowedFd<'_>) {
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(pidfd),
        rustix::process::WaitIdOptions::EXITED,
    );
}

fn check(plan: &Plan) -> Attempt<()> {
    let fail = |text: String| Err(Failure::Plan(text));
    if plan.args.first().is_none_or(String::is_empty) {
        return fail("args: the program is missing".to_owned());
    }
    if plan.lowers.is_empty() || plan.lowers.len() > MAX_LOWERS {
        return fail(format!("lowers: {} layers; 1 to {MAX_LOWERS} are possible", plan.lowers.len()));
    }
    if plan.hostname.len() > 64 {
        return fail(format!("hostname: {} is longer than 64 bytes", plan.hostname));
    }
    let absolute = |path: &Path| {
        path.is_absolute() && !path.components().any(|part| matches!(part, Component::ParentDir))
    };
    for path in plan.files.iter().map(|(path, _)| path).chain([&plan.cwd]) {
        if !absolute(path) {
            return fail(format!("{} is not an absolute path without ..", path.display()));
        }
    }
    for mount in &plan.mounts {
        let target = &mount.target;
        let system = ["/proc", "/sys"].iter().any(|path| target.starts_with(path));
        if !absolute(target) || system || target == Path::new("/") || target == Path::new("/dev") {
            return fail(format!("mounts: nothing can be mounted on {}", target.display()));
        }
    }
    Ok(())
}

fn c_string(text: impl AsRef<[u8]>) -> Attempt<CString> {
    CString::new(text.as_ref()).map_err(|error| {
        Failure::Plan(format!("{:?} has a NUL byte", String::from_utf8_lossy(&error.into_vec())))
    })
}

fn c_path(path: &Path) -> Attempt<CString> {
    c_string(path.as_os_str().as_bytes())
}

fn open_path(path: &Path, flags: OFlags) -> Attempt<OwnedFd> {
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(format!("open {}", path.display()), errno))
}

/// Every directory that leads to `path`, shortest first; with the path itself when `whole`.
fn prefixes(path: &Path, whole: bool) -> Attempt<Vec<CString>> {
    let mut all: Vec<_> =
        path.ancestors().skip(usize::from(!whole)).filter(|p| *p != Path::new("/")).collect();
    all.reverse();
    all.into_iter().map(c_path).collect()
}

fn pipe(owner: u32) -> Attempt<(OwnedFd, OwnedFd)> {
    let fail = |errno| failed("make a pipe".to_owned(), errno);
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(fail)?;
    if owner != 0 {
        // So that the program may open /dev/stdout again.
        rustix::fs::fchown(&write, Some(rustix::fs::Uid::from_raw(owner)), None).map_err(fail)?;
    }
    Ok((read, write))
}

fn identity(plan: &Plan, args: &[String]) -> Attempt<Identity> {
    let program = args.first().map_or("", String::as_str);
    let programs = if program.contains('/') {
        vec![c_string(program)?]
    } else {
        let path = plan.env.iter().rev().find_map(|var| var.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let paths = path.split(':').filter(|dir| !dir.is_empty());
        paths.map(|dir| c_string(format!("{dir}/{program}"))).collect::<Attempt<_>>()?
    };
    let strings =
        |list: &[String]| list.iter().map(c_string).collect::<Attempt<Vec<_>>>().map(StringArray::new);
    let limit = |value: u64| (value != u64::MAX).then_some(value);
    Ok(Identity {
        cwd: c_path(&plan.cwd)?,
        rlimits: plan
            .rlimits
            .iter()
            .map(|entry| {
                let value = Rlimit { current: limit(entry.soft), maximum: limit(entry.hard) };
                (resource(entry.kind), value)
            })
            .collect(),
        uid: plan.user.uid,
        gid: plan.user.gid,
        groups: plan.user.additional_gids.clone(),
        capabilities: Capabilities::bits(plan.capabilities),
        no_new_privileges: plan.no_new_privileges,
        filter: plan.seccomp == SeccompProfile::Default,
        programs,
        args: strings(args)?,
        env: strings(&plan.env)?,
    })
}

fn resource(kind: RlimitKind) -> Resource {
    match kind {
        RlimitKind::Core => Resource::Core,
        RlimitKind::Cpu => Resource::Cpu,
        RlimitKind::FileSize => Resource::Fsize,
        RlimitKind::LockedMemory => Resource::Memlock,
        RlimitKind::OpenFiles => Resource::Nofile,
        RlimitKind::Processes => Resource::Nproc,
        RlimitKind::Stack => Resource::Stack,
    }
}

fn volume(mount: &crate::plan::Mount) -> Attempt<Volume> {
    let (source, options, directory) = match &mount.source {
        MountSource::Bind(path) => {
            let kind = fs::metadata(path)
                .map_err(|error| failed(format!("open volume {}", path.display()), error))?;
            (Some(c_path(path)?), CString::default(), kind.is_dir())
        }
        MountSource::Tmpfs { size } => {
            let size = size.map_or_else(String::new, |size| format!(",size={size}"));
            (None, c_string(format!("mode=1777{size}"))?, true)
        }
    };
    Ok(Volume {
        source,
        options,
        directory,
        parents: prefixes(&mount.target, false)?,
        target: c_path(&mount.target)?,
        read_only: mount.read_only,
    })
}

fn text_file((path, content): &(PathBuf, String)) -> Attempt<TextFile> {
    Ok(TextFile { parents: prefixes(path, false)?, path: c_path(path)?, content: content.clone() })
}

fn views(plan: &CgroupPlan) -> Attempt<Vec<View>> {
    let alone = plan.dirs.len() == 1;
    plan.dirs
        .iter()
        .map(|dir| {
            let whole = alone && dir.version == Version::V2;
            let name = if whole { String::new() } else { format!("/{}", dir.mount_name) };
            Ok(View { source: c_path(&dir.path)?, target: c_string(format!("/sys/fs/cgroup{name}"))? })
        })
        .collect()
}

/// How a child enters its cgroups.
struct CgroupFds {
    unified: Option<OwnedFd>,
    tasks: Vec<OwnedFd>,
}

impl CgroupFds {
    fn open(plan: &CgroupPlan) -> Attempt<Self> {
        let mut fds = Self { unified: None, tasks: Vec::new() };
        for dir in &plan.dirs {
            match dir.version {
                Version::V2 => {
                    fds.unified = Some(open_path(&dir.path, OFlags::PATH | OFlags::DIRECTORY)?);
                }
                Version::V1 => fds.tasks.push(open_path(&dir.path.join("tasks"), OFlags::WRONLY)?),
            }
        }
        Ok(fds)
    }
}

/// The writable layer.
struct Layers {
    upper: CString,
    work: CString,
    /// Files that could not be put into the upper layer directly.
    late_files: Vec<(PathBuf, String)>,
}

/// What the topmost layer that knows a name says about it.
#[derive(PartialEq, Eq)]
enum Found {
    Nothing,
    Directory,
    Other,
}

/// Makes in `dir` what a launch would otherwise make there on the hot path: the directories of the writable layer.
///
/// Optional, for a pool of work directories. On a disk each directory costs some 0.1 ms and the mount of the overlay
/// 0.3 ms more than on a tmpfs, so work directories belong on a tmpfs where memory allows.
///
/// # Errors
/// They cannot be made.
pub fn prepare_work_dir(dir: &Path) -> Result<(), crate::Error> {
    let step = || crate::Error::io(format!("prepare {}", dir.display()));
    for name in ["work", "upper", "upper/proc", "upper/sys", "upper/dev", "upper/tmp", "upper/etc"] {
        match fs::DirBuilder::new().mode(0o755).create(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(step()(error)),
            _ => {}
        }
    }
    fs::set_permissions(dir.join("upper/tmp"), fs::Permissions::from_mode(0o1777)).map_err(step())
}

impl Layers {
    fn prepare(plan: &Plan) -> Attempt<Self> {
        let upper_path = plan.work_dir.join("upper");
        let make = |path: &Path, mode: u32| match fs::DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed(format!("create {}", path.display()), error))
            }
            _ => Ok(()),
        };
        make(&upper_path, 0o755)?;
        make(&plan.work_dir.join("work"), 0o755)?;
        // Mount points that the image lacks go into the upper layer now: through the overlay they would cost a copy-up.
        for name in ["proc", "sys", "dev", "tmp"] {
            let path = upper_path.join(name);
            if !path.exists() && find(&plan.lowers, name) == Found::Nothing {
                make(&path, 0o755)?;
                if name == "tmp" {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o1777))
                        .map_err(|error| failed(format!("open up {}", path.display()), error))?;
                }
            }
        }
        let mut late_files = Vec::new();
        let mut etc = None;
        for (path, content) in &plan.files {
            let parent = path.parent();
            let direct = parent == Some(Path::new("/etc"))
                && *etc.get_or_insert_with(|| find(&plan.lowers, "etc") != Found::Other);
            match path.file_name() {
                Some(name) if direct => {
                    let dir = upper_path.join("etc");
                    make(&dir, 0o755)?;
                    let file = dir.join(name);
                    replace(&file, content)
                        .map_err(|error| failed(format!("write {}", file.display()), error))?;
                }
                _ => late_files.push((path.clone(), content.clone())),
            }
        }
        let work = c_path(&plan.work_dir.join("work"))?;
        Ok(Self { upper: c_path(&upper_path)?, work, late_files })
    }
}

/// Writes a file that usually is there and empty. ext4 sends a file that was truncated to the disk as soon as it is
/// closed, even one that had nothing to lose; so it is cut only where there is something.
fn replace(file: &Path, content: &str) -> io::Result<()> {
    let mut open = fs::OpenOptions::new().write(true).create(true).truncate(false).open(file)?;
    if open.metadata()?.len() > 0 {
        open.set_len(0)?;
    }
    io::Write::write_all(&mut open, content.as_bytes())
}

fn find(lowers: &[PathBuf], name: &str) -> Found {
    for lower in lowers {
        if let Ok(entry) = fs::symlink_metadata(lower.join(name)) {
            return match entry.file_type() {
                kind if kind.is_dir() => Found::Directory,
                // A whiteout: the name is deleted here.
                kind if kind.is_char_device() => Found::Nothing,
                _ => Found::Other,
            };
        }
    }
    Found::Nothing
}
