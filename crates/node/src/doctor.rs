//! What this machine offers, and for every lack what to do about it. Blocking; changes nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use dormouse_base::clock;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is as needed.
    pub ok: bool,
    /// Whether Dormouse works without it, only with less.
    pub optional: bool,
    /// What was found.
    pub detail: String,
    /// What to do when it is not as needed; empty otherwise.
    pub remedy: String,
}

/// Below this much free space images are likely to fail.
const DISK_BYTES_MIN: u64 = 1 << 30;
/// 2025-01-01: a clock before it breaks certificates.
const CLOCK_SECONDS_MIN: i64 = 1_735_689_600;

/// Looks at everything that the node needs.
pub fn doctor(data_dir: &Path) -> Vec<Check> {
    vec![
        root(),
        namespaces(),
        overlay(),
        cgroups(),
        bridge(),
        firewall(),
        forwarding(),
        disk(data_dir),
        time(),
        nameservers(),
    ]
}

fn check(name: &'static str, ok: bool, optional: bool, detail: String, remedy: &str) -> Check {
    Check { name, ok, optional, detail, remedy: if ok { String::new() } else { remedy.to_owned() } }
}

fn root() -> Check {
    let uid = rustix::process::geteuid();
    let detail =
        if uid.is_root() { "running as root".to_owned() } else { format!("running as uid {}", uid.as_raw()) };
    check(
        "root",
        uid.is_root(),
        false,
        detail,
        "start it with sudo: namespaces, mounts and cgroups need root",
    )
}

fn namespaces() -> Check {
    let missing: Vec<&str> = ["pid", "mnt", "uts", "ipc", "net", "cgroup"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    let detail =
        if missing.is_empty() { "all there".to_owned() } else { format!("missing: {}", missing.join(", ")) };
    check(
        "namespaces",
        missing.is_empty(),
        false,
        detail,
        "use a kernel with all namespaces (any distribution's, 5.10 or newer)",
    )
}

fn overlay() -> Check {
    let known = fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("overlay"));
    let ok = known || Command::new("modprobe").arg("overlay").status().is_ok_and(|status| status.success());
    let detail = if ok { "supported" } else { "the kernel does not know it" };
    check("overlayfs", ok, false, detail.to_owned(), "load the module: modprobe overlay")
}

fn cgroups() -> Check {
    match dormouse_sandbox::cgroup::Layout::detect() {
        Ok(layout) => {
            let hierarchies = layout.hierarchies.iter().map(|hierarchy| {
                let names: Vec<&str> =
                    hierarchy.controllers.iter().map(|controller| controller.name()).collect();
                format!("{} ({:?}) at {}", names.join("+"), hierarchy.version, hierarchy.mount.display())
            });
            let found: Vec<String> = hierarchies.collect();
            let count: usize = layout.hierarchies.iter().map(|hierarchy| hierarchy.controllers.len()).sum();
            check(
                "cgroups",
                count == 3,
                true,
                if found.is_empty() { "none mounted".to_owned() } else { found.join(", ") },
                "mount cgroup2 with the cpu, memory and pids controllers; without them limits have no effect",
            )
        }
        Err(error) => check("cgroups", false, true, error.to_string(), "mount /proc and /sys/fs/cgroup"),
    }
}

fn bridge() -> Check {
    let has = |name: &str| Path::new("/sys/module").join(name).exists();
    let load = |name: &str| {
        has(name) || Command::new("modprobe").arg(name).status().is_ok_and(|status| status.success())
    };
    // Compiled-in modules without parameters have no directory there; the kernel's list of built-ins tells.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let builtin = fs::read_to_string(format!("/lib/modules/{release}/modules.builtin")).unwrap_or_default();
    let missing: Vec<&str> = ["bridge", "veth"]
        .into_iter()
        .filter(|name| !builtin.contains(&format!("/{name}.ko")) && !load(name) && !in_config(name))
        .collect();
    let detail = if missing.is_empty() {
        "bridge and veth".to_owned()
    } else {
        format!("unknown: {}", missing.join(", "))
    };
    check("network links", missing.is_empty(), true, detail, "load the modules: modprobe bridge veth")
}

fn in_config(name: &str) -> bool {
    let option = format!("CONFIG_{}=y", name.to_uppercase());
    let output = Command::new("zcat").arg("/proc/config.gz").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).lines().any(|line| line == option))
}

fn firewall() -> Check {
    let works = |program: &str, arguments: &[&str]| crate::network::firewall::run(program, arguments, None);
    let nft = works("nft", &["list", "tables"]);
    let iptables = nft.as_ref().err().map(|_| works("iptables", &["-w", "-t", "nat", "-S"]));
    let (ok, detail) = match (&nft, &iptables) {
        (Ok(()), _) => (true, "nft".to_owned()),
        (Err(_), Some(Ok(()))) => (true, "iptables".to_owned()),
        (Err(nft), Some(Err(iptables))) => (false, format!("{nft}; {iptables}")),
        (Err(nft), None) => (false, nft.clone()),
    };
    check(
        "masquerading",
        ok,
        true,
        detail,
        "install nftables (apt install nftables): without it instances cannot reach beyond this machine",
    )
}

fn forwarding() -> Check {
    let on = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1");
    let writable = rustix::process::geteuid().is_root();
    let detail = if on {
        "on"
    } else if writable {
        "off; it is switched on at the start"
    } else {
        "off"
    };
    check("ip_forward", on || writable, true, detail.to_owned(), "sysctl -w net.ipv4.ip_forward=1")
}

fn disk(data_dir: &Path) -> Check {
    let existing = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let detail = format!("{} MiB free at {}", free >> 20, existing.display());
            check(
                "disk",
                free >= DISK_BYTES_MIN,
                true,
                detail,
                "free some space, or choose another --data-dir",
            )
        }
        Err(error) => check("disk", false, true, error.to_string(), "choose another --data-dir"),
    }
}

fn time() -> Check {
    let now = clock::timestamp();
    let ok = now.as_second() >= CLOCK_SECONDS_MIN;
    check(
        "clock",
        ok,
        true,
        now.to_string(),
        "set the clock (timedatectl set-ntp true): certificates need it",
    )
}

fn nameservers() -> Check {
    let files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let texts: Vec<String> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let found = crate::template::nameservers(&texts);
    let detail = if found.is_empty() { "none that instances can reach".to_owned() } else { found.join(", ") };
    check(
        "name servers",
        !found.is_empty(),
        true,
        detail,
        "name one in /etc/resolv.conf that is not on the loopback",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lack_says_what_to_do() {
        for check in doctor(Path::new("/nonexistent/dormouse")) {
            assert!(!check.detail.is_empty(), "{check:?}");
            assert_eq!(check.ok, check.remedy.is_empty(), "{check:?}");
        }
    }
}
