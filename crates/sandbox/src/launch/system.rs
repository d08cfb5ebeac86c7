//! The file systems that every sandbox has, as a list of kernel calls computed once.

use std::ffi::CStr;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::mount::MountFlags;

/// Flags of a read-only bind mount of `/proc`, `/sys` or cgroups.
pub(super) const READ_ONLY: MountFlags = MountFlags::BIND
    .union(MountFlags::RDONLY)
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// One kernel call on a path inside the sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Mount { kind: &'static CStr, target: &'static CStr, flags: MountFlags, options: &'static CStr },
    Bind { from: &'static CStr, to: &'static CStr },
    ReadOnly(&'static CStr),
    Directory(&'static CStr),
    Device(&'static CStr, u32, u32),
    Link { to: &'static CStr, at: &'static CStr },
}

impl Op {
    pub(super) fn apply(&self) -> Result<(), Errno> {
        match *self {
            Self::Mount { kind, target, flags, options } => {
                rustix::mount::mount(kind, target, kind, flags, Some(options))
            }
            Self::Bind { from, to } => rustix::mount::mount_bind(from, to),
            Self::ReadOnly(path) => rustix::mount::mount_remount(path, READ_ONLY, c""),
            Self::Directory(path) => rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)),
            Self::Device(path, major, minor) => rustix::fs::mknodat(
                CWD,
                path,
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o666),
                rustix::fs::makedev(major, minor),
            ),
            Self::Link { to, at } => rustix::fs::symlinkat(to, CWD, at),
        }
    }

    /// What to call it in an error.
    pub(super) fn describe(&self) -> String {
        let (verb, path) = match self {
            Self::Mount { target, .. } => ("mount", target),
            Self::Bind { to, .. } => ("bind", to),
            Self::ReadOnly(path) => ("make read-only", path),
            Self::Directory(path) => ("create directory", path),
            Self::Device(path, ..) => ("create device", path),
            Self::Link { at, .. } => ("link", at),
        };
        format!("{verb} {}", path.to_string_lossy())
    }
}

const MASKED_FILES: [&CStr; 7] = [
    c"/proc/interrupts",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/sched_debug",
    c"/proc/timer_list",
    c"/proc/timer_stats",
];
const MASKED_DIRECTORIES: [&CStr; 5] =
    [c"/sys/firmware", c"/proc/acpi", c"/proc/asound", c"/proc/scsi", c"/sys/devices/virtual/powercap"];
const READ_ONLY_PATHS: [&CStr; 5] =
    [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];

/// The calls for this machine: paths that the kernel does not have are left out.
pub(super) fn operations() -> Vec<Op> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mut ops = vec![
        Op::Mount { kind: c"proc", target: c"/proc", flags: safe, options: c"" },
        Op::Mount { kind: c"sysfs", target: c"/sys", flags: safe | MountFlags::RDONLY, options: c"" },
        Op::Mount {
            kind: c"tmpfs",
            target: c"/dev",
            flags: MountFlags::NOSUID | MountFlags::STRICTATIME,
            options: c"mode=755,size=65536k",
        },
        Op::Device(c"/dev/null", 1, 3),
        Op::Device(c"/dev/zero", 1, 5),
        Op::Device(c"/dev/full", 1, 7),
        Op::Device(c"/dev/random", 1, 8),
        Op::Device(c"/dev/urandom", 1, 9),
        Op::Device(c"/dev/tty", 5, 0),
        Op::Link { to: c"pts/ptmx", at: c"/dev/ptmx" },
        Op::Link { to: c"/proc/self/fd", at: c"/dev/fd" },
        Op::Link { to: c"/proc/self/fd/0", at: c"/dev/stdin" },
        Op::Link { to: c"/proc/self/fd/1", at: c"/dev/stdout" },
        Op::Link { to: c"/proc/self/fd/2", at: c"/dev/stderr" },
        Op::Directory(c"/dev/pts"),
        Op::Mount {
            kind: c"devpts",
            target: c"/dev/pts",
            flags: MountFlags::NOSUID | MountFlags::NOEXEC,
            options: c"newinstance,ptmxmode=0666,mode=0620,gid=5",
        },
        Op::Directory(c"/dev/shm"),
        Op::Mount { kind: c"tmpfs", target: c"/dev/shm", flags: safe, options: c"mode=1777,size=65536k" },
        Op::Directory(c"/dev/mqueue"),
        Op::Mount { kind: c"mqueue", target: c"/dev/mqueue", flags: safe, options: c"" },
    ];
    for path in READ_ONLY_PATHS.into_iter().filter(|path| exists(path)) {
        ops.extend([Op::Bind { from: path, to: path }, Op::ReadOnly(path)]);
    }
    // After /dev: files are hidden behind its null device.
    ops.extend(
        MASKED_FILES.into_iter().filter(|path| exists(path)).map(|to| Op::Bind { from: c"/dev/null", to }),
    );
    let mut hidden = None;
    for path in MASKED_DIRECTORIES.into_iter().filter(|path| exists(path)) {
        let first = *hidden.get_or_insert(path);
        ops.push(if first == path {
            Op::Mount {
                kind: c"tmpfs",
                target: path,
                flags: safe | MountFlags::RDONLY,
                options: c"mode=755,size=0",
            }
        } else {
            Op::Bind { from: first, to: path }
        });
    }
    ops
}

fn exists(path: &CStr) -> bool {
    path.to_str().is_ok_and(|path| Path::new(path).exists())
}
