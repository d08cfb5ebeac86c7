//! What a process costs, as the kernel counts it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use dormouse_e2e::leftovers;

/// Time on a CPU of each thread of some processes.
pub(crate) struct Cpu {
    threads: BTreeMap<String, u64>,
}

impl Cpu {
    /// Reads the counters of these processes and of their children.
    pub(crate) fn of(processes: &[i32]) -> Result<Cpu> {
        let mut threads = BTreeMap::new();
        let mut pending = processes.to_vec();
        while let Some(pid) = pending.pop() {
            pending.extend(leftovers::children(pid));
            add(pid, &mut threads);
        }
        Ok(Cpu { threads })
    }

    /// Reads the counters of one process without its children.
    pub(crate) fn alone(process: i32) -> Result<Cpu> {
        let mut threads = BTreeMap::new();
        add(process, &mut threads);
        Ok(Cpu { threads })
    }

    /// What was used since an earlier reading of the same processes.
    pub(crate) fn since(&self, earlier: &Cpu) -> Duration {
        let used = self.threads.iter().map(|(thread, now)| {
            let before = earlier.threads.get(thread).copied().unwrap_or_default();
            now.saturating_sub(before)
        });
        Duration::from_nanos(used.sum())
    }
}

fn add(pid: i32, threads: &mut BTreeMap<String, u64>) {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for entry in entries.flatten() {
        let path = entry.path().join("schedstat");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if let Some(time) = text.split(' ').next().and_then(|time| time.parse().ok()) {
            threads.insert(path.display().to_string(), time);
        }
    }
}

/// Resident memory in KiB.
pub(crate) fn resident_kib(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
