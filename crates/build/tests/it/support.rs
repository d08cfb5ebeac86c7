use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dormouse_build::{Built, Engine, Error, Event, Host, Progress, Request};
use dormouse_image::{Config, Images};

/// A store, an engine and a place for projects.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) engine: Engine,
    pub(crate) images: Images,
}

/// Remembers the lines of tools, and can end a build.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) lines: Mutex<Vec<String>>,
    pub(crate) cancel_at: Option<&'static str>,
    pub(crate) canceled: std::sync::atomic::AtomicBool,
}

impl Progress for Notes {
    fn event(&self, event: Event<'_>) {
        if let Event::Output(line) = event {
            if self.cancel_at.is_some_and(|at| line.contains(at)) {
                self.canceled.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            self.lines.lock().unwrap().push(line.to_owned());
        }
    }

    fn canceled(&self) -> bool {
        self.canceled.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// `None`, loudly, where sandboxes cannot be made.
pub(crate) fn world() -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: build steps need root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(&dir.path().join("images"), Config::default()).unwrap();
    let engine = Engine::open(images.clone(), &dir.path().join("build"), "127.0.0.1:5000", host()).unwrap();
    Some(World { dir, engine, images })
}

pub(crate) fn host() -> Host {
    let path = std::env::var_os("PATH").unwrap();
    Host {
        path: std::env::split_paths(&path).collect(),
        home: PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())),
        env: BTreeMap::new(),
    }
}

/// Whether a tool is there; says loudly when it is not.
pub(crate) fn has(tool: &str) -> bool {
    let found = host().path.iter().any(|dir| dir.join(tool).is_file());
    if !found {
        eprintln!("SKIPPED: {tool} is not installed");
    }
    found
}

impl World {
    /// Writes a project and answers its directory.
    pub(crate) fn project(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.dir.path().join(name);
        for (path, text) in files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    pub(crate) fn request(&self, dir: &Path) -> Request {
        let mut request = Request::new(dir);
        request.name = Some("app".into());
        request.limits.timeout = Duration::from_secs(240);
        request
    }

    pub(crate) async fn build(&self, dir: &Path) -> Result<Built, Error> {
        self.build_with(self.request(dir), Arc::new(Notes::default())).await
    }

    pub(crate) async fn build_with(&self, request: Request, notes: Arc<Notes>) -> Result<Built, Error> {
        self.engine.build(request, Some("default/app"), notes).await
    }

    /// What a build leaves behind while none runs: must be empty.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let work = std::fs::read_dir(self.dir.path().join("build/work")).unwrap();
        work.flatten().map(|entry| entry.path()).collect()
    }
}
