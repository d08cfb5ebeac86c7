//! What runs a function here: a copy of its source with the scaffold over it, made ready by the language's own tools.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use dormouse_build::Request;
use dormouse_build::function::Function;
use tokio::process::Command;

use crate::func::{say, variable};
use crate::show::failure;

/// What is never copied: it belongs to tools, or is large and linked instead.
const LEFT_OUT: [&str; 8] =
    [".git", ".func", "node_modules", "target", ".venv", "__pycache__", ".dormouse", ".idea"];
/// How deep directories are followed.
const DEPTH_MAX: usize = 64;

/// A command that is the running function.
pub(super) struct Program {
    pub(super) command: String,
    pub(super) arguments: Vec<String>,
    pub(super) directory: PathBuf,
    pub(super) env: BTreeMap<String, String>,
}

/// Builds what has to be built and answers how to run it.
pub(super) async fn prepare(function: &Function) -> anyhow::Result<Program> {
    let request = function.request(&variable).map_err(failure)?;
    let root = &function.root;
    let local = function.local_dir().map_err(failure)?;
    let place = local.join("run");
    match function.spec.runtime.as_str() {
        "static" => bail!(
            "a static site needs no process\n  → open index.html in a browser, or deploy it with `dormouse func deploy`"
        ),
        "wasm" => bail!("a component runs on the platform\n  → deploy it with `dormouse func deploy`"),
        "rust" => return Ok(program("cargo", &["run", "--quiet"], root)),
        _ => {}
    }
    fresh(root, &place, &request)?;
    match function.spec.runtime.as_str() {
        "go" => {
            let scaffold = request.scaffold.keys().next().and_then(|file| file.parent());
            let package = scaffold.map_or_else(|| ".".to_owned(), |path| format!("./{}", path.display()));
            step("go", &["build", "-o", "../function", &package], &place).await?;
            Ok(program(&local.join("function").display().to_string(), &[], &place))
        }
        "python" => {
            let mut program = told(&request, &place)?;
            if let Some(library) = python_library(&place, &local).await? {
                program.env.insert("PYTHONPATH".to_owned(), library.display().to_string());
            }
            program.env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
            Ok(program)
        }
        "node" | "typescript" => {
            node_modules(root, &place).await?;
            if function.spec.runtime == "typescript" {
                step("npm", &["run", "--silent", "build"], &place).await?;
            }
            told(&request, &place)
        }
        _ => java(&place, &local).await,
    }
}

fn program(command: &str, arguments: &[&str], directory: &Path) -> Program {
    Program {
        command: command.to_owned(),
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        directory: directory.to_owned(),
        env: BTreeMap::new(),
    }
}

/// The command that the image would have.
fn told(request: &Request, place: &Path) -> anyhow::Result<Program> {
    let (command, rest) = request.command.split_first().context("the scaffold has no command")?;
    Ok(program(command, &rest.iter().map(String::as_str).collect::<Vec<_>>(), place))
}

/// A copy of the source with the scaffold over it, in place of the last one.
fn fresh(root: &Path, place: &Path, request: &Request) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", place.display()));
        }
        _ => {}
    }
    copy(root, place, 0)?;
    for (path, text) in &request.scaffold {
        let file = place.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, depth: usize) -> anyhow::Result<()> {
    if depth > DEPTH_MAX {
        bail!("{} is nested deeper than {DEPTH_MAX}", from.display());
    }
    std::fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry.with_context(|| format!("read {}", from.display()))?;
        let (name, path) = (entry.file_name(), entry.path());
        if LEFT_OUT.iter().any(|left| name == *left) {
            continue;
        }
        let target = to.join(&name);
        let kind = entry.file_type().with_context(|| format!("look at {}", path.display()))?;
        if kind.is_dir() {
            copy(&path, &target, depth + 1)?;
        } else if kind.is_symlink() {
            let link = std::fs::read_link(&path).with_context(|| format!("read {}", path.display()))?;
            std::os::unix::fs::symlink(link, &target)
                .with_context(|| format!("link {}", target.display()))?;
        } else if kind.is_file() {
            std::fs::copy(&path, &target).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// Runs a tool; its output is the user's to read.
async fn step(command: &str, arguments: &[&str], directory: &Path) -> anyhow::Result<()> {
    let status = Command::new(command)
        .args(arguments)
        .current_dir(directory)
        .stdout(std::io::stderr())
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("run {command}"))?;
    if !status.success() {
        bail!("{command} {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// The project's dependencies, installed once for the same list; `None` when it has none.
async fn python_library(place: &Path, local: &Path) -> anyhow::Result<Option<PathBuf>> {
    let requirements = place.join("requirements.txt");
    let mut wanted: Vec<String> = Vec::new();
    let key = if requirements.is_file() {
        wanted.extend(["--requirement".to_owned(), requirements.display().to_string()]);
        std::fs::read_to_string(&requirements).context("read requirements.txt")?
    } else {
        let text = std::fs::read_to_string(place.join("pyproject.toml")).unwrap_or_default();
        let table = text.parse::<toml::Table>().context("pyproject.toml")?;
        let listed = table.get("project").and_then(|project| project.get("dependencies"));
        let listed = listed.and_then(toml::Value::as_array).into_iter().flatten();
        wanted.extend(listed.filter_map(|line| line.as_str().map(str::to_owned)));
        wanted.join("\n")
    };
    if key.trim().is_empty() {
        return Ok(None);
    }
    let (library, note) = (local.join("lib"), local.join("lib.list"));
    if std::fs::read_to_string(&note).is_ok_and(|known| known == key) {
        return Ok(Some(library));
    }
    let _ = std::fs::remove_dir_all(&library);
    say("installing the function's dependencies");
    let target = library.display().to_string();
    let mut arguments =
        vec!["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", &target];
    arguments.extend(wanted.iter().map(String::as_str));
    step("python3", &arguments, place).await?;
    std::fs::write(&note, key).with_context(|| format!("write {}", note.display()))?;
    Ok(Some(library))
}

/// The project's own `node_modules` if it has them, else what its lock file says, when it says anything.
async fn node_modules(root: &Path, place: &Path) -> anyhow::Result<()> {
    let own = root.join("node_modules");
    if own.is_dir() {
        let link = place.join("node_modules");
        return std::os::unix::fs::symlink(own, &link).with_context(|| format!("link {}", link.display()));
    }
    let text = std::fs::read_to_string(place.join("package.json")).unwrap_or_else(|_| "{}".to_owned());
    let package: serde_json::Value = serde_json::from_str(&text).context("package.json")?;
    let any = ["dependencies", "devDependencies"]
        .iter()
        .any(|name| package.get(name).and_then(|map| map.as_object()).is_some_and(|map| !map.is_empty()));
    // What only tests need is left alone unless a compiler may be among it.
    let compiles = place.join("tsconfig.json").is_file();
    let runtime =
        package.get("dependencies").and_then(|map| map.as_object()).is_some_and(|map| !map.is_empty());
    if !any || (!compiles && !runtime) {
        return Ok(());
    }
    let verb = if place.join("package-lock.json").is_file() { "ci" } else { "install" };
    step("npm", &[verb, "--no-audit", "--no-fund", "--loglevel=error"], place).await
}

/// Source files alone, or a Maven project's jar.
async fn java(place: &Path, local: &Path) -> anyhow::Result<Program> {
    if place.join("pom.xml").is_file() {
        step("mvn", &["-B", "-q", "-DskipTests", "package"], place).await?;
        let quarkus = place.join("target/quarkus-app/quarkus-run.jar");
        let mut jars = Vec::new();
        for entry in std::fs::read_dir(place.join("target")).context("read target")? {
            let path = entry.context("read target")?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let plain = !name.ends_with("-sources.jar") && !name.starts_with("original-");
            if name.ends_with(".jar") && plain {
                jars.push(path);
            }
        }
        let jar = match (quarkus.is_file(), jars.as_slice()) {
            (true, _) => quarkus,
            (false, [one]) => one.clone(),
            (false, many) => bail!("the build left {} jars in target; one is needed", many.len()),
        };
        return Ok(program("java", &["-jar", &jar.display().to_string()], place));
    }
    let mut sources = Vec::new();
    collect(&place.join("src/main"), &mut sources, 0)?;
    let classes = local.join("classes");
    let _ = std::fs::remove_dir_all(&classes);
    let target = classes.display().to_string();
    let mut arguments = vec!["-encoding", "UTF-8", "-d", &target];
    arguments.extend(sources.iter().map(String::as_str));
    step("javac", &arguments, place).await?;
    Ok(program("java", &["-cp", &target, "functions.Main"], place))
}

fn collect(directory: &Path, files: &mut Vec<String>, depth: usize) -> anyhow::Result<()> {
    if depth > DEPTH_MAX {
        bail!("{} is nested deeper than {DEPTH_MAX}", directory.display());
    }
    for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry.with_context(|| format!("read {}", directory.display()))?.path();
        if path.is_dir() {
            collect(&path, files, depth + 1)?;
        } else if path.extension().is_some_and(|suffix| suffix == "java") {
            files.push(path.display().to_string());
        }
    }
    Ok(())
}
