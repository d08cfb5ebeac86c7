//! Where each controller lives on this machine: cgroup v1, v2 or a mixture, told per controller.

use std::path::{Path, PathBuf};

/// A resource that we limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Controller {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Number of processes.
    Pids,
}

impl Controller {
    /// All that we use.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// Which generation a hierarchy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Version {
    /// One tree per controller, joined through `tasks`.
    V1,
    /// One tree for all, joined by `CLONE_INTO_CGROUP`.
    V2,
}

/// One mounted tree and the controllers that we use in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its generation.
    pub version: Version,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which of ours it controls.
    pub controllers: Vec<Controller>,
}

/// The trees of this machine that matter to us, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// At most one tree of version 2 and any number of version 1.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Reads `/proc/self/mountinfo`, `/proc/cgroups` and `cgroup.controllers` of the v2 mount.
    pub fn detect() -> std::io::Result<Self> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
        let enabled = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
        Ok(Self::parse(&mountinfo, &enabled, |mount| {
            std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
        }))
    }

    /// The same from texts; `v2_controllers` answers the content of `cgroup.controllers` below a mount.
    pub fn parse(mountinfo: &str, enabled: &str, v2_controllers: impl Fn(&Path) -> String) -> Self {
        let mut layout = Self::default();
        let mut taken = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4).map(unescape) else { continue };
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or_default();
            let options = right.nth(1).unwrap_or_default();
            let (version, names) = match kind {
                "cgroup" => (Version::V1, options.to_owned()),
                "cgroup2" => (Version::V2, v2_controllers(&mount).trim().replace(' ', ",")),
                _ => continue,
            };
            let controllers: Vec<_> = Controller::ALL
                .into_iter()
                .filter(|c| names.split(',').any(|name| name == c.name()))
                .filter(|c| !disabled(enabled, *c) && !taken.contains(c))
                .collect();
            if controllers.is_empty() {
                continue;
            }
            taken.extend(&controllers);
            layout.hierarchies.push(Hierarchy { version, mount, controllers });
        }
        layout
    }

    /// Controllers that this machine does not offer; limits on them have no effect.
    pub fn missing(&self) -> Vec<Controller> {
        let has = |c: &Controller| self.hierarchies.iter().any(|h| h.controllers.contains(c));
        Controller::ALL.into_iter().filter(|c| !has(c)).collect()
    }

    /// One word for people: `v1`, `v2`, `mixed` or `none`.
    pub fn describe(&self) -> &'static str {
        let count = |version| self.hierarchies.iter().filter(|h| h.version == version).count();
        match (count(Version::V1), count(Version::V2)) {
            (0, 0) => "none",
            (_, 0) => "v1",
            (0, _) => "v2",
            _ => "mixed",
        }
    }
}

fn disabled(table: &str, controller: Controller) -> bool {
    table
        .lines()
        .filter(|line| line.split_whitespace().next() == Some(controller.name()))
        .any(|line| line.split_whitespace().nth(3) == Some("0"))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let plain = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    PathBuf::from(plain.replace("\\134", "\\"))
}
