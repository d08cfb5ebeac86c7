//! What one sandbox is: a complete, resolved description that the keeper can carry out without asking anybody.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::cgroup::CgroupPlan;

/// Everything the launcher needs to start one instance. All lookups (image, user, volumes, network) are done by
/// the caller; the launcher only carries out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Unique name of the instance among those that run.
    pub id: String,
    /// Opaque text of the caller, handed back by `list()`: what it needs to adopt the instance after a restart.
    pub label: String,
    /// Unpacked image layers, top first; at least one, at most 500 (the kernel's bound).
    pub lowers: Vec<PathBuf>,
    /// A directory of this instance alone; the launcher makes `upper` and `work` in it. The caller removes it after the exit.
    pub work_dir: PathBuf,
    /// A network namespace to join; `None` shares the host's network.
    pub netns: Option<PathBuf>,
    /// The prepared cgroups to start in ([`crate::cgroup::Cgroup::plan`]); the default is none.
    pub cgroup: CgroupPlan,
    /// Program and arguments. A program without `/` is looked up in `PATH` of `env`, inside the root file system.
    pub args: Vec<String>,
    /// The environment as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory inside the sandbox; created when missing.
    pub cwd: PathBuf,
    /// Who runs.
    pub user: User,
    /// The host name inside.
    pub hostname: String,
    /// Bounding, effective and permitted set; a user other than 0 has an empty effective set after exec.
    pub capabilities: Capabilities,
    /// Sets `no_new_privs`.
    pub no_new_privileges: bool,
    /// The system call filter.
    pub seccomp: SeccompProfile,
    /// Makes `/` read-only; `/tmp` then becomes a tmpfs unless a mount covers it.
    pub read_only_root: bool,
    /// Volumes, mounted in this order.
    pub mounts: Vec<Mount>,
    /// Small text files (absolute path, content), put into the writable layer: `/etc/hosts`, `/etc/resolv.conf`…
    pub files: Vec<(PathBuf, String)>,
    /// Resource limits set by `setrlimit`; others are the keeper's.
    pub rlimits: Vec<Rlimit>,
    /// Where stdout and stderr go.
    pub log: LogPlan,
}

impl Plan {
    /// A plan with safe defaults: root user with the default capabilities, no new privileges, default filter,
    /// host network, no cgroup, `PATH` as only variable.
    pub fn new(id: &str, lowers: Vec<PathBuf>, work_dir: PathBuf, args: Vec<String>, log: LogPlan) -> Self {
        Self {
            id: id.to_owned(),
            label: String::new(),
            lowers,
            work_dir,
            netns: None,
            cgroup: CgroupPlan::default(),
            args,
            env: vec![format!("PATH={DEFAULT_PATH}")],
            cwd: PathBuf::from("/"),
            user: User::default(),
            hostname: id.to_owned(),
            capabilities: Capabilities::DEFAULT,
            no_new_privileges: true,
            seccomp: SeccompProfile::Default,
            read_only_root: false,
            mounts: Vec::new(),
            files: Vec::new(),
            rlimits: Vec::new(),
            log,
        }
    }
}

/// The search path when the environment names none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Numeric identity of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
}

/// Which system calls the program may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// The usual default of container engines: unknown calls answer EPERM.
    #[default]
    Default,
    /// No filter.
    Unconfined,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Absolute path inside the sandbox; created when missing.
    pub target: PathBuf,
    /// Mounted read-only.
    pub read_only: bool,
}

/// Where a volume comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind(PathBuf),
    /// Memory; `size` in bytes, half of the machine's memory when absent.
    Tmpfs {
        /// Upper bound in bytes.
        size: Option<u64>,
    },
}

/// One resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which.
    pub kind: RlimitKind,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// The limits that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RlimitKind {
    /// Size of a core dump in bytes.
    Core,
    /// CPU seconds.
    Cpu,
    /// Size of a file in bytes.
    FileSize,
    /// Locked memory in bytes.
    LockedMemory,
    /// Open files.
    OpenFiles,
    /// Processes of the user.
    Processes,
    /// Stack in bytes.
    Stack,
}

/// The log of one instance: lines `<RFC 3339 time> stdout|stderr F|P <text>`, rotated by size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlan {
    /// The current file; older ones are `<path>.1`, `<path>.2`… The directory must exist.
    pub path: PathBuf,
    /// A file is rotated before it would exceed this size.
    pub max_bytes: u64,
    /// How many files are kept, the current one included; at least 1.
    pub max_files: u32,
}

impl LogPlan {
    /// A log of at most five files of 10 MiB each, as the kubelet keeps.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: 10 << 20, max_files: 5 }
    }
}

/// A sandbox that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Process id of its first process, as the host sees it.
    pub pid: u32,
    /// The label of its plan.
    pub label: String,
}

/// The answer to a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    /// Process id of its first process, as the host sees it.
    pub pid: u32,
}

/// How a command inside a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// Exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// stdout and stderr together, at most 64 KiB; invalid UTF-8 replaced.
    pub output: String,
}

/// What the keeper tells without being asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperEvent {
    /// A sandbox ended; all its processes are gone and its log is complete.
    Exited {
        /// Its id.
        id: String,
        /// Exit code, when it exited by itself.
        code: Option<i32>,
        /// Signal, when one ended it.
        signal: Option<i32>,
        /// Whether the kernel killed one of its processes for lack of memory.
        oom: bool,
    },
    /// The connection to the keeper is gone, and with it all sandboxes. Nothing follows.
    KeeperDied,
}

/// A listening address, as requested; used on the wire only.
pub(crate) type Address = SocketAddr;
