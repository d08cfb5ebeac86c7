//! Credentials for registries, from docker's configuration file or a Kubernetes image pull secret.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Result};

/// The bound of one credential helper run.
const HELPER_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest configuration file.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Where to find credentials; the empty value means anonymous access. Never prints a secret.
#[derive(Clone, Default)]
pub struct Auth {
    sources: Vec<Source>,
}

#[derive(Clone)]
struct Source {
    origin: String,
    file: ConfigJson,
    /// Only the user's own file may name programs to run; a Secret of the cluster may not.
    may_run_helpers: bool,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, EntryJson>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
struct EntryJson {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default, alias = "identityToken")]
    identitytoken: Option<String>,
    #[serde(default, alias = "registryToken")]
    registrytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperJson {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What one registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// User and password.
    Basic { user: String, password: String },
    /// To be exchanged for access tokens.
    IdentityToken(String),
    /// To be sent as it is.
    RegistryToken(String),
}

// === impl Auth ===

impl Auth {
    /// No credentials.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// One user and password for every registry that is asked.
    pub fn basic(user: &str, password: &str) -> Self {
        let entry =
            EntryJson { username: Some(user.into()), password: Some(password.into()), ..Default::default() };
        let file = ConfigJson { auths: BTreeMap::from([("*".to_owned(), entry)]), ..Default::default() };
        Self { sources: vec![Source { origin: "the given user".into(), file, may_run_helpers: false }] }
    }

    /// The bytes of a Secret's `.dockerconfigjson`; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Credentials`] if it is not docker's format.
    pub fn from_docker_config(origin: &str, bytes: &[u8]) -> Result<Self> {
        Self::read(origin, bytes, false)
    }

    /// Docker's `config.json` or containers' `auth.json`. Credential helpers that it names are run. Blocking.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read, [`Error::Credentials`] if it is not docker's format.
    pub fn from_file(path: &Path) -> Result<Self> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(|source| Error::file("read", path, source))?;
        Self::read(&path.display().to_string(), &bytes, true)
    }

    /// These credentials first, then `other`'s.
    pub fn or(mut self, other: Auth) -> Self {
        self.sources.extend(other.sources);
        self
    }

    fn read(origin: &str, bytes: &[u8], may_run_helpers: bool) -> Result<Self> {
        let file = serde_json::from_slice(bytes).map_err(|error| Error::Credentials {
            origin: origin.to_owned(),
            // serde's text may quote a value, so only the place is told.
            reason: format!("not a docker configuration (line {}, column {})", error.line(), error.column()),
        })?;
        Ok(Self { sources: vec![Source { origin: origin.to_owned(), file, may_run_helpers }] })
    }

    /// The credentials of the longest key that matches `host/repository`.
    pub(crate) async fn find(&self, host: &str, repository: &str) -> Result<Option<Credentials>> {
        for source in &self.sources {
            if let Some((_, helper)) =
                source.file.cred_helpers.iter().find(|(key, _)| matches(key, host, repository).is_some())
                && let Some(found) = source.run(helper, host).await?
            {
                return Ok(Some(found));
            }
            let best = source
                .file
                .auths
                .iter()
                .filter_map(|(key, entry)| Some((matches(key, host, repository)?, key, entry)))
                .max_by_key(|(length, _, _)| *length);
            if let Some((_, key, entry)) = best
                && let Some(found) = source.entry(key, entry)?
            {
                return Ok(Some(found));
            }
            if let Some(helper) = &source.file.creds_store
                && let Some(found) = source.run(helper, host).await?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sources.iter().map(|source| &source.origin)).finish()
    }
}

impl Source {
    fn invalid(&self, reason: String) -> Error {
        Error::Credentials { origin: self.origin.clone(), reason }
    }

    fn entry(&self, key: &str, entry: &EntryJson) -> Result<Option<Credentials>> {
        let full = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = full(&entry.registrytoken) {
            return Ok(Some(Credentials::RegistryToken(token)));
        }
        if let Some(token) = full(&entry.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(token)));
        }
        if let Some(auth) = full(&entry.auth) {
            let pair = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let (user, password) = pair
                .as_deref()
                .and_then(|pair| pair.split_once(':'))
                .ok_or_else(|| self.invalid(format!("auth of {key:?} is not base64 of user:password")))?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credentials::Basic { user: user.to_owned(), password }));
        }
        Ok(full(&entry.username)
            .map(|user| Credentials::Basic { user, password: entry.password.clone().unwrap_or_default() }))
    }

    /// Runs `docker-credential-<helper> get`.
    async fn run(&self, helper: &str, host: &str) -> Result<Option<Credentials>> {
        let plain =
            helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !self.may_run_helpers || !plain || helper.is_empty() {
            let reason =
                format!("credential helper {helper:?} is not run from here: put the credentials into auths");
            return Err(self.invalid(reason));
        }
        let program = format!("docker-credential-{helper}");
        let server = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
        let failed = |error: std::io::Error| self.invalid(format!("{program}: {error}"));
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let work = async {
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(server.as_bytes()).await?;
            }
            child.wait_with_output().await
        };
        let output = match tokio::time::timeout(HELPER_TIMEOUT, work).await {
            Ok(output) => output.map_err(failed)?,
            Err(_) => return Err(self.invalid(format!("{program} did not answer within {HELPER_TIMEOUT:?}"))),
        };
        if !output.status.success() {
            // The helpers' way to say that they know nothing.
            if String::from_utf8_lossy(&output.stdout).contains("credentials not found") {
                return Ok(None);
            }
            return Err(self.invalid(format!("{program} failed ({})", output.status)));
        }
        let answer: HelperJson = serde_json::from_slice(&output.stdout)
            .map_err(|_| self.invalid(format!("{program} did not answer in its protocol")))?;
        Ok(Some(match answer.username.as_str() {
            "<token>" => Credentials::IdentityToken(answer.secret),
            _ => Credentials::Basic { user: answer.username, password: answer.secret },
        }))
    }
}

/// How specifically a key of `auths` fits: keys are hosts, with or without scheme, path and `*` labels.
fn matches(key: &str, host: &str, repository: &str) -> Option<usize> {
    if key == "*" {
        return Some(0);
    }
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = ["/v1", "/v2"].iter().find_map(|version| key.strip_suffix(version)).unwrap_or(key);
    let (key_host, path) = key.split_once('/').unwrap_or((key, ""));
    let hub = |name: &str| matches!(name, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let same_host = key_host == host || hub(key_host) && hub(host) || glob(key_host, host);
    let below = path.is_empty()
        || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (same_host && below).then_some(key.len())
}

/// `*.example.com`: a star stands for one whole label.
fn glob(pattern: &str, host: &str) -> bool {
    let (labels, parts): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern.contains('*')
        && labels.len() == parts.len()
        && labels.iter().zip(&parts).all(|(label, part)| label == part || *label == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Auth {
        let text = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnB3"},
            "r.example:5000":{"username":"all","password":"1"},
            "r.example:5000/team":{"username":"team","password":"2"},
            "*.wild.example":{"identitytoken":"abc"},
            "broken.example":{"auth":"%%%"}},
            "credHelpers":{"helped.example":"some"}}"#;
        Auth::from_docker_config("secret default/regcred", text.as_bytes()).unwrap()
    }

    fn basic(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic { user: user.into(), password: password.into() })
    }

    #[tokio::test]
    async fn the_longest_key_wins() {
        let auth = config();
        let find = async |host, path| auth.find(host, path).await.unwrap();
        assert!(find("docker.io", "library/x").await == basic("hub", "pw"));
        assert!(find("r.example:5000", "x").await == basic("all", "1"));
        assert!(find("r.example:5000", "team/x").await == basic("team", "2"));
        assert!(find("r.example:5000", "teams/x").await == basic("all", "1"));
        assert!(find("a.wild.example", "x").await == Some(Credentials::IdentityToken("abc".into())));
        assert!(find("a.b.wild.example", "x").await.is_none());
    }

    #[tokio::test]
    async fn errors_name_the_secret_and_never_its_content() {
        let auth = config();
        let text = auth.find("broken.example", "x").await.err().unwrap().to_string();
        assert!(text.contains("secret default/regcred") && text.contains("broken.example"), "{text}");
        let text = auth.find("helped.example", "x").await.err().unwrap().to_string();
        assert!(text.contains("credential helper \"some\" is not run"), "{text}");
        let text = Auth::from_docker_config("secret s", br#"{"auths":"hunter2"}"#).err().unwrap().to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!format!("{:?}", Auth::basic("u", "hunter2")).contains("hunter2"));
    }
}
