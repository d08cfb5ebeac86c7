//! A recipe per language: pure functions from a project and its tools to a [`Plan`].

mod go;
mod java;
mod node;
mod python;
mod rust;
mod simple;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::{Error, Reason, Result};
use crate::plan::{Base, Cache, Copy, LayerPlan, Plan, RECIPE, Run, Stage, Tool};
use crate::project::{DEFAULT_PORT, Language, Project, Request};
use crate::source;

/// Tells a tool's version or why it cannot be had.
pub(crate) trait Versions {
    fn version(&mut self, tool: &str) -> Result<String>;
}

/// What recipes start from.
pub(crate) struct Draft<'a> {
    pub(crate) project: &'a Project,
    pub(crate) request: &'a Request,
    versions: &'a mut dyn Versions,
    tools: Vec<Tool>,
}

/// Files at the top are read up to this size when a recipe looks into them.
const PEEK_MAX: u64 = 4 << 20;

/// What a build of `project` will do.
pub(crate) fn plan(project: &Project, request: &Request, versions: &mut dyn Versions) -> Result<Plan> {
    check_env(&request.build_env)?;
    let mut draft = Draft { project, request, versions, tools: Vec::new() };
    let mut plan = match project.language {
        Language::Go => go::plan(&mut draft),
        Language::Rust => rust::plan(&mut draft),
        Language::Node => node::plan(&mut draft, false),
        Language::TypeScript => node::plan(&mut draft, true),
        Language::Python => python::plan(&mut draft),
        Language::Java => java::plan(&mut draft),
        Language::Static => Ok(simple::files(&mut draft)),
        Language::Binary => simple::binary(&mut draft),
        Language::Wasm => simple::wasm(&mut draft),
        Language::Dockerfile => simple::dockerfile(&mut draft),
    }?;
    if let Some(base) = &request.base {
        plan.base = Base::Image { reference: base.clone() };
    }
    for stage in &mut plan.stages {
        if !stage.network {
            stage.env.extend(request.build_env.clone());
        }
    }
    Ok(plan)
}

/// Variables that would change the loader, the shell or the interpreter of a step.
fn check_env(env: &BTreeMap<String, String>) -> Result<()> {
    const NAMES: [&str; 10] = [
        "PATH",
        "HOME",
        "IFS",
        "ENV",
        "BASH_ENV",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "NODE_OPTIONS",
        "PERL5OPT",
        "RUBYOPT",
    ];
    for name in env.keys() {
        if name.starts_with("LD_") || name.starts_with("BASH_FUNC") || NAMES.contains(&name.as_str()) {
            return Err(Error::new(Reason::EnvironmentForbidden, format!("build environment: {name}")));
        }
    }
    Ok(())
}

// === impl Draft ===

impl Draft<'_> {
    /// Notes that the plan runs `tool` and answers its version.
    fn tool(&mut self, tool: &str) -> Result<String> {
        let version = self.versions.version(tool)?;
        if !self.tools.iter().any(|known| known.name == tool) {
            self.tools.push(Tool { name: tool.to_owned(), version: version.clone() });
        }
        Ok(version)
    }

    fn has(&self, path: &str) -> bool {
        self.project.tree.has(path)
    }

    /// The text of a file of the project, `None` if there is none.
    fn read(&self, path: &str) -> Result<Option<String>> {
        use crate::project::Entry;
        match self.project.tree.entries.get(path) {
            None | Some(Entry::Link { .. }) => Ok(None),
            Some(Entry::Scaffold { text }) => Ok(Some(text.clone())),
            Some(Entry::File { bytes, .. }) if *bytes > PEEK_MAX => {
                Err(Error::new(Reason::ProjectInvalid, format!("{path} is larger than {PEEK_MAX} bytes")))
            }
            Some(Entry::File { .. }) => {
                let file = self.project.root.join(path);
                let text = std::fs::read(&file).map_err(|source| Error::file("read", &file, source))?;
                Ok(Some(String::from_utf8_lossy(&text).into_owned()))
            }
        }
    }

    /// The text of a file as JSON or TOML, by `parse`.
    fn parsed<T>(
        &self,
        path: &str,
        parse: impl FnOnce(&str) -> std::result::Result<T, String>,
    ) -> Result<Option<T>> {
        let Some(text) = self.read(path)? else { return Ok(None) };
        parse(&text)
            .map(Some)
            .map_err(|reason| Error::new(Reason::ProjectInvalid, format!("{path}: {}", reason.trim())))
    }

    /// What the request or the `Procfile` says to run.
    fn told_command(&self) -> Result<Option<Vec<String>>> {
        if !self.request.command.is_empty() {
            return Ok(Some(self.request.command.clone()));
        }
        let Some(text) = self.read("Procfile")? else { return Ok(None) };
        let line = text.lines().find_map(|line| line.trim().strip_prefix("web:").map(str::trim));
        match line {
            Some(line) if !line.is_empty() => Ok(Some(words(line))),
            _ => {
                Err(Error::new(Reason::ProjectInvalid, "Procfile: there is no line `web: PROGRAM ARGUMENTS`"))
            }
        }
    }

    fn port(&self) -> u16 {
        self.request.port.unwrap_or(DEFAULT_PORT)
    }

    /// How it runs: the recipe's command unless the user tells another one.
    fn run(&self, command: Vec<String>, working_dir: &str, env: &[(&str, &str)]) -> Run {
        let own = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Run {
            command,
            env: own.chain(self.request.env.clone()).collect(),
            working_dir: working_dir.to_owned(),
            port: self.port(),
            labels: self.request.labels.clone(),
        }
    }

    fn finish(&mut self, stages: Vec<Stage>, base: Base, layers: Vec<LayerPlan>, run: Run) -> Plan {
        Plan {
            recipe: RECIPE,
            name: self.project.name.clone(),
            language: self.project.language,
            source: self
                .project
                .tree
                .digest
                .unwrap_or_else(|| source::digest(self.project.tree.entries.iter())),
            tools: std::mem::take(&mut self.tools),
            stages,
            base,
            layers,
            run,
        }
    }
}

/// A command line as a shell splits it, quotes honoured, nothing expanded but `$PORT`, which the program must read itself.
fn words(line: &str) -> Vec<String> {
    let needs_shell = line.chars().any(|c| "$|&;<>(){}*?`~".contains(c));
    if needs_shell {
        return ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
    }
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn strings<const N: usize>(list: [&str; N]) -> Vec<String> {
    list.map(str::to_owned).to_vec()
}

fn env<const N: usize>(list: [(&str, &str); N]) -> BTreeMap<String, String> {
    list.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn caches<const N: usize>(list: [Cache; N]) -> BTreeSet<Cache> {
    list.into_iter().collect()
}

fn copy(from: &str, to: &str) -> Copy {
    Copy { from: from.to_owned(), to: to.to_owned(), except: Vec::new() }
}

fn layer(name: &str, copies: Vec<Copy>) -> LayerPlan {
    LayerPlan { name: name.to_owned(), copies }
}

/// The first of `names` that the project has.
fn first_file(draft: &Draft<'_>, names: &[&str]) -> Option<String> {
    names.iter().find(|name| draft.has(name)).map(|name| (*name).to_owned())
}

fn json(text: &str) -> std::result::Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn toml_table(text: &str) -> std::result::Result<toml::Table, String> {
    text.parse::<toml::Table>().map_err(|error| error.to_string())
}

/// Whether a path lies at the top of the project and ends so.
fn top_with_suffix<'a>(draft: &'a Draft<'_>, suffix: &str) -> Vec<&'a str> {
    let fits = |name: &&str| Path::new(name).extension().is_some_and(|found| found == suffix);
    draft.project.tree.top().filter(fits).collect()
}

#[cfg(test)]
mod tests;
