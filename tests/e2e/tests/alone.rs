//! A scenario that compares the whole machine before and after: nothing else may run beside it, hence its own binary.

use anyhow::ensure;
use dormouse_e2e::{Options, Outcome, Platform, leftovers, until};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One at a time.
static MACHINE: Mutex<()> = Mutex::new(());

#[test]
fn down_leaves_no_process_mount_namespace_bridge_cgroup_or_firewall_rule() -> Outcome {
    let _turn = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = leftovers::machine();
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    let manifest = std::fs::read_to_string(dormouse_e2e::tools::root().join("examples/hello/service.yaml"))?;
    platform.deploy("hello", &manifest)?;
    let answer = platform.get("hello", "/")?;
    ensure!(answer.status == 200, "{answer:?}");
    let during = leftovers::machine();
    ensure!(
        during.difference(&before).count() > 0,
        "a running platform shows nothing on the machine: the test is blind"
    );
    platform.take_down()?;
    until("the machine is as before", Duration::from_secs(10), || {
        let after = leftovers::machine();
        let left: Vec<_> = after.difference(&before).collect();
        ensure!(left.is_empty(), "{left:#?}");
        Ok(Some(()))
    })
}

#[test]
fn down_cleans_up_after_a_platform_that_was_killed() -> Outcome {
    let _turn = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = leftovers::machine();
    let Some(platform) = Platform::own(Options::default())? else { return Ok(()) };
    let manifest = std::fs::read_to_string(dormouse_e2e::tools::root().join("examples/hello/service.yaml"))?;
    platform.deploy("hello", &manifest)?;
    platform.get("hello", "/")?;
    let state = platform.state();
    platform.kill_main()?;
    dormouse_e2e::platform::kill(state.keeper, rustix::process::Signal::KILL)?;
    platform.take_down()?;
    until("the machine is as before", Duration::from_secs(10), || {
        let after = leftovers::machine();
        let left: Vec<_> = after.difference(&before).collect();
        ensure!(left.is_empty(), "{left:#?}");
        Ok(Some(()))
    })
}
