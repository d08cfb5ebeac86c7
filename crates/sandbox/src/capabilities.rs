//! Linux capabilities as a set.

use serde::{Deserialize, Serialize};

/// Names in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities; bit *n* is capability *n*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// What container engines give by default: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP
    /// NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
    pub const DEFAULT: Self = Self(0xa804_25fb);

    /// The set with `name` added (`NET_ADMIN` or `CAP_NET_ADMIN`; `ALL` is every one); `None` for an unknown name.
    pub fn with(self, name: &str) -> Option<Self> {
        mask(name).map(|mask| Self(self.0 | mask))
    }

    /// The set with `name` removed; `None` for an unknown name.
    pub fn without(self, name: &str) -> Option<Self> {
        mask(name).map(|mask| Self(self.0 & !mask))
    }

    /// The set as the kernel prints it in `/proc/<pid>/status`.
    pub fn bits(self) -> u64 {
        self.0
    }
}

fn mask(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    if name == "ALL" {
        return Some((1 << NAMES.len()) - 1);
    }
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_has_its_fourteen_members() {
        let mut set = Capabilities::EMPTY;
        for name in [
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "SETGID",
            "SETUID",
            "SETPCAP",
            "NET_BIND_SERVICE",
            "NET_RAW",
            "SYS_CHROOT",
            "MKNOD",
            "AUDIT_WRITE",
            "SETFCAP",
        ] {
            set = set.with(name).unwrap();
        }
        assert_eq!(set, Capabilities::DEFAULT);
    }

    #[test]
    fn names_are_taken_with_and_without_prefix_and_unknown_ones_refused() {
        let set = Capabilities::DEFAULT.without("cap_net_raw").unwrap();
        assert_eq!(set.with("NET_RAW"), Some(Capabilities::DEFAULT));
        assert_eq!(set.with("FLY"), None);
        assert_eq!(Capabilities::DEFAULT.without("ALL"), Some(Capabilities::EMPTY));
    }
}
