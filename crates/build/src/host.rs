//! The tools of this machine: where they are, their versions, and what of the file system they need.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dockerfile::Docker;
use crate::error::{Error, Reason, Result};
use crate::plan::Tool;

/// What builds may know of the user's surroundings; only the program reads them.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Directories in which programs are looked for, as in `PATH`.
    pub path: Vec<PathBuf>,
    /// The user's home, where package managers keep their settings.
    pub home: PathBuf,
    /// Settings of package managers and proxies; only steps that fetch see them ([`Host::passes`]).
    pub env: BTreeMap<String, String>,
}

/// A tool that was found.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) tool: Tool,
    /// The program, links resolved.
    pub(crate) program: PathBuf,
    /// Directories that go into `PATH`.
    pub(crate) path: Vec<PathBuf>,
    /// Directories besides `/usr` that it needs, read-only.
    pub(crate) needs: Vec<PathBuf>,
    /// Variables that it needs.
    pub(crate) env: BTreeMap<String, String>,
}

/// How to install what is missing, on the systems that are common.
fn remedy(name: &str) -> String {
    let what = match name {
        "go" => "install Go: https://go.dev/dl, or `apt-get install golang`",
        "cargo" => "install Rust: https://rustup.rs, or `apt-get install cargo`",
        "node" | "npm" => "install Node.js with npm: https://nodejs.org, or `apt-get install nodejs npm`",
        "python3" => "install Python 3 with pip: `apt-get install python3 python3-pip`",
        "javac" => "install a JDK: `apt-get install openjdk-17-jdk-headless`",
        "mvn" => "install Maven: `apt-get install maven`",
        _ => "install it",
    };
    format!("{what}; or build with a Dockerfile")
}

// === impl Host ===

impl Host {
    /// Whether a variable of the user's is one that steps which fetch may see: settings of package managers and proxies.
    pub fn passes(name: &str) -> bool {
        const PREFIXES: [&str; 4] = ["PIP_", "npm_config_", "NPM_CONFIG_", "CARGO_REGISTRIES_"];
        const NAMES: [&str; 15] = [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "GOPROXY",
            "GOSUMDB",
            "GONOSUMDB",
            "GONOPROXY",
            "GOPRIVATE",
            "GOINSECURE",
            "CARGO_HTTP_CAINFO",
            "SSL_CERT_FILE",
            "NODE_EXTRA_CA_CERTS",
        ];
        NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Finds a program; `None` if there is none.
    pub(crate) fn which(&self, name: &str) -> Option<PathBuf> {
        self.path
            .iter()
            .map(|dir| dir.join(name))
            .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file())
    }

    /// Finds a tool and what it needs.
    pub(crate) fn locate(&self, name: &str) -> Result<Located> {
        if name == "buildah" {
            let version = Docker::version(self)?;
            return simple(name, &version, &self.which(name).unwrap_or_default());
        }
        let missing = || {
            Error::new(Reason::ToolchainMissing, format!("{name} is not installed (not in PATH)"))
                .with_remedy(remedy(name))
        };
        let found = self.which(name).ok_or_else(missing)?;
        match name {
            "go" => self.go(&found),
            "cargo" => self.cargo(&found),
            "python3" => self.python(&found),
            "npm" => npm(&found),
            "javac" => java(&found),
            "mvn" => maven(&found),
            _ => {
                let version = self.ask(&found, &["--version"])?;
                simple(name, version.trim().trim_start_matches('v'), &found)
            }
        }
    }

    /// What a tool answers, with the user's surroundings.
    pub(crate) fn ask(&self, program: &Path, args: &[&str]) -> Result<String> {
        let failed = |text: String| {
            Error::new(
                Reason::ToolchainMissing,
                format!("{} {} does not work", program.display(), args.join(" ")),
            )
            .with_output(text)
        };
        let path = std::env::join_paths(&self.path).unwrap_or_default();
        // From a directory without settings of its own, so that the answer does not depend on where the user stands.
        let output = Command::new(program)
            .args(args)
            .current_dir("/")
            .env_clear()
            .env("PATH", path)
            .env("HOME", &self.home)
            .env("GOTOOLCHAIN", "local")
            .env("RUSTUP_AUTO_INSTALL", "0")
            .output()
            .map_err(|error| failed(error.to_string()))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    fn go(&self, found: &Path) -> Result<Located> {
        let answer = self.ask(found, &["env", "GOROOT", "GOVERSION"])?;
        let mut lines = answer.lines();
        let root = PathBuf::from(lines.next().unwrap_or_default());
        let version = lines.next().unwrap_or_default().trim_start_matches("go");
        Ok(Located {
            tool: tool("go", version),
            program: root.join("bin/go"),
            path: vec![root.join("bin")],
            needs: outside_usr(vec![root.clone()]),
            env: BTreeMap::from([("GOROOT".to_owned(), root.display().to_string())]),
        })
    }

    fn cargo(&self, found: &Path) -> Result<Located> {
        // A rustup proxy stands for the toolchain that it would run.
        let rustc = self.which("rustc").unwrap_or_else(|| found.with_file_name("rustc"));
        let root = PathBuf::from(self.ask(&rustc, &["--print", "sysroot"])?.trim());
        let version = self.ask(&rustc, &["--version"])?;
        let version = version.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let program = root.join("bin/cargo");
        let program = if program.is_file() { program } else { found.to_path_buf() };
        Ok(Located {
            tool: tool("cargo", &version),
            path: program.parent().map(Path::to_path_buf).into_iter().collect(),
            needs: outside_usr(vec![root]),
            program,
            env: BTreeMap::new(),
        })
    }

    fn python(&self, found: &Path) -> Result<Located> {
        // A virtual environment or a version manager's shim stands for the interpreter beneath.
        let ask = "import sys; print(sys.base_prefix); print('%d.%d.%d' % sys.version_info[:3])";
        let answer = self.ask(found, &["-c", ask])?;
        let mut lines = answer.lines();
        let prefix = PathBuf::from(lines.next().unwrap_or_default());
        let version = lines.next().unwrap_or_default().to_owned();
        let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
        let program = prefix.join(format!("bin/python{minor}"));
        let program = if program.is_file() { program } else { canonical(found) };
        Ok(Located {
            tool: tool("python3", &version),
            path: vec![prefix.join("bin")],
            needs: outside_usr(vec![prefix]),
            program,
            env: BTreeMap::new(),
        })
    }
}

fn npm(found: &Path) -> Result<Located> {
    // `…/lib/node_modules/npm/bin/npm-cli.js`; asking npm itself takes a third of a second.
    let program = canonical(found);
    let package = program.parent().and_then(Path::parent).map(|dir| dir.join("package.json"));
    let version = package
        .and_then(|path| std::fs::read(path).ok())
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
        .and_then(|json| json.get("version")?.as_str().map(str::to_owned));
    simple("npm", &version.unwrap_or_else(|| "unknown".to_owned()), found)
}

fn java(found: &Path) -> Result<Located> {
    let program = canonical(found);
    let home = program.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_path_buf();
    // `JAVA_VERSION="17.0.13"`, which every JDK since 9 carries.
    let release = std::fs::read_to_string(home.join("release")).unwrap_or_default();
    let version = release
        .lines()
        .find_map(|line| line.strip_prefix("JAVA_VERSION=").map(|value| value.trim_matches('"').to_owned()))
        .unwrap_or_else(|| "unknown".to_owned());
    Ok(Located {
        tool: tool("javac", &version),
        path: vec![home.join("bin")],
        needs: outside_usr(vec![home.clone()]),
        env: BTreeMap::from([("JAVA_HOME".to_owned(), home.display().to_string())]),
        program,
    })
}

fn maven(found: &Path) -> Result<Located> {
    let program = canonical(found);
    let home = program.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_path_buf();
    let jar = std::fs::read_dir(home.join("lib")).ok().and_then(|entries| {
        entries.flatten().find_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix("maven-core-")?.strip_suffix(".jar").map(str::to_owned)
        })
    });
    let jar = jar.or_else(|| {
        // Debian's package names the jar by the artifact only.
        home.join("lib/maven-core.jar").exists().then(|| "3".to_owned())
    });
    let mut located = simple("mvn", &jar.unwrap_or_else(|| "unknown".to_owned()), found)?;
    located.needs.extend(outside_usr(vec![home]));
    Ok(located)
}

fn simple(name: &str, version: &str, found: &Path) -> Result<Located> {
    let program = canonical(found);
    let prefix = program.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_path_buf();
    let mut needs = vec![prefix];
    needs.extend(found.parent().map(Path::to_path_buf));
    Ok(Located {
        tool: tool(name, version),
        path: found.parent().map(Path::to_path_buf).into_iter().collect(),
        needs: outside_usr(needs),
        program,
        env: BTreeMap::new(),
    })
}

fn tool(name: &str, version: &str) -> Tool {
    Tool { name: name.to_owned(), version: version.to_owned() }
}

fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// `/usr` and what the root's links lead into is there for every step.
fn outside_usr(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let system = ["/usr", "/bin", "/sbin", "/lib", "/lib64"];
    let inside = |path: &PathBuf| system.iter().any(|root| path.starts_with(root)) || path == Path::new("/");
    paths.into_iter().filter(|path| !inside(path)).collect()
}

/// Whether version `have` is at least `want`, number by number.
pub(crate) fn at_least(have: &str, want: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        text.split('.')
            .map(|part| {
                let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
                digits.parse().unwrap_or_default()
            })
            .collect()
    };
    let (have, want) = (numbers(have), numbers(want));
    let number = |list: &[u64], place: usize| list.get(place).copied().unwrap_or_default();
    let places = 0..have.len().max(want.len());
    places.clone().map(|place| number(&have, place)).ge(places.map(|place| number(&want, place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for (have, want, enough) in [
            ("1.26.8", "1.9", true),
            ("1.26", "1.26.0", true),
            ("1.25.9", "1.26", false),
            ("3.11.7", "3.11", true),
            ("20.1.0", "20.10", false),
            ("1.26rc1", "1.26", true),
        ] {
            assert_eq!(at_least(have, want), enough, "{have} {want}");
        }
    }

    #[test]
    fn a_missing_tool_is_named_with_how_to_install_it() {
        let error = Host::default().locate("go").unwrap_err();
        assert_eq!(error.reason, Reason::ToolchainMissing);
        assert!(error.message.contains("go") && error.remedy.contains("go.dev"));
    }

    #[test]
    fn only_settings_of_package_managers_pass() {
        assert!(
            Host::passes("GOPROXY") && Host::passes("PIP_INDEX_URL") && Host::passes("npm_config_registry")
        );
        assert!(
            !Host::passes("AWS_SECRET_ACCESS_KEY") && !Host::passes("LD_PRELOAD") && !Host::passes("GOFLAGS")
        );
    }
}
