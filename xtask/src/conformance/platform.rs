//! A private platform, furnished as the suites expect their cluster.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::upstream::Built;
use crate::{shell, tools};

/// How often, and how many times at most, it is looked whether the platform is ready: a minute.
const GLANCE: Duration = Duration::from_millis(20);
const GLANCES_MAX: u32 = 3000;
/// What the suites create objects in.
const NAMESPACES: [&str; 4] = ["serving-tests", "serving-tests-alt", "tls", "rq-test"];
/// As images built by ko have it on their usual base.
const ENVIRONMENT: [&str; 2] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/ko-app",
    "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
];
const PASSWD: &str =
    "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";

/// A running platform; it ends when this is dropped.
pub(crate) struct Platform {
    binary: PathBuf,
    data: PathBuf,
    process: Child,
    pub(crate) kubeconfig: String,
    pub(crate) registry: String,
}

impl Platform {
    /// Starts one on free ports and puts the images and objects there that the tests expect.
    pub(crate) fn start(binary: &Path, built: &Built) -> Result<Self> {
        let platform = Self::empty(binary)?;
        platform.furnish(built)?;
        Ok(platform)
    }

    /// Starts one on free ports with nothing in it.
    pub(crate) fn empty(binary: &Path) -> Result<Self> {
        let data = shell::root().join(format!("target/conformance/data-{}", std::process::id()));
        std::fs::create_dir_all(&data)?;
        let log = std::fs::File::create(data.join("up.log"))?;
        let mut command = Command::new(binary);
        command.arg("up").arg("--data-dir").arg(&data);
        for flag in ["--api", "--gateway", "--internal-gateway", "--registry", "--admin"] {
            command.args([format!("{flag}-listen"), "127.0.0.1:0".to_owned()]);
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let process = process.with_context(|| format!("start {}", binary.display()))?;
        let mut platform = Self {
            binary: binary.to_path_buf(),
            data,
            process,
            kubeconfig: String::new(),
            registry: String::new(),
        };
        platform.wait()?;
        Ok(platform)
    }

    fn wait(&mut self) -> Result<()> {
        let state = self.data.join("run/state.json");
        for _ in 0..GLANCES_MAX {
            if let Some(status) = self.process.try_wait()? {
                let log = std::fs::read_to_string(self.data.join("up.log")).unwrap_or_default();
                bail!("the platform ended: {status}\n{log}");
            }
            let text = std::fs::read_to_string(&state).unwrap_or_default();
            if let Ok(state) = serde_json::from_str::<serde_json::Value>(&text) {
                let field = |name: &str| state.get(name).and_then(|value| value.as_str()).map(str::to_owned);
                self.kubeconfig = field("kubeconfig").context("state.json tells no kubeconfig")?;
                self.registry = field("registry").context("state.json tells no registry")?;
                return Ok(());
            }
            std::thread::sleep(GLANCE);
        }
        bail!("the platform was not ready within a minute")
    }

    fn furnish(&self, built: &Built) -> Result<()> {
        for namespace in NAMESPACES {
            self.kubectl(&["create", "namespace", namespace])?;
        }
        let pair = "--from-literal=testKey=testValue";
        self.kubectl(&["-n", "serving-tests", "create", "configmap", "conformance-test-configmap", pair])?;
        let secret = ["-n", "serving-tests", "create", "secret", "generic", "conformance-test-secret", pair];
        self.kubectl(&secret)?;
        let quota = built.sources.join("test/config/resource-quota/resource-quota.yaml");
        self.kubectl(&["apply", "-f", &quota.display().to_string()])?;
        // What upstream's own runs switch on.
        self.set("config-network", "autocreate-cluster-domain-claims", "true")?;
        self.set("config-deployment", "progress-deadline", "120s")?;
        for entry in std::fs::read_dir(&built.images)? {
            self.image(&entry?.path())?;
        }
        Ok(())
    }

    /// An image as upstream's tools would build it: the program in /ko-app, a user without rights.
    fn image(&self, program: &Path) -> Result<()> {
        let name = program.file_name().context("an image has a name")?.to_string_lossy().into_owned();
        let root = self.data.join("image-root");
        let _ = std::fs::remove_dir_all(&root);
        for folder in ["ko-app", "home/nonroot", "tmp", "etc"] {
            std::fs::create_dir_all(root.join(folder))?;
        }
        std::fs::write(root.join("etc/passwd"), PASSWD)?;
        std::fs::write(root.join("etc/group"), GROUP)?;
        std::fs::copy(program, root.join("ko-app").join(&name))?;
        shell::read(Command::new("chmod").arg("1777").arg(root.join("tmp")))?;
        let mut build = Command::new(&self.binary);
        build.args(["image", "build"]).arg(&root).arg("--data-dir").arg(&self.data);
        build.args(["--name", &format!("{}/knative/{name}:latest", self.registry), "--user", "65532"]);
        for variable in ENVIRONMENT {
            build.args(["--env", variable]);
        }
        build.args(["--entrypoint", &format!("/ko-app/{name}")]);
        shell::read(&mut build)?;
        std::fs::remove_dir_all(root).context("remove the image's folder")
    }

    /// Sets a key of a ConfigMap of the platform.
    pub(crate) fn set(&self, map: &str, key: &str, value: &str) -> Result<()> {
        self.patch(map, &serde_json::json!({ "data": { key: value } }))
    }

    /// Takes it back.
    pub(crate) fn unset(&self, map: &str, key: &str) -> Result<()> {
        self.patch(map, &serde_json::json!({ "data": { key: null } }))
    }

    fn patch(&self, map: &str, patch: &serde_json::Value) -> Result<()> {
        let patch = patch.to_string();
        self.kubectl(&["-n", "knative-serving", "patch", "configmap", map, "--type=merge", "-p", &patch])
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(tools::kubectl_path()?);
        shell::read(command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments)).map(|_| ())
    }

    /// Stops the platform and removes all that it made.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.down()
    }

    fn down(&mut self) -> Result<()> {
        if !self.data.exists() {
            return Ok(());
        }
        shell::read(Command::new(&self.binary).arg("down").arg("--data-dir").arg(&self.data))?;
        self.process.wait()?;
        std::fs::remove_dir_all(&self.data).context("remove the data directory")
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            shell::say(&format!("could not stop the platform: {error:#}"));
        }
    }
}
