//! Projects become images that hold what they should, and nothing is done twice.

use std::path::Path;
use std::sync::Arc;

use dormouse_build::Language;
use dormouse_image::Prepared;

use crate::support::{Notes, World, has, world};

const GO: [(&str, &str); 2] = [
    ("go.mod", "module example.com/app\n\ngo 1.21\n"),
    (
        "main.go",
        "package main\n\nimport (\n\t\"fmt\"\n\t\"net/http\"\n)\n\nfunc main() {\n\thttp.HandleFunc(\"/\", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, \"go\") })\n\t_ = http.ListenAndServe(\":8080\", nil)\n}\n",
    ),
];

async fn prepared(world: &World, digest: dormouse_image::Digest) -> Prepared {
    world.images.prepare(digest).await.unwrap()
}

fn has_file(image: &Prepared, path: &str) -> bool {
    image.read(Path::new(path), 256 << 20).unwrap().is_some()
}

/// Whether a 64-bit little-endian program names an interpreter among its program headers.
fn needs_loader(program: &[u8]) -> bool {
    assert!(program.starts_with(b"\x7fELF\x02\x01"));
    let number = |at: usize, bytes: usize| {
        program[at..at + bytes].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|header| number(table + header * size, 4) == 3)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_site_has_the_same_digest_in_every_directory() {
    let Some(world) = world() else { return };
    let files = [("index.html", "<h1>hi</h1>"), ("css/a.css", "h1{}")];
    let one = world.build(&world.project("one", &files)).await.unwrap();
    assert_eq!((one.language, one.reused), (Language::Static, false));
    let two = world.project("two", &files);
    // Another time, another mask, something ignored.
    std::fs::create_dir(two.join(".git")).unwrap();
    std::fs::write(two.join(".git/HEAD"), "x").unwrap();
    let two = world.build(&two).await.unwrap();
    assert_eq!(one.digest, two.digest);
    assert!(two.reused, "nothing had to be done");
    let image = prepared(&world, one.digest).await;
    assert_eq!(image.config.entrypoint, ["/serve", "/site"]);
    assert_eq!(image.config.user, "65532:65532");
    for path in
        ["serve", "site/index.html", "site/css/a.css", "etc/ssl/certs/ca-certificates.crt", "etc/passwd"]
    {
        assert!(has_file(&image, path), "{path}");
    }
    assert!(!has_file(&image, "site/.git/HEAD"));
    let changed = world.build(&world.project("one", &[("index.html", "<h1>ho</h1>")])).await.unwrap();
    assert!(!changed.reused);
    assert_ne!(changed.digest, one.digest);
    assert_eq!(world.images.stored("127.0.0.1:5000/default/app:latest").unwrap(), Some(changed.digest));
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_program_is_static_and_the_same_wherever_it_is_built() {
    let Some(world) = world() else { return };
    if !has("go") {
        return;
    }
    let one = world.build(&world.project("one", &GO)).await.unwrap();
    let image = prepared(&world, one.digest).await;
    assert_eq!(image.config.entrypoint, ["/app/app"]);
    let program = image.read(Path::new("app/app"), 64 << 20).unwrap().unwrap();
    assert!(!needs_loader(&program));
    // Another store, another directory: everything is done again and the same comes out.
    let Some(other) = self::world() else { return };
    let two = other.build(&other.project("elsewhere/deep", &GO)).await.unwrap();
    assert!(!two.reused);
    assert_eq!(one.digest, two.digest);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rust_program_is_static() {
    let Some(world) = world() else { return };
    if !has("cargo") {
        return;
    }
    let dir = world.project(
        "app",
        &[
            ("Cargo.toml", "[package]\nname = \"app\"\nedition = \"2021\"\n"),
            ("src/main.rs", "fn main() {}\n"),
        ],
    );
    let built = world.build(&dir).await.unwrap();
    let image = prepared(&world, built.digest).await;
    let program = image.read(Path::new("app/app"), 64 << 20).unwrap().unwrap();
    assert!(!needs_loader(&program));
    assert!(!dir.join("target").exists(), "the source is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_and_node_stand_on_their_interpreters_which_are_made_once() {
    let Some(world) = world() else { return };
    if !has("python3") || !has("node") {
        return;
    }
    let python = world.build(&world.project("python", &[("main.py", "print('x')\n")])).await.unwrap();
    let image = prepared(&world, python.digest).await;
    assert_eq!(image.config.entrypoint, ["python3", "main.py"]);
    assert!(has_file(&image, "usr/local/bin/python3") && has_file(&image, "app/main.py"));
    let node = [("package.json", "{\"main\":\"index.js\"}"), ("index.js", "console.log(1)\n")];
    let node = world.build(&world.project("node", &node)).await.unwrap();
    let image = prepared(&world, node.digest).await;
    assert_eq!(image.config.entrypoint, ["node", "index.js"]);
    assert!(has_file(&image, "usr/local/bin/node") && has_file(&image, "app/index.js"));
    let again = world.build(&world.project("python", &[("main.py", "print('y')\n")])).await.unwrap();
    assert!(again.phases.iter().all(|phase| phase.name != "base"), "{:?}", again.phases);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_an_artifact() {
    let Some(world) = world() else { return };
    let file = world.project("w", &[]);
    std::fs::create_dir_all(&file).unwrap();
    let file = file.join("hello.wasm");
    // The header of an empty component: layer 1, version 13.
    std::fs::write(&file, b"\0asm\x0d\0\x01\0").unwrap();
    let built = world.build(&file).await.unwrap();
    assert_eq!(built.language, Language::Wasm);
    assert!(world.images.component(built.digest).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn touching_files_does_nothing_and_two_builds_of_a_name_take_turns() {
    let Some(world) = world() else { return };
    let dir = world.project("one", &[("main.py", "print('x')\n")]);
    if !has("python3") {
        return;
    }
    let (notes, again) = (Arc::new(Notes::default()), Arc::new(Notes::default()));
    let (one, two) = tokio::join!(
        world.build_with(world.request(&dir), notes),
        world.build_with(world.request(&dir), again)
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.digest, two.digest);
    assert!(one.reused != two.reused, "one builds, the other waits for it");
    std::fs::write(dir.join("main.py"), "print('x')\n").unwrap();
    let third = world.build(&dir).await.unwrap();
    assert!(third.reused);
    assert_eq!(third.digest, one.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_is_built_by_buildah() {
    let Some(world) = world() else { return };
    if !has("buildah") {
        return;
    }
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY hello.txt /hello.txt\nEXPOSE 9000\nENTRYPOINT [\"/none\"]\n"),
        ("hello.txt", "hi\n"),
    ];
    let dir = world.project("docker", &files);
    let built = world.build(&dir).await.unwrap();
    assert_eq!((built.language, built.port, built.reused), (Language::Dockerfile, 9000, false));
    let image = prepared(&world, built.digest).await;
    assert_eq!(image.config.entrypoint, ["/none"]);
    assert!(has_file(&image, "hello.txt"));
    assert!(world.build(&dir).await.unwrap().reused);
    let error = world
        .build(&world.project("docker", &[("Dockerfile", "FROM scratch\nCOPPY a b\n")]))
        .await
        .unwrap_err();
    assert_eq!(error.reason, dormouse_build::Reason::DockerfileInvalid, "{error} {}", error.output);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}
