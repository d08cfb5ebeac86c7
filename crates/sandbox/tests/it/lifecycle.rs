//! Start, signals, end, logs, commands inside.

use std::time::Duration;

use dormouse_base::chain;
use dormouse_sandbox::{Error, KeeperEvent};

use crate::harness::{World, alive, possible, until};

fn exited(id: &str, code: Option<i32>, signal: Option<i32>) -> KeeperEvent {
    KeeperEvent::Exited { id: id.to_owned(), code, signal, oom: false }
}

#[tokio::test]
async fn exit_codes_and_signals_are_told() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    world.keeper.launch(world.plan("seven", &["exit", "7"])).await.unwrap();
    assert_eq!(world.exit("seven").await, exited("seven", Some(7), None));
    let plan = world.plan("term", &["term"]);
    world.start(plan, "ready").await;
    world.keeper.signal("term", 15).await.unwrap();
    assert_eq!(world.exit("term").await, exited("term", Some(3), None));
    assert_eq!(world.said("term"), "ready\nbye\n");
    world.stop().await;
}

#[tokio::test]
async fn what_ignores_sigterm_is_ended_by_sigkill() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let plan = world.plan("stubborn", &["stubborn"]);
    let pid = world.start(plan, "ready").await;
    world.keeper.signal("stubborn", 15).await.unwrap();
    assert!(alive(pid));
    world.keeper.signal("stubborn", 9).await.unwrap();
    assert_eq!(world.exit("stubborn").await, exited("stubborn", None, Some(9)));
    assert!(!alive(pid));
    let error = world.keeper.signal("stubborn", 9).await.unwrap_err();
    assert_eq!(error.to_string(), "sandbox stubborn does not run");
    world.stop().await;
}

#[tokio::test]
async fn a_missing_program_is_told_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let mut plan = world.plan("missing", &[]);
    plan.args = vec!["/app/x".to_owned()];
    let error = world.keeper.launch(plan).await.unwrap_err();
    assert_eq!(chain(&error), "exec /app/x: No such file or directory");
    let mut plan = world.plan("directory", &[]);
    plan.args = vec!["/bin".to_owned()];
    let error = world.keeper.launch(plan).await.unwrap_err();
    assert_eq!(chain(&error), "exec /bin: Permission denied");
    let mut plan = world.plan("layer", &["hello"]);
    plan.lowers.push("/nowhere".into());
    let error = world.keeper.launch(plan).await.unwrap_err();
    assert_eq!(chain(&error), "open layer /nowhere: No such file or directory");
    assert!(world.keeper.list().await.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_plan_that_cannot_be_carried_out_is_refused() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let plan = world.plan("twice", &["sleep"]);
    world.start(plan.clone(), "ready").await;
    let error = world.keeper.launch(plan).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid plan: id: twice runs already");
    let mut plan = world.plan("proc", &["hello"]);
    plan.mounts.push(dormouse_sandbox::Mount {
        source: dormouse_sandbox::MountSource::Tmpfs { size: None },
        target: "/proc/sys".into(),
        read_only: false,
    });
    let error = world.keeper.launch(plan).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid plan: mounts: nothing can be mounted on /proc/sys");
    world.stop().await;
}

#[tokio::test]
async fn logs_are_rotated_and_stay_bounded() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let mut plan = world.plan("spam", &["spam", "20000"]);
    plan.log.max_bytes = 100_000;
    plan.log.max_files = 3;
    world.run(plan).await;
    let path = world.log_path("spam");
    let size = |suffix: &str| std::fs::metadata(format!("{}{suffix}", path.display())).map(|m| m.len());
    assert!(size("").unwrap() <= 100_000 && size(".1").unwrap() <= 100_000 && size(".2").unwrap() <= 100_000);
    assert!(size(".3").is_err());
    assert!(world.log("spam").ends_with("stdout F line 19999 of much text that fills the log\n"));
    world.stop().await;
}

#[tokio::test]
async fn commands_run_inside() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let mut plan = world.plan("main", &["sleep"]);
    plan.env.push("NAME=value".to_owned());
    plan.hostname = "inside".to_owned();
    plan.user.uid = 1000;
    world.start(plan, "ready").await;
    let minute = Duration::from_secs(60);
    let run = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let result = world.keeper.exec("main", run(&["probe", "env"]), minute).await.unwrap();
    assert_eq!(result.exit_code, 0);
    assert!(result.output.contains("NAME=value\ncwd /\nhost inside\n"), "{}", result.output);
    let result =
        world.keeper.exec("main", run(&["probe", "show", "/proc/self/status"]), minute).await.unwrap();
    assert!(
        result.output.contains("Uid:\t1000") && result.output.contains("Seccomp:\t2"),
        "{}",
        result.output
    );
    assert!(result.output.contains("CapEff:\t0000000000000000"));
    let result = world.keeper.exec("main", run(&["/bin/probe", "exit", "4"]), minute).await.unwrap();
    assert_eq!(result.exit_code, 4);
    let error = world.keeper.exec("main", run(&["/none"]), minute).await.unwrap_err();
    assert_eq!(chain(&error), "exec /none: No such file or directory");
    let short = Duration::from_millis(50);
    let error = world.keeper.exec("main", run(&["probe", "sleep"]), short).await.unwrap_err();
    assert!(matches!(error, Error::ExecTimeout(time) if time == short), "{error}");
    let error = world.keeper.exec("other", run(&["probe"]), minute).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning(_)));
    world.stop().await;
}

#[tokio::test]
async fn many_sandboxes_run_at_once_and_leave_nothing() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let fds = format!("/proc/{}/fd", world.keeper.pid());
    let open = || std::fs::read_dir(&fds).unwrap().count();
    let before = open();
    let ids: Vec<String> = (0..50).map(|number| format!("many-{number:02}")).collect();
    let launches = ids.iter().map(|id| world.keeper.launch(world.plan(id, &["sleep"])));
    let mut pids = Vec::new();
    for launch in launches {
        pids.push(launch.await.unwrap().pid);
    }
    let listed: Vec<_> = world.keeper.list().await.into_iter().map(|running| running.id).collect();
    assert_eq!(listed, ids);
    for id in &ids {
        world.keeper.signal(id, 9).await.unwrap();
    }
    for id in &ids {
        world.exit(id).await;
    }
    assert!(pids.iter().all(|pid| !alive(*pid)));
    until("the keeper closes what it no longer needs", || open() <= before).await;
    world.stop().await;
}
