//! The main program of a function: laid over the project when it is built, never written into it.
//!
//! Each is one small server on its language's standard library: no download, no version to keep. All of them listen on
//! `$PORT` (8080) or `$LISTEN_ADDRESS`, answer `/health/liveness` and `/health/readiness`, and stop on SIGTERM after
//! the requests in flight.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::spec::Spec;
use crate::error::{Error, Reason, Result};

/// Files by their path in the project, and what runs them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scaffold {
    pub(super) files: BTreeMap<PathBuf, String>,
    /// Empty: the language's recipe knows.
    pub(super) command: Vec<String>,
}

const GO_MAIN: &str = include_str!("../../templates/scaffold/go/main.go");
const GO_HTTP: &str = include_str!("../../templates/scaffold/go/http.go");
const GO_CLOUDEVENT: &str = include_str!("../../templates/scaffold/go/cloudevent.go");
const PYTHON_MAIN: &str = include_str!("../../templates/scaffold/python/main.py");
const PYTHON_EVENTS: &str = include_str!("../../templates/scaffold/python/events.py");
const NODE_MAIN: &str = include_str!("../../templates/scaffold/node/main.cjs");
const NODE_EVENTS: &str = include_str!("../../templates/scaffold/node/events.cjs");

/// Where Go's main package is laid: below `cmd`, where the recipe for Go looks for programs.
const GO_PLACE: &str = "cmd/dormouse-function";
/// Where the others are laid: hidden, so that no project has it.
const PLACE: &str = ".dormouse";

/// The main program for what `spec` says of the project in `root`.
pub(super) fn scaffold(root: &Path, spec: &Spec) -> Result<Scaffold> {
    match spec.runtime.as_str() {
        "go" => go(root, &spec.invoke),
        "python" => python(root, &spec.invoke),
        "node" => node(root, "index.js"),
        "typescript" => node(root, "build/index.js"),
        // Their projects have a main program of their own, or need none.
        _ => Ok(Scaffold::default()),
    }
}

fn go(root: &Path, invoke: &str) -> Result<Scaffold> {
    let module = read(&root.join("go.mod"))?.unwrap_or_default();
    let path = module.lines().find_map(|line| line.trim().strip_prefix("module ")).map(str::trim);
    let Some(path) = path.map(|path| path.trim_matches('"')).filter(|path| !path.is_empty()) else {
        return Err(Error::new(Reason::ProjectInvalid, "there is no go.mod with a `module` line")
            .with_remedy("run `go mod init function`"));
    };
    let mut code = String::new();
    for file in sources(root, ".go")? {
        if !file.to_string_lossy().ends_with("_test.go") {
            code.push_str(&without_comments(&read(&file)?.unwrap_or_default()));
            code.push('\n');
        }
    }
    let (package_main, new, handle) = (has_main(&code), declares(&code, "New"), declares(&code, "Handle"));
    if package_main {
        // A program of its own: nothing is needed.
        return Ok(Scaffold::default());
    }
    let target = match (new, handle) {
        (true, true) => {
            return Err(Error::new(
                Reason::ProjectInvalid,
                "signature detection error: both static and instanced signatures found",
            )
            .with_remedy("keep either `func New()` or `func Handle(…)` in the package, not both"));
        }
        (false, false) => {
            return Err(Error::new(
                Reason::EntrypointNotFound,
                "signature detection error: no signatures found",
            )
            .with_remedy("export `func New()`, whose result has a method Handle, or `func Handle(…)`"));
        }
        (true, false) => "\tinstance := f.New()\n\treturn instance, instance.Handle\n",
        (false, true) => "\treturn nil, f.Handle\n",
    };
    let target = format!(
        "package main\n\nimport f {path:?}\n\nfunc target() (interface{{}}, interface{{}}) {{\n{target}}}\n"
    );
    let adapter = if invoke == "cloudevent" { GO_CLOUDEVENT } else { GO_HTTP };
    let files = [("main.go", GO_MAIN.to_owned()), ("target.go", target), ("adapter.go", adapter.to_owned())];
    let files = files.into_iter().map(|(name, text)| (Path::new(GO_PLACE).join(name), text)).collect();
    Ok(Scaffold { files, command: Vec::new() })
}

fn python(root: &Path, invoke: &str) -> Result<Scaffold> {
    let found =
        ["function/__init__.py", "function.py", "func.py"].into_iter().find(|path| root.join(path).is_file());
    let Some(found) = found else {
        return Err(Error::new(
            Reason::EntrypointNotFound,
            "there is neither a package `function` nor a module func.py",
        )
        .with_remedy("export `new` or `handle` from function/__init__.py"));
    };
    let module = if found == "func.py" { "func" } else { "function" };
    let invoke = if invoke == "cloudevent" { "cloudevent" } else { "http" };
    let mut files = BTreeMap::from([
        (Path::new(PLACE).join("main.py"), PYTHON_MAIN.to_owned()),
        (Path::new(PLACE).join("dormouse_events.py"), PYTHON_EVENTS.to_owned()),
    ]);
    if let Some(project) = python_project(root)? {
        files.insert(PathBuf::from("pyproject.toml"), project);
    }
    let command = ["python3", ".dormouse/main.py", module, invoke].map(str::to_owned).to_vec();
    Ok(Scaffold { files, command })
}

/// pyproject.toml without what only tests need: upstream's templates list pytest among the dependencies. `None` when
/// nothing is to be left out.
fn python_project(root: &Path) -> Result<Option<String>> {
    const TESTS: [&str; 3] = ["pytest", "pytest-asyncio", "httpx"];
    let Some(text) = read(&root.join("pyproject.toml"))? else { return Ok(None) };
    let Ok(table) = text.parse::<toml::Table>() else { return Ok(None) };
    let field = |name: &str| table.get("project").and_then(|project| project.get(name));
    let Some(listed) = field("dependencies").and_then(toml::Value::as_array) else { return Ok(None) };
    let mut code = String::new();
    for file in sources(root, ".py")?.into_iter().chain(sources(&root.join("function"), ".py")?) {
        code.push_str(&read(&file)?.unwrap_or_default());
        code.push('\n');
    }
    let listed: Vec<&str> = listed.iter().filter_map(toml::Value::as_str).collect();
    let needed = |line: &&str| {
        let end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(line.len());
        let name = line.get(..end).unwrap_or_default().to_ascii_lowercase().replace('_', "-");
        !TESTS.contains(&name.as_str()) || imports(&code, &name.replace('-', "_"))
    };
    let kept: Vec<&str> = listed.iter().copied().filter(needed).collect();
    if kept.len() == listed.len() {
        return Ok(None);
    }
    let requires = field("requires-python").and_then(toml::Value::as_str);
    let requires = requires.map(|version| format!("requires-python = {version:?}\n")).unwrap_or_default();
    Ok(Some(format!(
        "[project]\nname = \"function\"\nversion = \"0.1.0\"\n{requires}dependencies = {kept:?}\n"
    )))
}

/// Whether Python code imports a module.
fn imports(code: &str, module: &str) -> bool {
    code.lines().map(str::trim_start).any(|line| {
        let rest = line.strip_prefix("import ").or_else(|| line.strip_prefix("from "));
        rest.is_some_and(|rest| rest.split([' ', ',', '.']).any(|word| word == module))
    })
}

fn node(root: &Path, usual: &str) -> Result<Scaffold> {
    let text = read(&root.join("package.json"))?.unwrap_or_else(|| "{}".to_owned());
    let mut package: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| Error::new(Reason::ProjectInvalid, format!("package.json: {error}")))?;
    let start = package.pointer("/scripts/start").and_then(|script| script.as_str()).unwrap_or_default();
    // `faas-js-runtime ./index.js`: the file is what the runtime would load.
    let mut words = start.split_whitespace().skip_while(|word| !word.ends_with("faas-js-runtime")).skip(1);
    let told = words.find(|word| !word.starts_with('-')).map(str::to_owned);
    let main = package.get("main").and_then(|main| main.as_str()).map(str::to_owned);
    let entry = told.or(main).unwrap_or_else(|| usual.to_owned());
    let entry = entry.trim_start_matches("./").to_owned();
    let plain = usual == "index.js";
    if plain && !root.join(&entry).is_file() {
        return Err(Error::new(
            Reason::EntrypointNotFound,
            format!("there is no {entry}, which package.json names as the function"),
        )
        .with_remedy("export `handle` from index.js"));
    }
    let mut files = BTreeMap::from([
        (Path::new(PLACE).join("main.cjs"), NODE_MAIN.to_owned()),
        (Path::new(PLACE).join("events.cjs"), NODE_EVENTS.to_owned()),
    ]);
    if plain && only_needs_runtime(root, &package)? {
        if let Some(fields) = package.as_object_mut() {
            fields.remove("dependencies");
        }
        files.insert(PathBuf::from("package.json"), package.to_string());
    }
    let command = ["node", ".dormouse/main.cjs", &entry].map(str::to_owned).to_vec();
    Ok(Scaffold { files, command })
}

/// Whether upstream's runtime is the only dependency and no source uses it: the scaffold stands in its place, so that
/// nothing has to be downloaded.
fn only_needs_runtime(root: &Path, package: &serde_json::Value) -> Result<bool> {
    const RUNTIME: &str = "faas-js-runtime";
    let names = package.get("dependencies").and_then(|map| map.as_object());
    if !names.is_some_and(|names| names.len() == 1 && names.contains_key(RUNTIME)) {
        return Ok(false);
    }
    for place in [root.to_owned(), root.join("lib"), root.join("src")] {
        for suffix in [".js", ".mjs", ".cjs"] {
            for file in sources(&place, suffix)? {
                if read(&file)?.is_some_and(|text| text.contains(RUNTIME)) {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// The files directly in `directory` with a suffix, in order; none when there is no such directory.
fn sources(directory: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", directory, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::file("read", directory, error))?.path();
        if path.is_file() && path.to_string_lossy().ends_with(suffix) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Option<String>> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", file, error)),
    }
}

fn has_main(code: &str) -> bool {
    code.lines().any(|line| line.split_whitespace().take(2).eq(["package", "main"]))
}

/// Whether Go code (comments and strings removed) declares a function of the package; methods have a receiver first.
fn declares(code: &str, name: &str) -> bool {
    code.lines().any(|line| {
        let rest = line.trim_start().strip_prefix("func ").map(str::trim_start);
        rest.and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.trim_start().starts_with(['(', '[']))
    })
}

/// Go source with its comments and the contents of its literals removed.
fn without_comments(code: &str) -> String {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        Code,
        Line,
        Block,
        Literal(char),
    }
    let mut out = String::with_capacity(code.len());
    let mut state = State::Code;
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        let next = chars.peek().copied();
        match (state, c, next) {
            (State::Code, '/', Some('/')) => state = State::Line,
            (State::Code, '/', Some('*')) => {
                chars.next();
                state = State::Block;
            }
            (State::Code, '"' | '`' | '\'', _) => {
                out.push(c);
                state = State::Literal(c);
            }
            (State::Code, c, _) => out.push(c),
            (State::Line, '\n', _) => {
                out.push('\n');
                state = State::Code;
            }
            (State::Block, '*', Some('/')) => {
                chars.next();
                out.push(' ');
                state = State::Code;
            }
            (State::Block, '\n', _) => out.push('\n'),
            (State::Literal(quote), '\\', _) if quote != '`' => {
                chars.next();
            }
            (State::Literal(quote), c, _) if c == quote => {
                out.push(c);
                state = State::Code;
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests;
