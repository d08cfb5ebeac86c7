//! What outlives what.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use dormouse_base::{shutdown::Shutdown, task::Tasks};
use dormouse_sandbox::{Error, Keeper, KeeperEvent};

use crate::harness::{World, alive, exe, new_dir, plan_in, possible, until};

#[tokio::test]
async fn sandboxes_and_sockets_survive_the_death_of_the_main_process() {
    if !possible() {
        return;
    }
    let dir = new_dir();
    // A port that is free: the keeper binds it again with SO_REUSEADDR.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut plan = plan_in(dir.path(), "adopted", &["sleep"]);
    plan.label = address.to_string();
    let file = dir.path().join("plan.json");
    std::fs::write(&file, serde_json::to_vec(&plan).unwrap()).unwrap();
    let mut main = Command::new(exe())
        .arg("hold")
        .arg(dir.path().join("keeper"))
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(main.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    main.kill().unwrap();
    main.wait().unwrap();
    // Made while nobody is there to accept it.
    let early = std::net::TcpStream::connect(address).unwrap();

    let mut world = World::attach(dir).await.unwrap();
    assert_eq!(world.keeper.pid(), pids[1], "the same keeper");
    let running: Vec<_> = world.running.iter().map(|r| (r.id.as_str(), r.pid, r.label.clone())).collect();
    assert_eq!(running, [("adopted", pids[0], address.to_string())]);
    assert!(alive(pids[0]));
    let listener = world.keeper.listen(address).await.unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, early.local_addr().unwrap());
    world.keeper.signal("adopted", 9).await.unwrap();
    world.exit("adopted").await;
    world.stop().await;
}

#[tokio::test]
async fn what_happened_meanwhile_is_told_on_attaching() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let plan = world.plan("term", &["term"]);
    let pid = world.start(plan, "ready").await;
    let Some(raw) = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()) else { panic!("no pid") };
    // Nobody is attached while it ends.
    let dir = world.detach();
    // The connection is closed by a task, which runs now; what comes later is not sent into it.
    tokio::task::yield_now().await;
    rustix::process::kill_process(raw, rustix::process::Signal::TERM).unwrap();
    until("it ends", || !alive(pid)).await;
    let mut world = World::attach(dir).await.unwrap();
    assert_eq!(world.running, []);
    let event = world.event().await;
    let expected = KeeperEvent::Exited { id: "term".to_owned(), code: Some(3), signal: None, oom: false };
    assert_eq!(event, expected);
    world.stop().await;
}

#[tokio::test]
async fn the_death_of_the_keeper_is_told_and_takes_every_sandbox_along() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let mut pids = Vec::new();
    for number in 0..5 {
        let mut plan = world.plan(&format!("s{number}"), &["sleep"]);
        // Also where the user changes, which makes the kernel forget whom to die with.
        plan.user.uid = number * 1000;
        plan.no_new_privileges = number % 2 == 0;
        pids.push(world.start(plan, "ready").await);
    }
    let keeper = rustix::process::Pid::from_raw(i32::try_from(world.keeper.pid()).unwrap()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    assert_eq!(world.event().await, KeeperEvent::KeeperDied);
    until("all are gone", || pids.iter().all(|pid| !alive(*pid))).await;
    let error = world.keeper.launch(world.plan("late", &["hello"])).await.unwrap_err();
    assert!(matches!(error, Error::KeeperDied), "{error}");
    // Its socket file is still there; a new keeper replaces it.
    let old = world.keeper.pid();
    let mut world = World::attach(world.detach()).await.unwrap();
    assert_ne!(world.keeper.pid(), old);
    let plan = world.plan("again", &["hello"]);
    world.run(plan).await;
    world.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_told_by_its_kind() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = world.keeper.listen(address).await.unwrap_err();
    assert!(matches!(&error, Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse));
    assert!(
        dormouse_base::chain(&error).starts_with(&format!("listen on {address}: Address already in use"))
    );
    let any = "127.0.0.1:0".parse().unwrap();
    let (one, two) = (world.keeper.listen(any).await.unwrap(), world.keeper.listen(any).await.unwrap());
    assert_ne!(one.local_addr().unwrap(), two.local_addr().unwrap());
    world.stop().await;
}

#[tokio::test]
async fn a_keeper_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let missing = dir.path().join("no-such-program");
    let error = Keeper::start_or_attach(&missing, dir.path(), &tasks).await.unwrap_err();
    assert!(error.to_string().contains("no-such-program: No such file or directory"), "{error}");
    let error = Keeper::start_or_attach("/bin/false".as_ref(), dir.path(), &tasks).await.unwrap_err();
    assert!(error.to_string().contains("it ended (exit status: 1): it said nothing"), "{error}");
}

#[tokio::test]
async fn a_keeper_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("keeper.sock")).unwrap();
    let old = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_le_bytes(length) as usize];
        stream.read_exact(&mut frame).unwrap();
        let reply = br#"{"Reply":{"number":1,"reply":{"Ok":{"Hello":{"protocol":99,"pid":1}}}}}"#;
        stream.write_all(&u32::try_from(reply.len()).unwrap().to_le_bytes()).unwrap();
        stream.write_all(reply).unwrap();
    });
    let tasks = Tasks::new(Shutdown::new());
    let error = Keeper::start_or_attach(&exe(), dir.path(), &tasks).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { theirs: 99, ours: 1 }), "{error}");
    old.join().unwrap();
}
