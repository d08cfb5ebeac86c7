//! The whole build: from a request to an image in the store, doing only what was not done before.
//!
//! Everything that it keeps lies in one directory: `keys` (plan → image), `stages` (results of stages that stay valid),
//! `layers` (layer → blob), `cache` (package managers' own), `locks` (one build of a name at a time) and `work` (what
//! builds need while they run; emptied when no process holds it).

mod job;
mod room;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dormouse_base::clock;
use dormouse_image::Images;

use self::job::Job;
use crate::detect::detect;
use crate::error::{Error, Reason, Result};
use crate::host::{Host, Located};
use crate::lang::{self, Versions};
use crate::plan::Plan;
use crate::progress::{Built, Event, Phase, Progress};
use crate::project::{Project, Request};

/// Builds images into a store. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    images: Images,
    dir: PathBuf,
    registry: String,
    host: Host,
}

/// Tools, located when a recipe first asks for them.
struct Kit<'a> {
    host: &'a Host,
    found: BTreeMap<String, Located>,
}

impl Versions for Kit<'_> {
    fn version(&mut self, tool: &str) -> Result<String> {
        if !self.found.contains_key(tool) {
            self.found.insert(tool.to_owned(), self.host.locate(tool)?);
        }
        Ok(self.found.get(tool).map(|located| located.tool.version.clone()).unwrap_or_default())
    }
}

// === impl Engine ===

impl Engine {
    /// An engine that keeps what it needs in `dir` and names images in `registry` (`host:port`).
    ///
    /// # Errors
    /// [`Reason::Internal`] or [`Reason::DiskFull`] when the directory cannot be made.
    pub fn open(images: Images, dir: &Path, registry: &str, host: Host) -> Result<Self> {
        for name in ["keys", "stages", "layers", "cache", "locks", "work"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(|source| Error::file("create", &path, source))?;
        }
        let dir = fs::canonicalize(dir).map_err(|source| Error::file("find", dir, source))?;
        room::sweep(&dir.join("work"));
        let inner = Inner { images, dir, registry: registry.to_owned(), host };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What a build of the request would do. Writes nothing. Blocking.
    ///
    /// # Errors
    /// What [`detect`](fn@crate::detect) and the recipes find wrong with the project, and missing tools.
    pub fn plan(&self, request: &Request) -> Result<(Project, Plan)> {
        let project = detect(request)?;
        let mut kit = Kit { host: &self.inner.host, found: BTreeMap::new() };
        let plan = lang::plan(&project, request, &mut kit)?;
        Ok((project, plan))
    }

    /// Builds the request into the image `<registry>/<repository>:latest`. It appears under this name when it is
    /// complete and not before, whenever the process ends.
    ///
    /// # Errors
    /// The [`Reason`] says which; [`Error::output`] has the tool's own words.
    pub async fn build(
        &self,
        request: Request,
        repository: Option<&str>,
        progress: Arc<dyn Progress>,
    ) -> Result<Built> {
        let (engine, repository) = (self.clone(), repository.map(str::to_owned));
        let runtime = tokio::runtime::Handle::current();
        let work = move || engine.run(&request, repository.as_deref(), &*progress, &runtime);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            Err(Error::new(Reason::Internal, format!("the build ended early: {error}")))
        })
    }

    fn run(
        &self,
        request: &Request,
        repository: Option<&str>,
        progress: &dyn Progress,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Built> {
        let started = clock::now();
        let project = detect(request)?;
        progress.event(Event::Detected {
            language: project.language,
            evidence: &project.evidence,
            files: project.tree.entries.len(),
            bytes: project.tree.bytes,
        });
        let mut kit = Kit { host: &self.inner.host, found: BTreeMap::new() };
        let plan = lang::plan(&project, request, &mut kit)?;
        let name = format!("{}/{}:latest", self.inner.registry, repository.unwrap_or(&project.name));
        let lock = self.inner.dir.join("locks").join(&project.name);
        let _lock = room::hold(&lock, progress)?;
        let mut job = Job {
            engine: &self.inner,
            request,
            project: &project,
            plan: &plan,
            tools: kit.found,
            progress,
            runtime,
            phases: vec![Phase { name: "plan".into(), reused: false, took: clock::now() - started }],
        };
        let (digest, reused) = job.image(&name)?;
        Ok(Built {
            image: name,
            digest,
            language: project.language,
            name: project.name.clone(),
            port: plan.run.port,
            plan: plan.digest(),
            bytes: self.inner.images.size(digest),
            reused,
            phases: job.phases,
        })
    }
}
