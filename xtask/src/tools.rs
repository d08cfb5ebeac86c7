//! The programs that tests and benchmarks use, installed by name when they are missing and we may.

pub(crate) mod wasm;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

/// A program and the Debian package that has it.
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What `dormouse up` itself calls.
pub(crate) const FOR_PLATFORM: &[Tool] = &[tool("nft", "nftables"), tool("ip", "iproute2")];

/// What the end-to-end scenarios use: other people's tools, unmodified.
pub(crate) const FOR_TESTS: &[Tool] = &[
    tool("nft", "nftables"),
    tool("ip", "iproute2"),
    tool("skopeo", "skopeo"),
    tool("buildah", "buildah"),
    tool("curl", "curl"),
    tool("faketime", "faketime"),
];

/// The peer of a cold start.
pub(crate) const FOR_COLD_START: &[Tool] = &[tool("runc", "runc")];

/// The peers of a hop, and the load generator.
pub(crate) const FOR_HOP: &[Tool] =
    &[tool("nginx", "nginx-light"), tool("haproxy", "haproxy"), tool("wrk", "wrk")];

/// The load generator of components; their other tools are in [`wasm`].
pub(crate) const FOR_WASM: &[Tool] = &[tool("wrk", "wrk")];

/// Debian's trusted folders: a package's program is in one of them, whatever PATH says.
const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where what we build ourselves is kept between runs; the harness looks here first.
fn folder() -> PathBuf {
    shell::root().join("target/tools")
}

fn find(program: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists())
}

fn is_root() -> bool {
    shell::read(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// Installs those that are missing.
///
/// Not being root is no error here: the tests that need the tools need root too, and say that they are skipped.
pub(crate) fn install(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| find(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if !is_root() {
        shell::say(&format!("missing, and only root can install them: {}", packages.join(" ")));
        return Ok(());
    }
    apt(&packages)
}

fn apt(packages: &[&str]) -> Result<()> {
    shell::say(&format!("apt-get install {}", packages.join(" ")));
    shell::read(Command::new("apt-get").args(["update", "-qq"])).context("apt-get update")?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages);
    // Nothing that a package brings may start a daemon here: nginx would take port 80.
    install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    shell::read(&mut install).with_context(|| format!("apt-get install {}", packages.join(" ")))?;
    Ok(())
}

/// The version of kubectl that is built where the machine has none, and the oldest Go that builds it.
const KUBECTL: &str = "v0.34.2";
const GO: &str = "go1.24.9";

/// All of kubectl is a library; this is its own `main`.
const KUBECTL_MAIN: &str = r#"package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
)

func main() {
	os.Exit(cli.Run(cmd.NewDefaultKubectlCommand()))
}
"#;

/// Makes sure that there is a kubectl: Debian has none of this decade, so it is built from its Go module.
pub(crate) fn kubectl() -> Result<()> {
    let built = folder().join("kubectl");
    if built.exists() || find("kubectl").is_some() {
        return Ok(());
    }
    if !is_root() {
        shell::say("no kubectl; the tests that need it need root too");
        return Ok(());
    }
    let go = go()?;
    let source = folder().join("kubectl-source");
    std::fs::create_dir_all(&source)?;
    std::fs::write(source.join("main.go"), KUBECTL_MAIN)?;
    // Library versions of one Kubernetes release share one number.
    let manifest = format!(
        "module kubectl\n\ngo 1.24.0\n\nrequire (\n\tk8s.io/component-base {KUBECTL}\n\tk8s.io/kubectl {KUBECTL}\n)\n"
    );
    std::fs::write(source.join("go.mod"), manifest)?;
    shell::say(&format!("building kubectl {KUBECTL} from its Go module"));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&go);
        command.args(arguments).current_dir(&source).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod");
        shell::read(&mut command)
    };
    run(&["mod", "tidy"]).context("resolve kubectl's modules")?;
    let partial = folder().join("kubectl.partial");
    let target = partial.display().to_string();
    let release = KUBECTL.replacen("v0.", "v1.", 1);
    let version = format!("-X k8s.io/component-base/version.gitVersion={release}");
    let flags = format!("-ldflags=-s -w {version} {}", version.replace("component-base", "client-go/pkg"));
    run(&["build", "-trimpath", &flags, "-o", &target, "."]).context("build kubectl")?;
    std::fs::rename(partial, built)?;
    Ok(())
}

/// The kubectl that [`kubectl`] found or built.
pub(crate) fn kubectl_path() -> Result<PathBuf> {
    let built = folder().join("kubectl");
    if built.exists() {
        return Ok(built);
    }
    find("kubectl").context("there is no kubectl, and only root builds it")
}

/// A Go that can build kubectl. From 1.21 on, Go fetches a newer toolchain by itself; an older one can fetch it as the
/// module that it is.
pub(crate) fn go() -> Result<PathBuf> {
    let known = ["/usr/local/go/bin/go", "/usr/bin/go", "/usr/lib/go/bin/go"];
    let installed = || known.iter().map(PathBuf::from).find(|path| path.exists());
    if installed().is_none() {
        apt(&["golang-go"])?;
    }
    let go = installed().context("golang-go was installed, but there is no go")?;
    let version = shell::read(Command::new(&go).arg("version"))?;
    let minor =
        version.split("go1.").nth(1).and_then(|rest| rest.split(['.', ' ']).next()?.parse::<u32>().ok());
    if minor.is_some_and(|minor| minor >= 21) {
        return Ok(go);
    }
    let platform = match std::env::consts::ARCH {
        "x86_64" => "linux-amd64",
        "aarch64" => "linux-arm64",
        other => bail!("no Go toolchain known for {other}"),
    };
    let module = format!("golang.org/toolchain@v0.0.1-{GO}.{platform}");
    shell::say(&format!("fetching {GO} as a module"));
    let answer = shell::read(Command::new(&go).args(["mod", "download", "-json", &module]))?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("go mod download")?;
    let folder = answer.get("Dir").and_then(|dir| dir.as_str()).context("go mod download told no folder")?;
    // Modules carry no mode bits.
    let bits = ["bin", "pkg/tool"].map(|part| format!("{folder}/{part}"));
    shell::read(Command::new("chmod").args(["-R", "+x"]).args(bits))?;
    // Nor may a module hold another module's manifest, so the standard library's is stored under this name.
    std::fs::copy(format!("{folder}/src/_go.mod"), format!("{folder}/src/go.mod"))
        .context("the toolchain's go.mod")?;
    let go = Path::new(folder).join("bin/go");
    ensure!(go.exists(), "{} is missing", go.display());
    Ok(go)
}
