//! What a program sees.

use dormouse_sandbox::{Mount, MountSource, Rlimit, RlimitKind, SeccompProfile, User};

use crate::harness::{World, possible};

#[tokio::test]
async fn a_static_program_runs_and_is_heard() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let plan = world.plan("hello", &["hello"]);
    world.run(plan).await;
    let log = world.log("hello");
    assert!(log.contains("stdout F hello\n") && log.contains("stderr F oops\n"), "{log}");
    world.stop().await;
}

#[tokio::test]
async fn environment_host_name_and_directory_are_the_plans() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let mut plan = world.plan("env", &["env"]);
    plan.env.push("PORT=8080".to_owned());
    plan.cwd = "/made/for/it".into();
    plan.hostname = "hello-00001".to_owned();
    let said = world.run(plan).await;
    assert_eq!(
        said.lines().skip(1).collect::<Vec<_>>(),
        ["PORT=8080", "cwd /made/for/it", "host hello-00001"]
    );
    world.stop().await;
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or_default();
    line.split_once(':').map_or("", |(_, value)| value.trim())
}

#[tokio::test]
async fn root_has_the_default_capabilities_and_no_more() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let plan = world.plan("root", &["show", "/proc/self/status"]);
    let status = world.run(plan).await;
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(&status, name), "00000000a80425fb", "{name}");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(field(&status, name), "0000000000000000", "{name}");
    }
    assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), ("1", "2"));
    assert_eq!((field(&status, "Pid"), field(&status, "SigBlk")), ("1", "0000000000000000"));
    assert_eq!(field(&status, "SigIgn"), "0000000000000000");
    world.stop().await;
}

#[tokio::test]
async fn another_user_has_no_capabilities_in_effect() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let mut plan = world.plan("user", &["show", "/proc/self/status"]);
    plan.user = User { uid: 1000, gid: 1001, additional_gids: vec![7, 8] };
    plan.no_new_privileges = false;
    let status = world.run(plan).await;
    assert_eq!(field(&status, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(field(&status, "Gid"), "1001\t1001\t1001\t1001");
    assert_eq!(field(&status, "Groups"), "7 8");
    assert_eq!(
        (field(&status, "CapEff"), field(&status, "CapPrm")),
        ("0000000000000000", "0000000000000000")
    );
    assert_eq!(field(&status, "CapBnd"), "00000000a80425fb");
    assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), ("0", "2"));

    let mut plan = world.plan("stdout", &["write", "/dev/stdout"]);
    plan.user.uid = 1000;
    assert!(world.run(plan).await.contains("/dev/stdout: written"), "a user may open its own output");
    world.stop().await;
}

#[tokio::test]
async fn dangerous_calls_are_refused() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let plan = world.plan("calls", &["calls"]);
    let said = world.run(plan).await;
    let expected = "unshare Operation not permitted\nclone3 Function not implemented\n\
                    io_uring Operation not permitted\ngetpid 1\n";
    assert_eq!(said, expected);
    let mut plan = world.plan("free", &["calls"]);
    plan.seccomp = SeccompProfile::Unconfined;
    assert!(world.run(plan).await.contains("clone3 Invalid argument"));
    world.stop().await;
}

#[tokio::test]
async fn masked_paths_say_nothing_and_kernel_settings_are_read_only() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let plan = world.plan("masked", &["show", "/proc/keys", "/proc/timer_list", "/proc/interrupts"]);
    assert_eq!(world.run(plan).await, "");
    let paths =
        ["/proc/sys/kernel/hostname", "/sys/kernel/mm/ksm/run", "/sys/fs/cgroup/x", "/dev/null", "/x"];
    let plan = world.plan("write", &[&["write"][..], &paths].concat());
    let said = world.run(plan).await;
    assert!(said.contains("hostname: Read-only file system\n"), "{said}");
    assert!(!said.contains("run: written") && !said.contains("cgroup/x: written"), "{said}");
    assert!(said.contains("/dev/null: written\n/x: written\n"), "{said}");
    world.stop().await;
}

#[tokio::test]
async fn the_device_directory_is_the_runtime_specifications() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let names = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd"];
    let paths: Vec<String> = names.iter().map(|name| format!("/dev/{name}")).collect();
    let mut args = vec!["stat"];
    args.extend(paths.iter().map(String::as_str));
    let plan = world.plan("dev", &args);
    let said = world.run(plan).await;
    assert!(!said.contains("No such file"), "{said}");
    // Character device 1:3, open to all.
    assert!(said.contains("/dev/null: 20666 0:0 259\n"), "{said}");
    assert!(said.contains("/dev/shm: 41777 0:0"), "{said}");
    let plan = world.plan("fds", &["fds"]);
    assert_eq!(world.run(plan).await, "fd 0\nfd 1\nfd 2\n");
    world.stop().await;
}

#[tokio::test]
async fn a_read_only_root_still_has_a_writable_tmp() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let mut plan = world.plan("ro", &["write", "/x", "/etc/hosts", "/tmp/x", "/dev/shm/x"]);
    plan.read_only_root = true;
    plan.files.push(("/etc/hosts".into(), "127.0.0.1 localhost\n".to_owned()));
    let said = world.run(plan).await;
    let expected = "/x: Read-only file system\n/etc/hosts: Read-only file system\n/tmp/x: written\n/dev/shm/x: written\n";
    assert_eq!(said, expected);
    world.stop().await;
}

#[tokio::test]
async fn files_and_volumes_are_where_the_plan_says() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let volume = world.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("key"), "value\n").unwrap();
    // A link of the image that would lead out of it.
    std::os::unix::fs::symlink("/../../escape", world.dir.path().join("rootfs/link")).unwrap();
    std::fs::create_dir(world.dir.path().join("rootfs/escape")).unwrap();
    let bind = |target: &str, read_only| Mount {
        source: MountSource::Bind(volume.clone()),
        target: target.into(),
        read_only,
    };
    let args = ["show", "/etc/hosts", "/run/secret/token", "/config/key", "/one", "/escape/key"];
    let mut plan = world.plan("files", &args);
    plan.files =
        vec![("/etc/hosts".into(), "hosts\n".into()), ("/run/secret/token".into(), "token\n".into())];
    plan.mounts = vec![bind("/config", true), bind("/data", false), bind("/link", false)];
    plan.mounts.push(Mount {
        source: MountSource::Bind(volume.join("key")),
        target: "/one".into(),
        read_only: true,
    });
    plan.mounts.push(Mount {
        source: MountSource::Tmpfs { size: Some(65536) },
        target: "/cache".into(),
        read_only: false,
    });
    let mounts = plan.mounts.clone();
    assert_eq!(world.run(plan).await, "hosts\ntoken\nvalue\nvalue\nvalue\n");
    let mut plan = world.plan("write", &["write", "/config/key", "/one", "/data/new", "/cache/x"]);
    plan.mounts = mounts;
    let said = world.run(plan).await;
    let expected = "/config/key: Read-only file system\n/one: Read-only file system\n/data/new: written\n/cache/x: written\n";
    assert_eq!(said, expected);
    assert!(volume.join("new").exists());
    world.stop().await;
}

#[tokio::test]
async fn layers_are_stacked_top_first_also_when_there_are_many() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let mut plan = world.plan("layers", &["show", "/layer", "/only-150", "/odd:na,me"]);
    let mut layers = Vec::new();
    for number in 0..150 {
        // Long names with every character that an option string could trip over.
        let layer = world.dir.path().join(format!("layer:{number},\\{}", "x".repeat(60)));
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join("layer"), format!("{number}\n")).unwrap();
        std::fs::write(layer.join(format!("only-{}", number + 1)), format!("only {number}\n")).unwrap();
        std::fs::write(layer.join("odd:na,me"), "odd\n").unwrap();
        layers.push(layer);
    }
    layers.append(&mut plan.lowers);
    plan.lowers = layers;
    assert_eq!(world.run(plan).await, "0\nonly 149\nodd\n");
    world.stop().await;
}

#[tokio::test]
async fn resource_limits_are_the_plans() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let mut plan = world.plan("limits", &["show", "/proc/self/limits"]);
    plan.rlimits.push(Rlimit { kind: RlimitKind::OpenFiles, soft: 100, hard: 200 });
    let said = world.run(plan).await;
    let line = said.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["100", "200"]);
    world.stop().await;
}
