use super::*;

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

#[test]
fn a_controller_is_taken_where_it_is_mounted() {
    let layout = Layout::parse(HYBRID, "", |_| "hugetlb pids\n".to_owned());
    assert_eq!(layout.describe(), "mixed");
    assert_eq!(layout.missing(), []);
    assert_eq!(layout.hierarchies[0].controllers, [Controller::Cpu]);
    assert_eq!(layout.hierarchies[2].version, Version::V2);
    assert_eq!(layout.hierarchies[2].controllers, [Controller::Pids]);
}

#[test]
fn a_v2_machine_has_one_hierarchy() {
    let info = "26 25 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    let layout = Layout::parse(info, "", |_| "cpuset cpu io memory pids".to_owned());
    assert_eq!(layout.describe(), "v2");
    assert_eq!(layout.hierarchies.len(), 1);
    assert_eq!(layout.hierarchies[0].controllers, Controller::ALL);
}

#[test]
fn a_controller_switched_off_at_boot_is_missing() {
    let layout = Layout::parse(HYBRID, "memory 4 1 0\n", |_| String::new());
    assert_eq!(layout.missing(), [Controller::Memory, Controller::Pids]);
    assert_eq!(Layout::parse("", "", |_| String::new()).describe(), "none");
}

/// A tree of plain files: what the kernel would make in a new group is made here.
fn fake(version: Version, files: &[&str]) -> (tempfile::TempDir, CgroupRoot) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout {
        hierarchies: vec![Hierarchy {
            version,
            mount: dir.path().to_owned(),
            controllers: Controller::ALL.to_vec(),
        }],
    };
    for group in ["", "platform", "platform/.hold", "platform/one"] {
        let group = dir.path().join(group);
        fs::create_dir_all(&group).unwrap();
        for file in files {
            fs::write(group.join(file), "").unwrap();
        }
    }
    let root = CgroupRoot::with_layout("platform", layout).unwrap();
    (dir, root)
}

const LIMITS: Limits = Limits {
    cpu_millis: Some(500),
    cpu_request_millis: Some(250),
    memory_bytes: Some(33_554_432),
    pids: Some(64),
};

#[test]
fn limits_are_written_in_the_words_of_v2() {
    let files = [
        "cgroup.subtree_control",
        "cpu.max",
        "cpu.weight",
        "memory.max",
        "memory.swap.max",
        "memory.oom.group",
        "pids.max",
    ];
    let (dir, root) = fake(Version::V2, &files);
    let group = root.create("one").unwrap();
    group.set_limits(&LIMITS).unwrap();
    let read = |file: &str| fs::read_to_string(dir.path().join("platform/one").join(file)).unwrap();
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(read("cpu.weight"), "10");
    assert_eq!(read("memory.max"), "33554432");
    assert_eq!(read("memory.swap.max"), "0");
    assert_eq!(read("pids.max"), "64");
    group.set_limits(&Limits::default()).unwrap();
    assert_eq!(read("cpu.max"), "max 100000");
    assert_eq!(read("cpu.weight"), "100");
    fs::write(dir.path().join("platform/one/memory.events"), "low 0\noom 3\noom_kill 2\n").unwrap();
    assert_eq!(group.oom_kills(), 2);
    assert_eq!(root.list(), ["one"]);
}

#[test]
fn limits_are_written_in_the_words_of_v1() {
    let files = ["cpu.cfs_quota_us", "cpu.shares", "memory.limit_in_bytes", "pids.max"];
    let (dir, root) = fake(Version::V1, &files);
    let group = root.create("one").unwrap();
    group.set_limits(&LIMITS).unwrap();
    let read = |file: &str| fs::read_to_string(dir.path().join("platform/one").join(file)).unwrap();
    assert_eq!(read("cpu.cfs_quota_us"), "50000");
    assert_eq!(read("cpu.shares"), "256");
    assert_eq!(read("memory.limit_in_bytes"), "33554432");
    group.set_limits(&Limits::default()).unwrap();
    assert_eq!(read("cpu.cfs_quota_us"), "-1");
    assert_eq!(read("memory.limit_in_bytes"), "-1");
}
