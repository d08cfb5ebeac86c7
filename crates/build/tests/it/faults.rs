//! What is wrong is told with its reason, and what a build step tries to do to the machine does not happen.

use std::sync::Arc;
use std::time::Duration;

use dormouse_build::{Error, Language, Reason};

use crate::support::{Notes, World, has, world};

/// A build whose only step is `script`: it runs as any project's own code does.
async fn run(world: &World, script: &str, notes: Arc<Notes>, seconds: u64) -> Result<(), Error> {
    let package = serde_json::json!({"main": "index.js", "scripts": {"build": script}});
    let dir = world.project(
        "hostile",
        &[("package.json", &package.to_string()), ("tsconfig.json", "{}"), ("index.js", "")],
    );
    let mut request = world.request(&dir);
    request.language = Some(Language::TypeScript);
    request.limits.timeout = Duration::from_secs(seconds);
    request.limits.processes = 64;
    request.limits.memory_bytes = 512 << 20;
    request.limits.file_bytes = 64 << 20;
    world.build_with(request, notes).await.map(drop)
}

async fn fails(script: &str, seconds: u64) -> Option<Error> {
    let world = world()?;
    if !has("npm") {
        return None;
    }
    let error = run(&world, script, Arc::new(Notes::default()), seconds).await.expect_err(script);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    assert_eq!(world.images.stored("127.0.0.1:5000/default/app:latest").unwrap(), None, "no partial tag");
    Some(error)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_error_is_the_compilers_own_text() {
    let Some(world) = world() else { return };
    if !has("go") {
        return;
    }
    let dir =
        world.project("go", &[("go.mod", "module x\n"), ("main.go", "package main\nfunc main() { oops }\n")]);
    let error = world.build(&dir).await.unwrap_err();
    assert_eq!(error.reason, Reason::CompileFailed);
    assert!(
        error.output.contains("undefined: oops") && error.output.contains("main.go:2"),
        "{}",
        error.output
    );
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_machine_lacks_is_named() {
    let Some(world) = world() else { return };
    let dir = world.project("go", &[("go.mod", "module x\n"), ("main.go", "package main\nfunc main() {}\n")]);
    let images = world.images.clone();
    let engine = dormouse_build::Engine::open(
        images,
        &world.dir.path().join("b"),
        "127.0.0.1:5000",
        Default::default(),
    )
    .unwrap();
    let error = engine.build(world.request(&dir), None, Arc::new(Notes::default())).await.unwrap_err();
    assert_eq!(error.reason, Reason::ToolchainMissing);
    assert!(error.remedy.contains("go.dev"), "{}", error.remedy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_runs_forever_is_killed() {
    let Some(error) = fails("echo begun; sleep 1000", 3).await else { return };
    assert_eq!(error.reason, Reason::BuildRunTimeout, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_forks_endlessly_hits_its_limit() {
    let Some(error) = fails("node -e 'for(let i=0;i<500;i++) require(\"child_process\").spawn(\"sleep\",[\"100\"]).on(\"error\",e=>{console.error(e.code);process.exit(1)})'", 60).await
    else {
        return;
    };
    assert_eq!(error.reason, Reason::StepProcessLimit, "{error} {}", error.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_takes_all_memory_is_stopped() {
    let script = "node --max-old-space-size=100000 -e 'const a=[];for(;;)a.push(Buffer.alloc(8<<20,1))'";
    let Some(error) = fails(script, 60).await else { return };
    assert_eq!(error.reason, Reason::StepOutOfMemory, "{error} {}", error.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_cannot_reach_the_network_or_the_machines_files() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "node -e 'require(\"net\").connect({port},\"127.0.0.1\").on(\"error\",e=>{{console.log(\"refused\",e.code);process.exit(3)}})\
         .on(\"connect\",()=>console.log(\"reached\"))'"
    );
    let Some(error) = fails(&script, 30).await else { return };
    assert!(error.output.contains("refused ECONNREFUSED"), "{}", error.output);
    for path in ["/etc/shadow", "/root/.ssh", "/work/main", "/var/lib"] {
        let Some(error) = fails(&format!("ls -la {path}"), 30).await else { return };
        assert!(error.output.contains("No such file"), "{path}: {}", error.output);
    }
    let Some(error) = fails("touch /usr/bin/x", 30).await else { return };
    assert!(error.output.contains("Read-only file system"), "{}", error.output);
    let Some(error) = fails("id -u; cat /proc/self/status | grep CapEff; exit 9", 30).await else { return };
    assert!(error.output.contains("65532") && error.output.contains("0000000000000000"), "{}", error.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_is_refused() {
    let Some(error) = fails("head -c 100000000 /dev/zero > big", 60).await else { return };
    assert!(matches!(error.reason, Reason::DiskFull | Reason::CompileFailed), "{error}");
    assert!(
        error.output.contains("File size limit exceeded") || error.reason == Reason::DiskFull,
        "{}",
        error.output
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_build_ends_at_once() {
    let Some(world) = world() else { return };
    if !has("npm") {
        return;
    }
    let notes = Arc::new(Notes { cancel_at: Some("begun"), ..Notes::default() });
    let error = run(&world, "echo begun; sleep 1000", notes, 120).await.unwrap_err();
    assert_eq!(error.reason, Reason::BuildRunCanceled);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}
