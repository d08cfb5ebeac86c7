use std::path::{Path, PathBuf};

use super::*;
use crate::detect::detect;

/// Every tool in a version of its own.
struct All;

impl Versions for All {
    fn version(&mut self, tool: &str) -> Result<String> {
        let version = match tool {
            "go" => "1.26.8",
            "cargo" => "1.95.0",
            "node" => "20.20.2",
            "python3" => "3.11.7",
            _ => "17.0.1",
        };
        Ok(version.to_owned())
    }
}

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn planned(files: &[(&str, &str)]) -> Result<Plan> {
    let dir = project(files);
    let mut request = Request::new(dir.path());
    request.name = Some("x".into());
    plan(&detect(&request)?, &request, &mut All)
}

fn stages(plan: &Plan) -> Vec<&str> {
    plan.stages.iter().map(|stage| stage.name.as_str()).collect()
}

#[test]
fn a_plan_does_not_depend_on_where_the_source_lies() {
    let files = [("main.py", "print(1)"), ("requirements.txt", "flask==3.0.0\n")];
    assert_eq!(planned(&files).unwrap().digest(), planned(&files).unwrap().digest());
    let text = serde_json::to_string(&planned(&files).unwrap()).unwrap();
    let back: Plan = serde_json::from_str(&text).unwrap();
    assert_eq!(back, planned(&files).unwrap());
}

#[test]
fn recipes_fetch_only_what_a_project_asks_for() {
    for (files, expected) in [
        (&[("index.html", "hi")][..], &[][..]),
        (&[("go.mod", "module x\ngo 1.22\n"), ("main.go", "package main\n")], &["compile"]),
        (
            &[("go.mod", "module x\nrequire a.b/c v1.0.0\n"), ("go.sum", ""), ("main.go", "package main")],
            &["dependencies", "compile"],
        ),
        (&[("Cargo.toml", "[package]\nname='x'\n"), ("src/main.rs", "fn main(){}")], &["compile"]),
        (&[("package.json", "{\"main\":\"index.js\"}"), ("index.js", "")], &[]),
        (
            &[
                ("package.json", "{\"dependencies\":{\"a\":\"1\"},\"main\":\"index.js\"}"),
                ("package-lock.json", "{}"),
                ("index.js", ""),
            ],
            &["dependencies"],
        ),
        (
            &[
                ("package.json", "{\"devDependencies\":{\"typescript\":\"5\"},\"main\":\"dist/index.js\"}"),
                ("package-lock.json", "{}"),
                ("tsconfig.json", "{}"),
                ("index.ts", ""),
            ],
            &["build-dependencies", "compile"],
        ),
        (&[("main.py", "")], &["compile"]),
        (&[("main.py", ""), ("requirements.txt", "# none\n")], &["compile"]),
        (&[("main.py", ""), ("requirements.txt", "flask\n")], &["dependencies", "compile"]),
        (&[("Main.java", "class Main { public static void main(String[] a) {} }")], &["compile"]),
    ] {
        assert_eq!(stages(&planned(files).unwrap()), expected, "{files:?}");
    }
}

#[test]
fn no_stage_with_network_runs_code_of_the_project() {
    let plan = planned(&[
        ("package.json", "{\"dependencies\":{\"a\":\"1\"},\"main\":\"index.js\"}"),
        ("package-lock.json", "{\"packages\":{\"a\":{\"hasInstallScript\": true}}}"),
        ("index.js", ""),
    ])
    .unwrap();
    assert_eq!(stages(&plan), ["dependencies", "install-scripts"]);
    assert!(plan.stages[0].network && plan.stages[0].commands[1].contains(&"--ignore-scripts".to_owned()));
    assert!(!plan.stages[1].network);
    let plan = planned(&[("main.py", ""), ("requirements.txt", "flask\n")]).unwrap();
    assert!(plan.stages[0].commands[0].contains(&"--only-binary".to_owned()));
}

#[test]
fn commands_follow_the_projects_own_words() {
    for (files, expected) in [
        (&[("main.py", "")][..], "python3 main.py"),
        (
            &[("app.py", "app = Flask(__name__)\n"), ("requirements.txt", "Flask==3\ngunicorn")],
            "python3 -m gunicorn --bind 0.0.0.0:8080 app:app",
        ),
        (
            &[("main.py", "app = FastAPI()\n"), ("requirements.txt", "fastapi\nuvicorn[standard]==1")],
            "python3 -m uvicorn main:app --host 0.0.0.0 --port 8080",
        ),
        (&[("main.py", ""), ("Procfile", "web: python3 main.py 'a b'\n")], "python3 main.py a b"),
        (&[("package.json", "{\"scripts\":{\"start\":\"node src/x.js --y\"}}")], "node src/x.js --y"),
        (&[("package.json", "{}"), ("server.js", "")], "node server.js"),
        (
            &[("A.java", "package p.q;\nclass A { public static void main(String[] a) {} }")],
            "java -cp /app/classes p.q.A",
        ),
        (&[("index.html", "")], "/serve /site"),
    ] {
        assert_eq!(planned(files).unwrap().run.command.join(" "), expected, "{files:?}");
    }
}

#[test]
fn what_is_wrong_with_a_project_has_its_reason() {
    for (files, reason, names) in [
        (
            &[("go.mod", "module x\ngo 1.99\n"), ("main.go", "package main")][..],
            Reason::ToolchainVersionMismatch,
            "1.99",
        ),
        (&[("go.mod", "module x\n"), ("x.go", "package x")], Reason::EntrypointNotFound, "package main"),
        (
            &[("go.mod", "module x\nrequire a v1\n"), ("main.go", "package main")],
            Reason::LockfileMissing,
            "go.sum",
        ),
        (&[("Cargo.toml", "[package")], Reason::ProjectInvalid, "Cargo.toml"),
        (
            &[("Cargo.toml", "[package]\nname='x'\n[dependencies]\na='1'\n"), ("src/main.rs", "")],
            Reason::LockfileMissing,
            "Cargo.lock",
        ),
        (&[("package.json", "{")], Reason::ProjectInvalid, "package.json"),
        (
            &[("package.json", "{\"dependencies\":{\"a\":\"1\"}}"), ("yarn.lock", "")],
            Reason::LockfileMissing,
            "yarn.lock",
        ),
        (&[("package.json", "{\"engines\":{\"node\":\">=99\"}}")], Reason::ToolchainVersionMismatch, "99"),
        (
            &[("pyproject.toml", "[project]\nrequires-python='>=3.99'\n")],
            Reason::ToolchainVersionMismatch,
            "3.99",
        ),
        (&[("requirements.txt", "")], Reason::EntrypointNotFound, "main.py"),
        (&[("Procfile", "worker: x\n")], Reason::ProjectInvalid, "Procfile"),
        (&[("A.java", "class A {}")], Reason::EntrypointNotFound, "main"),
    ] {
        let error = planned(files).unwrap_err();
        assert_eq!(error.reason, reason, "{files:?}: {error}");
        assert!(error.to_string().contains(names), "{error}");
        assert!(!error.remedy.is_empty());
    }
}

#[test]
fn hooks_of_loader_shell_and_interpreter_are_refused() {
    let dir = project(&[("main.py", "")]);
    for name in ["LD_PRELOAD", "PATH", "BASH_ENV", "NODE_OPTIONS", "PYTHONPATH"] {
        let mut request = Request::new(dir.path());
        request.build_env.insert(name.into(), "x".into());
        let error = plan(&detect(&request).unwrap(), &request, &mut All).unwrap_err();
        assert_eq!(error.reason, Reason::EnvironmentForbidden);
        assert!(error.message.contains(name));
    }
}

#[test]
fn one_file_is_a_project() {
    let dir = project(&[("hello.wasm", "\0asm"), ("other.txt", "")]);
    let request = Request::new(PathBuf::from(dir.path()).join("hello.wasm"));
    let project = detect(&request).unwrap();
    assert_eq!((project.name.as_str(), project.language), ("hello", Language::Wasm));
    assert_eq!(project.tree.entries.len(), 1);
    let plan = plan(&project, &request, &mut All).unwrap();
    assert_eq!(plan.base, Base::Artifact);
    assert_eq!(plan.layers[0].copies[0].from, "$SRC/hello.wasm");
    assert!(Path::new(&plan.layers[0].copies[0].to).is_absolute());
}

#[test]
fn command_lines_split_as_a_shell_does() {
    assert_eq!(words("a 'b c'  \"d\""), ["a", "b c", "d"]);
    assert_eq!(words("a && b"), ["/bin/sh", "-c", "a && b"]);
    assert_eq!(words("x ''"), ["x", ""]);
}
