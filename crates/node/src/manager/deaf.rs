//! Whether a container's first process would notice SIGTERM at all.
//!
//! The kernel does not deliver a signal with the default action to the first process of a pid namespace. A program that
//! installs no handler would therefore outlive its whole grace period, idle, for nothing: it is ended at once, which is
//! what the default action of SIGTERM would have done outside a container.

/// SIGTERM's bit in the masks of `/proc/<pid>/status`.
const SIGTERM_BIT: u64 = 1 << 14;

/// Whether process `pid` neither handles, nor ignores on purpose, nor blocks (as users of signalfd do) SIGTERM.
pub(super) fn is_deaf(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| has_default_action(&status))
}

fn has_default_action(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    match (mask("SigBlk:"), mask("SigIgn:"), mask("SigCgt:")) {
        (Some(blocked), Some(ignored), Some(caught)) => (blocked | ignored | caught) & SIGTERM_BIT == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(blocked: &str, ignored: &str, caught: &str) -> String {
        format!("Name:\tx\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n")
    }

    #[test]
    fn only_the_default_action_is_deaf() {
        let (none, term) = ("0000000000000000", "0000000000004000");
        assert!(has_default_action(&status(none, none, none)));
        assert!(has_default_action(&status(none, "0000000000001000", "0000000000000440")));
        for heard in [status(term, none, none), status(none, term, none), status(none, none, term)] {
            assert!(!has_default_action(&heard));
        }
        assert!(!has_default_action("nonsense"));
    }
}
