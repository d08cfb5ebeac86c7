//! Node.js and TypeScript: dependencies by the lock file in one layer, the program in another, on the interpreter.

use super::{Draft, caches, copy, env, first_file, json, layer, strings, words};
use crate::error::{Error, Reason, Result};
use crate::host::at_least;
use crate::plan::{Base, Cache, Copy, Plan, Stage};

/// What `npm` finds in the dependencies' directory when it only looks for the lock.
const LOCKS: [&str; 2] = ["package-lock.json", "npm-shrinkwrap.json"];

pub(super) fn plan(draft: &mut Draft<'_>, typescript: bool) -> Result<Plan> {
    let version = draft.tool("node")?;
    let package = draft.parsed("package.json", json)?.unwrap_or_default();
    let at = |pointer: &str| package.pointer(pointer).and_then(serde_json::Value::as_str);
    if let Some(wanted) = at("/engines/node").and_then(minimum)
        && !at_least(&version, &wanted)
    {
        return Err(Error::new(
            Reason::ToolchainVersionMismatch,
            format!("package.json asks for Node.js {wanted}; this machine has {version}"),
        ));
    }
    let filled =
        |name: &str| package.get(name).and_then(|map| map.as_object()).is_some_and(|map| !map.is_empty());
    let builds = at("/scripts/build").is_some() && (typescript || filled("devDependencies"));
    let compiles = typescript || builds;
    let runtime = filled("dependencies") || filled("optionalDependencies");
    let mut stages = Vec::new();
    let mut layers = Vec::new();
    if runtime || (compiles && filled("devDependencies")) {
        draft.tool("npm")?;
        let lock = lock(draft)?;
        if compiles {
            stages.push(install("build-dependencies", &lock, &["--include=dev"]));
        }
        if runtime {
            stages.push(install("dependencies", &lock, &["--omit=dev"]));
            let scripts = draft.read(&lock)?.is_some_and(|text| text.contains("\"hasInstallScript\": true"));
            let mut from = "$STAGE/dependencies/node_modules";
            if scripts {
                // Install scripts are the dependencies' own code: they run without network.
                stages.push(Stage {
                    name: "install-scripts".into(),
                    commands: vec![
                        strings(["cp", "-a", "$STAGE/dependencies/.", "$OUT/"]),
                        strings(["npm", "rebuild", "--prefix", "$OUT", "--offline", "--no-audit"]),
                    ],
                    env: env([("npm_config_cache", "/tmp/npm")]),
                    inputs: strings(["package.json"]),
                    keep: true,
                    ..Stage::default()
                });
                from = "$STAGE/install-scripts/node_modules";
            }
            let except = strings([".package-lock.json", ".cache"]);
            let to = "/app/node_modules".to_owned();
            layers.push(layer("dependencies", vec![Copy { from: from.to_owned(), to, except }]));
        }
    }
    let mut application = vec![Copy {
        from: "$SRC".into(),
        to: "/app".into(),
        except: strings(["package-lock.json", "npm-shrinkwrap.json", "tsconfig.json"]),
    }];
    if compiles {
        let has_modules = stages.iter().any(|stage| stage.name == "build-dependencies");
        stages.push(compile(draft, &package, typescript, has_modules)?);
        application = vec![copy("$STAGE/compile/app", "/app")];
    }
    layers.push(layer("application", application));
    let command = match draft.told_command()? {
        Some(command) => command,
        None => start(draft, &package, compiles)?,
    };
    let run = draft.run(command, "/app", &[("NODE_ENV", "production")]);
    let base = Base::Interpreter { name: "node".into(), version };
    Ok(draft.finish(stages, base, layers, run))
}

fn lock(draft: &Draft<'_>) -> Result<String> {
    if let Some(lock) = first_file(draft, &LOCKS) {
        return Ok(lock);
    }
    let foreign = first_file(draft, &["yarn.lock", "pnpm-lock.yaml", "bun.lockb"]);
    let remedy = match &foreign {
        Some(_) => {
            "run `npm install --package-lock-only` and commit package-lock.json, or build with a Dockerfile"
        }
        None => "run `npm install --package-lock-only` and commit package-lock.json",
    };
    let found = foreign.map(|name| format!(" ({name} is of another package manager)")).unwrap_or_default();
    Err(Error::new(
        Reason::LockfileMissing,
        format!("package.json has dependencies and there is no package-lock.json{found}"),
    )
    .with_remedy(remedy))
}

/// Installs by the lock file into `$OUT/node_modules`; no script of any package runs, so it may use the network.
fn install(name: &str, lock: &str, which: &[&str]) -> Stage {
    let mut command =
        strings(["npm", "ci", "--prefix", "$OUT", "--ignore-scripts", "--no-audit", "--no-fund"]);
    command.extend(strings(["--prefer-offline", "--no-update-notifier", "--loglevel=error"]));
    command.extend(which.iter().map(|flag| (*flag).to_owned()));
    Stage {
        name: name.to_owned(),
        commands: vec![vec!["cp".into(), "package.json".into(), lock.to_owned(), "$OUT/".into()], command],
        env: env([("npm_config_cache", "$CACHE/npm")]),
        network: true,
        inputs: vec!["package.json".into(), lock.to_owned()],
        caches: caches([Cache::shared("npm")]),
        keep: true,
    }
}

/// Runs the project's build and keeps the whole tree that it leaves, without its dependencies.
fn compile(
    draft: &Draft<'_>,
    package: &serde_json::Value,
    typescript: bool,
    has_modules: bool,
) -> Result<Stage> {
    let scripted = package.pointer("/scripts/build").is_some();
    let mut commands = Vec::new();
    if has_modules {
        commands.push(strings(["ln", "-s", "$STAGE/build-dependencies/node_modules", "node_modules"]));
    }
    commands.push(match (scripted, typescript) {
        (true, _) => strings(["npm", "run", "build"]),
        (false, _) if has_modules => strings(["node_modules/.bin/tsc", "--project", "."]),
        (false, _) => {
            return Err(Error::new(
                Reason::ProjectInvalid,
                format!(
                    "{}: neither a build script nor typescript among devDependencies",
                    draft.project.name
                ),
            )
            .with_remedy(
                "add `\"build\": \"tsc\"` to the scripts of package.json and typescript to devDependencies",
            ));
        }
    });
    if has_modules {
        commands.push(strings(["rm", "node_modules"]));
    }
    commands.push(strings(["cp", "-a", ".", "$OUT/app"]));
    Ok(Stage {
        name: "compile".into(),
        commands,
        env: env([("npm_config_cache", "/tmp/npm"), ("npm_config_update_notifier", "false")]),
        keep: false,
        ..Stage::default()
    })
}

/// What to run: the start script when it is a plain `node` call, then `main`, then the usual names.
fn start(draft: &Draft<'_>, package: &serde_json::Value, compiled: bool) -> Result<Vec<String>> {
    if let Some(script) = package.pointer("/scripts/start").and_then(|script| script.as_str()) {
        let command = words(script);
        if command.first().is_some_and(|program| program == "node") {
            return Ok(command);
        }
        if command.first().is_some_and(|program| program == "/bin/sh") {
            return Err(Error::new(
                Reason::EntrypointNotFound,
                format!("the start script needs a shell, which the image does not have: {script}"),
            ));
        }
        // A program of a dependency, such as `fastify start`.
        let (program, rest) = command.split_first().ok_or_else(no_entry)?;
        let program = format!("/app/node_modules/.bin/{program}");
        return Ok(["node".to_owned(), program].into_iter().chain(rest.iter().cloned()).collect());
    }
    let main = package.get("main").and_then(|main| main.as_str()).map(|main| main.trim_start_matches("./"));
    if let Some(main) = main.filter(|main| compiled || draft.has(main) || draft.has(&format!("{main}.js"))) {
        return Ok(vec!["node".into(), main.to_owned()]);
    }
    let usual = ["server.js", "index.js", "app.js", "main.js", "index.mjs", "server.mjs", "src/index.js"];
    match first_file(draft, &usual) {
        Some(file) => Ok(vec!["node".into(), file]),
        None if compiled => Ok(strings(["node", "dist/index.js"])),
        None => Err(no_entry()),
    }
}

fn no_entry() -> Error {
    Error::new(Reason::EntrypointNotFound, "package.json names neither a start script nor a main file")
        .with_remedy("add `\"scripts\": {\"start\": \"node FILE.js\"}` to package.json")
}

/// The least version that a range such as `>=20.1`, `^18` or `20.x` admits, as far as it is plain.
fn minimum(range: &str) -> Option<String> {
    let first = range.split("||").next()?.split_whitespace().next()?;
    let version = first.trim_start_matches(['>', '=', '^', '~', 'v']);
    let version = version.trim_end_matches(".x").trim_end_matches(".x");
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}
