//! The programs that scenarios use: ours, the example function, and the ones that users bring.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail, ensure};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}

/// Where built tools are kept between runs.
pub fn folder() -> PathBuf {
    root().join("target/tools")
}

/// The program under test, of the same profile as this one, brought up to date once per test process.
///
/// # Errors
/// When it does not build.
pub fn dormouse() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_dormouse().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build_dormouse() -> Result<PathBuf> {
    // target/<profile>/deps/it-<hash> or target/<profile>/dormouse-bench
    let here = std::env::current_exe().context("where this test is")?;
    let profile =
        here.ancestors().skip(1).find(|path| !path.ends_with("deps")).context("the target folder")?;
    let release = profile.ends_with("release");
    if !release {
        // All packages, so that the features of dependencies are those of the test run and nothing is built twice.
        let cargo = option_env!("CARGO").unwrap_or("cargo");
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--workspace", "--bin", "dormouse"])
            .current_dir(root())
            .status()
            .context("run cargo")?;
        ensure!(status.success(), "cargo build --bin dormouse: {status}");
    }
    // Where `build.build-dir` is set, tests lie there and finished programs in `target`.
    let named = root().join("target").join(profile.file_name().unwrap_or_default());
    let binary = [profile, &named].map(|dir| dir.join("dormouse")).into_iter().find(|binary| binary.exists());
    binary.with_context(|| format!("{} has no dormouse; `cargo xtask bench` builds it", named.display()))
}

/// `examples/hello` as a static binary.
///
/// # Errors
/// When `rustc` cannot link statically.
pub fn hello() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_hello().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build_hello() -> Result<PathBuf> {
    let source = root().join("examples/hello/main.rs");
    let target = folder().join("hello");
    let age = |path: &Path| path.metadata().and_then(|data| data.modified());
    if let (Ok(built), Ok(written)) = (age(&target), age(&source))
        && built > written
    {
        return Ok(target);
    }
    std::fs::create_dir_all(folder())?;
    let temporary = folder().join(format!("hello.{}", std::process::id()));
    let output = Command::new("rustc")
        .args(["-O", "--edition", "2024", "-C", "target-feature=+crt-static", "-C", "panic=abort"])
        .args(["-C", "strip=symbols", "-o"])
        .arg(&temporary)
        .arg(&source)
        .output()
        .context("run rustc")?;
    ensure!(
        output.status.success(),
        "rustc {}: {}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::rename(&temporary, &target)?;
    Ok(target)
}

/// A crate of components, built for WebAssembly; answers the folder where they are.
///
/// # Errors
/// When it does not build: the target `wasm32-wasip2` may be missing.
pub fn components(manifest: &str) -> Result<PathBuf> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let manifest = root().join(manifest);
    let folder = manifest.parent().and_then(Path::file_name).unwrap_or_default();
    let target = self::folder().join("wasm").join(folder);
    let output = Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args(["build", "--release", "--locked", "--target", "wasm32-wasip2", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        // What the outer build is told is not meant for components.
        .envs([("RUSTFLAGS", ""), ("CARGO_BUILD_BUILD_DIR", &target.display().to_string())])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .output()
        .context("run cargo")?;
    ensure!(
        output.status.success(),
        "{} cannot be built; `rustup target add wasm32-wasip2` may be missing:\n{}",
        manifest.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target.join("wasm32-wasip2/release"))
}

/// `examples/wasm` as a component.
///
/// # Errors
/// As [`components`].
pub fn hello_component() -> Result<PathBuf> {
    Ok(components("examples/wasm/Cargo.toml")?.join("hello.wasm"))
}

/// The same function from JavaScript.
///
/// # Errors
/// When it has not been built.
pub fn javascript_component() -> Result<PathBuf> {
    let file = folder().join("hello-js.wasm");
    ensure!(file.exists(), "not built: `cargo xtask bench wasm` builds it with npm's componentize-js");
    Ok(file)
}

/// A program of the user's: the one in `target/tools` if `cargo xtask test` built it, else the machine's.
///
/// # Errors
/// When there is none, with the command that installs it.
pub fn find(name: &str) -> Result<PathBuf> {
    let ours = folder().join(name);
    if ours.exists() {
        return Ok(ours);
    }
    for folder in ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        let candidate = Path::new(folder).join(name);
        if candidate.exists() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not installed: run `cargo xtask test`, which installs what the tests need")
}
