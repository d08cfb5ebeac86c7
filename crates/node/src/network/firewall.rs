//! Masquerading: one rule in a table of our own, by `nft` or, where that is missing, `iptables`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::config::Names;
use crate::error::{Error, Result};
use crate::network::subnet::Subnet;

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Lets the kernel forward between the bridge and the world. Blocking.
pub(crate) fn enable_forwarding() -> Result<()> {
    if std::fs::read_to_string(FORWARD).is_ok_and(|text| text.trim() == "1") {
        return Ok(());
    }
    std::fs::write(FORWARD, "1").map_err(Error::io(format!("write 1 to {FORWARD}")))
}

/// Puts the rule in place, replacing one of an earlier run. Blocking.
pub(crate) fn install(names: &Names, subnet: &Subnet) -> Result<()> {
    let (table, bridge) = (names.table(), names.bridge());
    let rules = format!(
        "add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n  chain postrouting {{\n    \
         type nat hook postrouting priority 100; policy accept;\n    \
         ip saddr {subnet} oifname != \"{bridge}\" masquerade\n  }}\n}}\n"
    );
    let nft = match run("nft", &["-f", "-"], Some(&rules)) {
        Ok(()) => return Ok(()),
        Err(detail) => detail,
    };
    let rule = iptables_rule(names, subnet);
    let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    let with = |verb: &'static str| [&["-w", "-t", "nat", verb, "POSTROUTING"], rule.as_slice()].concat();
    if run("iptables", &with("-C"), None).is_ok() {
        return Ok(());
    }
    run("iptables", &with("-A"), None).map_err(|iptables| {
        Error::Firewall(format!(
            "instances cannot reach beyond this machine, because masquerading could not be set up ({nft}; \
             {iptables}); install nftables (`apt install nftables`) and start again"
        ))
    })
}

/// Removes the rule; a rule that does not exist is fine. Blocking.
pub(crate) fn remove(names: &Names, subnet: Option<&Subnet>) {
    let table = names.table();
    // `add` before `delete` makes the removal succeed when there is no table.
    let _ = run("nft", &["-f", "-"], Some(&format!("add table ip {table}\ndelete table ip {table}\n")));
    if let Some(subnet) = subnet {
        let rule = iptables_rule(names, subnet);
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        let _ = run("iptables", &[&["-w", "-t", "nat", "-D", "POSTROUTING"], rule.as_slice()].concat(), None);
    }
}

fn iptables_rule(names: &Names, subnet: &Subnet) -> Vec<String> {
    let (subnet, bridge, table) = (subnet.to_string(), names.bridge(), names.table());
    ["-s", &subnet, "!", "-o", &bridge, "-m", "comment", "--comment", &table, "-j", "MASQUERADE"]
        .map(str::to_owned)
        .to_vec()
}

/// Runs a tool with `input`; an error says what went wrong in one line.
pub(crate) fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<(), String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).map_err(|error| format!("{program}: {error}"))?;
    }
    let output = child.wait_with_output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", text.lines().next().unwrap_or("failed").trim()))
}
