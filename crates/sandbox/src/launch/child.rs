//! What runs between clone and exec. It shares the keeper's memory while the keeper sleeps, so it makes kernel calls
//! on prepared data only: no allocation, no lock, no panic.
//!
//! Once the root is the sandbox's ([`super::root`]), every path resolves inside the sandbox, so that no symbolic link of an image can lead out.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

use super::system::{Op, READ_ONLY};
use crate::sys;

/// Where the child is; the parent reads it when the child has not become the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Step {
    Start,
    Cgroup,
    Network,
    CgroupNamespace,
    Session,
    Propagation,
    Source,
    Layer,
    Overlay,
    Pivot,
    System,
    CgroupView,
    Volume,
    File,
    Hostname,
    Cwd,
    ReadOnlyRoot,
    Rlimit,
    Stdio,
    Seccomp,
    Capabilities,
    User,
    Join,
    Parent,
    Exec,
}

impl Step {
    const ALL: [Self; 25] = [
        Self::Start,
        Self::Cgroup,
        Self::Network,
        Self::CgroupNamespace,
        Self::Session,
        Self::Propagation,
        Self::Source,
        Self::Layer,
        Self::Overlay,
        Self::Pivot,
        Self::System,
        Self::CgroupView,
        Self::Volume,
        Self::File,
        Self::Hostname,
        Self::Cwd,
        Self::ReadOnlyRoot,
        Self::Rlimit,
        Self::Stdio,
        Self::Seccomp,
        Self::Capabilities,
        Self::User,
        Self::Join,
        Self::Parent,
        Self::Exec,
    ];

    pub(super) fn from_number(number: u32) -> Self {
        Self::ALL.get(number as usize).copied().unwrap_or(Self::Start)
    }
}

/// Step, index within the step, and error number, written by the child and read by the parent.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) step: AtomicU32,
    pub(super) index: AtomicU32,
    pub(super) errno: AtomicI32,
}

impl Outcome {
    pub(super) fn at(&self, step: Step) {
        self.step.store(step as u32, Ordering::Relaxed);
        self.index.store(0, Ordering::Relaxed);
    }

    pub(super) fn next(&self) {
        self.index.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who the program is and what it is given; the same for a sandbox's first process and for one that joins it.
pub(super) struct Identity {
    pub(super) cwd: CString,
    pub(super) rlimits: Vec<(rustix::process::Resource, rustix::process::Rlimit)>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) capabilities: u64,
    pub(super) no_new_privileges: bool,
    pub(super) filter: bool,
    /// Paths to try, in this order.
    pub(super) programs: Vec<CString>,
    pub(super) args: sys::StringArray,
    pub(super) env: sys::StringArray,
}

/// One volume; `source` is opened before the pivot, `None` is a tmpfs with `options`.
pub(super) struct Volume {
    pub(super) source: Option<CString>,
    pub(super) options: CString,
    pub(super) directory: bool,
    pub(super) parents: Vec<CString>,
    pub(super) target: CString,
    pub(super) read_only: bool,
}

pub(super) struct TextFile {
    pub(super) parents: Vec<CString>,
    pub(super) path: CString,
    pub(super) content: String,
}

/// One cgroup directory made visible, under this name; an empty name is the whole of `/sys/fs/cgroup`.
pub(super) struct View {
    pub(super) source: CString,
    pub(super) target: CString,
}

pub(super) struct Sandbox<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) keeper: BorrowedFd<'a>,
    pub(super) filter: &'a [libc::sock_filter],
    pub(super) last_capability: u32,
    pub(super) system: &'a [Op],
    pub(super) mount_point: &'a CStr,
    /// The mount namespace to start from; without it the child was given a copy of the host's.
    pub(super) empty: Option<BorrowedFd<'a>>,
    pub(super) null: BorrowedFd<'a>,
    /// All descriptors named here are below it.
    pub(super) limit: u32,
    pub(super) stdout: BorrowedFd<'a>,
    pub(super) stderr: BorrowedFd<'a>,
    pub(super) tasks: &'a [BorrowedFd<'a>],
    pub(super) netns: Option<BorrowedFd<'a>>,
    pub(super) views: &'a [View],
    /// Layers, top first.
    pub(super) lowers: &'a [CString],
    pub(super) upper: &'a CStr,
    pub(super) work: &'a CStr,
    pub(super) volumes: &'a [Volume],
    pub(super) files: &'a [TextFile],
    pub(super) hostname: &'a [u8],
    pub(super) cwd_parents: &'a [CString],
    pub(super) read_only_root: bool,
    pub(super) tmp: bool,
    pub(super) identity: &'a Identity,
    /// Room for the sources opened before the pivot: allocated by the parent.
    pub(super) opened: &'a OpenedSources,
}

/// Descriptors of detached mounts, filled by the child. Raw numbers: the child's table dies with exec.
pub(super) struct OpenedSources(pub(super) Vec<AtomicI32>);

/// The entry of a new sandbox's first process.
pub(super) extern "C" fn run(sandbox: &Sandbox<'_>) -> ! {
    let Err(errno) = sandbox.set_up();
    sandbox.outcome.errno.store(errno.raw_os_error(), Ordering::Relaxed);
    sys::exit(127)
}

impl Sandbox<'_> {
    fn set_up(&self) -> Result<std::convert::Infallible, Errno> {
        let outcome = self.outcome;
        // Before anything is opened: until here the table is the keeper's own.
        sys::own_descriptors_below(self.limit)?;
        sys::set_umask(0);
        outcome.at(Step::Cgroup);
        for tasks in self.tasks {
            rustix::io::write(tasks, b"0")?;
            outcome.next();
        }
        outcome.at(Step::Network);
        if let Some(netns) = self.netns {
            sys::join_namespaces(netns, libc::CLONE_NEWNET)?;
        }
        outcome.at(Step::CgroupNamespace);
        sys::new_namespaces(libc::CLONE_NEWCGROUP)?;
        outcome.at(Step::Session);
        rustix::process::setsid()?;
        outcome.at(Step::Propagation);
        if self.empty.is_none() {
            rustix::mount::mount_change(c"/", PRIVATE)?;
        }
        outcome.at(Step::Source);
        let sources = self
            .volumes
            .iter()
            .filter_map(|volume| volume.source.as_deref())
            .chain(self.views.iter().map(|view| view.source.as_c_str()));
        for (source, slot) in sources.zip(&self.opened.0) {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = rustix::mount::open_tree(CWD, source, flags | OpenTreeFlags::AT_RECURSIVE)?;
            slot.store(tree.into_raw_fd(), Ordering::Relaxed);
            outcome.next();
        }
        self.enter_root()?;
        outcome.at(Step::System);
        for op in self.system {
            op.apply()?;
            outcome.next();
        }
        self.show_cgroups()?;
        self.mount_volumes()?;
        outcome.at(Step::File);
        for file in self.files {
            make_directories(&file.parents)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(CWD, &*file.path, flags, Mode::from_raw_mode(0o644))?;
            let mut rest = file.content.as_bytes();
            while !rest.is_empty() {
                let written = rustix::io::write(&fd, rest)?;
                rest = rest.get(written..).unwrap_or_default();
            }
            outcome.next();
        }
        outcome.at(Step::Hostname);
        rustix::system::sethostname(self.hostname)?;
        outcome.at(Step::Cwd);
        make_directories(self.cwd_parents)?;
        outcome.at(Step::ReadOnlyRoot);
        if self.read_only_root {
            rustix::mount::mount_remount(c"/", MountFlags::BIND | MountFlags::RDONLY, c"")?;
        }
        outcome.at(Step::Stdio);
        sys::duplicate_to(self.null, 0)?;
        sys::duplicate_to(self.stdout, 1)?;
        sys::duplicate_to(self.stderr, 2)?;
        Err(self.identity.assume(outcome, self.keeper, self.filter, self.last_capability))
    }

    fn opened(&self, index: usize) -> Option<BorrowedFd<'_>> {
        let fd = self.opened.0.get(index)?.load(Ordering::Relaxed);
        (fd >= 0).then(|| sys::borrow(fd))
    }

    fn show_cgroups(&self) -> Result<(), Errno> {
        self.outcome.at(Step::CgroupView);
        let first = self.volumes.iter().filter(|volume| volume.source.is_some()).count();
        let alone = self.views.iter().any(|view| view.target.as_c_str() == CGROUP);
        if !alone && !self.views.is_empty() {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount(c"tmpfs", CGROUP, c"tmpfs", flags, Some(c"mode=755,size=64k"))?;
        }
        for (index, view) in self.views.iter().enumerate() {
            if !alone {
                make_directory(&view.target)?;
            }
            if let Some(tree) = self.opened(first + index) {
                place(tree, &view.target)?;
                rustix::mount::mount_remount(&*view.target, READ_ONLY, c"")?;
            }
            self.outcome.next();
        }
        if !alone && !self.views.is_empty() {
            rustix::mount::mount_remount(CGROUP, READ_ONLY, c"")?;
        }
        Ok(())
    }

    fn mount_volumes(&self) -> Result<(), Errno> {
        if self.tmp {
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            make_directory(c"/tmp")?;
            rustix::mount::mount(c"tmpfs", c"/tmp", c"tmpfs", flags, Some(c"mode=1777"))?;
        }
        self.outcome.at(Step::Volume);
        let mut opened = 0;
        for volume in self.volumes {
            make_directories(&volume.parents)?;
            if volume.directory {
                make_directory(&volume.target)?;
            } else {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
                drop(rustix::fs::openat(CWD, &*volume.target, flags, Mode::from_raw_mode(0o644))?);
            }
            if volume.source.is_some() {
                if let Some(tree) = self.opened(opened) {
                    place(tree, &volume.target)?;
                }
                opened += 1;
            } else {
                let flags = MountFlags::NOSUID | MountFlags::NODEV;
                rustix::mount::mount(c"tmpfs", &*volume.target, c"tmpfs", flags, Some(&*volume.options))?;
            }
            if volume.read_only {
                let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
                rustix::mount::mount_remount(&*volume.target, flags, c"")?;
            }
            self.outcome.next();
        }
        Ok(())
    }
}

pub(super) const CGROUP: &CStr = c"/sys/fs/cgroup";

/// Nothing that is mounted here shows on the host, nor the other way round.
const PRIVATE: MountPropagationFlags = MountPropagationFlags::PRIVATE.union(MountPropagationFlags::REC);

/// Mounts a copy of a part of the host's tree.
fn place(tree: BorrowedFd<'_>, target: &CStr) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rustix::mount::move_mount(tree, c"", CWD, target, flags)?;
    rustix::mount::mount_change(target, PRIVATE)
}

fn make_directories(paths: &[CString]) -> Result<(), Errno> {
    paths.iter().try_for_each(|path| make_directory(path))
}

fn make_directory(path: &CStr) -> Result<(), Errno> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) | Ok(()) => Ok(()),
        Err(errno) => Err(errno),
    }
}

impl Identity {
    /// Takes the identity on and becomes the program; returns only the reason why not.
    fn assume(
        &self,
        outcome: &Outcome,
        keeper: BorrowedFd<'_>,
        filter: &[libc::sock_filter],
        last_capability: u32,
    ) -> Errno {
        match self.try_assume(outcome, keeper, filter, last_capability) {
            Ok(errno) | Err(errno) => errno,
        }
    }

    fn try_assume(
        &self,
        outcome: &Outcome,
        keeper: BorrowedFd<'_>,
        filter: &[libc::sock_filter],
        last_capability: u32,
    ) -> Result<Errno, Errno> {
        outcome.at(Step::Rlimit);
        for (resource, limit) in &self.rlimits {
            rustix::process::setrlimit(*resource, *limit)?;
            outcome.next();
        }
        sys::set_umask(0o022);
        outcome.at(Step::Cwd);
        rustix::process::chdir(&*self.cwd)?;
        if self.filter && !self.no_new_privileges {
            // Only CAP_SYS_ADMIN may do this without no_new_privs, so before capabilities are dropped.
            outcome.at(Step::Seccomp);
            sys::install_filter(filter)?;
        }
        outcome.at(Step::Capabilities);
        for capability in (0..=last_capability).filter(|number| self.capabilities & (1 << number) == 0) {
            sys::drop_bounding(capability)?;
        }
        outcome.at(Step::User);
        sys::set_user(self.uid, self.gid, &self.groups)?;
        outcome.at(Step::Capabilities);
        sys::set_capabilities(if self.uid == 0 { self.capabilities } else { 0 })?;
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true)?;
        }
        // After the change of user, which clears it; if the keeper died before, nobody would tell us.
        outcome.at(Step::Parent);
        sys::die_with_parent()?;
        let mut poll = [rustix::event::PollFd::new(&keeper, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut poll, Some(&now))? > 0 {
            return Err(Errno::SRCH);
        }
        sys::default_signal(libc::SIGPIPE);
        sys::unblock_signals();
        sys::close_on_exec_from(3)?;
        if self.filter && self.no_new_privileges {
            outcome.at(Step::Seccomp);
            sys::install_filter(filter)?;
        }
        outcome.at(Step::Exec);
        let mut reason = Errno::NOENT;
        for program in &self.programs {
            match sys::execve(program, &self.args, &self.env) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => reason = Errno::ACCESS,
                errno => return Err(errno),
            }
        }
        Err(reason)
    }
}

/// A process that joins a running sandbox. It is born in the sandbox's pid namespace.
pub(super) struct Joiner<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) keeper: BorrowedFd<'a>,
    pub(super) filter: &'a [libc::sock_filter],
    pub(super) last_capability: u32,
    pub(super) init: BorrowedFd<'a>,
    pub(super) null: BorrowedFd<'a>,
    pub(super) output: BorrowedFd<'a>,
    pub(super) tasks: &'a [OwnedFd],
    pub(super) identity: &'a Identity,
}

/// The entry of a process that joins.
pub(super) extern "C" fn join(joiner: &Joiner<'_>) -> ! {
    let Err(errno) = joiner.set_up();
    joiner.outcome.errno.store(errno.raw_os_error(), Ordering::Relaxed);
    sys::exit(127)
}

impl Joiner<'_> {
    fn set_up(&self) -> Result<std::convert::Infallible, Errno> {
        let outcome = self.outcome;
        outcome.at(Step::Cgroup);
        for tasks in self.tasks {
            rustix::io::write(tasks, b"0")?;
            outcome.next();
        }
        outcome.at(Step::Join);
        let kinds = libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWCGROUP;
        sys::join_namespaces(self.init, kinds)?;
        outcome.at(Step::Session);
        rustix::process::setsid()?;
        outcome.at(Step::Stdio);
        sys::duplicate_to(self.null, 0)?;
        sys::duplicate_to(self.output, 1)?;
        sys::duplicate_to(self.output, 2)?;
        Err(self.identity.assume(outcome, self.keeper, self.filter, self.last_capability))
    }
}
