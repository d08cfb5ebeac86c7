//! Rust: one static program on an empty base, or a component.

use super::{Draft, caches, copy, env, layer, strings, toml_table};
use crate::error::{Error, Reason, Result};
use crate::host::at_least;
use crate::plan::{Base, Cache, Plan, Stage};

/// The target of components.
const WASM: &str = "wasm32-wasip2";

pub(super) fn plan(draft: &mut Draft<'_>) -> Result<Plan> {
    let version = draft.tool("cargo")?;
    let manifest = draft.parsed("Cargo.toml", toml_table)?.unwrap_or_default();
    let package = manifest.get("package").and_then(toml::Value::as_table).ok_or_else(|| {
        Error::new(Reason::ProjectInvalid, "Cargo.toml: there is no [package]")
            .with_remedy("deploy the directory of the workspace's member that is the program")
    })?;
    let text = |name: &str| package.get(name).and_then(toml::Value::as_str).map(str::to_owned);
    if let Some(wanted) = text("rust-version")
        && !at_least(&version, &wanted)
    {
        return Err(Error::new(
            Reason::ToolchainVersionMismatch,
            format!("Cargo.toml asks for Rust {wanted}; this machine has {version}"),
        ));
    }
    let depends = has_dependencies(&manifest);
    let locked = draft.has("Cargo.lock");
    if depends && !locked {
        return Err(Error::new(Reason::LockfileMissing, "the project has dependencies and no Cargo.lock")
            .with_remedy("run `cargo generate-lockfile` and commit Cargo.lock"));
    }
    let name = text("name").unwrap_or_else(|| draft.project.name.clone());
    let component = is_component(draft, &manifest)?;
    let target =
        if component { WASM.to_owned() } else { format!("{}-unknown-linux-gnu", std::env::consts::ARCH) };
    let mut stages = Vec::new();
    if depends {
        stages.push(Stage {
            name: "dependencies".into(),
            commands: vec![{
                let mut command = strings(["cargo", "fetch", "--locked", "--target"]);
                command.push(target.clone());
                command
            }],
            env: env([("CARGO_HOME", "$CACHE/cargo")]),
            network: true,
            inputs: Vec::new(),
            caches: caches([Cache::shared("cargo")]),
            keep: false,
        });
    }
    let mut command = strings(["cargo", "build", "--release", "--offline", "--target"]);
    command.push(target.clone());
    if locked {
        command.push("--locked".into());
    }
    let binary = if component { None } else { Some(program(draft, &manifest, &name)?) };
    let artifact = match &binary {
        Some(binary) => {
            command.extend(["--bin".to_owned(), binary.clone()]);
            format!("$CACHE/target/{target}/release/{binary}")
        }
        None => format!("$CACHE/target/{target}/release/{}.wasm", name.replace('-', "_")),
    };
    let flags = if component {
        "--remap-path-prefix=$SRC=/src --remap-path-prefix=$CACHE/cargo=/cargo"
    } else {
        "-C target-feature=+crt-static --remap-path-prefix=$SRC=/src --remap-path-prefix=$CACHE/cargo=/cargo"
    };
    let result = if component { "$OUT/app.wasm" } else { "$OUT/app" };
    stages.push(Stage {
        name: "compile".into(),
        commands: vec![command, vec!["cp".into(), artifact, result.into()]],
        env: env([
            ("CARGO_HOME", "$CACHE/cargo"),
            ("CARGO_INCREMENTAL", "0"),
            ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
            ("CARGO_TARGET_DIR", "$CACHE/target"),
            ("CARGO_TERM_COLOR", "never"),
            ("RUSTFLAGS", flags),
        ]),
        caches: caches([Cache::shared("cargo"), Cache::own("target")]),
        ..Stage::default()
    });
    if component {
        let layers = vec![layer("component", vec![copy("$STAGE/compile/app.wasm", "/component.wasm")])];
        let run = draft.run(Vec::new(), "/", &[]);
        return Ok(draft.finish(stages, Base::Artifact, layers, run));
    }
    let command = draft.told_command()?.unwrap_or_else(|| strings(["/app/app"]));
    let run = draft.run(command, "/app", &[]);
    let layers = vec![layer("application", vec![copy("$STAGE/compile/app", "/app/app")])];
    Ok(draft.finish(stages, Base::Scratch, layers, run))
}

fn has_dependencies(manifest: &toml::Table) -> bool {
    let filled = |value: &toml::Value| value.as_table().is_some_and(|table| !table.is_empty());
    ["dependencies", "build-dependencies", "dev-dependencies", "target", "workspace"]
        .iter()
        .any(|name| manifest.get(*name).is_some_and(filled))
}

/// A library of the type `cdylib` without a program is a component.
fn is_component(draft: &Draft<'_>, manifest: &toml::Table) -> Result<bool> {
    let kinds = manifest.get("lib").and_then(|lib| lib.get("crate-type")).and_then(toml::Value::as_array);
    let dynamic = kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind.as_str() == Some("cdylib")));
    let settings = draft.parsed(".cargo/config.toml", toml_table)?.unwrap_or_default();
    let target = settings.get("build").and_then(|build| build.get("target")).and_then(toml::Value::as_str);
    Ok((dynamic && !draft.has("src/main.rs")) || target == Some(WASM))
}

/// The program to run: the one named as the package, or the only one.
fn program(draft: &Draft<'_>, manifest: &toml::Table, package: &str) -> Result<String> {
    let mut names: Vec<String> = manifest
        .get("bin")
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|bin| bin.get("name")?.as_str().map(str::to_owned))
        .collect();
    if draft.has("src/main.rs") && !names.iter().any(|name| name == package) {
        names.push(package.to_owned());
    }
    names.extend(draft.project.tree.entries.keys().filter_map(|path| {
        let rest = path.strip_prefix("src/bin/")?;
        rest.strip_suffix("/main.rs").or_else(|| rest.strip_suffix(".rs")).map(str::to_owned)
    }));
    names.sort();
    names.dedup();
    let default = manifest
        .get("package")
        .and_then(|package| package.get("default-run"))
        .and_then(toml::Value::as_str)
        .unwrap_or(package);
    match names.as_slice() {
        [one] => Ok(one.clone()),
        many if many.iter().any(|name| name == default) => Ok(default.to_owned()),
        [] => Err(Error::new(Reason::EntrypointNotFound, "the package has no program (src/main.rs)")
            .with_remedy("add src/main.rs; a component is a library with crate-type = [\"cdylib\"]")),
        many => Err(Error::new(
            Reason::EntrypointNotFound,
            format!("the package has several programs: {}", many.join(", ")),
        )
        .with_remedy("name one in Cargo.toml: default-run = \"NAME\"")),
    }
}
