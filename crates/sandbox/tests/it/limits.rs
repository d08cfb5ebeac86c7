//! Limits and namespaces of the host.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dormouse_sandbox::cgroup::{Hierarchy, Layout, Limits, Version};
use dormouse_sandbox::{CgroupRoot, KeeperEvent};

use crate::harness::{World, alive, possible, until};

/// The groups of one test; gone when dropped, also when the test fails.
struct Groups(CgroupRoot);

impl Groups {
    fn new(name: &str) -> Self {
        Self(CgroupRoot::detect(&format!("dormouse-test-{name}-{}", std::process::id())).unwrap())
    }

    fn dirs(&self) -> Vec<PathBuf> {
        let mounts = self.0.layout().hierarchies.iter().map(|hierarchy| hierarchy.mount.clone());
        let names = mounts.flat_map(|mount| std::fs::read_dir(mount).unwrap().flatten());
        let mine = format!("-{}", std::process::id());
        names.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(&mine)).collect()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let _ = self.0.remove_tree();
    }
}

#[tokio::test]
async fn a_program_that_eats_too_much_is_killed_and_that_is_told() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let groups = Groups::new("oom");
    let group = groups.0.create("one").unwrap();
    group.set_limits(&Limits { memory_bytes: Some(32 << 20), ..Limits::default() }).unwrap();
    let mut plan = world.plan("eat", &["eat"]);
    plan.cgroup = group.plan();
    world.keeper.launch(plan).await.unwrap();
    let event = world.exit("eat").await;
    let expected = KeeperEvent::Exited { id: "eat".to_owned(), code: None, signal: Some(9), oom: true };
    assert_eq!(event, expected);
    assert_eq!(group.oom_kills(), 1);
    // A reused group must not blame the next one.
    let mut plan = world.plan("next", &["hello"]);
    plan.cgroup = group.plan();
    world.run(plan).await;
    group.remove().unwrap();
    world.stop().await;
    groups.0.remove_tree().unwrap();
    assert_eq!(groups.dirs(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_fork_bomb_meets_its_bound_and_dies_as_a_whole() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let groups = Groups::new("bomb");
    let group = groups.0.create("one").unwrap();
    group.set_limits(&Limits { pids: Some(20), ..Limits::default() }).unwrap();
    let mut plan = world.plan("bomb", &["bomb"]);
    plan.cgroup = group.plan();
    world.start(plan, "made 19 then Resource temporarily unavailable").await;
    world.keeper.signal("bomb", 9).await.unwrap();
    world.exit("bomb").await;
    group.remove().unwrap();
    world.stop().await;
    groups.0.remove_tree().unwrap();
}

#[tokio::test]
async fn limits_are_visible_inside_and_commands_count_too() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let groups = Groups::new("view");
    let group = groups.0.create("one").unwrap();
    group.set_limits(&Limits { memory_bytes: Some(64 << 20), pids: Some(30), ..Limits::default() }).unwrap();
    let v2 = groups.0.layout().describe() == "v2";
    let file = if v2 { "/sys/fs/cgroup/memory.max" } else { "/sys/fs/cgroup/memory/memory.limit_in_bytes" };
    let mut plan = world.plan("view", &["show", file]);
    plan.cgroup = group.plan();
    assert_eq!(world.run(plan).await, "67108864\n");
    let mut plan = world.plan("main", &["sleep"]);
    plan.cgroup = group.plan();
    world.start(plan, "ready").await;
    let args = ["probe", "show", "/proc/self/cgroup"].map(str::to_owned).to_vec();
    let result = world.keeper.exec("main", args, std::time::Duration::from_secs(10)).await.unwrap();
    let memory = result.output.lines().find(|line| v2 || line.contains(":memory:")).unwrap_or_default();
    assert!(
        memory.ends_with(":/"),
        "a command is in the group, which looks like the root: {}",
        result.output
    );
    assert!(group.usage().memory_bytes > 0);
    world.keeper.signal("main", 9).await.unwrap();
    world.exit("main").await;
    group.remove().unwrap();
    world.stop().await;
    groups.0.remove_tree().unwrap();
}

#[tokio::test]
async fn remove_tree_kills_what_still_runs() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let groups = Groups::new("tree");
    let group = groups.0.create("one").unwrap();
    let mut plan = world.plan("left", &["sleep"]);
    plan.cgroup = group.plan();
    let pid = world.start(plan, "ready").await;
    groups.0.remove_tree().unwrap();
    assert!(!alive(pid));
    assert_eq!(groups.dirs(), [] as [PathBuf; 0]);
    world.exit("left").await;
    world.stop().await;
}

#[tokio::test]
async fn a_version_2_group_is_entered_by_the_clone_itself() {
    if !possible() {
        return;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let Some(mount) = mounts.lines().find(|line| line.contains(" - cgroup2 ")) else {
        eprintln!("SKIPPED: no cgroup2 is mounted");
        return;
    };
    let mount = mount.split(' ').nth(4).unwrap().into();
    let mut world = World::new().await;
    // Without controllers, which may all be on version 1: entering and killing need none.
    let hierarchy = Hierarchy { version: Version::V2, mount, controllers: Vec::new() };
    let name = format!("dormouse-test-v2-{}", std::process::id());
    let groups = Groups(CgroupRoot::with_layout(&name, Layout { hierarchies: vec![hierarchy] }).unwrap());
    let group = groups.0.create("one").unwrap();
    let mut plan = world.plan("two", &["sleep"]);
    plan.cgroup = group.plan();
    let pid = world.start(plan, "ready").await;
    let member = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(member.lines().any(|line| line == format!("0::/{name}/one")), "{member}");
    let args = ["probe", "show", "/proc/self/cgroup"].map(str::to_owned).to_vec();
    let result = world.keeper.exec("two", args, std::time::Duration::from_secs(10)).await.unwrap();
    assert!(result.output.lines().any(|line| line == "0::/"), "{}", result.output);
    group.kill_all().unwrap();
    world.exit("two").await;
    group.remove().unwrap();
    world.stop().await;
    groups.0.remove_tree().unwrap();
}

/// A process that holds a network namespace.
struct Network(Child);

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_network_is_that_of_the_given_namespace() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let child = Command::new("unshare").args(["-n", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
    let network = Network(child);
    let path = format!("/proc/{}/ns/net", network.0.id());
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    until("a namespace", || std::fs::read_link(&path).is_ok_and(|namespace| namespace != own)).await;
    let mut plan = world.plan("net", &["show", "/proc/net/dev"]);
    plan.netns = Some(Path::new(&path).to_owned());
    let said = world.run(plan).await;
    let devices = said.lines().filter(|line| line.contains(':')).count();
    assert_eq!(devices, 1, "only the loopback device: {said}");
    world.stop().await;
}
