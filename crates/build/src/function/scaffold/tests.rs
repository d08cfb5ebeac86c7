use super::*;

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let file = dir.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    dir
}

fn of(runtime: &str, invoke: &str, files: &[(&str, &str)]) -> Result<Scaffold> {
    let spec = Spec { runtime: runtime.to_owned(), invoke: invoke.to_owned(), ..Spec::default() };
    scaffold(project(files).path(), &spec)
}

#[test]
fn go_functions_are_found_by_what_they_declare() {
    let module = ("go.mod", "module example.com/f // mine\n\ngo 1.21\n");
    let target = |code: &str| {
        of("go", "", &[("go.mod", "module example.com/f\n"), ("f.go", code), ("f_test.go", "func New() {}")])
            .map(|scaffold| {
                scaffold.files.get(&Path::new(GO_PLACE).join("target.go")).cloned().unwrap_or_default()
            })
    };
    let instanced =
        target("package function\n\n// func Handle() is not here\nfunc New() *T { return &T{} }\n").unwrap();
    assert!(instanced.contains("import f \"example.com/f\"") && instanced.contains("f.New()"), "{instanced}");
    let code = "package f\nvar s = `\nfunc New() {\n`\n/*\nfunc New() {}\n*/\nfunc Handle(w W, r *R) {}\n";
    assert!(target(code).unwrap().contains("return nil, f.Handle"));
    let both = target("package f\nfunc New() *T { return nil }\nfunc Handle(w W) {}\n").unwrap_err();
    assert_eq!(both.message, "signature detection error: both static and instanced signatures found");
    let none = target("package f\nfunc (t *T) Handle(w W) {}\nfunc Newer() {}\n").unwrap_err();
    assert_eq!(none.message, "signature detection error: no signatures found");
    assert_eq!(target("package main\nfunc main() {}\n").unwrap(), "");
    assert!(of("go", "", &[("f.go", "package f")]).unwrap_err().message.contains("go.mod"));
    let scaffold = of("go", "cloudevent", &[module, ("f.go", "package f\nfunc Handle() {}\n")]).unwrap();
    assert!(scaffold.files.get(&Path::new(GO_PLACE).join("adapter.go")).unwrap().contains("event.Event"));
}

#[test]
fn python_functions_lose_what_only_tests_need() {
    let project = "[project]\nname = \"function\"\nrequires-python = \">=3.10\"\ndependencies = [\n  \"httpx\",\n  \"pytest>=8\",\n  \"pytest-asyncio\",\n  \"cloudevents>=2,<3\"\n]\n";
    let files = [
        ("pyproject.toml", project),
        ("function/__init__.py", "from .func import new"),
        ("function/func.py", "import logging\n"),
    ];
    let scaffold = of("python", "cloudevent", &files).unwrap();
    assert_eq!(scaffold.command, ["python3", ".dormouse/main.py", "function", "cloudevent"]);
    let left = &scaffold.files[Path::new("pyproject.toml")];
    assert!(left.contains("dependencies = [\"cloudevents>=2,<3\"]") && left.contains(">=3.10"), "{left}");
    let files = [("pyproject.toml", project), ("function/__init__.py", "from httpx import get")];
    assert!(of("python", "", &files).unwrap().files[Path::new("pyproject.toml")].contains("\"httpx\""));
    let scaffold = of("python", "", &[("func.py", "def handle(): pass")]).unwrap();
    assert_eq!(scaffold.command[2..], ["func".to_owned(), "http".to_owned()]);
    assert!(of("python", "", &[("main.py", "")]).unwrap_err().message.contains("func.py"));
}

#[test]
fn node_functions_need_no_runtime_of_their_own() {
    let package = r#"{"name":"x","main":"index.js","scripts":{"start":"FUNC_LOG_LEVEL=info faas-js-runtime ./lib/f.js"},"dependencies":{"faas-js-runtime":"^3.0.2"}}"#;
    let scaffold = of("node", "", &[("package.json", package), ("lib/f.js", "")]).unwrap();
    assert_eq!(scaffold.command, ["node", ".dormouse/main.cjs", "lib/f.js"]);
    assert!(!scaffold.files[Path::new("package.json")].contains("dependencies"));
    let uses = [("package.json", package), ("lib/f.js", "require('faas-js-runtime')")];
    assert!(!of("node", "", &uses).unwrap().files.contains_key(Path::new("package.json")));
    let more = package.replace("\"dependencies\":{", "\"dependencies\":{\"cloudevents\":\"^10\",");
    let files = [("package.json", more.as_str()), ("lib/f.js", "")];
    assert!(!of("node", "", &files).unwrap().files.contains_key(Path::new("package.json")));
    assert!(of("node", "", &[("package.json", "{}")]).unwrap_err().message.contains("index.js"));
    assert!(of("node", "", &[("package.json", "{")]).unwrap_err().message.contains("package.json"));
    let compiled = of(
        "typescript",
        "",
        &[("package.json", r#"{"scripts":{"start":"x faas-js-runtime ./build/index.js"}}"#)],
    );
    assert_eq!(compiled.unwrap().command[2], "build/index.js");
}
