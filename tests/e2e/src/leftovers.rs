//! What the kernel still holds, read from the kernel and never from the program under test.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::until;

/// What is left of one platform after its end: an empty list, or one line per finding. Waits briefly for what the
/// kernel frees a moment after the process that held it.
pub fn of_platform(data: &Path, processes: &[i32]) -> Vec<String> {
    let mark = mark(data);
    let look = || {
        let mut left = processes_left(data, processes);
        left.extend(mounts(data));
        left.extend(machine().into_iter().filter(|one| one.contains(&mark)));
        left
    };
    let mut last = Vec::new();
    let gone = until("nothing is left", Duration::from_secs(3), || {
        last = look();
        Ok(last.is_empty().then_some(()))
    });
    if gone.is_ok() { Vec::new() } else { last }
}

/// What the node puts into the names of links, cgroups, tables and mounts of one data directory. Should it change, this
/// check goes blind for those, which `tests/alone.rs` then tells: it compares the whole machine.
fn mark(data: &Path) -> String {
    let path = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn processes_left(data: &Path, processes: &[i32]) -> Vec<String> {
    let name = data.as_os_str().to_string_lossy().into_owned();
    let mut left = Vec::new();
    for pid in all_processes() {
        let command = command_line(pid);
        let known = processes.contains(&pid) && !command.is_empty();
        let ours = command.contains("dormouse") && command.contains(&name);
        if known || ours {
            left.push(format!("process {pid}: {command}"));
        }
    }
    left
}

fn mounts(data: &Path) -> Vec<String> {
    let name = data.as_os_str().to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter(|line| line.contains(&name)).map(|line| format!("mount {line}")).collect()
}

/// Everything of the machine's that a platform could have made: network links, named network namespaces, cgroups,
/// nftables tables, mounts, and processes of the program. For a comparison before and after.
pub fn machine() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut listing = |kind: &str, program: &str, arguments: &[&str]| {
        if let Ok(output) = Command::new(program).args(arguments).output() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            all.extend(text.lines().filter_map(|line| {
                let name = line.split_whitespace().next()?;
                Some(format!("{kind} {}", if kind == "table" { line.trim() } else { name }))
            }));
        }
    };
    listing("link", "ip", &["-brief", "link"]);
    listing("netns", "ip", &["netns", "list"]);
    listing("table", "nft", &["list", "tables"]);
    listing("cgroup", "find", &["/sys/fs/cgroup", "-type", "d"]);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    all.extend(mounts.lines().filter_map(|line| Some(format!("mount {}", line.split(' ').nth(1)?))));
    for pid in all_processes() {
        let command = command_line(pid);
        if command.split(' ').next().is_some_and(|program| program.ends_with("/dormouse")) {
            all.insert(format!("process {pid}: {command}"));
        }
    }
    all
}

fn all_processes() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A process's command line, empty for a zombie.
pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

/// One variable of a process's environment.
pub fn environment(pid: i32, name: &str) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split('\0').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// The start time of a process in clock ticks since boot: with the pid, its identity.
pub fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// The cgroups whose name holds `name`.
pub fn cgroups_of(name: &str) -> Vec<String> {
    machine().into_iter().filter(|one| one.starts_with("cgroup ") && one.contains(name)).collect()
}

/// The overlay mounts that a platform holds. A keeper mounts in its sandboxes' own namespaces, so every process's
/// table is read.
pub fn overlays(data: &Path) -> Vec<String> {
    let name = data.as_os_str().to_string_lossy().into_owned();
    let mut all = BTreeSet::new();
    for pid in all_processes() {
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        all.extend(
            mounts
                .lines()
                .filter(|line| line.contains(" - overlay ") && line.contains(&name))
                .map(str::to_owned),
        );
    }
    all.into_iter().collect()
}
