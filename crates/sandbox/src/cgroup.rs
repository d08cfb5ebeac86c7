//! Control groups: limits on CPU, memory and processes on v1, v2 and mixed machines.
//!
//! The node makes cgroups ahead and pools them, because making them costs 0.15 ms. A sandbox never joins by
//! `cgroup.procs`: on an idle machine the kernel then waits 5–20 ms for an RCU grace period. It is cloned into a v2
//! group and joins v1 groups through `tasks` (0.03 ms each).
//!
//! All groups of one platform lie below one parent per hierarchy, so that everything of it can be found and removed.

mod layout;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use layout::{Controller, Hierarchy, Layout, Version};

use crate::error::Error;

/// The period of CPU quotas, the kernel's default.
const PERIOD_US: u64 = 100_000;
/// The kernel refuses smaller quotas.
const MIN_QUOTA_US: u64 = 1_000;
/// A group that always has a quota: the kernel patches its own code when the first quota appears and when the
/// last one goes, which must not happen at every cold start.
const HOLD: &str = ".hold";

/// What a group may use. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU quota in thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// CPU request in thousandths of a core: the share under contention.
    pub cpu_request_millis: Option<u64>,
    /// Memory in bytes, swap included.
    pub memory_bytes: Option<u64>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
}

/// What a group has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the group was made; zero where the kernel does not tell.
    pub cpu: Duration,
    /// Memory in bytes now.
    pub memory_bytes: u64,
}

/// The parents of all groups of one platform instance. Clones are cheap.
#[derive(Clone, Debug)]
pub struct CgroupRoot {
    name: String,
    layout: Layout,
}

impl CgroupRoot {
    /// Detects the layout and makes the parents, named `name` (for instance `dormouse-<hash of the data directory>`).
    ///
    /// # Errors
    /// The machine's cgroups cannot be read or written.
    pub fn detect(name: &str) -> Result<Self, Error> {
        let layout = Layout::detect().map_err(Error::io("read /proc/self/mountinfo"))?;
        Self::with_layout(name, layout)
    }

    /// The same with a layout of the caller's choice.
    ///
    /// # Errors
    /// The parents cannot be made.
    pub fn with_layout(name: &str, layout: Layout) -> Result<Self, Error> {
        let root = Self { name: name.to_owned(), layout };
        for hierarchy in &root.layout.hierarchies {
            let parent = root.parent(hierarchy);
            make(&parent)?;
            if hierarchy.version == Version::V2 {
                delegate(&hierarchy.mount, &hierarchy.controllers)?;
                delegate(&parent, &hierarchy.controllers)?;
            }
            if hierarchy.controllers.contains(&Controller::Cpu) {
                let hold = parent.join(HOLD);
                make(&hold)?;
                write_quota(&hold, hierarchy.version, Some(1000))?;
            }
        }
        Ok(root)
    }

    /// What was detected.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes a group without limits; one that exists is reused.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self, name: &str) -> Result<Cgroup, Error> {
        let mut dirs = Vec::new();
        for hierarchy in &self.layout.hierarchies {
            let dir = self.parent(hierarchy).join(name);
            make(&dir)?;
            dirs.push(Dir {
                version: hierarchy.version,
                controllers: hierarchy.controllers.clone(),
                path: dir,
                mount_name: hierarchy
                    .mount
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
            });
        }
        Ok(Cgroup { name: name.to_owned(), dirs })
    }

    /// Names of the groups that exist, of whatever run of the platform.
    pub fn list(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for hierarchy in &self.layout.hierarchies {
            let Ok(entries) = fs::read_dir(self.parent(hierarchy)) else { continue };
            names.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .filter(|name| name != HOLD),
            );
        }
        names.sort();
        names.dedup();
        names
    }

    /// Kills every process in every group of this platform, removes the groups and the parents.
    ///
    /// # Errors
    /// A group stayed busy, or cannot be removed.
    pub fn remove_tree(&self) -> Result<(), Error> {
        for name in self.list() {
            let group = self.create(&name)?;
            group.kill_all()?;
            group.remove()?;
        }
        for hierarchy in &self.layout.hierarchies {
            let parent = self.parent(hierarchy);
            remove_dir(&parent.join(HOLD))?;
            remove_dir(&parent)?;
        }
        Ok(())
    }

    fn parent(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mount.join(&self.name)
    }
}

/// The directory of one group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dir {
    pub(crate) version: Version,
    pub(crate) controllers: Vec<Controller>,
    pub(crate) path: PathBuf,
    pub(crate) mount_name: String,
}

/// What a [`crate::Plan`] needs to know about its group; made by [`Cgroup::plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    pub(crate) dirs: Vec<Dir>,
}

impl CgroupPlan {
    pub(crate) fn oom_kills(&self) -> u64 {
        oom_kills(&self.dirs)
    }
}

/// One group, in every hierarchy that matters. Dropping it leaves it in place.
#[derive(Clone, Debug)]
pub struct Cgroup {
    name: String,
    dirs: Vec<Dir>,
}

impl Cgroup {
    /// Its name below the parent.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the plan of a sandbox in this group carries.
    pub fn plan(&self) -> CgroupPlan {
        CgroupPlan { dirs: self.dirs.clone() }
    }

    /// Sets all limits, lifting those that are `None`. Limits whose controller is missing have no effect.
    ///
    /// # Errors
    /// The kernel refused a value.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), Error> {
        for dir in &self.dirs {
            for controller in &dir.controllers {
                match controller {
                    Controller::Cpu => {
                        write_quota(&dir.path, dir.version, limits.cpu_millis)?;
                        write_shares(&dir.path, dir.version, limits.cpu_request_millis)?;
                    }
                    Controller::Memory => write_memory(&dir.path, dir.version, limits.memory_bytes)?,
                    Controller::Pids => write(&dir.path.join("pids.max"), &or_max(limits.pids))?,
                }
            }
        }
        Ok(())
    }

    /// Sends SIGKILL to every process of the group; returns when none is left or after a second.
    ///
    /// # Errors
    /// The list of processes cannot be read.
    pub fn kill_all(&self) -> Result<(), Error> {
        for dir in &self.dirs {
            if dir.version == Version::V2 && write(&dir.path.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            for _ in 0..100 {
                let file = dir.path.join("cgroup.procs");
                let text = match fs::read_to_string(&file) {
                    Ok(text) => text,
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    Err(error) => return Err(Error::io(format!("read {}", file.display()))(error)),
                };
                let pids = text.lines().filter_map(|line| line.parse().ok());
                let mut any = false;
                for pid in pids.filter_map(rustix::process::Pid::from_raw) {
                    any = true;
                    // It may be gone already: then there is nothing to kill.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
                if !any {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// Removes the group. A group whose processes have just ended may be busy for a moment, so this waits up to a second.
    ///
    /// # Errors
    /// It still has processes.
    pub fn remove(&self) -> Result<(), Error> {
        self.dirs.iter().try_for_each(|dir| remove_dir(&dir.path))
    }

    /// How many processes of the group the kernel has killed for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        oom_kills(&self.dirs)
    }

    /// How many times a process could not be made because of the limit; zero where the kernel does not tell.
    pub fn process_refusals(&self) -> u64 {
        let pids = self.dirs.iter().find(|dir| dir.controllers.contains(&Controller::Pids));
        pids.map_or(0, |dir| read_field(&dir.path.join("pids.events"), "max"))
    }

    /// What it uses.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for dir in &self.dirs {
            if dir.controllers.contains(&Controller::Memory) {
                let file = match dir.version {
                    Version::V1 => "memory.usage_in_bytes",
                    Version::V2 => "memory.current",
                };
                usage.memory_bytes = read_number(&dir.path.join(file));
            }
            if dir.controllers.contains(&Controller::Cpu) {
                usage.cpu = match dir.version {
                    Version::V1 => Duration::from_nanos(read_number(&dir.path.join("cpuacct.usage"))),
                    Version::V2 => {
                        Duration::from_micros(read_field(&dir.path.join("cpu.stat"), "usage_usec"))
                    }
                };
            }
        }
        usage
    }
}

fn oom_kills(dirs: &[Dir]) -> u64 {
    let memory = dirs.iter().find(|dir| dir.controllers.contains(&Controller::Memory));
    memory.map_or(0, |dir| {
        let file = match dir.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        read_field(&dir.path.join(file), "oom_kill")
    })
}

fn or_max(value: Option<u64>) -> String {
    value.map_or_else(|| "max".to_owned(), |value| value.to_string())
}

fn write_quota(dir: &Path, version: Version, millis: Option<u64>) -> Result<(), Error> {
    let quota = millis.map(|millis| (millis * PERIOD_US / 1000).max(MIN_QUOTA_US));
    match version {
        Version::V1 => {
            let text = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
            write(&dir.join("cpu.cfs_quota_us"), &text)
        }
        Version::V2 => write(&dir.join("cpu.max"), &format!("{} {PERIOD_US}", or_max(quota))),
    }
}

fn write_shares(dir: &Path, version: Version, millis: Option<u64>) -> Result<(), Error> {
    let shares = millis.map_or(1024, |millis| (millis * 1024 / 1000).clamp(2, 262_144));
    match version {
        Version::V1 => write(&dir.join("cpu.shares"), &shares.to_string()),
        // The kernel's own mapping of the two ranges, 2..=262144 onto 1..=10000.
        Version::V2 => {
            let weight = millis.map_or(100, |_| 1 + (shares - 2) * 9999 / 262_142);
            write(&dir.join("cpu.weight"), &weight.to_string())
        }
    }
}

fn write_memory(dir: &Path, version: Version, bytes: Option<u64>) -> Result<(), Error> {
    match version {
        Version::V1 => {
            let text = bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
            let limit = dir.join("memory.limit_in_bytes");
            let swap = dir.join("memory.memsw.limit_in_bytes");
            // Memory may never exceed memory + swap, so which goes first depends on the direction; swap accounting
            // may be compiled out.
            let had_swap_limit = swap.exists();
            if write(&limit, &text).is_err() && had_swap_limit {
                write(&swap, &text)?;
                return write(&limit, &text);
            }
            if had_swap_limit { write(&swap, &text) } else { Ok(()) }
        }
        Version::V2 => {
            write(&dir.join("memory.max"), &or_max(bytes))?;
            if bytes.is_some() {
                // Absent without swap, and on old kernels; then there is nothing to forbid.
                let _ = write(&dir.join("memory.swap.max"), "0");
                let _ = write(&dir.join("memory.oom.group"), "1");
            }
            Ok(())
        }
    }
}

/// Lets the children of a v2 group have these controllers.
fn delegate(dir: &Path, controllers: &[Controller]) -> Result<(), Error> {
    let file = dir.join("cgroup.subtree_control");
    let have = fs::read_to_string(&file).unwrap_or_default();
    for controller in controllers {
        if have.split_whitespace().any(|name| name == controller.name()) {
            continue;
        }
        write(&file, &format!("+{}", controller.name())).map_err(|error| match &error {
            Error::Io { source, .. } if source.raw_os_error() == Some(libc::EBUSY) => Error::Cgroup(format!(
                "{} has processes of its own, so its children cannot have limits; start Dormouse in a child of it",
                dir.display()
            )),
            _ => error,
        })?;
    }
    Ok(())
}

fn make(dir: &Path) -> Result<(), Error> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Error::io(format!("create {}", dir.display()))(error))
        }
        _ => Ok(()),
    }
}

fn remove_dir(dir: &Path) -> Result<(), Error> {
    let mut attempt = 0;
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy && attempt < 100 => {
                attempt += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(Error::io(format!("remove {}", dir.display()))(error)),
        }
    }
}

/// Writes an existing control file; never creates one (a fake tree prepares its files).
fn write(file: &Path, text: &str) -> Result<(), Error> {
    let result = fs::OpenOptions::new().write(true).truncate(true).open(file);
    let result: io::Result<()> = result.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
    result.map_err(Error::io(format!("write {text:?} to {}", file.display())))
}

fn read_number(file: &Path) -> u64 {
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

fn read_field(file: &Path, field: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .find(|(name, _)| *name == field)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
