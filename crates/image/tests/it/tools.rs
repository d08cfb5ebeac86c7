//! Other people's tools against the registry endpoint.

use std::process::Output;
use std::sync::Arc;

use dormouse_image::{Auth, Silent};

use crate::support::{World, make_source};

/// Runs a tool; nothing if it is not installed.
async fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match tokio::process::Command::new(program).args(arguments).output().await {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: {program} is not installed");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn ok(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn skopeo_copies_in_between_and_out() {
    let world = World::new().await;
    let digest = world.build("made/here:1", "skopeo").await;
    let target = world.name("made/there:1");
    world.images.push("made/here:1", &target, &Auth::anonymous(), Arc::new(Silent)).await.unwrap();
    let from = format!("docker://{target}");
    let layout = format!("oci:{}:one", world.path("layout").display());
    let Some(output) = run("skopeo", &["copy", "-q", "--src-tls-verify=false", &from, &layout]).await else {
        return;
    };
    ok(&output);
    let again = format!("docker://{}", world.name("again/b:2"));
    ok(&run("skopeo", &["copy", "-q", "--dest-tls-verify=false", &layout, &again]).await.unwrap());
    assert_eq!(world.images.resolve(&world.name("again/b:2"), &Auth::anonymous()).await.unwrap(), digest);
    let docker = format!("docker://{}", world.name("docker/format:3"));
    let arguments = ["copy", "-q", "--dest-tls-verify=false", "--format", "v2s2", &layout, &docker];
    ok(&run("skopeo", &arguments).await.unwrap());
    let resolved = world.images.resolve(&world.name("docker/format:3"), &Auth::anonymous()).await.unwrap();
    assert_eq!(world.images.prepare(resolved).await.unwrap().config.entrypoint, ["/bin/run"]);
    let arguments = ["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", &again, &from];
    ok(&run("skopeo", &arguments).await.unwrap());
    let repository = format!("docker://{}", world.name("again/b"));
    let tags = run("skopeo", &["list-tags", "--tls-verify=false", &repository]).await.unwrap();
    assert!(String::from_utf8_lossy(&tags.stdout).contains("\"2\""));
    let archive = format!("docker-archive:{}:some/name:4", world.path("saved.tar").display());
    ok(&run("skopeo", &["copy", "-q", &layout, &archive]).await.unwrap());
    let imported = world.images.import(&world.path("saved.tar"), None).await.unwrap();
    assert_eq!(imported[0].0, "docker.io/some/name:4");
    let prepared = world.images.prepare(imported[0].1).await.unwrap();
    assert_eq!(
        prepared.layers,
        world.images.prepare(digest).await.unwrap().layers,
        "layers are shared by diff id"
    );
    let imported = world.images.import(&world.path("layout"), Some("given/name:5")).await.unwrap();
    assert_eq!(imported, [("docker.io/given/name:5".to_owned(), digest)]);
    ok(&run("skopeo", &["delete", "--tls-verify=false", &again]).await.unwrap());
    assert!(world.images.resolve(&world.name("again/b:2"), &Auth::anonymous()).await.is_err());
    world.end().await;
}

#[tokio::test]
async fn buildah_pushes_what_the_node_can_run_and_pulls_it_back() {
    let world = World::new().await;
    let (root, runroot) =
        (world.path("root").display().to_string(), world.path("runroot").display().to_string());
    let common = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
    let buildah = async |arguments: &[&str]| run("buildah", &[&common[..], arguments].concat()).await;
    make_source(&world.path("context"), "buildah");
    std::fs::write(
        world.path("context/Containerfile"),
        "FROM scratch\nCOPY bin /bin\nCOPY etc /etc\nUSER app\nENTRYPOINT [\"/bin/run\"]\n",
    )
    .unwrap();
    let context = world.path("context").display().to_string();
    let name = world.name("built/app:v1");
    let Some(output) =
        buildah(&["build", "--isolation", "chroot", "--timestamp", "0", "-q", "-t", &name, &context]).await
    else {
        return;
    };
    if !output.status.success() {
        return eprintln!("SKIPPED: buildah cannot build here: {}", String::from_utf8_lossy(&output.stderr));
    }
    ok(&buildah(&["push", "-q", "--tls-verify=false", &name]).await.unwrap());
    ok(&buildah(&["rmi", &name]).await.unwrap());
    ok(&buildah(&["pull", "-q", "--tls-verify=false", &name]).await.unwrap());
    let digest = world.images.resolve(&name, &Auth::anonymous()).await.unwrap();
    let prepared = world.images.prepare(digest).await.unwrap();
    assert_eq!(prepared.config.user, "app");
    assert_eq!(prepared.user("app").unwrap(), (10, 20, vec![]));
    assert!(prepared.read("bin/run".as_ref(), 1 << 20).unwrap().unwrap().starts_with(b"buildah"));
    world.end().await;
}
