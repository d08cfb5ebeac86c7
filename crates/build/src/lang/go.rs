//! Go: one static program on an empty base.

use super::{Draft, caches, copy, env, layer, strings};
use crate::error::{Error, Reason, Result};
use crate::host::at_least;
use crate::plan::{Base, Cache, Plan, Stage};

pub(super) fn plan(draft: &mut Draft<'_>) -> Result<Plan> {
    let version = draft.tool("go")?;
    let module = draft.read("go.mod")?.unwrap_or_default();
    if let Some(wanted) = directive(&module, "go")
        && !at_least(&version, wanted)
    {
        return Err(Error::new(
            Reason::ToolchainVersionMismatch,
            format!("go.mod asks for Go {wanted}; this machine has {version}"),
        ));
    }
    let package = main_package(draft)?;
    let vendored = draft.has("vendor/modules.txt");
    let mut stages = Vec::new();
    if needs_modules(&module) && !vendored {
        if !draft.has("go.sum") {
            return Err(Error::new(
                Reason::LockfileMissing,
                "go.mod has requirements and there is no go.sum",
            )
            .with_remedy("run `go mod tidy` and commit go.sum"));
        }
        stages.push(Stage {
            name: "dependencies".into(),
            commands: vec![strings(["go", "mod", "download"])],
            env: env([
                ("GOMODCACHE", "$CACHE/go-modules"),
                ("GOFLAGS", "-mod=mod"),
                ("GOTOOLCHAIN", "local"),
            ]),
            network: true,
            // Local replacements are read too.
            inputs: strings(["*go.mod", "*go.sum"]),
            caches: caches([Cache::shared("go-modules")]),
            keep: false,
        });
    }
    let mut command = strings(["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid="]);
    command.extend(strings(["-o", "$OUT/app"]));
    command.push(package);
    stages.push(Stage {
        name: "compile".into(),
        commands: vec![command],
        env: env([
            ("CGO_ENABLED", "0"),
            ("GOCACHE", "$CACHE/go-build"),
            ("GOFLAGS", if vendored { "-mod=vendor" } else { "-mod=readonly" }),
            ("GOMODCACHE", "$CACHE/go-modules"),
            ("GOPROXY", "off"),
            ("GOSUMDB", "off"),
            ("GOTOOLCHAIN", "local"),
        ]),
        caches: caches([Cache::own("go-build"), Cache::shared("go-modules")]),
        ..Stage::default()
    });
    let command = draft.told_command()?.unwrap_or_else(|| strings(["/app/app"]));
    let run = draft.run(command, "/app", &[]);
    // Data beside the program, as Go programs that read templates or static files expect it.
    let mut copies = vec![copy("$STAGE/compile/app", "/app/app")];
    for directory in ["kodata", "static", "templates", "public", "web"] {
        let prefix = format!("{directory}/");
        if draft.project.tree.entries.keys().any(|path| path.starts_with(&prefix)) {
            copies.push(copy(&format!("$SRC/{directory}"), &format!("/app/{directory}")));
        }
    }
    Ok(draft.finish(stages, Base::Scratch, vec![layer("application", copies)], run))
}

/// The value of a one-word directive of go.mod.
fn directive<'a>(module: &'a str, name: &str) -> Option<&'a str> {
    module.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()).flatten()
    })
}

fn needs_modules(module: &str) -> bool {
    module.lines().any(|line| line.split_whitespace().next() == Some("require"))
}

/// The root if it is a program, or the only one below `cmd/`.
fn main_package(draft: &Draft<'_>) -> Result<String> {
    let is_main = |path: &str| -> Result<bool> {
        Ok(draft.read(path)?.is_some_and(|text| {
            text.lines().any(|line| line.split_whitespace().take(2).eq(["package", "main"]))
        }))
    };
    let sources = || {
        let entries = draft.project.tree.entries.keys();
        entries.filter(|path| path.ends_with(".go") && !path.ends_with("_test.go"))
    };
    for path in sources().filter(|path| !path.contains('/')) {
        if is_main(path)? {
            return Ok(".".into());
        }
    }
    let mut found: Vec<String> = Vec::new();
    for path in sources() {
        if let Some((directory, _)) = path.rsplit_once('/')
            && directory.strip_prefix("cmd/").is_some_and(|rest| !rest.contains('/'))
            && is_main(path)?
        {
            found.push(format!("./{directory}"));
        }
    }
    found.dedup();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::new(
            Reason::EntrypointNotFound,
            "there is no `package main` at the top of the project or in cmd/NAME",
        )
        .with_remedy("add a main package; a function project (func.yaml) gets one from `dormouse func`")),
        many => Err(Error::new(
            Reason::EntrypointNotFound,
            format!("there are several programs: {}", many.join(", ")),
        )
        .with_remedy("deploy one of them by its own directory, or keep one main package")),
    }
}
