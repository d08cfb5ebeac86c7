//! One build on its way from a plan to an image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dormouse_base::clock;
use dormouse_image::{Auth, BuildOptions, Compression, Digest, ImageSpec, Layer};
use dormouse_sandbox::cgroup::CgroupRoot;

use super::Inner;
use super::room::{Work, write_whole};
use crate::base;
use crate::dockerfile::Docker;
use crate::error::{Error, Reason, Result};
use crate::host::Located;
use crate::layers::{self, Places};
use crate::plan::{Base, Plan, Stage};
use crate::progress::{Event, Phase, Progress};
use crate::project::{Project, Request};
use crate::source;
use crate::stage::{self, Rooms, Runner};
use crate::statements;

/// One build on its way.
pub(super) struct Job<'a> {
    pub(super) engine: &'a Inner,
    pub(super) request: &'a Request,
    pub(super) project: &'a Project,
    pub(super) plan: &'a Plan,
    pub(super) tools: BTreeMap<String, Located>,
    pub(super) progress: &'a dyn Progress,
    pub(super) runtime: &'a tokio::runtime::Handle,
    pub(super) phases: Vec<Phase>,
}

impl Job<'_> {
    /// The image of the plan under `name`, and whether it was there already.
    pub(super) fn image(&mut self, name: &str) -> Result<(Digest, bool)> {
        let images = &self.engine.images;
        // The reference of a base image may stand for something else tomorrow.
        let base = match &self.plan.base {
            Base::Image { reference } => Some(self.foreign_base(reference)?),
            _ => None,
        };
        let key = Digest::of(
            format!("{} {}", self.plan.digest(), base.map(|digest| digest.to_string()).unwrap_or_default())
                .as_bytes(),
        );
        let record = self.engine.dir.join("keys").join(key.hex());
        if let Some(digest) =
            fs::read_to_string(&record).ok().and_then(|text| text.trim().parse::<Digest>().ok())
            && self.runtime.block_on(images.complete(digest))?
        {
            images.name(digest, name)?;
            return Ok((digest, true));
        }
        let work = Work::new(&self.engine.dir.join("work"))?;
        let digest = if self.plan.base == Base::Dockerfile {
            self.dockerfile(name, &work.path)?
        } else {
            let (stages, keys) = self.stages(&work.path)?;
            self.assemble(name, base, &work.path, &stages, &keys)?
        };
        for statement in statements::all(self.project, self.plan, name, digest)? {
            images.attach(digest, name, &statement)?;
        }
        write_whole(&record, digest.to_string().as_bytes())?;
        Ok((digest, false))
    }

    fn stages(&mut self, work: &Path) -> Result<(BTreeMap<String, PathBuf>, BTreeMap<String, Digest>)> {
        let (mut results, mut keys) = (BTreeMap::new(), BTreeMap::new());
        if self.plan.stages.is_empty() {
            return Ok((results, keys));
        }
        // Of this build alone: the tree is removed with all that runs in it.
        let name = work.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let root = CgroupRoot::detect(&format!("dormouse-build-{name}"));
        let group = match &root {
            Ok(root) => Some(stage::group(root, "step", &self.request.limits)?),
            // A machine without control groups still builds; the other bounds hold.
            Err(error) => {
                tracing::warn!(%error, "build steps run without limits on memory and processes");
                None
            }
        };
        let mut outcome = Ok(());
        for stage in &self.plan.stages {
            let key = self.stage_key(stage, &keys);
            let result = self.stage(stage, key, work, &results, group.as_ref());
            keys.insert(stage.name.clone(), key);
            match result {
                Ok(out) => drop(results.insert(stage.name.clone(), out)),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if let Ok(root) = &root
            && let Err(error) = root.remove_tree()
        {
            tracing::warn!(%error, "the control group of the build stays");
        }
        outcome.map(|()| (results, keys))
    }

    /// Everything that the result of a stage depends on.
    fn stage_key(&self, stage: &Stage, earlier: &BTreeMap<String, Digest>) -> Digest {
        let seen = self.project.tree.entries.iter().filter(|(path, _)| source::is_input(&stage.inputs, path));
        let text = serde_json::json!({
            "recipe": self.plan.recipe,
            "stage": stage,
            "tools": self.plan.tools,
            "inputs": source::digest(seen),
            "earlier": earlier,
            "architecture": std::env::consts::ARCH,
        });
        Digest::of(text.to_string().as_bytes())
    }

    fn stage(
        &mut self,
        stage: &Stage,
        key: Digest,
        work: &Path,
        earlier: &BTreeMap<String, PathBuf>,
        group: Option<&dormouse_sandbox::Cgroup>,
    ) -> Result<PathBuf> {
        let kept = self.engine.dir.join("stages").join(key.hex());
        if stage.keep && kept.is_dir() {
            self.phases.push(Phase { name: stage.name.clone(), reused: true, took: Duration::ZERO });
            self.tell_last();
            return Ok(kept);
        }
        self.progress.event(Event::Started(&stage.name));
        let started = clock::now();
        let room = work.join(&stage.name);
        let (source, out) = (room.join("source"), room.join("out"));
        for dir in [&room, &source, &out] {
            fs::create_dir(dir).map_err(|error| Error::file("create", dir, error))?;
        }
        let place = source::Place { root: self.project.root.clone(), file: self.project.file.clone() };
        source::copy(&place, &self.project.tree, &stage.inputs, &source)?;
        let runner = Runner {
            host: &self.engine.host,
            tools: &self.tools,
            limits: &self.request.limits,
            caches: &self.engine.dir.join("cache"),
            project: &self.project.name,
            offline: self.request.offline,
            cgroup: group,
            progress: self.progress,
        };
        runner.run(stage, &Rooms { work: &room, source: &source, out: &out, stages: earlier })?;
        let out = if stage.keep {
            match fs::rename(&out, &kept) {
                Ok(()) => kept,
                // Another build of the same inputs was first: its result is as good.
                Err(_) if kept.is_dir() => kept,
                Err(error) => return Err(Error::file("keep", &kept, error)),
            }
        } else {
            out
        };
        self.done(&stage.name, started);
        Ok(out)
    }

    fn done(&mut self, name: &str, started: std::time::Instant) {
        self.phases.push(Phase { name: name.to_owned(), reused: false, took: clock::now() - started });
        self.tell_last();
    }

    fn tell_last(&self) {
        if let Some(phase) = self.phases.last() {
            self.progress.event(Event::Finished(phase));
        }
    }

    fn assemble(
        &mut self,
        name: &str,
        base: Option<Digest>,
        work: &Path,
        stages: &BTreeMap<String, PathBuf>,
        keys: &BTreeMap<String, Digest>,
    ) -> Result<Digest> {
        let source = work.join("source");
        let uses_source = |copy: &crate::plan::Copy| copy.from.starts_with("$SRC");
        if self.plan.layers.iter().flat_map(|layer| &layer.copies).any(uses_source) {
            fs::create_dir(&source).map_err(|error| Error::file("create", &source, error))?;
            let place = source::Place { root: self.project.root.clone(), file: self.project.file.clone() };
            source::copy(&place, &self.project.tree, &[], &source)?;
        }
        let places = Places { source: &source, stages };
        if self.plan.base == Base::Artifact {
            return self.component(name, &places);
        }
        let mut env: Vec<String> =
            self.plan.run.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut all = Vec::new();
        let base = match (&self.plan.base, base) {
            (Base::Interpreter { name, version }, _) => Some(self.interpreter(name, version, work)?),
            (_, base) => base,
        };
        let started = clock::now();
        let images = self.engine.images.clone();
        if matches!(self.plan.base, Base::Scratch) {
            all.push((images.write_layer(&base::system(), Compression::Gzip)?, "base".to_owned()));
            env.push(format!("PATH={}", dormouse_sandbox::DEFAULT_PATH));
        }
        for layer in &self.plan.layers {
            let key = self.layer_key(layer, keys);
            let record = key.map(|key| self.engine.dir.join("layers").join(key.hex()));
            let known = record.as_ref().and_then(|record| fs::read(record).ok());
            let known = known.and_then(|bytes| serde_json::from_slice::<Layer>(&bytes).ok());
            let written = match known.filter(|layer| images.has_layer(layer)) {
                Some(layer) => layer,
                None => {
                    let written = images.write_layer(&layers::items(layer, &places)?, Compression::Gzip)?;
                    if let Some(record) = record {
                        write_whole(&record, &serde_json::to_vec(&written).unwrap_or_default())?;
                    }
                    written
                }
            };
            all.push((written, layer.name.clone()));
        }
        let run = &self.plan.run;
        let spec = ImageSpec {
            base,
            layers: all,
            options: BuildOptions {
                entrypoint: run.command.clone(),
                cmd: Vec::new(),
                env,
                user: base
                    .is_none_or(|_| !matches!(self.plan.base, Base::Image { .. }))
                    .then(|| base::USER.to_owned()),
                working_dir: Some(run.working_dir.clone()),
                port: Some(run.port),
                labels: run.labels.clone(),
            },
            annotations: BTreeMap::new(),
        };
        let digest = images.assemble(&spec, name)?;
        self.done("image", started);
        Ok(digest)
    }

    /// What a layer depends on, when all of it comes from stages whose results are kept.
    fn layer_key(&self, layer: &crate::plan::LayerPlan, keys: &BTreeMap<String, Digest>) -> Option<Digest> {
        let kept = |copy: &crate::plan::Copy| {
            let name = copy.from.strip_prefix("$STAGE/")?.split('/').next()?;
            let stage = self.plan.stages.iter().find(|stage| stage.name == name)?;
            stage.keep.then(|| keys.get(name)).flatten()
        };
        let keys: Option<Vec<&Digest>> = layer.copies.iter().map(kept).collect();
        let text = serde_json::json!({ "layer": layer, "keys": keys?, "recipe": self.plan.recipe });
        Some(Digest::of(text.to_string().as_bytes()))
    }

    fn component(&mut self, name: &str, places: &Places<'_>) -> Result<Digest> {
        let started = clock::now();
        let copies = self.plan.layers.first().map(|layer| layer.copies.as_slice()).unwrap_or_default();
        let path = match copies.first() {
            Some(copy) => places.resolve(copy)?,
            None => return Err(Error::new(Reason::Internal, "the plan of a component has no file")),
        };
        let digest = self.runtime.block_on(self.engine.images.build_component(&path, name))?;
        self.done("image", started);
        Ok(digest)
    }

    fn dockerfile(&mut self, name: &str, work: &Path) -> Result<Digest> {
        self.progress.event(Event::Started("dockerfile"));
        let started = clock::now();
        let source = work.join("source");
        fs::create_dir(&source).map_err(|error| Error::file("create", &source, error))?;
        let place = source::Place { root: self.project.root.clone(), file: None };
        source::copy(&place, &self.project.tree, &[], &source)?;
        let docker = Docker {
            host: &self.engine.host,
            limits: &self.request.limits,
            progress: self.progress,
            registry: &self.engine.registry,
            store: &self.engine.dir.join("buildah"),
            offline: self.request.offline,
        };
        let archive = docker.build(self.project, &source, work)?;
        let images = &self.engine.images;
        let imported = self.runtime.block_on(images.import(&archive, Some(name)))?;
        let digest = imported
            .first()
            .map(|(_, digest)| *digest)
            .ok_or_else(|| Error::new(Reason::OutputMissing, "buildah left no image"))?;
        images.name(digest, name)?;
        self.done("dockerfile", started);
        Ok(digest)
    }

    fn foreign_base(&self, reference: &str) -> Result<Digest> {
        let images = &self.engine.images;
        if let Some(digest) = images.stored(reference)? {
            return Ok(digest);
        }
        if self.request.offline {
            return Err(Error::new(
                Reason::BaseImageNotFound,
                format!("{reference} is not in the store and --offline is set"),
            ));
        }
        let pulled = self.runtime.block_on(images.pull(
            reference,
            &Auth::anonymous(),
            Arc::new(dormouse_image::Silent),
        ));
        Ok(pulled?)
    }

    /// The interpreter's base: in the store, or made from this machine's once.
    fn interpreter(&mut self, interpreter: &str, version: &str, work: &Path) -> Result<Digest> {
        let images = self.engine.images.clone();
        let reference = format!("{}/base/{interpreter}:{version}", self.engine.registry);
        if let Some(digest) = images.stored(&reference)?
            && self.runtime.block_on(images.complete(digest))?
        {
            return Ok(digest);
        }
        self.progress.event(Event::Started("base"));
        let started = clock::now();
        let room = work.join("base");
        fs::create_dir(&room).map_err(|error| Error::file("create", &room, error))?;
        let made = base::interpreter(interpreter, &self.engine.host, &room)?;
        let layer = images.write_layer(&made.items, Compression::Zstd)?;
        let mut env = vec![format!("PATH={}", dormouse_sandbox::DEFAULT_PATH)];
        env.extend(made.env);
        let options = BuildOptions { env, user: Some(base::USER.to_owned()), ..BuildOptions::default() };
        let spec = ImageSpec {
            base: None,
            layers: vec![(layer, format!("{interpreter} {version} of the building machine"))],
            options,
            annotations: BTreeMap::new(),
        };
        let digest = images.assemble(&spec, &reference)?;
        self.done("base", started);
        Ok(digest)
    }
}
