//! Python: dependencies as wheels in one layer, the program in another, on the interpreter.

use super::{Draft, caches, copy, env, first_file, layer, strings, toml_table, top_with_suffix};
use crate::error::{Error, Reason, Result};
use crate::host::at_least;
use crate::plan::{Base, Cache, Copy, Plan, Stage};

/// Where dependencies lie in the image.
const LIBRARY: &str = "/app/lib";

pub(super) fn plan(draft: &mut Draft<'_>) -> Result<Plan> {
    let version = draft.tool("python3")?;
    let project = draft.parsed("pyproject.toml", toml_table)?.unwrap_or_default();
    let field = |name: &str| project.get("project").and_then(|table| table.get(name));
    if let Some(wanted) = field("requires-python").and_then(toml::Value::as_str)
        && let Some(least) = wanted.trim().strip_prefix(">=").and_then(|rest| rest.split(',').next())
        && !at_least(&version, least.trim())
    {
        return Err(Error::new(
            Reason::ToolchainVersionMismatch,
            format!("pyproject.toml asks for Python {wanted}; this machine has {version}"),
        ));
    }
    let mut wanted = requirements(draft)?;
    let listed = field("dependencies").and_then(toml::Value::as_array);
    let listed: Vec<String> =
        listed.into_iter().flatten().filter_map(|entry| entry.as_str().map(str::to_owned)).collect();
    let mut stages = Vec::new();
    let mut layers = Vec::new();
    // The lock-like file goes first; pyproject's list stands in when there is none.
    let arguments =
        if wanted.is_empty() { listed.clone() } else { strings(["--requirement", "requirements.txt"]) };
    if wanted.is_empty() {
        wanted = listed;
    }
    if !wanted.is_empty() {
        stages.push(dependencies(arguments));
        let to = LIBRARY.to_owned();
        let except = strings(["direct_url.json", "RECORD", "bin"]);
        layers.push(layer("dependencies", vec![Copy { from: "$STAGE/dependencies/lib".into(), to, except }]));
    }
    stages.push(Stage {
        name: "compile".into(),
        commands: vec![
            strings(["mkdir", "$OUT/app"]),
            strings(["cp", "-a", ".", "$OUT/app"]),
            compile_all("$OUT/app", "/app"),
        ],
        ..Stage::default()
    });
    layers.push(layer("application", vec![copy("$STAGE/compile/app", "/app")]));
    let command = match draft.told_command()? {
        Some(command) => command,
        None => command(draft, &wanted)?,
    };
    let settings = [("PYTHONPATH", LIBRARY), ("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1")];
    let run = draft.run(command, "/app", &settings);
    let base = Base::Interpreter { name: "python".into(), version };
    Ok(draft.finish(stages, base, layers, run))
}

/// Installs wheels only: no code of any package runs, so the stage may use the network.
fn dependencies(arguments: Vec<String>) -> Stage {
    let mut install = strings(["python3", "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"]);
    install.extend(strings([
        "--only-binary",
        ":all:",
        "--no-warn-conflicts",
        "--root-user-action",
        "ignore",
    ]));
    install.extend(strings(["--disable-pip-version-check", "--target", "$OUT/lib"]));
    install.extend(arguments);
    Stage {
        name: "dependencies".into(),
        commands: vec![install, compile_all("$OUT/lib", LIBRARY)],
        env: env([("PIP_CACHE_DIR", "$CACHE/pip")]),
        network: true,
        inputs: strings(["requirements.txt", "constraints.txt", "requirements"]),
        caches: caches([Cache::shared("pip")]),
        keep: true,
    }
}

/// Byte code that stays valid whatever the files' times are; files of other versions' syntax are passed over.
fn compile_all(directory: &str, shown: &str) -> Vec<String> {
    let script = "import compileall,sys; from py_compile import PycInvalidationMode as M; \
        compileall.compile_dir(sys.argv[1], maxlevels=50, ddir=sys.argv[2], quiet=2, \
        invalidation_mode=M.UNCHECKED_HASH)";
    ["python3", "-c", script, directory, shown].map(str::to_owned).to_vec()
}

/// The lines of requirements.txt that ask for something.
fn requirements(draft: &Draft<'_>) -> Result<Vec<String>> {
    let text = draft.read("requirements.txt")?.unwrap_or_default();
    let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

/// What to run: the server that the dependencies bring for the application object, or the main file.
fn command(draft: &Draft<'_>, wanted: &[String]) -> Result<Vec<String>> {
    let file = first_file(
        draft,
        &["main.py", "app.py", "server.py", "wsgi.py", "asgi.py", "__main__.py", "func.py"],
    );
    let python = top_with_suffix(draft, "py");
    let file = match (file, python.as_slice()) {
        (Some(file), _) => file,
        (None, [one]) => (*one).to_owned(),
        (None, _) => {
            return Err(Error::new(
                Reason::EntrypointNotFound,
                "there is no main.py, app.py or server.py at the top of the project",
            ));
        }
    };
    let text = draft.read(&file)?.unwrap_or_default();
    let module = file.trim_end_matches(".py");
    let asks = |name: &str| {
        wanted.iter().any(|line| {
            let package: String =
                line.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
            package.eq_ignore_ascii_case(name)
        })
    };
    let object = ["app", "application"].into_iter().find(|name| {
        text.lines()
            .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('=')))
    });
    // A file that starts a server itself is run as it stands.
    let starts_itself = text.lines().any(|line| line.starts_with("if __name__"));
    let port = draft.port();
    Ok(match object {
        Some(object) if !starts_itself || asks("gunicorn") || asks("uvicorn") => {
            let target = format!("{module}:{object}");
            if asks("gunicorn") {
                let bind = format!("0.0.0.0:{port}");
                ["python3", "-m", "gunicorn", "--bind", &bind, &target].map(str::to_owned).to_vec()
            } else if asks("uvicorn") {
                let port = port.to_string();
                ["python3", "-m", "uvicorn", &target, "--host", "0.0.0.0", "--port", &port]
                    .map(str::to_owned)
                    .to_vec()
            } else if asks("hypercorn") {
                let bind = format!("0.0.0.0:{port}");
                ["python3", "-m", "hypercorn", "--bind", &bind, &target].map(str::to_owned).to_vec()
            } else if asks("flask") {
                let port = port.to_string();
                ["python3", "-m", "flask", "--app", &target, "run", "--host", "0.0.0.0", "--port", &port]
                    .map(str::to_owned)
                    .to_vec()
            } else {
                vec!["python3".into(), file]
            }
        }
        _ => vec!["python3".into(), file],
    })
}
