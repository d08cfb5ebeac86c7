//! Function projects: what `kn func` calls a function, a directory with a `func.yaml`.
//!
//! A function's source has no main program. [`Function::request`] adds one (the *scaffold*) and says to the engine what
//! to build; [`Function::service`] says to the API what to run. func.yaml is upstream's, every version of it: old files
//! are migrated in memory, and what this version does not know is kept when the file is written.
//!
//! Reading order: [`Spec`] → `migrate` → `validate` → `scaffold` → `service` → `template`. Below them lie `yaml` (raw
//! scalars and order kept) and `record` (typed fields over it). Nothing here reads the environment or the clock: both
//! are arguments.

mod migrate;
pub mod names;
mod record;
mod scaffold;
mod service;
mod spec;
mod template;
mod validate;
mod value;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::record::{Field, Notes};
use crate::error::{Error, Reason, Result};
use crate::project::{Language, Request};

pub use self::migrate::SPEC_VERSION;
pub use self::record::Time;
pub use self::spec::{
    Build, Claim, Deploy, EmptyDir, Env, Git, Health, Kafka, Label, Limits, Mount, Options, Requests,
    Resources, Run, Scale, Spec, Subscription, Volume,
};
pub use self::template::{Template, languages, templates};
pub use self::value::{Meaning, meaning};
pub use self::yaml::{Node, Value, yaml};

/// The file that makes a directory a function.
pub const FILE: &str = "func.yaml";
/// Where what concerns only this copy of the function lies.
pub const LOCAL_DIR: &str = ".func";
/// How long a start may take unless func.yaml says so.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Tells editors what func.yaml may hold.
const SCHEMA: &str = "https://raw.githubusercontent.com/knative/func/main/schema/func_yaml-schema.json";

/// A variable of whoever builds or deploys, by its name.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A function on disk.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its directory.
    pub root: PathBuf,
    /// What func.yaml says, brought to [`SPEC_VERSION`].
    pub spec: Spec,
    /// What was odd in the file and had no effect.
    pub warnings: Vec<String>,
    /// As it was read, to write only what changed.
    read: Option<Spec>,
}

// === impl Function ===

impl Function {
    /// A function that is not written yet.
    pub fn new(root: impl Into<PathBuf>, spec: Spec) -> Self {
        Self { root: root.into(), spec, warnings: Vec::new(), read: None }
    }

    /// Whether `root` holds a func.yaml.
    pub fn is_at(root: &Path) -> bool {
        root.join(FILE).is_file()
    }

    /// Reads the function in `root`, whatever its version; a directory without func.yaml holds one that is not
    /// [`initialized`](Self::initialized). `now` is the time of creation of functions older than that field.
    ///
    /// # Errors
    /// [`Reason::SourceNotFound`] when there is no such directory, [`Reason::ProjectInvalid`] when the file is no YAML.
    pub fn open(root: &Path, now: &str) -> Result<Self> {
        let root = std::path::absolute(root).map_err(|source| Error::file("find", root, source))?;
        if !root.is_dir() {
            return Err(Error::new(Reason::SourceNotFound, format!("{} is no directory", root.display())));
        }
        let file = root.join(FILE);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::new(root, Spec::default()));
            }
            Err(error) => return Err(Error::file("read", &file, error)),
        };
        let (spec, warnings) = parse(&text, now)?;
        Ok(Self { root, read: Some(spec.clone()), spec, warnings })
    }

    /// Whether it has been created: a func.yaml was there and said when.
    pub fn initialized(&self) -> bool {
        self.spec.created.is_set()
    }

    /// Checks it as upstream does.
    ///
    /// # Errors
    /// [`Reason::ProjectInvalid`] with everything that is wrong.
    pub fn validate(&self, env: Lookup<'_>) -> Result<()> {
        match validate::validate(&self.spec, env) {
            None => Ok(()),
            Some(text) => Err(Error::new(Reason::ProjectInvalid, text).with_remedy("correct func.yaml")),
        }
    }

    /// Writes func.yaml in one step if anything changed since it was read, and keeps `.func` out of repositories.
    ///
    /// # Errors
    /// [`Reason::ProjectInvalid`] for a func.yaml that would not be valid; the file stays as it was.
    pub fn write(&mut self, env: Lookup<'_>) -> Result<()> {
        if self.read.as_ref() == Some(&self.spec) {
            return Ok(());
        }
        self.validate(env)?;
        let file = self.root.join(FILE);
        let temporary = self.root.join(".func.yaml.new");
        let text = self.text();
        std::fs::write(&temporary, text).map_err(|source| Error::file("write", &temporary, source))?;
        std::fs::rename(&temporary, &file).map_err(|source| Error::file("replace", &file, source))?;
        self.read = Some(self.spec.clone());
        self.local_dir().map(drop)
    }

    /// func.yaml as it is written.
    pub fn text(&self) -> String {
        let body = yaml::write(&self.spec.write());
        format!("# $schema: {SCHEMA}\n# yaml-language-server: $schema={SCHEMA}\n{body}")
    }

    /// `.func`, made if needed and ignored by git.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn local_dir(&self) -> Result<PathBuf> {
        let dir = self.root.join(LOCAL_DIR);
        if !dir.is_dir() {
            std::fs::create_dir_all(&dir).map_err(|source| Error::file("create", &dir, source))?;
            let ignore = self.root.join(".gitignore");
            let known = std::fs::read_to_string(&ignore).unwrap_or_default();
            // A line that is commented out says that the user wants it tracked.
            let mentions = |line: &str| line.trim_start_matches(['#', ' ', '/']).starts_with(LOCAL_DIR);
            if !known.lines().any(mentions) {
                let gap = if known.is_empty() || known.ends_with('\n') { "" } else { "\n" };
                let text = format!("{known}{gap}/.func\n");
                std::fs::write(&ignore, text).map_err(|source| Error::file("write", &ignore, source))?;
            }
        }
        Ok(dir)
    }

    /// The name of its image: the one that it names, or registry and name. `None` when it names no registry.
    pub fn image(&self) -> Option<String> {
        if !self.spec.image.is_empty() {
            return Some(self.spec.image.clone());
        }
        let registry = self.spec.registry.trim_matches('/');
        (!registry.is_empty() && !self.spec.name.is_empty())
            .then(|| format!("{registry}/{}:latest", self.spec.name))
    }

    /// How long a start may take.
    pub fn start_timeout(&self) -> Duration {
        duration(&self.spec.run.start_timeout).unwrap_or(START_TIMEOUT)
    }

    /// What to build: its source, and the main program that its language and invocation need.
    ///
    /// # Errors
    /// [`Reason::ProjectInvalid`] for a func.yaml that upstream refuses too or whose variables are not set here,
    /// [`Reason::EntrypointNotFound`] when the source exports nothing that can be called.
    pub fn request(&self, env: Lookup<'_>) -> Result<Request> {
        if !self.initialized() {
            return Err(Error::new(
                Reason::ProjectInvalid,
                format!("'{}' does not contain an initialized function", self.root.display()),
            )
            .with_remedy("make one with `dormouse func create --language LANGUAGE`"));
        }
        self.validate(env)?;
        let spec = &self.spec;
        let mut request = Request::new(&self.root);
        request.name = Some(spec.name.clone());
        request.language = Some(self.language()?);
        request.build_env = interpolate(&spec.build.envs, env)?
            .into_iter()
            .filter(|(name, _)| !is_for_buildpacks(name))
            .collect();
        request.base = Some(spec.build.base_image.clone()).filter(|base| !base.is_empty());
        request.labels = BTreeMap::from([
            ("function.knative.dev/name".to_owned(), spec.name.clone()),
            ("function.knative.dev/runtime".to_owned(), spec.runtime.clone()),
        ]);
        let scaffold = scaffold::scaffold(&self.root, spec)?;
        request.scaffold = scaffold.files;
        request.command = scaffold.command;
        Ok(request)
    }

    /// What it is written in, as the engine calls it.
    ///
    /// # Errors
    /// [`Reason::LanguageNotDetected`] names the runtimes that are known.
    pub fn language(&self) -> Result<Language> {
        Ok(match self.spec.runtime.as_str() {
            "go" => Language::Go,
            "node" => Language::Node,
            "typescript" => Language::TypeScript,
            "python" => Language::Python,
            "rust" => Language::Rust,
            "java" | "quarkus" | "springboot" => Language::Java,
            "static" => Language::Static,
            "wasm" if self.root.join("Cargo.toml").is_file() => Language::Rust,
            "wasm" => Language::Wasm,
            other => {
                let known = languages().join(", ");
                return Err(Error::new(
                    Reason::LanguageNotDetected,
                    format!("the {other:?} runtime is not recognized"),
                )
                .with_remedy(format!("func.yaml's runtime may be one of {known}")));
            }
        })
    }

    /// The Service that runs `image`, in `namespace`.
    ///
    /// # Errors
    /// [`Reason::ProjectInvalid`] for a variable that is not set here.
    pub fn service(&self, image: &str, namespace: &str, env: Lookup<'_>) -> Result<serde_json::Value> {
        service::service(&self.spec, image, namespace, env)
    }

    /// What func.yaml says, as JSON.
    pub fn json(&self) -> serde_json::Value {
        (&self.spec.write()).into()
    }

    /// The Triggers of its subscriptions, owned by the Service that has `uid`.
    pub fn triggers(&self, namespace: &str, uid: &str) -> Vec<serde_json::Value> {
        service::triggers(&self.spec, namespace, uid)
    }
}

/// Reads func.yaml's text: what it says in the newest version, and what was odd.
fn parse(text: &str, now: &str) -> Result<(Spec, Vec<String>)> {
    let invalid = |why: String| {
        Error::new(Reason::ProjectInvalid, format!("'{FILE}' is not valid:\n  {why}"))
            .with_remedy("correct func.yaml")
    };
    let root = yaml::parse(text).map_err(invalid)?;
    let mut notes = Notes::default();
    let mut spec =
        if root.is_null() { Spec::default() } else { Spec::read(&mut notes, &root).unwrap_or_default() };
    let migrated = migrate::migrate(&mut spec, &root, now).map_err(invalid)?;
    // Old files have other keys and kinds: that is what migrations are for.
    let mut warnings = if migrated { Vec::new() } else { notes.mistyped };
    if !migrated {
        let unknown = notes.unknown.iter();
        warnings.extend(unknown.map(|(line, key)| format!("line {line}: unknown field \"{key}\"")));
    }
    Ok((spec, warnings))
}

/// Variables with the caller's own filled in; those of Secrets and ConfigMaps stay as they are written.
pub fn interpolate(envs: &[Env], env: Lookup<'_>) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for entry in envs {
        let (Some(name), Some(value)) = (&entry.name, &entry.value) else { continue };
        let value = match meaning(value) {
            Meaning::Local(local) => env(local).ok_or_else(|| {
                Error::new(
                    Reason::ProjectInvalid,
                    format!("expected environment variable '{local}' not found"),
                )
                .with_remedy(format!("set {local} and run the command again"))
            })?,
            _ => value.clone(),
        };
        all.insert(name.clone(), value);
    }
    Ok(all)
}

/// Variables that only upstream's builder images understand.
fn is_for_buildpacks(name: &str) -> bool {
    ["BP_", "BPE_", "BPL_", "MAVEN_S2I_", "S2I_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Reads a duration as Go writes it, `1m30s`; `None` when it is none or not positive.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests;
