//! Measures launches: from the call in the client to its answer, when the program has been executed.
//!
//! `cargo run --release -p dormouse-sandbox --example launch_bench [COUNT]` (as root). Everything that the node pools (network
//! namespace, cgroup, work directory) is made before the clock starts, and sandboxes are reaped after it stops.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a tool of tests: its output is its purpose")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use dormouse_base::{clock, shutdown::Shutdown, task::Tasks};
use dormouse_sandbox::cgroup::Limits;
use dormouse_sandbox::{CgroupRoot, Keeper, KeeperEvent, LogPlan, Plan, keeper_main};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, verb, _, dir] = args.as_slice()
        && verb == "keeper"
    {
        return keeper_main(Path::new(dir));
    }
    let count = args.get(1).and_then(|count| count.parse().ok()).unwrap_or(200);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(bench(count));
    ExitCode::SUCCESS
}

/// A process in a network namespace of its own, to name the namespace by.
struct Network(Child);

impl Network {
    fn new() -> Self {
        let child = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        Self(child)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn bench(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let rootfs = dir.path().join("rootfs");
    std::fs::create_dir_all(rootfs.join("etc")).unwrap();
    let source = dir.path().join("hold.c");
    std::fs::write(&source, "#include <unistd.h>\nint main(){ pause(); return 0; }\n").unwrap();
    let built =
        Command::new("cc").args(["-static", "-O2", "-o"]).arg(rootfs.join("hold")).arg(&source).status();
    assert!(built.unwrap().success(), "cc -static is needed");
    let network = Network::new();
    let cgroups = CgroupRoot::detect(&format!("dormouse-bench-{}", std::process::id())).unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let exe = std::env::current_exe().unwrap();
    let (keeper, mut events, _) =
        Keeper::start_or_attach(&exe, &dir.path().join("keeper"), &tasks).await.unwrap();
    println!("cgroups: {}; {count} launches each", cgroups.layout().describe());
    for (name, idle) in [("back to back", 0), ("after 300 ms of idleness", 300), ("back to back", 0)] {
        let mut times = Vec::new();
        for number in 0..count {
            let id = format!("bench-{number}");
            let work = dir.path().join("work");
            std::fs::create_dir(&work).unwrap();
            dormouse_sandbox::prepare_work_dir(&work).unwrap();
            let group = cgroups.create(&id).unwrap();
            group
                .set_limits(&Limits {
                    cpu_millis: Some(1000),
                    cpu_request_millis: Some(100),
                    memory_bytes: Some(128 << 20),
                    pids: Some(1024),
                })
                .unwrap();
            let log = LogPlan::new(dir.path().join("log"));
            let mut plan = Plan::new(&id, vec![rootfs.clone()], work.clone(), vec!["/hold".to_owned()], log);
            plan.cgroup = group.plan();
            plan.netns = Some(network.path());
            for file in ["hosts", "hostname", "resolv.conf"] {
                plan.files.push((format!("/etc/{file}").into(), "127.0.0.1 localhost\n".to_owned()));
            }
            clock::sleep(Duration::from_millis(idle)).await;
            let start = clock::now();
            keeper.launch(plan).await.unwrap();
            times.push(start.elapsed());
            keeper.signal(&id, 9).await.unwrap();
            while !matches!(events.recv().await, Some(KeeperEvent::Exited { .. })) {}
            group.remove().unwrap();
            std::fs::remove_dir_all(&work).unwrap();
        }
        times.sort();
        let at = |part: f64| {
            let index = ((times.len() - 1) as f64 * part).round() as usize;
            times.get(index).copied().unwrap_or_default().as_secs_f64() * 1000.0
        };
        println!(
            "{name:26} min {:.2}  p50 {:.2}  p90 {:.2}  p99 {:.2}  max {:.2} ms",
            at(0.0),
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
    }
    let memory = std::fs::read_to_string(format!("/proc/{}/status", keeper.pid())).unwrap();
    for line in memory.lines().filter(|line| line.starts_with("Rss") || line.starts_with("VmRSS")) {
        println!("keeper {line}");
    }
    keeper.stop().await;
    cgroups.remove_tree().unwrap();
}
